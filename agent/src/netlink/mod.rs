//! The kernel's routing tables, read and written over rtnetlink.
//!
//! Every call has a deadline. A dump that does not end properly is an error and never a shorter list. Nothing here decides
//! what is right.

mod codec;
mod events;
mod links;
mod lookup;
mod routes;
mod rules;
mod sockets;

pub use events::{Events, Hint};
pub use links::LinkNames;
pub use routes::{route_from, route_message};
pub use rules::{rule_from, rule_message, victim};
pub use sockets::TcpSocket;

use codec::Lossless;
use futures_util::StreamExt;
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::proto::{ConnectionHandle, from_socket_with_codec};
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use std::io;
use std::num::NonZeroI32;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// How long one call may take; a dump of 100 000 routes takes about 0.2 s.
const LIMIT: Duration = Duration::from_secs(2);
/// A dump this small fits into the first datagram the kernel fills, in one go; larger ones are not of one moment.
const ONE_DATAGRAM: usize = 3_500;
/// How often a larger dump is done again until two agree.
const ROUNDS: usize = 4;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;

/// Why the kernel's tables could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("open a netlink socket")]
    Open {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer.
    #[error("{what}: no answer within {LIMIT:?}")]
    Late {
        /// What we were doing.
        what: String,
    },
    /// The connection task has ended.
    #[error("{what}: the netlink connection is closed")]
    Closed {
        /// What we were doing.
        what: String,
    },
    /// The kernel says no.
    #[error("{what}")]
    Refused {
        /// What we were doing.
        what: String,
        /// Its errno.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer makes no sense to us.
    #[error("{what}: the answer could not be read")]
    Garbled {
        /// What we were doing.
        what: String,
    },
    /// It names a device that is not there.
    #[error("{what}: there is no device {dev}")]
    NoDevice {
        /// What we were doing.
        what: String,
        /// The device.
        dev: String,
    },
    /// It carries what our types do not model, so writing it down would lose that.
    #[error("{what}: it has attributes we do not know and is never rewritten")]
    Exotic {
        /// What we were doing.
        what: String,
    },
}

impl NetlinkError {
    /// The kernel's errno, when it said one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// May the same call succeed later?
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Late { .. } | Self::Garbled { .. } | Self::Closed { .. } => true,
            Self::Refused { .. } => matches!(self.errno(), Some(EBUSY | 4 | 11 | 105)),
            Self::Open { .. } | Self::NoDevice { .. } | Self::Exotic { .. } => false,
        }
    }
}

/// What an addition did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was not there.
    Added,
    /// The very same was there already.
    Exists,
}

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It was there.
    Deleted,
    /// It was not.
    Absent,
}

/// Two connections to the kernel's routing, in the network namespace of the thread that opened them: one that dumps, and
/// one that asks and writes, so that a question never waits for a long dump.
#[derive(Clone, Debug)]
pub struct Kernel {
    handle: rtnetlink::Handle,
    dumps: ConnectionHandle<RouteNetlinkMessage>,
    /// The kernel answers a second dump on the same socket with EBUSY.
    turn: Arc<Mutex<()>>,
}

/// What a dump brought.
struct Dump<T> {
    items: Vec<T>,
    bytes: usize,
}

