//! Closes connections that cannot live on: sockets whose source address died with the culprit's device stay dead for minutes
//! after the path is right again (field guide K6), and a conntrack entry may keep sending answers to such an address.

use std::net::IpAddr;
use std::time::Duration;

use lifeline_core::engine::Failure;
use lifeline_core::net::Family;
use lifeline_core::op::Seen;

use super::{chain, lasting, passing};
use crate::children::{Call, ChildError};
use crate::netlink::{Kernel, TcpSocket};

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
    fn has(&self, tcp: &TcpSocket) -> bool {
        let (src, dst) = (tcp.socket.src.ip(), tcp.socket.dst.ip());
        self.sources.contains(&src) || (self.dead_to.contains(&dst) && is_dead(tcp))
    }
}

/// Is nothing coming back? A healthy connection may have sent something a moment ago; a dead one is sending it again. Marked
/// sockets are our own calls, and whoever marks follows a path of its own.
fn is_dead(tcp: &TcpSocket) -> bool {
    let enough = if tcp.socket.state == "syn-sent" { 1 } else { 2 };
    tcp.socket.mark == 0 && tcp.retransmits >= enough
}

/// How many sockets and conntrack entries there are of these.
///
/// # Errors
/// When sockets or entries cannot be read.
pub async fn look(kernel: &Kernel, doomed: &Doomed) -> Result<Seen, String> {
    let sockets = sockets(kernel, doomed).await.map_err(|f| f.why)?.len();
    let entries =
        entries(doomed).await.map_err(|e| format!("list conntrack entries: {}", chain(&e)))?;
    Ok(Seen::Flows { count: u32::try_from(sockets + entries).unwrap_or(u32::MAX) })
}

async fn sockets(kernel: &Kernel, doomed: &Doomed) -> Result<Vec<TcpSocket>, Failure> {
    let mut all = kernel.tcp_sockets().await.map_err(|e| passing(chain(&e)))?;
    all.retain(|s| doomed.has(s));
    Ok(all)
}

/// Destroys the sockets, whose programs see ECONNABORTED and dial anew at once; returns how many.
///
/// # Errors
/// When they cannot be read, or the kernel was built without that.
pub async fn destroy(kernel: &Kernel, doomed: &Doomed) -> Result<usize, Failure> {
    let sockets = sockets(kernel, doomed).await?;
    for socket in &sockets {
        if let Err(e) = kernel.destroy_socket(socket).await {
            let why = chain(&e);
            return Err(match e.errno() {
                Some(EOPNOTSUPP) => lasting(format!("{why}: this kernel was built without it")),
                _ => passing(why),
            });
        }
    }
    Ok(sockets.len())
}

/// Closes them all; programs dial on while we do, so a few times over.
///
/// # Errors
/// When sockets or entries cannot be read or deleted.
pub async fn act(kernel: &Kernel, doomed: &Doomed) -> Result<(), Failure> {
    for _ in 0..3 {
        if destroy(kernel, doomed).await? == 0 {
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
