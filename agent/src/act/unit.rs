//! Restarts a unit over D-Bus and believes only a new InvocationID.
//!
//! The job is never waited for: that of a `Type=notify` unit that hangs, as k3s-agent does without an API server, never ends
//! (field guide K15).

use std::time::{Duration, Instant};

use lifeline_core::engine::Failure;
use lifeline_core::op::Seen;
use tokio::time::{sleep, timeout};
use zbus::Connection;
use zbus::OwnedObjectPath;

use super::{chain, lasting, passing};

/// For one call.
const CALL: Duration = Duration::from_secs(3);
/// Until the unit has a new InvocationID.
const LIMIT: Duration = Duration::from_secs(5);
/// As long as systemd still stops the old one, the new start waits behind it.
const STOPPING: Duration = Duration::from_secs(30);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1"
)]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"), name = "InvocationID")]
    fn invocation_id(&self) -> zbus::Result<Vec<u8>>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn load_state(&self) -> zbus::Result<String>;
}

/// Opens a connection to the system bus. A new one each time: acts on units are rare, and the bus may have been restarted.
///
/// # Errors
/// When there is no bus.
pub async fn bus() -> Result<Connection, Failure> {
    let open = zbus::connection::Builder::system().build();
    match timeout(CALL, open).await {
        Ok(Ok(bus)) => Ok(bus),
        Ok(Err(e)) => Err(passing(format!("connect to the system bus: {}", chain(&e)))),
        Err(_) => Err(passing(format!("connect to the system bus: no answer within {CALL:?}"))),
    }
}

pub(crate) async fn call<T>(
    what: &str,
    call: impl Future<Output = zbus::Result<T>>,
) -> Result<T, Failure> {
    match timeout(CALL, call).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(zbus::Error::MethodError(name, text, _))) => {
            let text = text.unwrap_or_default();
            // NoSuchUnit, UnitMasked, InteractiveAuthorizationRequired…: it will say the same again.
            Err(lasting(format!("{what}: systemd refuses: {}: {text}", name.as_str())))
        }
        Ok(Err(e)) => Err(passing(format!("{what}: {}", chain(&e)))),
        Err(_) => Err(passing(format!("{what}: systemd does not answer within {CALL:?}"))),
    }
}

struct Now {
    invocation: String,
    active: String,
    load: String,
}

async fn read(bus: &Connection, unit: &str) -> Result<Now, Failure> {
    let what = format!("ask for unit {unit}");
    let manager = call(&what, ManagerProxy::new(bus)).await?;
    let path = call(&what, manager.load_unit(unit)).await?;
    let builder = UnitProxy::builder(bus).path(path);
    let builder = builder.cache_properties(zbus::proxy::CacheProperties::No);
    let proxy = call(&what, builder.build()).await?;
    let id = call(&what, proxy.invocation_id()).await?;
    Ok(Now {
        invocation: id.iter().map(|b| format!("{b:02x}")).collect(),
        active: call(&what, proxy.active_state()).await?,
        load: call(&what, proxy.load_state()).await?,
    })
}

/// The unit's token and state.
///
/// # Errors
/// When systemd does not say.
pub async fn look(bus: &Connection, unit: &str) -> Result<Seen, String> {
    let now = read(bus, unit).await.map_err(|f| f.why)?;
    if now.load == "not-found" {
        return Err(format!("ask for unit {unit}: there is none"));
    }
    Ok(Seen::Unit { invocation: now.invocation, active: now.active })
}

/// Starts the unit anew, unless that has happened since `before` was seen.
///
/// # Errors
/// When systemd refuses, or the unit is not started anew in time.
pub async fn act(bus: &Connection, unit: &str, before: &Seen) -> Result<(), Failure> {
    let what = format!("restart {unit}");
    let Seen::Unit { invocation: token, .. } = before else {
        return Err(lasting(format!("{what}: what was seen before is no unit")));
    };
    let is_new = |now: &Now| {
        now.invocation != *token && matches!(now.active.as_str(), "active" | "activating")
    };
    let mut now = read(bus, unit).await?;
    if is_new(&now) {
        return Ok(());
    }
    let manager = call(&what, ManagerProxy::new(bus)).await?;
    if now.active == "failed" {
        // One that failed too often is not started, whoever asks, until its counter is forgotten.
        call(&what, manager.reset_failed_unit(unit)).await?;
    }
    let _job = call(&what, manager.restart_unit(unit, "replace")).await?;
    let begun = Instant::now();
    loop {
        let limit = if now.active == "deactivating" { STOPPING } else { LIMIT };
        if begun.elapsed() > limit {
            let text = format!("not started anew within {limit:?}, it is {}", now.active);
            return Err(passing(format!("{what}: {text}")));
        }
        sleep(Duration::from_millis(100)).await;
        // The bus may be gone for a moment; the deadline decides.
        match read(bus, unit).await {
            Ok(seen) => now = seen,
            Err(e) => tracing::debug!(unit, error = e.why, "cannot read the unit"),
        }
        if is_new(&now) {
            return Ok(());
        }
        if now.active == "failed" && now.invocation != *token {
            return Err(passing(format!("{what}: it was started anew and failed at once")));
        }
    }
}