impl Kernel {
    /// Opens the connections; their tasks end when the last clone is dropped.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = |source| NetlinkError::Open { source };
        let socket = TokioSocket::new(NETLINK_ROUTE).map_err(open)?;
        // The answers to single questions are small; but a slow reader must not lose one.
        widen(&socket, 1 << 20);
        let (mut connection, handle, _) = rtnetlink::from_socket(socket);
        connection.set_forward_ack(false);
        tokio::spawn(connection);
        let socket = TokioSocket::new(NETLINK_ROUTE).map_err(open)?;
        let (mut connection, dumps, _) =
            from_socket_with_codec::<RouteNetlinkMessage, _, Lossless>(socket);
        // A dump's last message carries its error code (and says that there was an end at all).
        connection.set_forward_done(true);
        tokio::spawn(connection);
        Ok(Self { handle, dumps, turn: Arc::new(Mutex::new(())) })
    }

    /// One dump, to its end.
    async fn dump<T>(
        &self,
        what: &str,
        ask: &RouteNetlinkMessage,
        pick: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Dump<T>, NetlinkError> {
        let _turn = self.turn.lock().await;
        let mut tries = 0;
        loop {
            let dumped = timeout(LIMIT, self.dump_once(what, ask.clone(), &pick)).await;
            match dumped.map_err(|_| NetlinkError::Late { what: what.to_owned() })? {
                // An earlier dump that was given up at its deadline is still being written.
                Err(e) if e.errno() == Some(EBUSY) && tries < 20 => {
                    tries += 1;
                    sleep(Duration::from_millis(5)).await;
                }
                other => return other,
            }
        }
    }

    async fn dump_once<T>(
        &self,
        what: &str,
        ask: RouteNetlinkMessage,
        pick: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Dump<T>, NetlinkError> {
        let closed = || NetlinkError::Closed { what: what.to_owned() };
        let mut request = NetlinkMessage::from(ask);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let answers = self.dumps.request(request, SocketAddr::new(0, 0)).map_err(|_| closed())?;
        let mut answers = pin!(answers);
        let mut dump = Dump { items: Vec::new(), bytes: 0 };
        while let Some(message) = answers.next().await {
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => {
                    dump.bytes += message.header.length as usize;
                    dump.items.extend(pick(inner));
                }
                NetlinkPayload::Done(done) if done.code == 0 => return Ok(dump),
                NetlinkPayload::Done(done) => {
                    return Err(refused(what, NonZeroI32::new(done.code)));
                }
                NetlinkPayload::Error(e) => return Err(refused(what, e.code)),
                _ => return Err(NetlinkError::Garbled { what: what.to_owned() }),
            }
        }
        Err(closed())
    }

    /// Dumps until two dumps agree, because one that takes several datagrams misses entries while others come and go, and
    /// no flag says so (field guide K4). When they never agree, what either of the last two saw counts as there: under
    /// churn absence cannot be known, and a flapping entry is better seen than not.
    async fn settled<T: PartialEq>(
        &self,
        what: &str,
        ask: RouteNetlinkMessage,
        pick: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut last = self.dump(what, &ask, &pick).await?;
        if last.bytes <= ONE_DATAGRAM {
            return Ok(last.items);
        }
        for round in 1..=ROUNDS {
            let again = self.dump(what, &ask, &pick).await?;
            if again.items == last.items {
                return Ok(again.items);
            }
            if round == ROUNDS {
                return Ok(union(last.items, again.items));
            }
            last = again;
        }
        Ok(last.items)
    }

    /// A write, under its deadline.
    async fn write(
        &self,
        what: impl Fn() -> String,
        call: impl Future<Output = Result<(), rtnetlink::Error>>,
    ) -> Result<(), NetlinkError> {
        match timeout(LIMIT, call).await {
            Err(_) => Err(NetlinkError::Late { what: what() }),
            Ok(Ok(())) => Ok(()),
            Ok(Err(rtnetlink::Error::NetlinkError(e))) => Err(refused(&what(), e.code)),
            Ok(Err(rtnetlink::Error::RequestFailed)) => Err(NetlinkError::Closed { what: what() }),
            Ok(Err(_)) => Err(NetlinkError::Garbled { what: what() }),
        }
    }
}

/// What either list holds: `later` in its order, and behind each of its entries those of `earlier` that followed it.
fn union<T: PartialEq>(earlier: Vec<T>, later: Vec<T>) -> Vec<T> {
    let mut all = later;
    let mut at = 0;
    for item in earlier {
        match all.iter().position(|x| *x == item) {
            Some(found) => at = found + 1,
            None => {
                all.insert(at, item);
                at += 1;
            }
        }
    }
    all
}

/// The kernel's negative errno as an error.
fn refused(what: &str, code: Option<NonZeroI32>) -> NetlinkError {
    let errno = code.map_or(0, |c| c.get().saturating_abs());
    NetlinkError::Refused { what: what.to_owned(), source: io::Error::from_raw_os_error(errno) }
}

/// Makes the receive buffer larger than `rmem_max` allows, which takes CAP_NET_ADMIN; else as large as may be.
fn widen(socket: &TokioSocket, size: usize) {
    let inner = socket.socket_ref();
    let forced = nix::sys::socket::setsockopt(inner, nix::sys::socket::sockopt::RcvBufForce, &size);
    if forced.is_err() {
        let _as_it_is = inner.set_rx_buf_sz(i32::try_from(size).unwrap_or(i32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::union;

    #[test]
    fn what_either_dump_saw_counts_in_its_place() {
        assert_eq!(
            union(vec![0, 5210, 5270, 32766], vec![0, 5210, 32766, 32767]),
            [0, 5210, 5270, 32766, 32767]
        );
        assert_eq!(union(vec![1, 2], vec![]), [1, 2]);
        assert_eq!(union(vec![0, 32766, 32767], vec![0, 32767]), [0, 32766, 32767]);
    }
}
