//! How systemd sees the kubelet's unit and the known culprit's, over D-Bus.

use super::{Seen, chain};
use lifeline_core::observation::{Sense, Unit};
use std::time::Duration;
use tokio::time::timeout;
use zbus::connection::Builder;
use zbus::{Connection, OwnedObjectPath};

/// Tailscale's own unit name on every distribution it ships packages for.
const TAILSCALED: &str = "tailscaled.service";

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    /// Unlike `GetUnit` it also answers for units that systemd has not loaded.
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1"
)]
trait UnitState {
    #[zbus(property(emits_changed_signal = "false"))]
    fn load_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn sub_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"), name = "InvocationID")]
    fn invocation_id(&self) -> zbus::Result<Vec<u8>>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1"
)]
trait ServiceState {
    #[zbus(property(emits_changed_signal = "false"), name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn restart(&self) -> zbus::Result<String>;
}

/// Reads the units.
pub(super) async fn read(bus: Option<&str>, kubelet: &str, limit: Duration) -> Seen<Vec<Unit>> {
    match timeout(limit, ask(bus, kubelet)).await {
        Ok(Ok(units)) => Seen::whole(units),
        Ok(Err(e)) => Seen::nothing(Sense::Units, format!("ask systemd over D-Bus: {}", chain(&e))),
        Err(_) => Seen::nothing(
            Sense::Units,
            format!("ask systemd over D-Bus: no answer within {limit:?}"),
        ),
    }
}

/// A unit's `Restart=`; `None` when systemd does not tell in time.
pub(super) async fn restart(bus: Option<&str>, unit: &str, limit: Duration) -> Option<String> {
    let asked = async {
        let bus = connect(bus).await?;
        let path = ManagerProxy::new(&bus).await?.load_unit(unit).await?;
        ServiceStateProxy::builder(&bus).path(path).build().await?.restart().await
    };
    match timeout(limit, asked).await {
        Ok(Ok(restart)) => Some(restart),
        Ok(Err(why)) => {
            tracing::debug!("ask systemd for Restart= of {unit}: {}", chain(&why));
            None
        }
        Err(_) => None,
    }
}

/// A connection of its own each time: a kept one does not survive a restart of the bus.
async fn connect(bus: Option<&str>) -> zbus::Result<Connection> {
    match bus {
        None => Connection::system().await,
        Some(address) => Builder::address(address).build().await,
    }
}

async fn ask(bus: Option<&str>, kubelet: &str) -> zbus::Result<Vec<Unit>> {
    let bus = connect(bus).await?;
    let manager = ManagerProxy::new(&bus).await?;
    let mut units = Vec::new();
    for name in [kubelet, TAILSCALED] {
        let path = manager.load_unit(name).await?;
        units.push(unit(&bus, name, path).await?);
    }
    Ok(units)
}

async fn unit(bus: &Connection, name: &str, path: OwnedObjectPath) -> zbus::Result<Unit> {
    let state = UnitStateProxy::builder(bus).path(path.clone()).build().await?;
    let load = state.load_state().await?;
    let pid = if load == "not-found" {
        0
    } else {
        let service = ServiceStateProxy::builder(bus).path(path).build().await?;
        service.main_pid().await?
    };
    let invocation = state.invocation_id().await?;
    Ok(Unit {
        name: name.to_owned(),
        load,
        active: state.active_state().await?,
        sub: state.sub_state().await?,
        pid,
        invocation: invocation.iter().map(|b| format!("{b:02x}")).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    async fn ask_at(address: &str) -> Seen<Vec<Unit>> {
        let start = Instant::now();
        let seen = read(Some(address), "k3s-agent.service", Duration::from_millis(300)).await;
        assert!(start.elapsed() < Duration::from_secs(2));
        assert_eq!((seen.found.len(), seen.gaps.len()), (0, 1));
        seen
    }

    #[tokio::test]
    async fn a_bus_that_is_not_there_and_one_that_hangs_are_gaps_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let address = format!("unix:path={}", path.display());
        let seen = ask_at(&address).await;
        assert!(seen.gaps[0].why.starts_with("ask systemd over D-Bus: "), "{:?}", seen.gaps);
        let _hangs = UnixListener::bind(&path).unwrap();
        assert!(ask_at(&address).await.gaps[0].why.contains("no answer within 300ms"));
    }
}
