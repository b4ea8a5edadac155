//! Hints that something has changed; what has changed is always read afresh.
//!
//! However many changes there are, what waits to be picked up is one bit for each kind: 100 000 routes that come and go are
//! one hint.

use super::{Kernel, NetlinkError, widen};
use lifeline_core::drill;
use lifeline_core::fib::PROTOCOL;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Link events too, because IPv4 routes that go with their device are not announced (field guide D). Next hops too, because
/// with `nexthop_compat_mode=0` their changes send no route event (K14).
const GROUPS: [MulticastGroup; 10] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
    MulticastGroup::Nexthop,
];
const ENOBUFS: i32 = 105;
const NEWRULE: u16 = 32;
const FRA_PROTOCOL: u16 = 21;

/// What kind of thing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Hint {
    /// A policy rule.
    Rule = 1,
    /// A policy rule that somebody else than we has added: one that is deleted and put back at once is seen by this alone.
    RuleAdded = 64,
    /// A route or a next hop.
    Route = 2,
    /// A device.
    Link = 4,
    /// An address.
    Addr = 8,
    /// A forwarding setting (`rp_filter`, `forwarding`) of a device.
    Netconf = 16,
    /// Events were lost: anything may have changed.
    Overrun = 32,
}

impl Hint {
    const ALL: [Self; 7] = [
        Self::Rule,
        Self::RuleAdded,
        Self::Route,
        Self::Link,
        Self::Addr,
        Self::Netconf,
        Self::Overrun,
    ];

