//! The kernel's routing tables, read and written over rtnetlink.
//!
//! Every call has a deadline. A dump that does not end properly is an error and never a shorter list. Nothing here decides
//! what is right.

mod dump;
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

use dump::Known;
pub use events::{Events, Hint};
pub use links::LinkNames;
pub use nftables::{inet_tables, nft_generation, nft_tables};
pub use routes::{route_from, route_message};
pub use rules::{rule_from, rule_message, victim};
pub use sockets::TcpSocket;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket, TokioSocket, protocols::NETLINK_ROUTE};
use std::io;
use std::num::NonZeroI32;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;

/// How long one call may take; a dump of 100 000 routes takes about 0.2 s.
const LIMIT: Duration = Duration::from_secs(2);
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
    /// What the last look read, for whoever looks next: the judge and the guard hold one list.
    remembered: Arc<Mutex<routes::Remembered>>,
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
        Ok(Self { handle, remembered: Arc::default() })
    }

    /// Dumps what is not kept between looks.
    async fn settled<T: PartialEq + Clone>(
        &self,
        what: &str,
        ask: RouteNetlinkMessage,
        pick: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut dump = Known::default();
        dump.renew(&[(what.to_owned(), ask)], pick).await?;
        Ok(dump.into_entries())
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
