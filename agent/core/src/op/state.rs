//! Where an op's object stands, and what undoes the op.

use super::{ChainPolicy, NodeOp, Now, Op, Scope, Seen, Undo, backend_word};
use crate::observation::{NfRule, Resolv};
use crate::ruleset;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

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

fn settled(is_so: bool) -> Now {
    if is_so { Now::Settled } else { Now::Pending }
}

/// Chain by chain: one that has gone has no policy that could matter, one that has a third policy got it from somebody else.
fn policies(before: &[ChainPolicy], now: &[ChainPolicy], wanted: &[ChainPolicy]) -> Now {
    let of = |all: &[ChainPolicy], chain: &str| {
        all.iter().find(|p| p.chain == chain).map(|p| p.policy.clone())
    };
    let mut all = Now::Settled;
    for w in wanted {
        let Some(is) = of(now, &w.chain) else { continue };
        if is == w.policy {
            continue;
        }
        if of(before, &w.chain) != Some(is) {
            return Now::Foreign;
        }
        all = Now::Pending;
    }
    all
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
            Self::Policies { backend, family, table, .. } => {
                format!("policies {}{} {table}", backend_word(*backend), family.suffix())
            }
            Self::Addrs { dev, .. } => format!("addresses of {dev}"),
            Self::LinkGone { name, .. } => format!("link {name}"),
            Self::ResolvConf { .. } => "resolv.conf".to_string(),
            Self::Sysctl { key, .. } => format!("sysctl {key}"),
            Self::Quarantined { path } | Self::Released { path, .. } => format!("path {path}"),
            Self::FlowsGone { .. } => "flows".to_string(),
            Self::Restarted { unit } => format!("unit {unit}"),
            Self::SandboxStopped { id, .. } => format!("sandbox {id}"),
            Self::Armed { .. } | Self::Disarmed => "undo timer".to_string(),
            Self::Flushed { backend, family, table, .. } => {
                format!("{}{} {table}", backend_word(*backend), family.suffix())
            }
            Self::Refilled { was } => {
                format!("{}{} {}", backend_word(was.backend), was.family.suffix(), was.name)
            }
            Self::CacheFlushed => "route caches".to_string(),
            Self::Rebooted => "boot".to_string(),
        }
    }

    fn asks(&self) -> bool {
        matches!(self, Self::Armed { .. })
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
            | Self::Policies { .. }
            | Self::Addrs { .. }
            | Self::LinkGone { .. }
            | Self::Sysctl { .. }
            | Self::FlowsGone { .. }
            | Self::Restarted { .. }
            | Self::SandboxStopped { .. }
            | Self::Armed { .. }
            | Self::Disarmed
            | Self::Flushed { .. }
            | Self::Refilled { .. }
            | Self::CacheFlushed => Scope::Boot,
            Self::Rebooted => Scope::Boots,
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
            (
                Self::Policies { wanted, .. },
                Seen::Policies { there: before },
                Seen::Policies { there: now },
            ) => policies(before, now, wanted),
            (Self::Addrs { absent, present, .. }, _, Seen::Addrs { there }) => {
                by_parts(there, absent, present)
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
            (Self::SandboxStopped { .. }, _, Seen::Sandbox { ready }) => settled(!*ready),
            (Self::Armed { .. }, _, Seen::Timer { armed }) => settled(*armed),
            (Self::Disarmed, _, Seen::Timer { armed }) => settled(!*armed),
            // What others put there after the flush is never a reason not to undo it: it stays in front of what comes back.
            (Self::Flushed { .. }, _, Seen::Table { table }) => {
                settled(table.as_ref().is_none_or(ruleset::is_flushed))
            }
            (Self::Refilled { was }, _, Seen::Table { table }) => {
                settled(ruleset::is_refilled(was, table.as_ref()))
            }
            (Self::CacheFlushed, _, Seen::Cache { entries }) => settled(*entries == 0),
            (Self::Rebooted, Seen::Boot { id: b }, Seen::Boot { id }) => settled(b != id),
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
            (Self::SandboxStopped { .. }, _) => {
                Undo::Irreversible("a pod whose sandbox was stopped is started anew by the kubelet")
            }
            (Self::FlowsGone { .. }, _) => {
                Undo::Irreversible("a connection that was closed stays closed")
            }
            (Self::Rebooted, _) => Undo::Irreversible("a reboot stops every pod of this node"),
            (Self::CacheFlushed, _) => {
                Undo::Irreversible("what the kernel had learnt it learns again")
            }
            (Self::Armed { .. }, Seen::Timer { .. }) => Undo::Put(Self::Disarmed),
            (Self::Flushed { .. }, Seen::Table { table: Some(was) }) => {
                Undo::Put(Self::Refilled { was: was.clone() })
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
            (Self::Addrs { dev, absent, present }, Seen::Addrs { there }) => {
                Undo::Put(Self::Addrs {
                    dev: dev.clone(),
                    absent: present.iter().filter(|a| !there.contains(a)).cloned().collect(),
                    present: absent.iter().filter(|a| there.contains(a)).cloned().collect(),
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
            (
                Self::Policies { backend, family, table, dialect, wanted },
                Seen::Policies { there },
            ) => Undo::Put(Self::Policies {
                backend: *backend,
                family: *family,
                table: table.clone(),
                dialect: *dialect,
                wanted: there
                    .iter()
                    .filter(|t| wanted.iter().any(|w| w.chain == t.chain))
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
