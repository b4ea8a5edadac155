//! One request to the kernel and all its answers, read piece by piece as they come.
//!
//! Dumps go past the netlink connection on purpose. It would hold a whole dump in memory before the first entry is seen, it
//! drops the error code a dump ends with, and it logs and *skips* a message it cannot read: a route that was skipped looks like
//! a route that is not there, and newer kernels lengthen attributes every other release.

use super::{NetlinkError, refused, widen};
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::num::NonZeroI32;

pub(super) const HEADER: usize = 16;
const NLMSG_NOOP: u16 = 1;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const ACK: u16 = 0x5;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// No attribute has this number; the two highest bits are flags.
const UNKNOWN_KIND: u16 = 0x3fff;

/// Asks, and hands over each answer (with its header) until the last. Bounded by whoever calls.
pub(super) async fn converse(
    what: &str,
    protocol: isize,
    kind: u16,
    flags: u16,
    body: &[u8],
    mut each: impl FnMut(u16, &[u8]) -> Result<(), NetlinkError>,
) -> Result<(), NetlinkError> {
    let refuse = |source: io::Error| NetlinkError::Refused { what: what.to_owned(), source };
    // A socket of its own: on a shared one a second dump is EBUSY, and an abandoned one leaves its answers behind.
    let socket = TokioSocket::new(protocol).map_err(|source| NetlinkError::Open { source })?;
    widen(&socket, 1 << 20);
    let mut datagram = Vec::with_capacity(64 << 10);
    // The kernel fills datagrams as large as the largest buffer it has been shown, up to 32 KiB: show it one first.
    socket.send_to(&request(NLMSG_NOOP, ACK, &[]), &SocketAddr::new(0, 0)).await.map_err(refuse)?;
    socket.recv(&mut datagram).await.map_err(refuse)?;
    let message = request(kind, flags, body);
    socket.send_to(&message, &SocketAddr::new(0, 0)).await.map_err(refuse)?;
    loop {
        datagram.clear();
        socket.recv(&mut datagram).await.map_err(refuse)?;
        if walk(what, &datagram, &mut each)? == Place::End {
            return Ok(());
        }
    }
}

/// Where an answer has got to behind a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Another will come.
    Middle,
    /// It is complete.
    End,
}

/// Hands over each message of a datagram (with its header).
pub(super) fn walk(
    what: &str,
    datagram: &[u8],
    each: &mut impl FnMut(u16, &[u8]) -> Result<(), NetlinkError>,
) -> Result<Place, NetlinkError> {
    let garbled = || NetlinkError::Garbled { what: what.to_owned() };
    let mut rest = datagram;
    while !rest.is_empty() {
        let len = u32_at(rest, 0).ok_or_else(garbled)? as usize;
        let kind = u16_at(rest, 4).ok_or_else(garbled)?;
        let message = rest.get(..len).filter(|m| m.len() >= HEADER).ok_or_else(garbled)?;
        if kind == NLMSG_DONE || kind == NLMSG_ERROR {
            let code = message.get(HEADER..HEADER + 4).and_then(|c| c.try_into().ok());
            let code = i32::from_ne_bytes(code.ok_or_else(garbled)?);
            return NonZeroI32::new(code).map_or(Ok(Place::End), |c| Err(refused(what, Some(c))));
        }
        each(kind, message)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Place::Middle)
}

fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = u32::try_from(HEADER + body.len()).unwrap_or(0).to_ne_bytes().to_vec();
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(body);
    message
}

/// One message of a dump, not read yet.
pub(super) struct Raw<'a> {
    pub(super) what: &'a str,
    pub(super) bytes: &'a [u8],
}

impl Raw<'_> {
    /// Reads it.
    pub(super) fn read(&self) -> Result<RouteNetlinkMessage, NetlinkError> {
        read(self.bytes).ok_or_else(|| NetlinkError::Garbled { what: self.what.to_owned() })
    }

    /// A number that the same entry has in every dump, which is quicker than to read it again: a hash of all but the netlink
    /// header and what ages by itself.
    pub(super) fn mark(&self, state: &RandomState) -> u64 {
        let mut hasher = state.build_hasher();
        let kind = u16_at(self.bytes, 4).unwrap_or(0);
        let start = HEADER + family_header(self.bytes).unwrap_or(0);
        // `RTA_CACHEINFO`, `IFA_CACHEINFO`, `NDA_CACHEINFO`: lifetimes and ages.
        let ages = match kind {
            20 => 6,
            24 => 12,
            28 => 3,
            _ => 0,
        };
        hasher.write(self.bytes.get(HEADER..start).unwrap_or_default());
        for (kind, value) in attributes(self.bytes, start).filter(|(k, _)| *k != ages) {
            hasher.write_u16(kind);
            hasher.write(value);
        }
        hasher.finish()
    }
}

