//! Processes and the units that run them.

use crate::supervisor::Supervisor;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// In which network namespace a process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Netns {
    /// The node's own (pid 1's).
    Host,
    /// Another: a pod's, a container's.
    Other,
    /// Could not be read.
    Unknown,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Parent's.
    pub ppid: u32,
    /// Start time, clock ticks since boot (field 22 of `/proc/PID/stat`): with the pid it names the process for ever.
    pub start: u64,
    /// Executable's path as the kernel shows it.
    pub exe: String,
    /// Executable's device and inode, `DEV:INODE`.
    pub inode: String,
    /// Command name.
    pub comm: String,
    /// Network namespace.
    pub netns: Netns,
    /// Control group path of the unified or the name=systemd hierarchy.
    pub cgroup: String,
    /// Tun devices it holds open (`/proc/PID/fdinfo`, `iff:`).
    #[serde(default)]
    pub tuns: Vec<String>,
    /// Its control socket, as its arguments or its defaults say, in its own root.
    #[serde(default)]
    pub socket: Option<String>,
    /// Its state directory, likewise.
    #[serde(default)]
    pub statedir: Option<String>,
    /// Who would start it again, as far as more is known than its control group says.
    #[serde(default)]
    pub supervisor: Option<Supervisor>,
}

impl Process {
    /// Who would start it again, as far as can be told.
    pub fn keeper(&self) -> Option<Supervisor> {
        self.supervisor.clone().or_else(|| Supervisor::of_cgroup(&self.cgroup))
    }
}

/// A systemd unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Name with suffix.
    pub name: String,
    /// `loaded`, `not-found`, `masked`…
    pub load: String,
    /// `active`, `activating`, `failed`, `inactive`…
    pub active: String,
    /// `running`, `start`, `auto-restart`…
    pub sub: String,
    /// Main process, 0 when none.
    pub pid: u32,
    /// InvocationID: a new one for each start.
    pub invocation: String,
    /// How often systemd has started it anew by itself (`NRestarts`).
    #[serde(default)]
    pub restarts: u32,
    /// How it ended last (`Result`): `success`, `exit-code`, `start-limit-hit`…; empty when not asked.
    #[serde(default)]
    pub result: String,
    /// The last lines of its journal, oldest first, when it is not running and healthy.
    #[serde(default)]
    pub said: Vec<String>,
}

/// A pod's sandbox with ports of the node, as the CNI has recorded it when it made its rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPorts {
    /// The sandbox's id, 64 hexadecimal digits in containerd.
    pub sandbox: String,
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// `tcp/8080`.
    pub ports: Vec<String>,
}
