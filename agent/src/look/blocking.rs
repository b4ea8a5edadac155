//! Senses that block, each on a thread of its own and with its own deadline.

use super::{LIMIT, Places, Seen, cluster, host_ports, paths, resolv, sysctls};
use lifeline_core::observation::{Cluster, HostPorts, Resolv, Sense};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::timeout;

/// What lies in files, read in one go off the loop.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) cluster: Cluster,
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) resolv: Option<Resolv>,
    pub(super) paths: Vec<String>,
    pub(super) host_ports: Vec<HostPorts>,
}

impl Files {
    pub(super) fn read(places: &Places) -> Seen<Self> {
        let mut gaps = Vec::new();
        let found = Self {
            cluster: cluster::read(places).unpack(&mut gaps),
            sysctls: sysctls::read(&places.proc).unpack(&mut gaps),
            resolv: resolv::read(&places.etc).unpack(&mut gaps),
            paths: paths::read(places),
            host_ports: host_ports::read(places).unpack(&mut gaps),
        };
        Seen { found, gaps }
    }
}

/// A sense that blocks: on a thread of its own, given up at its deadline, and not begun again while an earlier one still
/// hangs, so that a dead file system costs one thread and not one for every look.
#[derive(Debug, Default)]
pub(super) struct Slow {
    busy: Arc<AtomicBool>,
}

impl Slow {
    pub(super) async fn run<T: Default + Send + 'static>(
        &self,
        what: Sense,
        read: impl FnOnce() -> Seen<T> + Send + 'static,
    ) -> Seen<T> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return Seen::nothing(what, "an earlier look still waits for it");
        }
        let busy = Arc::clone(&self.busy);
        let task = tokio::task::spawn_blocking(move || {
            let seen = read();
            busy.store(false, Ordering::Release);
            seen
        });
        match timeout(LIMIT, task).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(e)) => {
                self.busy.store(false, Ordering::Release);
                Seen::nothing(what, format!("it broke off: {e}"))
            }
            Err(_) => Seen::nothing(what, format!("not done within {LIMIT:?}")),
        }
    }
}
