//! The lock that every iptables-legacy takes, taken with a bound.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lifeline_core::engine::Failure;
use rustix::fs::FlockOperation;

use crate::act::passing;

/// How long we wait for somebody else's xtables lock. kube-proxy holds it for some 0.1 s at a time.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
/// The lock files of iptables-legacy.
#[derive(Clone, Debug)]
pub struct Locks {
    /// The one everybody uses.
    pub shared: PathBuf,
    /// The one our children are given instead, while we hold the shared one.
    pub own: PathBuf,
}

impl Default for Locks {
    fn default() -> Self {
        Self { shared: "/run/xtables.lock".into(), own: "/run/lifeline/xtables.lock".into() }
    }
}

/// Takes the lock that every iptables-legacy takes; our child is given another one. A child that waits for the shared lock when it is
/// killed is not gone: its change lands when the lock is free, long after our undo (field guide K12).
pub(in crate::act) async fn take(what: &str, locks: &Locks) -> Result<File, Failure> {
    let failed =
        |path: &Path, e: std::io::Error| passing(format!("{what}: lock {}: {e}", path.display()));
    if let Some(dir) = locks.own.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
        made.map_err(|e| failed(&locks.own, e))?;
    }
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&locks.shared);
    let file = open.map_err(|e| failed(&locks.shared, e))?;
    let until = Instant::now() + LOCK_LIMIT;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed(&locks.shared, e.into())),
        }
        if Instant::now() >= until {
            let lock = locks.shared.display();
            let text = format!("another process holds {lock}, longer than {LOCK_LIMIT:?}");
            return Err(passing(format!("{what}: {text}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
