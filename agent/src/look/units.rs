//! How systemd sees the kubelet's unit and the known culprit's, over D-Bus.

use super::{Seen, chain};
use crate::children::{Call, Ran};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use lifeline_core::observation::{Sense, Unit};
use std::time::Duration;
use tokio::time::timeout;
use zbus::connection::Builder;
use zbus::{Connection, OwnedObjectPath};

/// Tailscale's own unit name on every distribution it ships packages for.
const TAILSCALED: &str = "tailscaled.service";

/// As many lines of a failing unit's journal as tell why.
const SAID: usize = 6;
/// For reading them.
const SAID_LIMIT: Duration = Duration::from_secs(1);
/// A line longer than this tells nothing more.
const LONGEST: usize = 240;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    /// Unlike `GetUnit` it also answers for units that systemd has not loaded.
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn subscribe(&self) -> zbus::Result<()>;
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
    #[zbus(property(emits_changed_signal = "false"), name = "NRestarts")]
    fn n_restarts(&self) -> zbus::Result<u32>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn result(&self) -> zbus::Result<String>;
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

/// Calls `heard` on every change of a unit's state, until the bus is gone.
///
/// # Errors
/// When the bus or systemd is not there, or has gone.
pub async fn changes(bus: Option<&str>, unit: &str, heard: impl Fn()) -> Result<(), String> {
    let listen = async {
        let bus = connect(bus).await?;
        let manager = ManagerProxy::new(&bus).await?;
        // Without a subscriber systemd sends no signals.
        manager.subscribe().await?;
        let path = manager.load_unit(unit).await?;
        let properties = zbus::fdo::PropertiesProxy::builder(&bus)
            .destination("org.freedesktop.systemd1")
            .path(path)
            .build()
            .await?;
        // The connection is in use by the stream's own task for as long as the stream lives.
        Ok::<_, zbus::Error>((properties.receive_properties_changed().await?, bus))
    };
    let (mut stream, _bus) = match timeout(Duration::from_secs(5), listen).await {
        Ok(listening) => listening.map_err(|why| chain(&why))?,
        Err(_) => return Err("no answer".to_owned()),
    };
    while stream.next().await.is_some() {
        heard();
    }
    Err("the bus is gone".to_owned())
}

/// A connection of its own each time. A kept one does not survive a restart of the bus, and would go on where no other can be
/// made any more: then a look would call well what an act cannot use.
async fn connect(bus: Option<&str>) -> zbus::Result<Connection> {
    match bus {
        None => Connection::system().await,
        Some(address) => Builder::address(address).build().await,
    }
}

/// Everything at once, so that the answers come in few pieces.
async fn ask(bus: Option<&str>, kubelet: &str) -> zbus::Result<Vec<Unit>> {
    let bus = connect(bus).await?;
    let manager = ManagerProxy::new(&bus).await?;
    let units = [kubelet, TAILSCALED].map(async |name| {
        let path = manager.load_unit(name).await?;
        unit(&bus, name, path).await
    });
    try_join_all(units).await
}

async fn unit(bus: &Connection, name: &str, path: OwnedObjectPath) -> zbus::Result<Unit> {
    let state = UnitStateProxy::builder(bus).path(path.clone()).build().await?;
    let (invocation, load, active, sub) = tokio::try_join!(
        state.invocation_id(),
        state.load_state(),
        state.active_state(),
        state.sub_state(),
    )?;
    let mut unit = Unit {
        name: name.to_owned(),
        load,
        active,
        sub,
        invocation: invocation.iter().map(|b| format!("{b:02x}")).collect(),
        ..Unit::default()
    };
    if unit.load != "not-found" {
        let service = ServiceStateProxy::builder(bus).path(path).build().await?;
        unit.pid = service.main_pid().await?;
        // While it runs well its past says nothing.
        if unit.active != "active" {
            unit.restarts = service.n_restarts().await?;
        }
        if unit.active == "failed" || unit.sub == "auto-restart" {
            unit.result = service.result().await?;
            unit.said = said(name).await;
        }
    }
    Ok(unit)
}

/// The last lines of a unit's journal; a journal that cannot be read is no reason to know nothing of the unit.
async fn said(unit: &str) -> Vec<String> {
    let lines = SAID.to_string();
    let call = Call::new("journalctl")
        .args(["-u", unit, "-n", &lines, "--no-pager", "-q", "-o", "cat"])
        .limit(SAID_LIMIT);
    match call.run().await.and_then(Ran::checked) {
        Ok(ran) => ran.text().lines().map(told).filter(|l| !l.is_empty()).collect(),
        Err(e) => vec![format!("its journal could not be read: {}", chain(&e))],
    }
}

/// A line fit to be shown: of bounded length, without control characters, and without what may be a secret. k3s's tokens begin
/// with `K10`, and anything behind a word like `token` may be one.
fn told(line: &str) -> String {
    fit(line, LONGEST)
}

/// The same, of another length.
pub fn fit(line: &str, longest: usize) -> String {
    let mut hide = false;
    let words = line.split_whitespace().map(|word| {
        let lower = word.to_ascii_lowercase();
        let secret = ["token", "secret", "password"].iter().any(|s| lower.contains(s));
        let (key, value) = word.split_once(['=', ':']).unwrap_or((word, ""));
        let shown = if hide || (word.starts_with("K10") && word.len() > 20) {
            "[hidden]".to_owned()
        } else if secret && !value.is_empty() {
            format!("{key}=[hidden]")
        } else {
            word.to_owned()
        };
        hide = secret && value.is_empty();
        shown
    });
    let line = words.collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(longest).collect()
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

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        for (line, shown) in [
            ("flag provided but not defined: -bogus", "flag provided but not defined: -bogus"),
            ("using --token K10abc", "using --token [hidden]"),
            ("token=abc next", "token=[hidden] next"),
            ("joined with K10c0ffee::server:deadbeef00", "joined with [hidden]"),
            ("a\u{1b}[31m red", "a[31m red"),
        ] {
            assert_eq!(told(line), shown);
        }
        assert_eq!(told(&"x".repeat(1000)).len(), LONGEST);
    }
}
