//! The kernel's routing tables, read and written over rtnetlink.
//!
//! Every call has a deadline. A dump that does not end properly is an error and never a shorter list. Nothing here decides
//! what is right.

mod events;
#[cfg(test)]
mod fuzzed;
mod links;
mod lookup;
mod nftables;
mod routes;
mod rules;
mod sockets;
mod wire;
mod xfrm;

use events::Watch;
pub use events::{Events, Hint};
pub use links::LinkNames;
pub use nftables::{inet_tables, nft_generation, nft_tables};
pub use routes::{route_from, route_message};
pub use rules::{rule_from, rule_message, victim};
pub use sockets::TcpSocket;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket, TokioSocket, protocols::NETLINK_ROUTE};
use std::collections::HashMap;
use std::hash::RandomState;
use std::io;
use std::num::NonZeroI32;
use std::time::Duration;
use tokio::time::timeout;

/// How long one call may take; a dump of 100 000 routes takes about 0.2 s.
const LIMIT: Duration = Duration::from_secs(2);
/// A dump this small comes in one datagram, which the kernel fills in one go; larger ones are not of one moment. (It fills up
/// to 32 KiB for a reader who has shown a buffer of that size before: see [`wire::converse`].)
const ONE_DATAGRAM: usize = 30_000;
/// How often a larger dump that was disturbed is done again.
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

/// The kernel's routing, in the network namespace of the thread that opened it.
#[derive(Clone, Debug)]
pub struct Kernel {
    handle: rtnetlink::Handle,
}

impl Kernel {
    /// Opens the connection that asks and writes; its task ends when the last clone is dropped.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = |source| NetlinkError::Open { source };
        let socket = TokioSocket::new(NETLINK_ROUTE).map_err(open)?;
        // The answers are small; but a slow reader must not lose one.
        widen(&socket, 1 << 20);
        let (connection, handle, _) = rtnetlink::from_socket(socket);
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Dumps, and again while something changes meanwhile, because a dump of several datagrams passes entries over while others
    /// come and go, and no flag says so (field guide K4). That something changed is told by the kernel's own events. When it
    /// never rests, what any of the dumps saw counts as there: under churn absence cannot be known, and a flapping entry is
    /// better seen than not.
    ///
    /// Only one list is ever held, and what differs from it.
    async fn settled<T: PartialEq>(
        &self,
        what: &str,
        ask: RouteNetlinkMessage,
        pick: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let late = |_| NetlinkError::Late { what: what.to_owned() };
        let state = RandomState::new();
        let watch = Watch::open()?;
        let mut list: Vec<(u64, Option<T>)> = Vec::new();
        let first = wire::dump(what, &ask, |raw| {
            list.push((raw.mark(&state), pick(raw.read()?)));
            Ok(())
        });
        let bytes = timeout(LIMIT, first).await.map_err(late)??;
        let mut rounds = if bytes <= ONE_DATAGRAM || watch.is_calm() { 0 } else { ROUNDS };
        while rounds > 0 {
            rounds -= 1;
            let (mut same, mut others) = (0, Vec::new());
            let again = wire::dump(what, &ask, |raw| {
                let mark = raw.mark(&state);
                let known = list.get(same).filter(|_| others.is_empty());
                if known.is_some_and(|(m, _)| *m == mark) {
                    same += 1;
                    return Ok(());
                }
                let entry = pick(raw.read()?);
                if known.is_some_and(|(_, e)| *e == entry) {
                    same += 1;
                } else {
                    others.push((mark, entry));
                }
                Ok(())
            });
            timeout(LIMIT, again).await.map_err(late)??;
            let earlier = list.split_off(same);
            if watch.is_calm() {
                list.append(&mut others);
                break;
            }
            list.extend(union(earlier, others));
        }
        Ok(list.into_iter().filter_map(|(_, entry)| entry).collect())
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
fn union<T>(earlier: Vec<(u64, T)>, later: Vec<(u64, T)>) -> Vec<(u64, T)> {
    let mut places: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, (mark, _)) in later.iter().enumerate().rev() {
        places.entry(*mark).or_default().push(at);
    }
    let (mut at, mut missing) = (0, Vec::new());
    for entry in earlier {
        match places.get_mut(&entry.0).and_then(Vec::pop) {
            Some(found) => at = found + 1,
            None => missing.push((at, entry)),
        }
    }
    missing.sort_by_key(|(at, _)| *at);
    let mut missing = missing.into_iter().peekable();
    let mut all = Vec::new();
    for (at, entry) in later.into_iter().enumerate() {
        while let Some((_, gone)) = missing.next_if(|(place, _)| *place <= at) {
            all.push(gone);
        }
        all.push(entry);
    }
    all.extend(missing.map(|(_, gone)| gone));
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
        let pairs = |a: &[u64]| a.iter().map(|n| (*n, *n)).collect();
        let union = |a: &[u64], b: &[u64]| -> Vec<u64> {
            union(pairs(a), pairs(b)).into_iter().map(|(_, n)| n).collect()
        };
        assert_eq!(
            union(&[0, 5210, 5270, 32766], &[0, 5210, 32766, 32767]),
            [0, 5210, 5270, 32766, 32767]
        );
        assert_eq!(union(&[1, 2], &[]), [1, 2]);
        assert_eq!(union(&[], &[1, 2]), [1, 2]);
        assert_eq!(union(&[0, 32766, 32767], &[0, 32767]), [0, 32766, 32767]);
        assert_eq!(union(&[7, 7, 7], &[7, 8]), [7, 7, 7, 8], "equal ones are counted");
    }
}
