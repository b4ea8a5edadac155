//! What can be done to a node: each [`NodeOp`] is the wanted state of one object.
//!
//! An op does not say "delete" but "absent", so that doing it twice is doing it once, and so that undoing it is
//! another op. The hands look at an op's target ([`Seen`]) before, journal that, act, and look again.

mod seen;
mod show;
mod state;

pub use seen::Seen;

use crate::net::Family;
use crate::observation::{Addr, Backend, Chain, Dialect, NfRule, NfTable, Resolv, Route, Rule};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// How long an op's effect lasts by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Kernel state: a reboot forgets it.
    Boot,
    /// On disk.
    Disk,
    /// On another machine.
    Remote,
    /// A new boot is what is wanted: it does not void the run, it ends the step.
    Boots,
}

/// How the object stands, compared with what was found and what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now {
    /// As it was found, or part of the way: there is something to do.
    Pending,
    /// As it is wanted.
    Settled,
    /// Neither: somebody else changed it meanwhile, and it is theirs.
    Foreign,
}

/// How an op is undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo<O> {
    /// By this op.
    Put(O),
    /// Not at all; the text says why.
    Irreversible(&'static str),
    /// There is nothing to undo.
    Nothing,
}

/// An operation the engine can run: on a node, or (in `ctl`) on a cluster or a provider.
pub trait Op: Clone + fmt::Debug + Eq {
    /// What a look at the target brings.
    type Seen: Clone + fmt::Debug + Eq;
    /// The object it is about; a plan holds at most one op for each.
    fn target(&self) -> String;
    /// How long its effect lasts.
    fn scope(&self) -> Scope;
    /// Where the object stands.
    fn compare(&self, before: &Self::Seen, now: &Self::Seen) -> Now;
    /// How it is undone, given the pre-image.
    fn undo(&self, before: &Self::Seen) -> Undo<Self>;
    /// Its plan is undone unless somebody confirms it before its deadline.
    fn asks(&self) -> bool {
        false
    }
}

/// Names a process for ever: pids are re-used, this is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start: u64,
    /// Executable's path, for people.
    pub exe: String,
    /// Executable's `DEV:INODE`.
    pub inode: String,
    /// Its control group.
    pub cgroup: String,
}

/// A netfilter rule with its place in its chain (from 1), so that it can be put back where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedRule {
    /// Place in the chain, from 1.
    pub place: u32,
    /// The rule.
    pub rule: NfRule,
}

/// The policy of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainPolicy {
    /// The chain.
    pub chain: String,
    /// `ACCEPT` or `DROP`.
    pub policy: String,
}

