//! What the kernel has learnt beside its routes: path MTUs and redirects. There has been no other route cache since 3.6.

use lifeline_core::engine::Failure;
use lifeline_core::op::Seen;
use std::time::Duration;

use super::{blocking, chain, lasting, passing};
use crate::netlink::Kernel;

/// A write takes the routing lock, which somebody may hold for a while.
const LIMIT: Duration = Duration::from_secs(3);
/// What `ip route flush cache` writes to.
const FILES: [&str; 2] = ["/proc/sys/net/ipv4/route/flush", "/proc/sys/net/ipv6/route/flush"];

/// How many entries there are.
///
/// # Errors
/// When the kernel does not say.
pub async fn look(kernel: &Kernel) -> Result<Seen, String> {
    let learnt = kernel.learnt().await.map_err(|e| chain(&e))?;
    Ok(Seen::Cache { entries: u32::try_from(learnt).unwrap_or(u32::MAX) })
}

/// Forgets them.
///
/// # Errors
/// When the kernel does not take it. A kernel without IPv6 has nothing to forget there.
pub async fn flush() -> Result<(), Failure> {
    for file in FILES {
        match blocking(LIMIT, move || std::fs::write(file, "1\n")).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => {}
            Ok(Err(e)) => return Err(lasting(format!("write to {file}: {e}"))),
            Err(late) => return Err(passing(format!("write to {file}: {late}"))),
        }
    }
    Ok(())
}
