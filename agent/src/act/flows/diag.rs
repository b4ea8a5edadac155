//! The kernel's socket diagnostics (`NETLINK_SOCK_DIAG`): lists TCP sockets and destroys single ones. As `ss -K` does, without a
//! child; a socket is named by its cookie, so that never another one is hit.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::endpoint;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const ENOENT: i32 = 2;
const TCP_SYN_SENT: u8 = 2;
/// All but TIME_WAIT (6), CLOSE (7) and LISTEN (10): no one waits for those.
const STATES: u32 = 0b1011_0011_1110;
/// `struct nlmsghdr`, `struct inet_diag_sockid`, `struct inet_diag_msg`.
const HEADER: usize = 16;
const SOCKID: usize = 48;
const MESSAGE: usize = 72;

/// Why sockets could not be listed or destroyed.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// Talking to the kernel.
    #[error("{doing}")]
    Io {
        /// What we were doing.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel says no.
    #[error("{doing}")]
    Refused {
        /// What we were doing.
        doing: &'static str,
        /// Its errno.
        errno: i32,
        /// The same in words.
        #[source]
        source: io::Error,
    },
    /// An answer that makes no sense.
    #[error("{doing}: the answer could not be read")]
    Garbled {
        /// What we were doing.
        doing: &'static str,
    },
}

/// A TCP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Own end.
    pub src: SocketAddr,
    /// Other end.
    pub dst: SocketAddr,
    /// In SYN-SENT.
    pub is_connecting: bool,
    /// How often what is under way has been sent again.
    pub retransmits: u8,
    family: u8,
    id: [u8; SOCKID],
}

fn open() -> Result<OwnedFd, DiagError> {
    let io = |e: nix::Error| DiagError::Io {
        doing: "open a socket to ask for sockets",
        source: e.into(),
    };
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )
    .map_err(io)?;
    setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(2)).map_err(io)?;
    Ok(fd)
}

fn request(kind: u16, flags: u16, family: u8, id: &[u8; SOCKID]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + 8 + SOCKID);
    let len = u32::try_from(HEADER + 8 + SOCKID).unwrap_or(0);
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[family, IPPROTO_TCP, 0, 0]);
    bytes.extend_from_slice(&STATES.to_ne_bytes());
    bytes.extend_from_slice(id);
    bytes
}

/// One answer: its messages one by one, until `each` says it is done.
fn talk(
    fd: &OwnedFd,
    doing: &'static str,
    request: &[u8],
    mut each: impl FnMut(u16, &[u8]) -> Result<bool, DiagError>,
) -> Result<(), DiagError> {
    let io = |e: nix::Error| DiagError::Io { doing, source: e.into() };
    sendto(fd.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map_err(io)?;
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        let n = match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(nix::Error::EINTR) => continue,
            other => other.map_err(io)?,
        };
        let mut rest = &buffer[..n];
        while rest.len() >= HEADER {
            let len = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let body = rest.get(HEADER..len).ok_or(DiagError::Garbled { doing })?;
            if each(kind, body)? {
                return Ok(());
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn errno(body: &[u8]) -> i32 {
    body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes).saturating_neg()
}

fn refused(doing: &'static str, errno: i32) -> DiagError {
    DiagError::Refused { doing, errno, source: io::Error::from_raw_os_error(errno) }
}

/// All TCP sockets with a peer, of both families, in the network namespace of the calling thread.
///
/// # Errors
/// When the kernel does not list them to the end.
pub fn tcp() -> Result<Vec<Tcp>, DiagError> {
    const DOING: &str = "list TCP sockets";
    let fd = open()?;
    let mut all = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let ask = request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, &[0; SOCKID]);
        talk(&fd, DOING, &ask, |kind, body| match kind {
            NLMSG_DONE => match errno(body) {
                0 => Ok(true),
                errno => Err(refused(DOING, errno)),
            },
            NLMSG_ERROR => Err(refused(DOING, errno(body))),
            _ => {
                all.push(read(body).ok_or(DiagError::Garbled { doing: DOING })?);
                Ok(false)
            }
        })?;
    }
    Ok(all)
}

fn read(body: &[u8]) -> Option<Tcp> {
    let body = body.get(..MESSAGE)?;
    let id: [u8; SOCKID] = body.get(4..4 + SOCKID)?.try_into().ok()?;
    let is_v6 = body[0] == AF_INET6;
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    Some(Tcp {
        src: endpoint(is_v6, &id[4..20], port(0))?,
        dst: endpoint(is_v6, &id[20..36], port(2))?,
        is_connecting: body[1] == TCP_SYN_SENT,
        // Timer 1 is retransmission, 4 is a zero window's probe: others count other things.
        retransmits: if matches!(body[2], 1 | 4) { body[3] } else { 0 },
        family: body[0],
        id,
    })
}

/// Destroys these sockets, their programs see ECONNABORTED; how many were still there.
///
/// # Errors
/// When the kernel refuses.
pub fn destroy(sockets: &[Tcp]) -> Result<u32, DiagError> {
    const DOING: &str = "destroy TCP sockets";
    let fd = open()?;
    let mut count = 0;
    for socket in sockets {
        let ask = request(SOCK_DESTROY, NLM_F_ACK, socket.family, &socket.id);
        talk(&fd, DOING, &ask, |kind, body| match (kind, errno(body)) {
            (NLMSG_ERROR, 0) => {
                count += 1;
                Ok(true)
            }
            // It has gone by itself.
            (NLMSG_ERROR, ENOENT) => Ok(true),
            (NLMSG_ERROR, errno) => Err(refused(DOING, errno)),
            _ => Ok(false),
        })?;
    }
    Ok(count)
}
