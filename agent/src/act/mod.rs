//! The hands' acts: each brings one object to the state its op wants, and a look shows how it stands. Doing it twice is doing
//! it once; every wait has a bound; a child that was started has been reaped before an act returns.

pub mod addrs;
pub mod cache;
pub mod flows;
pub mod link;
pub mod netfilter;
pub mod power;
pub mod process;
pub mod quarantine;
pub mod resolv;
pub mod routes;
pub mod rules;
pub mod ruleset;
pub mod sandbox;
pub mod sysctl;
pub mod tailscale;
pub mod timer;
pub mod unit;

use std::path::PathBuf;
use std::time::Duration;

use lifeline_core::engine::Failure;
use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Dialect};
use lifeline_core::op::{NodeOp, Prefs, Seen};

use crate::netlink::Kernel;

/// Where things are on this machine.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `/etc/resolv.conf`.
    pub resolv: PathBuf,
    /// Where directories lie in quarantine, one for each run.
    pub quarantine: PathBuf,
    /// Lock files of iptables-legacy.
    pub locks: netfilter::Locks,
    /// Where the container runtime may listen; the first that is there is asked.
    pub runtime: Vec<PathBuf>,
    /// What the timer outside this process starts.
    pub outside: timer::Outside,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            resolv: "/etc/resolv.conf".into(),
            quarantine: "/var/lib/lifeline/quarantine".into(),
            locks: netfilter::Locks::default(),
            runtime: sandbox::sockets(),
            outside: timer::Outside::default(),
        }
    }
}

/// What acts on this node, for one run.
#[derive(Clone, Debug)]
pub struct Hands {
    kernel: Kernel,
    paths: Paths,
    run: String,
}

impl Hands {
    /// Hands for a run; its id names what is put into quarantine.
    pub fn new(kernel: Kernel, paths: Paths, run: impl Into<String>) -> Self {
        Self { kernel, paths, run: run.into() }
    }

    fn store(&self) -> quarantine::Store {
        quarantine::Store { root: self.paths.quarantine.clone(), run: self.run.clone() }
    }

    /// Looks at exactly that op's target.
    ///
    /// # Errors
    /// When it could not be seen, which is never the same as not being there.
    pub async fn look(&self, op: &NodeOp) -> Result<Seen, String> {
        match op {
            NodeOp::ExitNodeOff { process, socket }
            | NodeOp::ExitNodeOn { process, socket, .. } => tailscale::look(process, socket).await,
            NodeOp::Stopped { process, .. } => process::look(process).await,
            NodeOp::Rules { family, absent, present } => {
                rules::look(&self.kernel, *family, absent, present).await
            }
            NodeOp::Routes { family, table, absent, present } => {
                routes::look(&self.kernel, *family, *table, absent, present).await
            }
            NodeOp::Netfilter { .. } => match table_of(op) {
                Some(target) => netfilter::look(&target).await,
                None => Err("look at a netfilter table: it is none".to_owned()),
            },
            NodeOp::Policies { .. } => match policies_of(op) {
                Some(target) => netfilter::policies::look(&target).await,
                None => Err("look at policies: they are none".to_owned()),
            },
            NodeOp::Addrs { dev, absent, present } => {
                addrs::look(&self.kernel, dev, absent, present).await
            }
            NodeOp::LinkGone { name, .. } => link::look(&self.kernel, name).await,
            NodeOp::ResolvConf { .. } => resolv::look(&self.paths.resolv).await,
            NodeOp::Sysctl { key, .. } => sysctl::look(key).await,
            NodeOp::Quarantined { path } => quarantine::look(&self.store(), path, "").await,
            NodeOp::Released { path, quarantine } => {
                quarantine::look(&self.store(), path, quarantine).await
            }
            NodeOp::FlowsGone { sources, dead_to } => {
                flows::look(&self.kernel, &doomed(sources, dead_to)).await
            }
            NodeOp::Restarted { unit } => {
                unit::look(&unit::bus().await.map_err(|f| f.why)?, unit).await
            }
            NodeOp::SandboxStopped { id, .. } => sandbox::look(&self.paths.runtime, id).await,
            NodeOp::Armed { .. } | NodeOp::Disarmed => timer::look().await,
            NodeOp::Flushed { backend, family, table, dialect } => {
                ruleset::look(which(*backend, *family, table, *dialect)).await
            }
            NodeOp::Refilled { was } => ruleset::look(ruleset::Which::of(was)).await,
            NodeOp::CacheFlushed => cache::look(&self.kernel).await,
            NodeOp::Rebooted => power::look(),
        }
    }

