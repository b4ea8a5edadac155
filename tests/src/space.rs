//! A bare network namespace of the lab: the gateway, the laptop, the second machine on the LAN. Commands run in it are
//! the host's own, with the host's files.

use std::ffi::OsStr;
use std::fs::File;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::agent;
use crate::disk::Layer;
use crate::error::{Doing, LabError, Result};
use crate::names;
use crate::run::{self, LIMIT, Output};

/// A place without a userland of its own.
#[derive(Debug, Clone)]
pub struct Space {
    pub name: String,
}

impl Space {
    /// A command that will run here; `nsenter` rather than `ip netns exec`, which also remounts `/sys`. The operator's
    /// `ctl` and his configuration are at hand.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, argv: &[S]) -> Command {
        let mut command = Command::new("nsenter");
        let path = std::env::var("PATH").unwrap_or_default();
        let ours = Layer::common().path("/usr/local/bin");
        command.env("PATH", format!("{}:{path}", ours.display()));
        command.env("LIFELINE_CONFIG", agent::operator_dir().join("ctl.toml"));
        command.env("KUBECONFIG", agent::operator_dir().join("kubeconfig"));
        command.env("KUBECACHEDIR", names::state_dir().join("kubectl"));
        // What `ctl` writes down is the lab's, not that of the person at the machine.
        command.env("XDG_STATE_HOME", names::state_dir().join("operator-state"));
        command
            .arg(format!("--net={}", names::namespace_path(&self.name).display()))
            .arg("--")
            .args(argv);
        command
    }

    /// Runs a command here, bounded by thirty seconds.
    pub fn exec<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<Output> {
        self.exec_within(argv, LIMIT)
    }

    pub fn exec_within<S: AsRef<OsStr>>(&self, argv: &[S], limit: Duration) -> Result<Output> {
        run::run(&mut self.command(argv), limit, None)
    }

    pub fn sh(&self, script: &str) -> Result<Output> {
        self.exec(&["sh", "-c", script])
    }
}

/// Does `work` in a network namespace, on a thread of its own: the namespace is the thread's, not the process's.
pub fn within<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let path = format!("/run/netns/{namespace}");
    let file = File::open(&path).doing(|| format!("open {path}"))?;
    let thread = thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).doing(|| format!("enter {path}"))?;
        work()
    });
    thread
        .join()
        .unwrap_or_else(|_| Err(LabError::Refused("work in a namespace panicked".to_owned())))
}
