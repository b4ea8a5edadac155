//! The timer outside this process: a transient unit of systemd's that has a run undone when nobody confirmed it and this
//! process is dead or hangs. It lives with the boot; a reboot undoes what it is for as well.

use lifeline_core::engine::Failure;
use lifeline_core::op::Seen;
use std::path::{Path, PathBuf};
use zbus::{Connection, OwnedObjectPath, Variant};

use super::lasting;
use super::unit::{bus, call};

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        aux: &[(&str, Vec<(&str, Variant<'_>)>)],
    ) -> zbus::Result<OwnedObjectPath>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1"
)]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
}

/// What the timer starts: this program, with its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The program.
    pub program: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
}

impl Default for Outside {
    fn default() -> Self {
        let program =
            std::env::current_exe().unwrap_or_else(|_| "/usr/local/bin/lifeline-agent".into());
        Self { program, config: crate::config::USUAL.into() }
    }
}

/// Names of the timer and of what it starts. One at a time: a run is under way alone.
const TIMER: &str = "lifeline-undo.timer";
const SERVICE: &str = "lifeline-undo.service";

/// Is it armed?
///
/// # Errors
/// When systemd does not say.
pub async fn look() -> Result<Seen, String> {
    let bus = bus().await.map_err(|f| f.why)?;
    armed(&bus).await.map(|armed| Seen::Timer { armed }).map_err(|f| f.why)
}

async fn armed(bus: &Connection) -> Result<bool, Failure> {
    let what = format!("ask for {TIMER}");
    let manager = call(&what, ManagerProxy::new(bus)).await?;
    let path = call(&what, manager.load_unit(TIMER)).await?;
    let builder = UnitProxy::builder(bus).path(path);
    let builder = builder.cache_properties(zbus::proxy::CacheProperties::No);
    let proxy = call(&what, builder.build()).await?;
    Ok(call(&what, proxy.active_state()).await? == "active")
}

/// Arms it for a run.
///
/// # Errors
/// When systemd refuses; then nothing that needs it may be begun.
pub async fn arm(run: &str, after_ms: u64, outside: &Outside) -> Result<(), Failure> {
    let bus = bus().await?;
    if armed(&bus).await? {
        // Left from an earlier run: its hour is not ours.
        stop(&bus).await?;
    }
    let what = format!("arm {TIMER}");
    let text = |p: &Path| {
        p.to_str()
            .map(str::to_owned)
            .ok_or_else(|| lasting(format!("{what}: {} is no text", p.display())))
    };
    let program = text(&outside.program)?;
    let argv = vec![
        program.clone(),
        "--config".to_owned(),
        text(&outside.config)?,
        "resume".to_owned(),
        run.to_owned(),
    ];
    let describe = |words: &str| Variant::from(format!("Lifeline: {words} {run}"));
    // It is loaded no longer than it is needed, however it ends.
    let collect = || ("CollectMode", Variant::from("inactive-or-failed"));
    let timer = [
        ("Description", describe("undoes unless confirmed")),
        ("TimersMonotonic", Variant::from(vec![("OnActiveSec".to_owned(), after_ms * 1_000)])),
        // A minute of slack is systemd's usual; here an operator sits in the dark.
        ("AccuracyUSec", Variant::from(100_000_u64)),
        ("RemainAfterElapse", Variant::from(false)),
        collect(),
    ];
    let service = vec![
        ("Description", describe("undoes what nobody confirmed of")),
        ("Type", Variant::from("oneshot")),
        ("ExecStart", Variant::from(vec![(program, argv, false)])),
        ("UMask", Variant::from(0o077_u32)),
        // It waits for a hanging agent, kills it, and puts tables back.
        ("TimeoutStartUSec", Variant::from(300_000_000_u64)),
        collect(),
    ];
    let manager = call(&what, ManagerProxy::new(&bus)).await?;
    let aux = [(SERVICE, service)];
    let _job = call(&what, manager.start_transient_unit(TIMER, "replace", &timer, &aux)).await?;
    Ok(())
}

/// Takes it away; that there is none is no failure.
///
/// # Errors
/// When systemd refuses.
pub async fn disarm() -> Result<(), Failure> {
    let bus = bus().await?;
    if armed(&bus).await? { stop(&bus).await } else { Ok(()) }
}

async fn stop(bus: &Connection) -> Result<(), Failure> {
    let what = format!("stop {TIMER}");
    let manager = call(&what, ManagerProxy::new(bus)).await?;
    let _job = call(&what, manager.stop_unit(TIMER, "replace")).await?;
    // The job of a timer ends at once; a look tells all the same.
    for _ in 0..50 {
        if !armed(bus).await? {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Err(super::passing(format!("{what}: it is still there")))
}