    /// Brings that op's target to its wanted state; `before` is what was seen before the first attempt.
    ///
    /// # Errors
    /// When it could not; a look tells how far it got.
    pub async fn act(&self, op: &NodeOp, before: &Seen) -> Result<(), Failure> {
        match op {
            NodeOp::ExitNodeOff { process, socket } => {
                tailscale::set(process, socket, &Prefs::default()).await
            }
            NodeOp::ExitNodeOn { process, socket, prefs } => {
                tailscale::set(process, socket, prefs).await
            }
            NodeOp::Stopped { process, grace_ms } => process::stop(process, *grace_ms).await,
            NodeOp::Rules { family, absent, present } => {
                rules::act(&self.kernel, *family, absent, present).await
            }
            NodeOp::Routes { family, table, absent, present } => {
                routes::act(&self.kernel, *family, *table, absent, present).await
            }
            NodeOp::Netfilter { .. } => match table_of(op) {
                Some(target) => netfilter::act(&target, &self.paths.locks).await,
                None => Err(lasting("change a netfilter table: it is none")),
            },
            NodeOp::Policies { .. } => match policies_of(op) {
                Some(target) => netfilter::policies::act(&target, &self.paths.locks).await,
                None => Err(lasting("set policies: they are none")),
            },
            NodeOp::Addrs { dev, absent, present } => {
                addrs::act(&self.kernel, dev, absent, present).await
            }
            NodeOp::LinkGone { name, kind } => link::act(&self.kernel, name, kind).await,
            NodeOp::ResolvConf { wanted } => resolv::act(&self.paths.resolv, wanted).await,
            NodeOp::Sysctl { key, value } => sysctl::act(key, value).await,
            NodeOp::Quarantined { path } => quarantine::put(&self.store(), path).await,
            NodeOp::Released { path, quarantine } => {
                quarantine::release(&self.store(), path, quarantine).await
            }
            NodeOp::FlowsGone { sources, dead_to } => {
                flows::act(&self.kernel, &doomed(sources, dead_to)).await
            }
            NodeOp::Restarted { unit } => unit::act(&unit::bus().await?, unit, before).await,
            NodeOp::SandboxStopped { id, .. } => sandbox::stop(&self.paths.runtime, id).await,
            NodeOp::Armed { after_ms } => {
                timer::arm(&self.run, *after_ms, &self.paths.outside).await
            }
            NodeOp::Disarmed => timer::disarm().await,
            NodeOp::Flushed { backend, family, table, dialect } => {
                let which = which(*backend, *family, table, *dialect);
                ruleset::flush(which, before, &self.paths.locks).await
            }
            NodeOp::Refilled { was } => ruleset::put_back(was, &self.paths.locks).await,
            NodeOp::CacheFlushed => cache::flush().await,
            NodeOp::Rebooted => power::reboot().await,
        }
    }
}

fn doomed(sources: &[std::net::IpAddr], dead_to: &[std::net::IpAddr]) -> flows::Doomed {
    flows::Doomed { sources: sources.to_vec(), dead_to: dead_to.to_vec() }
}

fn which(backend: Backend, family: Family, table: &str, dialect: Dialect) -> ruleset::Which<'_> {
    ruleset::Which { backend, family, table, dialect }
}

fn table_of(op: &NodeOp) -> Option<netfilter::Target<'_>> {
    let NodeOp::Netfilter {
        backend,
        family,
        table,
        dialect,
        absent,
        absent_chains,
        present_chains,
        present,
    } = op
    else {
        return None;
    };
    Some(netfilter::Target {
        backend: *backend,
        family: *family,
        table,
        dialect: *dialect,
        absent,
        absent_chains,
        present_chains,
        present,
    })
}

fn policies_of(op: &NodeOp) -> Option<netfilter::policies::Target<'_>> {
    let NodeOp::Policies { backend, family, table, dialect, wanted } = op else { return None };
    Some(netfilter::policies::Target {
        backend: *backend,
        family: *family,
        table,
        dialect: *dialect,
        wanted,
    })
}

/// A failure that trying again will not change.
pub(crate) fn lasting(why: impl Into<String>) -> Failure {
    Failure { why: why.into(), retryable: false }
}

/// A failure that may be over the next time.
pub(crate) fn passing(why: impl Into<String>) -> Failure {
    Failure { why: why.into(), retryable: true }
}

/// An error with all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}

/// Runs what blocks on a thread of its own and waits at most `limit` for it. A file system that hangs must not hang the agent.
pub(crate) async fn blocking<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    match tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(e)) => Err(format!("it broke off: {e}")),
        Err(_) => Err(format!("not done within {limit:?}")),
    }
}
