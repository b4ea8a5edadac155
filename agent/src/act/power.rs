//! Reboots this node: what is in memory goes to the disk, then systemd is asked. That a call was accepted is no reboot; only
//! another boot id is.

use lifeline_core::engine::Failure;
use lifeline_core::op::Seen;
use std::time::Duration;
use zbus::OwnedObjectPath;

use super::blocking;
use super::unit::{bus, call};
use crate::clock::Clock;

/// A disk that does not take what is in memory is perhaps the reason for the reboot.
const SYNC: Duration = Duration::from_secs(20);

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Login {
    fn reboot(&self, interactive: bool) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd {
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
}

/// Which boot this is.
///
/// # Errors
/// When `/proc` does not say.
pub fn look() -> Result<Seen, String> {
    let clock = Clock::read().map_err(|e| format!("read the boot id: {e}"))?;
    Ok(Seen::Boot { id: clock.boot().to_owned() })
}

/// Asks for a reboot. logind first: it lets the kubelet end its pods in order and heeds inhibitors; where there is none,
/// systemd itself stops every unit. Never its `Reboot()`, which asks nobody and stops nothing.
///
/// # Errors
/// When both refuse.
pub async fn reboot() -> Result<(), Failure> {
    if let Err(late) = blocking(SYNC, rustix::fs::sync).await {
        tracing::warn!("write to the disks before the reboot: {late}");
    }
    let bus = bus().await?;
    let what = "ask logind for a reboot";
    let login = call(what, LoginProxy::new(&bus)).await?;
    match call(what, login.reboot(false)).await {
        Ok(()) => return Ok(()),
        Err(why) => tracing::info!("{}; asking systemd itself", why.why),
    }
    let what = "ask systemd for a reboot";
    let systemd = call(what, SystemdProxy::new(&bus)).await?;
    let _job = call(what, systemd.start_unit("reboot.target", "replace-irreversibly")).await?;
    Ok(())
}