/// Dumps, and gives the number of bytes it took.
pub(super) async fn dump(
    what: &str,
    ask: &RouteNetlinkMessage,
    mut each: impl FnMut(Raw<'_>) -> Result<(), NetlinkError>,
) -> Result<usize, NetlinkError> {
    let mut body = vec![0; ask.buffer_len()];
    ask.serialize(&mut body);
    let mut bytes = 0;
    let protocol = rtnetlink::sys::protocols::NETLINK_ROUTE;
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    converse(what, protocol, ask.message_type(), flags, &body, |_, message| {
        bytes += message.len();
        each(Raw { what, bytes: message })
    })
    .await?;
    Ok(bytes)
}

/// Reads one message; an attribute that this version of the packet crate cannot read becomes an unknown one.
fn read(bytes: &[u8]) -> Option<RouteNetlinkMessage> {
    let parse = |bytes: &[u8]| match NetlinkMessage::deserialize(bytes).ok()?.payload {
        NetlinkPayload::InnerMessage(inner) => Some(inner),
        _ => None,
    };
    parse(bytes).or_else(|| {
        let mut copy = bytes.to_vec();
        disarm(&mut copy);
        parse(&copy)
    })
}

/// Renames each attribute which alone makes the message unreadable.
fn disarm(message: &mut [u8]) {
    let Some(start) = family_header(message).map(|len| HEADER + len) else { return };
    let Some(front) = message.get(..start).map(<[u8]>::to_vec) else { return };
    let mut at = start;
    while let Some(len) = u16_at(message, at).map(usize::from).filter(|l| *l >= 4) {
        let Some(attribute) = message.get(at..at + len) else { break };
        let mut alone = front.clone();
        alone.extend_from_slice(attribute);
        if let Ok(length) = u32::try_from(alone.len()) {
            alone[..4].copy_from_slice(&length.to_ne_bytes());
        }
        if NetlinkMessage::<RouteNetlinkMessage>::deserialize(&alone).is_err() {
            message[at + 2..at + 4].copy_from_slice(&UNKNOWN_KIND.to_ne_bytes());
        }
        at += len.next_multiple_of(4);
    }
}

/// Length of the fixed part behind the netlink header, by message type (`ifinfomsg`, `ifaddrmsg`, `rtmsg`, `ndmsg`,
/// `fib_rule_hdr`).
fn family_header(message: &[u8]) -> Option<usize> {
    match u16_at(message, 4)? {
        16..=19 => Some(16),
        20..=23 => Some(8),
        24..=35 => Some(12),
        _ => None,
    }
}

/// The attributes of a message whose fixed part ends at `from`: numbers and values.
pub(super) fn attributes(message: &[u8], from: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = message.get(from..).unwrap_or_default();
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & 0x3fff;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::route::RouteAttribute;

    /// `RTM_NEWROUTE` for 10.0.0.0/8 with `priority` of the given bytes.
    fn route(priority: &[u8]) -> Vec<u8> {
        let mut attributes = vec![8, 0, 1, 0, 10, 0, 0, 0];
        let len = u16::try_from(4 + priority.len()).unwrap();
        attributes.extend_from_slice(&len.to_ne_bytes());
        attributes.extend_from_slice(&6u16.to_ne_bytes());
        attributes.extend_from_slice(priority);
        let mut message = u32::try_from(28 + attributes.len()).unwrap().to_ne_bytes().to_vec();
        message.extend_from_slice(&[24, 0, 2, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        message.extend_from_slice(&[2, 8, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
        message.extend(attributes);
        message
    }

    #[test]
    fn a_route_with_an_attribute_of_the_wrong_length_is_not_lost() {
        let message = route(&[1, 2]);
        assert!(NetlinkMessage::<RouteNetlinkMessage>::deserialize(&message).is_err());
        let Some(RouteNetlinkMessage::NewRoute(route)) = read(&message) else { panic!() };
        assert!(matches!(route.attributes[0], RouteAttribute::Destination(_)), "{route:?}");
        assert!(matches!(route.attributes[1], RouteAttribute::Other(_)), "{route:?}");
    }

    #[test]
    fn what_cannot_be_read_at_all_is_not_passed_over() {
        let mut message = route(&[1, 0, 0, 0]);
        message.truncate(20);
        message[..4].copy_from_slice(&20u32.to_ne_bytes());
        assert_eq!(read(&message), None);
    }

    #[test]
    fn the_same_entry_has_the_same_mark_however_old_it_is() {
        let state = RandomState::new();
        let mark = |bytes: &[u8]| Raw { what: "", bytes }.mark(&state);
        let young = route(&[1, 0, 0, 0]);
        let mut old = young.clone();
        old[8..12].copy_from_slice(&[9; 4]);
        old.extend_from_slice(&[8, 0, 12, 0, 1, 2, 3, 4]);
        assert_eq!(mark(&young), mark(&old), "sequence number and cache information");
        assert_ne!(mark(&young), mark(&route(&[2, 0, 0, 0])));
    }

    #[test]
    fn attributes_are_walked_to_the_end_and_never_past_it() {
        let message = route(&[1, 0, 0, 0]);
        let found: Vec<_> = attributes(&message, 28).collect();
        assert_eq!(found, [(1, &[10, 0, 0, 0][..]), (6, &[1, 0, 0, 0][..])]);
        assert_eq!(attributes(&message[..34], 28).count(), 0);
        assert_eq!(attributes(&[0, 0, 0, 0, 9], 0).count(), 0);
    }
}