    fn of(kind: u16) -> Option<Self> {
        match kind {
            16 | 17 => Some(Self::Link),
            20 | 21 => Some(Self::Addr),
            24 | 25 | 104 | 105 => Some(Self::Route),
            32 | 33 => Some(Self::Rule),
            80 | 81 => Some(Self::Netconf),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    bits: AtomicU8,
    ended: AtomicU8,
    bell: Notify,
}

/// The hints that wait to be picked up.
#[derive(Debug)]
pub struct Events {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Events {
    /// All kinds that have changed since the last call; waits until there is one. `None` when no more can come: open
    /// anew.
    pub async fn next(&mut self) -> Option<Vec<Hint>> {
        loop {
            let bits = self.shared.bits.swap(0, Ordering::AcqRel);
            if bits != 0 {
                return Some(Hint::ALL.into_iter().filter(|h| bits & *h as u8 != 0).collect());
            }
            if self.shared.ended.load(Ordering::Acquire) != 0 {
                return None;
            }
            // `notify_one` before this call is kept, so no hint is missed between the swap and here.
            self.shared.bell.notified().await;
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kernel {
    /// Subscribes to changes of rules, routes, devices, addresses and forwarding settings, in the network namespace of
    /// the calling thread.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn events(&self) -> Result<Events, NetlinkError> {
        let socket = subscribe(&[])?;
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(listen(socket, Arc::clone(&shared)));
        Ok(Events { shared, task })
    }
}

/// Tells whether anything has changed since it was asked last.
pub(super) struct Watch(TokioSocket);

impl Watch {
    /// Watches what is dumped: the above, and forwarding entries.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let socket = subscribe(&[MulticastGroup::Neigh])?;
        Ok(Self(socket))
    }

    /// True when nothing has. The kernel delivers an event within the change itself, so there is nothing to wait for.
    pub(super) fn is_calm(&self) -> bool {
        let mut calm = true;
        let mut datagram = Vec::with_capacity(4 << 10);
        loop {
            datagram.clear();
            match self.0.socket_ref().recv(&mut datagram, 0) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => return calm,
                // ENOBUFS among them: events were lost, so there were some.
                Err(e) if e.raw_os_error() != Some(ENOBUFS) => return false,
                _ => calm = false,
            }
        }
    }
}

fn subscribe(more: &[MulticastGroup]) -> Result<TokioSocket, NetlinkError> {
    let open = |source| NetlinkError::Open { source };
    let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(open)?;
    widen(&socket, 1 << 21);
    socket.socket_mut().bind(&SocketAddr::new(0, 0)).map_err(open)?;
    for group in GROUPS.iter().chain(more) {
        socket.socket_mut().add_membership(*group as u32).map_err(open)?;
    }
    Ok(socket)
}

async fn listen(socket: TokioSocket, shared: Arc<Shared>) {
    let mut datagram = Vec::with_capacity(64 << 10);
    loop {
        datagram.clear();
        let bits = match socket.recv(&mut datagram).await {
            Ok(()) => hints(&datagram),
            Err(e) if e.raw_os_error() == Some(ENOBUFS) => Hint::Overrun as u8,
            Err(_) => break,
        };
        if bits != 0 {
            shared.bits.fetch_or(bits, Ordering::AcqRel);
            shared.bell.notify_one();
        }
    }
    shared.ended.store(1, Ordering::Release);
    shared.bell.notify_one();
}

/// Does a rule's message carry our protocol, or a drill's, which is no warning of anything? Attributes follow a netlink header of 16 and a rule's of 12 bytes.
fn is_ours(message: &[u8]) -> bool {
    let mut attributes = message.get(28..).unwrap_or_default();
    while let [a, b, c, d, value, ..] = *attributes {
        let (len, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        if kind == FRA_PROTOCOL {
            return [PROTOCOL, drill::PROTOCOL].contains(&value);
        }
        // Shorter than its own header cannot be: what follows cannot be told, and is taken for somebody's.
        if len < 4 {
            return false;
        }
        attributes = attributes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// The kinds in a datagram, from its headers, and of a rule whose it is.
fn hints(mut datagram: &[u8]) -> u8 {
    let mut bits = 0;
    while let (Some(len), Some(kind)) = (datagram.get(..4), datagram.get(4..6)) {
        let len = u32::from_ne_bytes([len[0], len[1], len[2], len[3]]) as usize;
        let kind = u16::from_ne_bytes([kind[0], kind[1]]);
        bits |= Hint::of(kind).map_or(0, |h| h as u8);
        if kind == NEWRULE && !is_ours(datagram.get(..len).unwrap_or(datagram)) {
            bits |= Hint::RuleAdded as u8;
        }
        if len < 16 {
            // Cannot be; but what follows cannot be told either.
            return bits | Hint::Overrun as u8;
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u16) -> Vec<u8> {
        let mut bytes = 16u32.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&[0; 10]);
        bytes
    }

    #[test]
    fn a_datagram_of_several_messages_gives_every_kind_once() {
        let datagram = [header(33), header(24), header(24), header(80), header(104)].concat();
        assert_eq!(hints(&datagram), Hint::Rule as u8 | Hint::Route as u8 | Hint::Netconf as u8);
    }

    #[test]
    fn a_rule_is_said_to_be_added_unless_it_is_ours() {
        let rule = |kind: u16, attributes: &[u8]| {
            let mut bytes = header(kind);
            bytes.extend_from_slice(&[0; 12]);
            bytes.extend_from_slice(attributes);
            let len = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
            bytes
        };
        let attribute = |kind: u16, value: u8| {
            [5u16.to_ne_bytes(), kind.to_ne_bytes(), [value, 0], [0, 0]].concat()
        };
        let of =
            |protocol| rule(32, &[attribute(6, 1), attribute(FRA_PROTOCOL, protocol)].concat());
        let added = Hint::Rule as u8 | Hint::RuleAdded as u8;
        assert_eq!(hints(&of(PROTOCOL)), Hint::Rule as u8);
        assert_eq!(hints(&of(drill::PROTOCOL)), Hint::Rule as u8);
        assert_eq!(hints(&of(0)), added);
        assert_eq!(
            hints(&rule(32, &[])),
            added,
            "one that does not say whose it is is nobody of ours"
        );
        assert_eq!(hints(&[of(PROTOCOL), of(2)].concat()), added);
        assert_eq!(hints(&rule(33, &attribute(FRA_PROTOCOL, 2))), Hint::Rule as u8, "it goes");
    }

    #[test]
    fn garbage_counts_as_an_overrun_and_ends() {
        let mut bad = header(32);
        bad[0] = 3;
        assert_eq!(hints(&bad) & Hint::Overrun as u8, Hint::Overrun as u8);
        assert_eq!(hints(&[1, 2, 3]), 0);
    }
}
