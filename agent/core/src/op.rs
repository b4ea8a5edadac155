//! What can be done to a node: each [`NodeOp`] is the wanted state of one object.
//!
//! An op does not say "delete" but "absent", so that doing it twice is doing it once, and so that undoing it is
//! another op. The hands look at an op's target ([`Seen`]) before, journal that, act, and look again.

use crate::net::Family;
use crate::observation::{Backend, Chain, Dialect, Link, NfRule, Resolv, Route, Rule};
use alloc::format;
use alloc::string::{String, ToString};
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

/// What a look at an op's target brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "seen", rename_all = "kebab-case")]
pub enum Seen {
    /// A daemon's preferences; `None` when the daemon (that very process) is gone.
    Prefs {
        /// The preferences.
        prefs: Option<Prefs>,
    },
    /// Whether that very process lives.
    Process {
        /// Alive, and not a zombie.
        alive: bool,
    },
    /// Those rules of the op's lists that are there.
    Rules {
        /// Present of `absent` and of `present`.
        there: Vec<Rule>,
    },
    /// Those routes of the op's lists that are there.
    Routes {
        /// Present of `absent` and of `present`.
        there: Vec<Route>,
    },
    /// Those chains and rules of the op's lists that are there, with everything inside those chains.
    Netfilter {
        /// Chains.
        chains: Vec<Chain>,
        /// Rules with their places.
        rules: Vec<PlacedRule>,
    },
    /// The device, if it is there.
    Link {
        /// The device.
        link: Option<Link>,
    },
    /// resolv.conf, if it is there.
    Resolv {
        /// Its state.
        resolv: Option<Resolv>,
    },
    /// The sysctl's value; `None` when there is no such sysctl.
    Sysctl {
        /// Value.
        value: Option<String>,
    },
    /// Where the directory is.
    Path {
        /// At its own place.
        at_home: bool,
        /// In quarantine, and where.
        quarantine: Option<String>,
    },
    /// How many flows match.
    Flows {
        /// Sockets and conntrack entries.
        count: u32,
    },
    /// The unit's token.
    Unit {
        /// InvocationID.
        invocation: String,
        /// ActiveState.
        active: String,
    },
}

/// Each element has two states only, so what is not as wanted is as it was, or was put back by somebody: either way
/// something is left to do, and nothing can be foreign.
fn by_parts<T: PartialEq>(now: &[T], absent: &[T], present: &[T]) -> Now {
    let settled =
        absent.iter().all(|x| !now.contains(x)) && present.iter().all(|x| now.contains(x));
    if settled { Now::Settled } else { Now::Pending }
}

fn by_value<T: PartialEq>(before: &T, now: &T, wanted: &T) -> Now {
    if now == wanted {
        Now::Settled
    } else if now == before {
        Now::Pending
    } else {
        Now::Foreign
    }
}

impl Op for NodeOp {
    type Seen = Seen;

    fn target(&self) -> String {
        match self {
            Self::ExitNodeOff { process, .. } | Self::ExitNodeOn { process, .. } => {
                format!("preferences of process {}", process.pid)
            }
            Self::Stopped { process, .. } => format!("process {}", process.pid),
            Self::Rules { family, .. } => format!("rules{}", family.suffix()),
            Self::Routes { family, table, .. } => {
                format!("routes{} table {table}", family.suffix())
            }
            Self::Netfilter { backend, family, table, .. } => {
                format!("{}{} {table}", backend_word(*backend), family.suffix())
            }
            Self::LinkGone { name, .. } => format!("link {name}"),
            Self::ResolvConf { .. } => "resolv.conf".to_string(),
            Self::Sysctl { key, .. } => format!("sysctl {key}"),
            Self::Quarantined { path } | Self::Released { path, .. } => format!("path {path}"),
            Self::FlowsGone { .. } => "flows".to_string(),
            Self::Restarted { unit } => format!("unit {unit}"),
        }
    }

    fn scope(&self) -> Scope {
        match self {
            Self::ResolvConf { .. } | Self::Quarantined { .. } | Self::Released { .. } => {
                Scope::Disk
            }
            // tailscaled keeps its preferences in its state file, so they outlive a reboot.
            Self::ExitNodeOff { .. } | Self::ExitNodeOn { .. } => Scope::Disk,
            Self::Stopped { .. }
            | Self::Rules { .. }
            | Self::Routes { .. }
            | Self::Netfilter { .. }
            | Self::LinkGone { .. }
            | Self::Sysctl { .. }
            | Self::FlowsGone { .. }
            | Self::Restarted { .. } => Scope::Boot,
        }
    }

