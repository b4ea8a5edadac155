//! Closes connections that cannot live on: sockets whose source address died with the culprit's device stay dead for minutes
//! after the path is right again (field guide K6), and a conntrack entry may keep sending answers to such an address.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use lifeline_core::engine::Failure;
use lifeline_core::net::Family;
use lifeline_core::op::Seen;

use super::{blocking, chain, lasting, passing};
use crate::children::{Call, ChildError};

mod diag;

use diag::{DiagError, Tcp};

const LIMIT: Duration = Duration::from_secs(5);
const EOPNOTSUPP: i32 = 95;

/// What is to be closed: the fields of `NodeOp::FlowsGone`.
#[derive(Clone, Debug, Default)]
pub struct Doomed {
    /// Source addresses that died.
    pub sources: Vec<IpAddr>,
    /// Destinations whose dead sockets go whatever their source.
    pub dead_to: Vec<IpAddr>,
}

impl Doomed {
    fn has(&self, socket: &Tcp) -> bool {
        self.sources.contains(&socket.src.ip())
            || (self.dead_to.contains(&socket.dst.ip()) && is_dead(socket))
    }
}

/// Is nothing coming back? A healthy connection may have sent something a moment ago; a dead one is sending it again.
fn is_dead(socket: &Tcp) -> bool {
    socket.retransmits >= 2 || (socket.is_connecting && socket.retransmits >= 1)
}

/// How many sockets and conntrack entries there are of these.
///
/// # Errors
/// When sockets or entries cannot be read.
pub async fn look(doomed: &Doomed) -> Result<Seen, String> {
    let sockets = sockets(doomed).await.map_err(|e| e.why)?.len();
    let entries =
        entries(doomed).await.map_err(|e| format!("list conntrack entries: {}", chain(&e)))?;
    let count = u32::try_from(sockets + entries).unwrap_or(u32::MAX);
    Ok(Seen::Flows { count })
}

async fn sockets(doomed: &Doomed) -> Result<Vec<Tcp>, Failure> {
    let doomed = doomed.clone();
    let all = blocking(LIMIT, diag::tcp)
        .await
        .map_err(|late| passing(format!("list sockets: {late}")))?;
    let mut all = all.map_err(|e| passing(chain(&e)))?;
    all.retain(|s| doomed.has(s));
    Ok(all)
}

/// Destroys the sockets; returns how many.
///
/// # Errors
/// When they cannot be read, or the kernel was built without that.
pub async fn destroy(doomed: &Doomed) -> Result<u32, Failure> {
    let sockets = sockets(doomed).await?;
    if sockets.is_empty() {
        return Ok(0);
    }
    let done = blocking(LIMIT, move || diag::destroy(&sockets)).await;
    match done.map_err(|late| passing(format!("destroy sockets: {late}")))? {
        Ok(count) => Ok(count),
        Err(e @ DiagError::Refused { errno: EOPNOTSUPP, .. }) => {
            Err(lasting(format!("{}: this kernel was built without it", chain(&e))))
        }
        Err(e) => Err(passing(chain(&e))),
    }
}

/// Closes them all; programs dial on while we do, so a few times over.
///
/// # Errors
/// When sockets or entries cannot be read or deleted.
pub async fn act(doomed: &Doomed) -> Result<(), Failure> {
    for _ in 0..3 {
        if destroy(doomed).await? == 0 {
            break;
        }
    }
    for source in &doomed.sources {
        let done = conntrack("-D", *source).await;
        if let Err(e) = done {
            let why = format!("delete conntrack entries that answer to {source}: {}", chain(&e));
            return Err(passing(why));
        }
    }
    Ok(())
}

async fn entries(doomed: &Doomed) -> Result<usize, ChildError> {
    let mut count = 0;
    for source in &doomed.sources {
        count += conntrack("-L", *source).await?;
    }
    Ok(count)
}

/// Lists or deletes the entries whose answers go to an address; how many. A host without conntrack(8) keeps them: they are the
/// lesser part, and expire.
async fn conntrack(verb: &str, source: IpAddr) -> Result<usize, ChildError> {
    let family = match Family::of(source) {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    let call = Call::new("conntrack").args([verb, "-f", family, "-q", &source.to_string()]);
    let ran = match call.limit(LIMIT).cap(16 << 20).run().await {
        Err(ChildError::NotInstalled { .. }) => return Ok(0),
        ran => ran?,
    };
    // Deleting none is status 1, with "0 flow entries have been deleted".
    if ran.status.code() == Some(1) && ran.stderr.contains(" 0 flow entries have been deleted") {
        return Ok(0);
    }
    let ran = ran.checked()?;
    Ok(ran.text().lines().filter(|l| !l.trim().is_empty()).count())
}

/// Addresses of these devices, as sources that die with them: never one that another device has as well.
pub fn only_on<'a>(
    addrs: impl Iterator<Item = (&'a str, IpAddr)> + Clone,
    devs: &HashSet<&str>,
) -> Vec<IpAddr> {
    let elsewhere: HashSet<IpAddr> =
        addrs.clone().filter(|(d, _)| !devs.contains(d)).map(|(_, a)| a).collect();
    let mut sources: Vec<IpAddr> = addrs
        .filter(|(d, a)| devs.contains(d) && !elsewhere.contains(a) && !a.is_loopback())
        // Every device has link-local ones, and they name their device.
        .filter(|(_, a)| !matches!(a, IpAddr::V6(a) if a.is_unicast_link_local()))
        .map(|(_, a)| a)
        .collect();
    sources.sort_unstable();
    sources.dedup();
    sources
}

/// A dual-stack socket shows an IPv4 peer as `::ffff:1.2.3.4`.
fn endpoint(is_v6: bool, bytes: &[u8], port: u16) -> Option<SocketAddr> {
    let addr: IpAddr = if is_v6 {
        Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?).to_canonical()
    } else {
        Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?).into()
    };
    Some(SocketAddr::new(addr, port))
}
