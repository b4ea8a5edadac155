//! Deletes a virtual device that a culprit left. Never one of another kind under the same name, never hardware.

use lifeline_core::engine::Failure;
use lifeline_core::op::Seen;

use super::{chain, lasting, passing};
use crate::netlink::Kernel;

/// The device, if it is there.
///
/// # Errors
/// When devices cannot be read.
pub async fn look(kernel: &Kernel, name: &str) -> Result<Seen, String> {
    let links = kernel.links().await.map_err(|e| chain(&e))?;
    Ok(Seen::Link { link: links.into_iter().find(|l| l.name == name) })
}

/// Deletes the device, a persistent tun too.
///
/// # Errors
/// When it is of another kind, or the kernel refuses.
pub async fn act(kernel: &Kernel, name: &str, kind: &str) -> Result<(), Failure> {
    let what = format!("delete device {name}");
    if kind.is_empty() {
        return Err(lasting(format!("{what}: refused: hardware is not ours to delete")));
    }
    let Seen::Link { link: Some(link) } = look(kernel, name).await.map_err(passing)? else {
        return Ok(());
    };
    if link.kind != kind {
        return Err(lasting(format!("{what}: refused: it is a {:?}, not a {kind}", link.kind)));
    }
    match kernel.delete_link(link.index).await {
        Ok(_) => Ok(()),
        Err(e) if e.is_retryable() => Err(passing(chain(&e))),
        Err(e) => Err(lasting(chain(&e))),
    }
}