    fn compare(&self, before: &Seen, now: &Seen) -> Now {
        match (self, before, now) {
            // A daemon that is gone has no preferences that could harm.
            (
                Self::ExitNodeOff { .. } | Self::ExitNodeOn { .. },
                _,
                Seen::Prefs { prefs: None },
            ) => Now::Settled,
            (Self::ExitNodeOff { .. }, _, Seen::Prefs { prefs: Some(p) }) => {
                if p.is_off() {
                    Now::Settled
                } else {
                    Now::Pending
                }
            }
            (
                Self::ExitNodeOn { prefs, .. },
                Seen::Prefs { prefs: Some(b) },
                Seen::Prefs { prefs: Some(p) },
            ) => by_value(b, p, prefs),
            (Self::Stopped { .. }, _, Seen::Process { alive }) => {
                if *alive {
                    Now::Pending
                } else {
                    Now::Settled
                }
            }
            (Self::Rules { absent, present, .. }, _, Seen::Rules { there }) => {
                by_parts(there, absent, present)
            }
            (Self::Routes { absent, present, .. }, _, Seen::Routes { there }) => {
                by_parts(there, absent, present)
            }
            (
                Self::Netfilter { absent, absent_chains, present, present_chains, .. },
                _,
                Seen::Netfilter { chains, rules },
            ) => {
                let has = |r: &NfRule| {
                    rules.iter().any(|p| p.rule.chain == r.chain && p.rule.spec == r.spec)
                };
                let chain = |n: &str| chains.iter().any(|c| c.name == n);
                let settled = !absent.iter().any(has)
                    && !absent_chains.iter().any(|c| chain(c))
                    && present.iter().all(|p| has(&p.rule))
                    && present_chains.iter().all(|c| chain(&c.name));
                if settled { Now::Settled } else { Now::Pending }
            }
            (Self::LinkGone { kind, .. }, _, Seen::Link { link }) => match link {
                None => Now::Settled,
                Some(l) if l.kind == *kind => Now::Pending,
                Some(_) => Now::Foreign,
            },
            (Self::ResolvConf { wanted }, Seen::Resolv { resolv: b }, Seen::Resolv { resolv }) => {
                // The culprit's backup is moved back over the file, so it is not part of the wanted state; nor is the
                // text behind a symbolic link, which is somebody else's file.
                let plain = |r: &Resolv| match &r.link {
                    Some(link) => (None, Some(link.clone())),
                    None => (Some(r.text.clone()), None),
                };
                by_value(&b.as_ref().map(plain), &resolv.as_ref().map(plain), &Some(plain(wanted)))
            }
            (
                Self::Sysctl { value, .. },
                Seen::Sysctl { value: b },
                Seen::Sysctl { value: now },
            ) => by_value(b, now, &Some(value.clone())),
            (Self::Quarantined { .. }, _, Seen::Path { at_home, .. }) => {
                if *at_home {
                    Now::Pending
                } else {
                    Now::Settled
                }
            }
            (Self::Released { .. }, _, Seen::Path { at_home, quarantine }) => {
                match (at_home, quarantine) {
                    (false, Some(_)) => Now::Pending,
                    (true, None) => Now::Settled,
                    // Somebody made a new directory meanwhile; or ours has gone from quarantine.
                    (true, Some(_)) | (false, None) => Now::Foreign,
                }
            }
            (Self::FlowsGone { .. }, _, Seen::Flows { count }) => {
                if *count == 0 {
                    Now::Settled
                } else {
                    Now::Pending
                }
            }
            (
                Self::Restarted { .. },
                Seen::Unit { invocation: b, .. },
                Seen::Unit { invocation, active },
            ) => {
                if invocation != b && (active == "active" || active == "activating") {
                    Now::Settled
                } else {
                    Now::Pending
                }
            }
            // A look of the wrong kind is a fault in the hands: never act on it.
            _ => Now::Foreign,
        }
    }

