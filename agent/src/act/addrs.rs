//! Addresses of one device: those of the healthy node's pod network are put back as its plugins set them. Never those of hardware,
//! which are its network manager's.

use lifeline_core::engine::Failure;
use lifeline_core::observation::Addr;
use lifeline_core::op::Seen;

use super::{chain, lasting, passing};
use crate::netlink::{Kernel, NetlinkError};

/// Those addresses of both lists that are there, each once.
///
/// # Errors
/// When addresses cannot be read.
pub async fn look(
    kernel: &Kernel,
    dev: &str,
    absent: &[Addr],
    present: &[Addr],
) -> Result<Seen, String> {
    let names = kernel.names().await.map_err(|e| chain(&e))?;
    let there = kernel.addrs(&names).await.map_err(|e| chain(&e))?;
    let listed = |a: &Addr| a.dev == dev && (absent.contains(a) || present.contains(a));
    Ok(Seen::Addrs { there: there.into_iter().filter(listed).collect() })
}

/// Brings the device's addresses to the wanted state.
///
/// # Errors
/// When there is no such device, it is hardware, or the kernel refuses.
pub async fn act(
    kernel: &Kernel,
    dev: &str,
    absent: &[Addr],
    present: &[Addr],
) -> Result<(), Failure> {
    let what = format!("set addresses of {dev}");
    let links = kernel.links().await.map_err(|e| passing(chain(&e)))?;
    let Some(link) = links.iter().find(|l| l.name == dev) else {
        return Err(lasting(format!("{what}: there is no such device")));
    };
    if link.kind.is_empty() {
        return Err(lasting(format!("{what}: refused: its network manager's, not ours")));
    }
    for addr in present {
        told(kernel.add_addr(link.index, addr).await.map(drop))?;
    }
    for addr in absent {
        told(kernel.delete_addr(link.index, addr).await.map(drop))?;
    }
    Ok(())
}

fn told(done: Result<(), NetlinkError>) -> Result<(), Failure> {
    match done {
        Ok(()) => Ok(()),
        Err(e) if e.is_retryable() => Err(passing(chain(&e))),
        Err(e) => Err(lasting(chain(&e))),
    }
}
