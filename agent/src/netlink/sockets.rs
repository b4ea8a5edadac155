//! TCP sockets through `NETLINK_SOCK_DIAG`, as `ss` sees them, and `ss -K`: sockets aborted one by one.
//!
//! `/proc/net/tcp` shows no marks, and our own probes go to the same destinations as the kubelet's connections.

use super::wire::{HEADER, attributes, converse, u32_at};
use super::{Kernel, LIMIT, NetlinkError};
use lifeline_core::observation::Socket;
use rtnetlink::sys::constants::NETLINK_SOCK_DIAG;
use std::net::{IpAddr, SocketAddr};
use tokio::time::timeout;

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const ONE: u16 = 0x5;
const IPPROTO_TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `INET_DIAG_MARK`; the kernel tells it to CAP_NET_ADMIN only.
const MARK: u16 = 15;
/// `inet_diag_sockid`: ports, addresses, device, cookie.
const ID: usize = 48;
/// `inet_diag_msg`: 4 bytes, the id, 20 bytes.
const MESSAGE: usize = 72;
const ENOENT: i32 = 2;

/// TCP states by number (`net/tcp_states.h`); listening, closed and time-wait ones are nobody's connection.
const STATES: [(u8, &str); 8] = [
    (1, "established"),
    (2, "syn-sent"),
    (3, "syn-recv"),
    (4, "fin-wait-1"),
    (5, "fin-wait-2"),
    (8, "close-wait"),
    (9, "last-ack"),
    (11, "closing"),
];

/// A TCP socket of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// What it is.
    pub socket: Socket,
    /// Owner.
    pub uid: u32,
    /// Inode, by which `/proc/PID/fd` names it.
    pub inode: u32,
    /// How often what is under way has been sent again: nothing comes back.
    pub retransmits: u8,
    family: u8,
    /// Names this socket for ever: it ends with a cookie that no other socket gets.
    id: [u8; ID],
}

impl Kernel {
    /// All connected or connecting TCP sockets.
    ///
    /// # Errors
    /// When they could not be read to the end.
    pub async fn tcp_sockets(&self) -> Result<Vec<TcpSocket>, NetlinkError> {
        let what = "read TCP sockets";
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let states = STATES.iter().fold(0u32, |bits, (n, _)| bits | 1 << n);
            let body = request(family, states, &[0; ID]);
            let call = converse(what, NETLINK_SOCK_DIAG, BY_FAMILY, DUMP, &body, |_, message| {
                let garbled = || NetlinkError::Garbled { what: what.to_owned() };
                all.extend(message.get(HEADER..).and_then(read).ok_or_else(garbled)?);
                Ok(())
            });
            timeout(LIMIT, call)
                .await
                .map_err(|_| NetlinkError::Late { what: what.to_owned() })??;
        }
        Ok(all)
    }

    /// Aborts a socket: its owner gets ECONNABORTED at once. False when it was gone already.
    ///
    /// # Errors
    /// When the kernel refuses: EOPNOTSUPP without CONFIG_INET_DIAG_DESTROY.
    pub async fn destroy_socket(&self, socket: &TcpSocket) -> Result<bool, NetlinkError> {
        let what = format!("destroy socket {} to {}", socket.socket.src, socket.socket.dst);
        let body = request(socket.family, u32::MAX, &socket.id);
        let call = converse(&what, NETLINK_SOCK_DIAG, DESTROY, ONE, &body, |_, _| Ok(()));
        match timeout(LIMIT, call).await.map_err(|_| NetlinkError::Late { what: what.clone() })? {
            Ok(()) => Ok(true),
            Err(e) if e.errno() == Some(ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// `inet_diag_req_v2`.
fn request(family: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut body = vec![family, IPPROTO_TCP, 0, 0];
    body.extend_from_slice(&states.to_ne_bytes());
    body.extend_from_slice(id);
    body
}

/// One `inet_diag_msg`; an inner `None` for a socket in a state that was not asked for.
pub(super) fn read(message: &[u8]) -> Option<Option<TcpSocket>> {
    let (family, state) = (*message.first()?, *message.get(1)?);
    let Some((_, state)) = STATES.iter().find(|(n, _)| *n == state) else { return Some(None) };
    let id: [u8; ID] = message.get(4..4 + ID)?.try_into().ok()?;
    let port = |at: usize| Some(u16::from_be_bytes([*id.get(at)?, *id.get(at + 1)?]));
    let addr = |at: usize| address(family, id.get(at..at + 16)?);
    let (src, dst) = (addr(4)?, addr(20)?);
    let (uid, inode) = (u32_at(message, 64)?, u32_at(message, 68)?);
    let mark = attributes(message, MESSAGE).find(|(kind, _)| *kind == MARK);
    let mark = mark.and_then(|(_, value)| u32_at(value, 0)).unwrap_or(0);
    let socket = Socket {
        state: (*state).to_owned(),
        src: SocketAddr::new(src, port(0)?),
        dst: SocketAddr::new(dst, port(2)?),
        mark,
    };
    // Timer 1 is retransmission and 4 a closed window's probe; the others count something else.
    let retransmits = if matches!(message.get(2), Some(1 | 4)) { *message.get(3)? } else { 0 };
    Some(Some(TcpSocket { socket, uid, inode, retransmits, family, id }))
}

/// An address in its sixteen bytes. A dual-stack socket's IPv4 peer is shown as the IPv4 address it is.
fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?)),
        AF_INET6 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()),
        _ => None,
    }
}
