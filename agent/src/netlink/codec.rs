//! Reads netlink messages so that none is lost: an attribute that this version of the packet crate cannot read becomes an
//! unknown one.
//!
//! The stock codec logs and *skips* a message it cannot read, and a route that was skipped looks like a route that is not
//! there. Newer kernels lengthen attributes every other release.

use bytes::BytesMut;
use rtnetlink::packet_core::{
    NetlinkBuffer, NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::proto::{NetlinkCodec, NetlinkMessageCodec};
use std::fmt::Debug;
use std::io;

const HEADER: usize = 16;
/// No attribute has this number; the two highest bits are flags.
const UNKNOWN_KIND: u16 = 0x3fff;

/// The codec of the connection that dumps.
#[derive(Debug)]
pub(super) struct Lossless;

impl NetlinkMessageCodec for Lossless {
    fn decode<T>(src: &mut BytesMut) -> io::Result<Option<NetlinkMessage<T>>>
    where
        T: NetlinkDeserializable + Debug,
    {
        if src.is_empty() {
            return Ok(None);
        }
        let len = match NetlinkBuffer::new_checked(src.as_ref()) {
            Ok(buffer) => buffer.length() as usize,
            // A cut datagram: nothing behind it can be found. The dump then misses its end and is an error.
            Err(_) => {
                src.clear();
                return Ok(None);
            }
        };
        // Messages are aligned to four bytes, the last of a datagram need not be.
        let padded = len.next_multiple_of(4).min(src.len());
        let bytes = src.split_to(padded);
        Ok(Some(read(&bytes)))
    }

    fn encode<T>(msg: NetlinkMessage<T>, buf: &mut BytesMut) -> io::Result<()>
    where
        T: NetlinkSerializable + Debug,
    {
        NetlinkCodec::encode(msg, buf)
    }
}

/// Reads one message; what cannot be read at all comes back as an overrun, which ends the request it answers.
fn read<T: NetlinkDeserializable>(bytes: &[u8]) -> NetlinkMessage<T> {
    if let Ok(message) = NetlinkMessage::deserialize(bytes) {
        return message;
    }
    let mut copy = bytes.to_vec();
    disarm::<T>(&mut copy);
    NetlinkMessage::deserialize(&copy).unwrap_or_else(|_| {
        let mut header = rtnetlink::packet_core::NetlinkHeader::default();
        if let Ok(buffer) = NetlinkBuffer::new_checked(bytes) {
            header.sequence_number = buffer.sequence_number();
            header.port_number = buffer.port_number();
            header.flags = buffer.flags();
        }
        NetlinkMessage::new(header, NetlinkPayload::Overrun(bytes.to_vec()))
    })
}

/// Renames each attribute which alone makes the message unreadable.
fn disarm<T: NetlinkDeserializable>(message: &mut [u8]) {
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
        if NetlinkMessage::<T>::deserialize(&alone).is_err() {
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

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::RouteNetlinkMessage;
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
        let read = read::<RouteNetlinkMessage>(&message);
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = read.payload
        else {
            panic!("{:?}", read.payload)
        };
        assert!(matches!(route.attributes[0], RouteAttribute::Destination(_)), "{route:?}");
        assert!(matches!(route.attributes[1], RouteAttribute::Other(_)), "{route:?}");
    }

    #[test]
    fn what_cannot_be_read_at_all_ends_the_request_it_answers() {
        let mut message = route(&[1, 0, 0, 0]);
        message.truncate(20);
        message[..4].copy_from_slice(&20u32.to_ne_bytes());
        let read = read::<RouteNetlinkMessage>(&message);
        assert!(matches!(read.payload, NetlinkPayload::Overrun(_)), "{read:?}");
        assert_eq!(read.header.sequence_number, 7);
    }

    #[test]
    fn several_messages_of_one_datagram_are_read_one_by_one() {
        let mut datagram = BytesMut::new();
        for _ in 0..3 {
            datagram.extend_from_slice(&route(&[1, 0, 0, 0]));
        }
        let mut count = 0;
        while let Some(m) = Lossless::decode::<RouteNetlinkMessage>(&mut datagram).unwrap() {
            assert!(matches!(m.payload, NetlinkPayload::InnerMessage(_)));
            count += 1;
        }
        assert_eq!(count, 3);
    }
}