/// The wanted state of one object of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum NodeOp {
    /// tailscaled uses no exit node and accepts no routes (LocalAPI, over the daemon's own socket).
    ExitNodeOff {
        /// The daemon.
        process: ProcessId,
        /// Its socket, in its own root.
        socket: String,
    },
    /// The exit node and accepted routes a daemon had (undoes the above).
    ExitNodeOn {
        /// The daemon.
        process: ProcessId,
        /// Its socket, in its own root.
        socket: String,
        /// What was set.
        prefs: Prefs,
    },
    /// The process is gone: SIGTERM, `grace_ms`, SIGKILL.
    Stopped {
        /// The process.
        process: ProcessId,
        /// Between the two signals, in milliseconds, 100 to 30 000.
        grace_ms: u32,
    },
    /// Policy rules of one family.
    Rules {
        /// Family.
        family: Family,
        /// These are not there.
        absent: Vec<Rule>,
        /// These are there.
        present: Vec<Rule>,
    },
    /// Routes of one table and family.
    Routes {
        /// Family.
        family: Family,
        /// Table.
        table: u32,
        /// These are not there.
        absent: Vec<Route>,
        /// These are there.
        present: Vec<Route>,
    },
    /// One netfilter table of one backend and family, changed in one transaction.
    Netfilter {
        /// Backend.
        backend: Backend,
        /// Family.
        family: Family,
        /// Table.
        table: String,
        /// Language of the rules.
        dialect: Dialect,
        /// These rules are not there.
        absent: Vec<NfRule>,
        /// These chains are not there, nor anything in them.
        absent_chains: Vec<String>,
        /// These chains are there (undo).
        present_chains: Vec<Chain>,
        /// These rules are there, at these places (undo).
        present: Vec<PlacedRule>,
    },
    /// Chains of one netfilter table, which the kernel leads packets into, have these policies; no rule is touched.
    Policies {
        /// Backend.
        backend: Backend,
        /// Family.
        family: Family,
        /// Table.
        table: String,
        /// Language of the table.
        dialect: Dialect,
        /// What each chain's policy is to be.
        wanted: Vec<ChainPolicy>,
    },
    /// Addresses of one device.
    Addrs {
        /// The device.
        dev: String,
        /// These are not there (undo).
        absent: Vec<Addr>,
        /// These are there.
        present: Vec<Addr>,
    },
    /// A device is gone.
    LinkGone {
        /// Its name.
        name: String,
        /// Its kind; another kind of the same name is not ours to delete.
        kind: String,
    },
    /// resolv.conf reads like this.
    ResolvConf {
        /// Wanted state.
        wanted: Resolv,
    },
    /// A sysctl has this value.
    Sysctl {
        /// Dotted name.
        key: String,
        /// Value.
        value: String,
    },
    /// A directory lies in quarantine (`renameat2`, never copied).
    Quarantined {
        /// Where it was.
        path: String,
    },
    /// A directory is back from quarantine (undoes the above).
    Released {
        /// Where it belongs.
        path: String,
        /// Where it lies.
        quarantine: String,
    },
    /// No TCP socket to these destinations has one of these sources, and no conntrack entry answers to them.
    FlowsGone {
        /// Source addresses that died with the culprit's device.
        sources: Vec<IpAddr>,
        /// Destinations whose dead sockets are destroyed whatever their source; empty for none.
        dead_to: Vec<IpAddr>,
    },
    /// A unit has been started anew since the look.
    Restarted {
        /// Unit name.
        unit: String,
    },
    /// A pod's sandbox is stopped (over CRI, as `crictl stopp` does); the kubelet makes a new one, with new rules.
    SandboxStopped {
        /// Its id.
        id: String,
        /// `NAMESPACE/NAME` of the pod, for people.
        pod: String,
    },
    /// A timer outside this process will have the run undone if nobody confirms it.
    Armed {
        /// When, milliseconds from now: later than the plan's deadline, so that the engine comes first.
        after_ms: u64,
    },
    /// That timer is gone (undoes the above).
    Disarmed,
    /// A netfilter table lets everything through: policies ACCEPT, no rules, no chains but the built-in ones. Changed in one
    /// transaction, and its pre-image is the whole table. Sets and maps of nft's stay: without rules they do nothing.
    Flushed {
        /// Backend.
        backend: Backend,
        /// Family.
        family: Family,
        /// Table.
        table: String,
        /// Language of its rules.
        dialect: Dialect,
    },
    /// A table is as it was before it was flushed, but for what others have put there since (undoes the above); see
    /// [`refill`](crate::ruleset::refill).
    Refilled {
        /// The table as it was.
        was: NfTable,
    },
    /// What the kernel has learnt beside its routes (path MTUs, redirects) is forgotten.
    CacheFlushed,
    /// Another boot runs than the one that was seen.
    Rebooted,
}

/// What matters of tailscaled's preferences.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prefs {
    /// `ExitNodeID`.
    pub exit_node_id: String,
    /// `ExitNodeIP`.
    pub exit_node_ip: String,
    /// `AutoExitNode`: the daemon chooses one itself (`any`), and another when that one is taken away.
    pub auto_exit_node: String,
    /// `RouteAll`: accepts routes others advertise.
    pub route_all: bool,
}

impl Prefs {
    /// Captures nothing.
    pub fn is_off(&self) -> bool {
        self.exit_node_id.is_empty()
            && self.exit_node_ip.is_empty()
            && self.auto_exit_node.is_empty()
            && !self.route_all
    }
}

/// The word for a backend in the text form.
pub fn backend_word(backend: Backend) -> &'static str {
    match backend {
        Backend::Legacy => "legacy",
        Backend::Nft => "nft",
    }
}

impl NodeOp {
    /// The kind of op, for consent: `stopped`, `rules`, `netfilter`…
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ExitNodeOff { .. } => "exit-node-off",
            Self::ExitNodeOn { .. } => "exit-node-on",
            Self::Stopped { .. } => "stopped",
            Self::Rules { .. } => "rules",
            Self::Routes { .. } => "routes",
            Self::Netfilter { .. } => "netfilter",
            Self::Policies { .. } => "policies",
            Self::Addrs { .. } => "addrs",
            Self::LinkGone { .. } => "link-gone",
            Self::ResolvConf { .. } => "resolv-conf",
            Self::Sysctl { .. } => "sysctl",
            Self::Quarantined { .. } => "quarantined",
            Self::Released { .. } => "released",
            Self::FlowsGone { .. } => "flows-gone",
            Self::Restarted { .. } => "restarted",
            Self::SandboxStopped { .. } => "sandbox-stopped",
            Self::Armed { .. } => "armed",
            Self::Disarmed => "disarmed",
            Self::Flushed { .. } => "flushed",
            Self::Refilled { .. } => "refilled",
            Self::CacheFlushed => "cache-flushed",
            Self::Rebooted => "rebooted",
        }
    }
}