    fn undo(&self, before: &Seen) -> Undo<Self> {
        match (self, before) {
            (Self::ExitNodeOff { process, socket }, Seen::Prefs { prefs: Some(p) }) => {
                Undo::Put(Self::ExitNodeOn {
                    process: process.clone(),
                    socket: socket.clone(),
                    prefs: p.clone(),
                })
            }
            (Self::Stopped { .. }, _) => {
                Undo::Irreversible("a process that was stopped cannot be brought back")
            }
            (Self::Restarted { .. }, _) => {
                Undo::Irreversible("a unit that was restarted stays restarted")
            }
            (Self::FlowsGone { .. }, _) => {
                Undo::Irreversible("a connection that was closed stays closed")
            }
            (Self::LinkGone { .. }, _) => {
                Undo::Irreversible("a device that was deleted cannot be brought back")
            }
            (Self::Rules { family, absent, present }, Seen::Rules { there }) => {
                Undo::Put(Self::Rules {
                    family: *family,
                    absent: present.iter().filter(|r| !there.contains(r)).cloned().collect(),
                    present: absent.iter().filter(|r| there.contains(r)).cloned().collect(),
                })
            }
            (Self::Routes { family, table, absent, present }, Seen::Routes { there }) => {
                Undo::Put(Self::Routes {
                    family: *family,
                    table: *table,
                    absent: present.iter().filter(|r| !there.contains(r)).cloned().collect(),
                    present: absent.iter().filter(|r| there.contains(r)).cloned().collect(),
                })
            }
            (
                Self::Netfilter { backend, family, table, dialect, absent, absent_chains, .. },
                Seen::Netfilter { chains, rules },
            ) => Undo::Put(Self::Netfilter {
                backend: *backend,
                family: *family,
                table: table.clone(),
                dialect: *dialect,
                absent: Vec::new(),
                absent_chains: Vec::new(),
                present_chains: chains
                    .iter()
                    .filter(|c| absent_chains.contains(&c.name))
                    .cloned()
                    .collect(),
                present: rules
                    .iter()
                    .filter(|p| {
                        absent_chains.contains(&p.rule.chain)
                            || absent
                                .iter()
                                .any(|a| a.chain == p.rule.chain && a.spec == p.rule.spec)
                    })
                    .cloned()
                    .collect(),
            }),
            (Self::ResolvConf { .. }, Seen::Resolv { resolv: Some(r) }) => {
                Undo::Put(Self::ResolvConf { wanted: r.clone() })
            }
            (Self::Sysctl { key, .. }, Seen::Sysctl { value: Some(v) }) => {
                Undo::Put(Self::Sysctl { key: key.clone(), value: v.clone() })
            }
            (Self::Quarantined { path }, Seen::Path { at_home: true, .. }) => {
                // The hands fill in where it lies: the name is derived from the path and the run.
                Undo::Put(Self::Released { path: path.clone(), quarantine: String::new() })
            }
            _ => Undo::Nothing,
        }
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
            Self::LinkGone { .. } => "link-gone",
            Self::ResolvConf { .. } => "resolv-conf",
            Self::Sysctl { .. } => "sysctl",
            Self::Quarantined { .. } => "quarantined",
            Self::Released { .. } => "released",
            Self::FlowsGone { .. } => "flows-gone",
            Self::Restarted { .. } => "restarted",
        }
    }
}

impl fmt::Display for NodeOp {
    /// One line for an operator, imperative.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExitNodeOff { process, .. } => {
                write!(
                    f,
                    "ask {} (pid {}) to drop its exit node and accepted routes",
                    process.exe, process.pid
                )
            }
            Self::ExitNodeOn { process, .. } => {
                write!(f, "give {} (pid {}) its exit node back", process.exe, process.pid)
            }
            Self::Stopped { process, grace_ms } => {
                write!(
                    f,
                    "stop {} (pid {}): SIGTERM, after {grace_ms} ms SIGKILL",
                    process.exe, process.pid
                )
            }
            Self::Rules { family, absent, present } => {
                write!(
                    f,
                    "policy rules (IP{}): remove {}, restore {}",
                    family_word(*family),
                    absent.len(),
                    present.len()
                )
            }
            Self::Routes { family, table, absent, present } => {
                write!(
                    f,
                    "routes of table {table} (IP{}): remove {}, restore {}",
                    family_word(*family),
                    absent.len(),
                    present.len()
                )
            }
            Self::Netfilter {
                backend,
                family,
                table,
                absent,
                absent_chains,
                present_chains,
                present,
                ..
            } => {
                write!(
                    f,
                    "netfilter {} (IP{}) table {table}: remove {} rules and {} chains",
                    backend_word(*backend),
                    family_word(*family),
                    absent.len(),
                    absent_chains.len()
                )?;
                if present.is_empty() && present_chains.is_empty() {
                    Ok(())
                } else {
                    write!(
                        f,
                        ", restore {} rules and {} chains",
                        present.len(),
                        present_chains.len()
                    )
                }
            }
            Self::LinkGone { name, kind } => write!(f, "delete device {name} ({kind})"),
            Self::ResolvConf { .. } => write!(f, "restore /etc/resolv.conf"),
            Self::Sysctl { key, value } => write!(f, "set {key} to {value}"),
            Self::Quarantined { path } => write!(f, "move {path} into quarantine"),
            Self::Released { path, .. } => write!(f, "move {path} back from quarantine"),
            Self::FlowsGone { sources, dead_to } => {
                write!(
                    f,
                    "close connections from {} dead sources and to {} dead destinations",
                    sources.len(),
                    dead_to.len()
                )
            }
            Self::Restarted { unit } => write!(f, "restart {unit}"),
        }
    }
}

fn family_word(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}
