//! A second opinion on plans: invariants no plan may break, whatever the planner thinks.
//!
//! It shares no code with the faults and their remedies, and knows nothing of why a step is wanted. An objection stops the run.
//!
//! Longer than most files: the invariants are one list, and are to be read as one.

use crate::baseline::Baseline;
use crate::filter;
use crate::guard;
use crate::observation::{
    Action, Dialect, NfRule, NfTable, Observation, Process, Rule, TABLE_DEFAULT, TABLE_LOCAL,
    TABLE_MAIN,
};
use crate::op::{NodeOp, Op, ProcessId};
use crate::plan::{NodePlan, OnUnhealthy, Rung, Step};
use crate::planner::FLUSHED;
use crate::{fib, observation::Netns};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// Why a plan must not be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// The step, when it is one.
    pub step: Option<u32>,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(id) => write!(f, "step {id}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

/// Programs that are never stopped: what carries the node, its pods, or the operator's way in.
const SPARED: [&str; 14] = [
    "sshd",
    "k3s",
    "k3s-agent",
    "k3s-server",
    "kubelet",
    "kube-proxy",
    "containerd",
    "containerd-shim",
    "dockerd",
    "flanneld",
    "dbus-daemon",
    "init",
    "lifeline-agent",
    "NetworkManager",
];

/// Heads of names of chains that others live by.
const SPARED_CHAINS: [&str; 8] =
    ["KUBE-", "CNI-", "FLANNEL-", "cali-", "CILIUM_", "DOCKER", "ufw", "NETBIRD-"];

/// Built-in chains: their policies and their place are nobody's to delete. A base chain of nftables' own may be called so.
const BUILT_IN: [&str; 5] = ["INPUT", "OUTPUT", "FORWARD", "PREROUTING", "POSTROUTING"];

/// Says what is wrong with a plan; empty when nothing is.
pub fn check(plan: &NodePlan, seen: &Observation, base: &Baseline) -> Vec<Objection> {
    let mut out: Vec<Objection> = Vec::new();
    let mut targets: Vec<String> = Vec::new();
    out.extend(of_last(plan).into_iter().map(|why| Objection { step: None, why }));
    if plan.rung == Rung::Guard {
        out.push(Objection { step: None, why: "the guard is no engine's rung".to_string() });
    }
    for step in &plan.steps {
        let target = step.op.target();
        let mut object = |why: String| out.push(Objection { step: Some(step.id), why });
        if targets.contains(&target) {
            object(format!("{target} has a step already"));
        }
        targets.push(target);
        if let Some(rung) = at_rung(&step.op).filter(|r| !r.contains(&plan.rung)) {
            let names: Vec<&str> = rung.iter().map(|r| r.word()).collect();
            object(format!("{} belongs to {}", step.op.kind(), names.join(" or ")));
        }
        for why in one(step, seen, base) {
            object(why);
        }
    }
    out
}

/// The rungs an op may be at; `None` when it may be at any.
fn at_rung(op: &NodeOp) -> Option<&'static [Rung]> {
    match op {
        NodeOp::ExitNodeOff { .. } | NodeOp::Stopped { .. } => Some(&[Rung::Quiet]),
        NodeOp::Rules { .. }
        | NodeOp::Routes { .. }
        | NodeOp::Netfilter { .. }
        | NodeOp::Policies { .. }
        | NodeOp::Addrs { .. }
        | NodeOp::LinkGone { .. }
        | NodeOp::ResolvConf { .. }
        | NodeOp::Sysctl { .. } => Some(&[Rung::Clean]),
        // Whose it is, is known only with the culprit at hand.
        NodeOp::Quarantined { .. } => Some(&[Rung::Quiet]),
        NodeOp::Restarted { .. } => Some(&[Rung::Reconnect, Rung::Reset]),
        NodeOp::SandboxStopped { .. } => Some(&[Rung::Reconnect]),
        NodeOp::Armed { .. } | NodeOp::Flushed { .. } | NodeOp::CacheFlushed => {
            Some(&[Rung::Reset])
        }
        NodeOp::Rebooted => Some(&[Rung::Reboot]),
        NodeOp::FlowsGone { .. } => None,
        // These undo; no plan begins with them.
        NodeOp::ExitNodeOn { .. }
        | NodeOp::Released { .. }
        | NodeOp::Disarmed
        | NodeOp::Refilled { .. } => Some(&[]),
    }
}

fn one(step: &Step<NodeOp>, seen: &Observation, base: &Baseline) -> Vec<String> {
    match &step.op {
        NodeOp::ExitNodeOff { process, .. } => of_process(process, seen, base),
        NodeOp::Stopped { process, grace_ms } => {
            let mut out = of_process(process, seen, base);
            if !(100..=30_000).contains(grace_ms) {
                out.push(format!("{grace_ms} ms between two signals is not 100 to 30 000"));
            }
            if guard::captured(&seen.rules, &seen.routes, base, &filter::marks(seen)).is_empty() {
                out.push(
                    "no critical destination goes astray: nothing is proven against it".to_string(),
                );
            }
            out
        }
        NodeOp::Rules { absent, present, .. } => {
            let gone = absent.iter().filter_map(|r| rule(r, seen, base));
            gone.chain(present.iter().filter_map(|r| restored_rule(r, base))).collect()
        }
        NodeOp::Routes { absent, present, table, .. } => {
            let mut out: Vec<String> = Vec::new();
            if [TABLE_LOCAL, fib::TABLE_MIRROR].contains(table) {
                out.push(format!("table {table} is not for plans"));
            }
            let main = seen.routes.iter().filter(|r| r.table == TABLE_MAIN).count();
            if *table == TABLE_MAIN && !absent.is_empty() && absent.len() >= main {
                out.push("nothing would be left of main".to_string());
            }
            for r in absent {
                if base.routes.contains(r) {
                    out.push(format!("the healthy node has {}", crate::text::route_line(r)));
                }
                if r.exotic || r.table != *table || !seen.routes.contains(r) {
                    out.push(format!("not there as such: {}", crate::text::route_line(r)));
                }
            }
            for r in present {
                if !base.routes.contains(r) {
                    out.push(format!("the healthy node has no {}", crate::text::route_line(r)));
                }
                // Without a device the kernel puts it where a captor likes (K16).
                if r.hops.is_empty() || r.hops.iter().any(|h| h.dev.is_none()) {
                    out.push(format!("names no device: {}", crate::text::route_line(r)));
                }
            }
            out
        }
        NodeOp::Netfilter {
            backend,
            family,
            table,
            dialect,
            absent,
            absent_chains,
            present,
            present_chains,
        } => {
            let mut out: Vec<String> = absent.iter().filter_map(nf_rule).collect();
            let is_it =
                |t: &&NfTable| t.backend == *backend && t.family == *family && t.name == *table;
            let there = seen.netfilter.iter().find(is_it);
            // In nft's own language such a name is a name; whose the chain is, its content says.
            let emptied = |c: &String| {
                let mut inside = there.iter().flat_map(|t| &t.rules).filter(|r| r.chain == *c);
                *dialect == Dialect::Nft && inside.all(|r| absent.contains(r))
            };
            for c in absent_chains {
                if is_spared_chain(c) || (BUILT_IN.contains(&c.as_str()) && !emptied(c)) {
                    out.push(format!("chain {c} is not ours to delete"));
                }
            }
            if !present.is_empty() || !present_chains.is_empty() {
                out.push("netfilter rules are put back by an undo only".to_string());
            }
            out
        }
        NodeOp::Policies { backend, family, table, wanted, .. } => {
            let is_it =
                |t: &&NfTable| t.backend == *backend && t.family == *family && t.name == *table;
            let there = seen.netfilter.iter().find(is_it);
            let mut out: Vec<String> = Vec::new();
            for w in wanted {
                let chain = there.and_then(|t| t.chains.iter().find(|c| c.name == w.chain));
                if chain.is_none_or(|c| c.policy.is_none()) {
                    out.push(format!("{table} has no chain {} with a policy", w.chain));
                }
                // To close one is nobody's repair.
                if w.policy != "ACCEPT" {
                    out.push(format!("{} would be closed: {}", w.chain, w.policy));
                }
            }
            out
        }
        NodeOp::Addrs { dev, absent, present } => {
            let mut out: Vec<String> = Vec::new();
            if !absent.is_empty() {
                out.push(format!("an address of {dev} is taken away by an undo only"));
            }
            for a in present {
                let line = format!("{}/{}", a.addr, a.len);
                if a.dev != *dev || !base.addrs.contains(a) {
                    out.push(format!("the healthy node has no {line} on {dev}"));
                }
                if let Some(other) = seen.addrs.iter().find(|s| s.addr == a.addr && s.dev != *dev) {
                    out.push(format!("{} has {line}", other.dev));
                }
            }
            out
        }
        NodeOp::LinkGone { name, kind } => {
            let mut out = Vec::new();
            let needed =
                base.expected.iter().filter_map(|e| e.path.as_ref()).any(|p| p.dev == *name);
            if needed || base.links.iter().any(|l| l.name == *name) {
                out.push(format!("the healthy node has {name}"));
            }
            if kind != "tun" {
                out.push(format!("{name} is a {kind}, and only left-over tuns are deleted"));
            }
            if seen.processes.iter().any(|p| p.netns != Netns::Other && p.tuns.contains(name)) {
                out.push(format!("a process holds {name}"));
            }
            out
        }
        NodeOp::ResolvConf { wanted } => match (&base.resolv, &seen.resolv) {
            (Some(r), _) if r.text == wanted.text && r.link == wanted.link => Vec::new(),
            (None, Some(r)) if r.backup.as_ref() == Some(&wanted.text) => Vec::new(),
            _ => [String::from("that is not the healthy node's resolv.conf")].into(),
        },
        NodeOp::Sysctl { key, value } => {
            let mut out = Vec::new();
            if base.sysctls.get(key) != Some(value) {
                out.push(format!("the healthy node's {key} is not {value}"));
            }
            // Pods are forwarded; lowering it cuts every one of them off (field guide A7).
            if key.contains("forward") && value != "1" {
                out.push(format!("{key} is never lowered"));
            }
            out
        }
        NodeOp::Quarantined { path } => {
            // Where programs keep state of their own, one folder each: never the home itself.
            let homes = ["/var/lib/", "/var/cache/", "/run/"];
            let is_in = |h: &str| path.strip_prefix(h).is_some_and(|rest| !rest.is_empty());
            let spared = ["rancher", "kubelet", "lifeline", "containerd", "cni", "flannel"];
            let is_spared = path.split('/').any(|p| spared.contains(&p));
            let is_odd = !homes.into_iter().any(is_in) || path.split('/').any(|p| p == "..");
            if is_odd || is_spared || !seen.paths.contains(path) {
                [format!("{path} is not a culprit's directory")].into()
            } else {
                Vec::new()
            }
        }
        NodeOp::FlowsGone { sources, .. } => sources
            .iter()
            .filter(|s| base.addrs.iter().any(|a| a.addr == **s))
            .map(|s| format!("{s} is the healthy node's own address"))
            .collect(),
        NodeOp::Restarted { unit } => {
            let kubelet = seen.units.iter().any(|u| u.name == *unit && u.load != "masked");
            if kubelet && unit.ends_with(".service") {
                Vec::new()
            } else {
                [format!("{unit} is not a unit that may be restarted")].into()
            }
        }
        NodeOp::SandboxStopped { id, pod } => {
            let known = seen.host_ports.iter().any(|h| h.sandbox == *id && h.pod == *pod);
            let why = || format!("{pod} was not seen to hold host ports in sandbox {id}");
            if known { Vec::new() } else { [why()].into() }
        }
        NodeOp::Flushed { backend, family, table, .. } => {
            let mut out = Vec::new();
            if !FLUSHED.contains(&table.as_str()) {
                out.push(format!("table {table} is not one that is flushed"));
            }
            let is_it =
                |t: &NfTable| t.backend == *backend && t.family == *family && t.name == *table;
            if !seen.netfilter.iter().any(is_it) {
                out.push(format!("table {table} was not seen"));
            }
            out
        }
        NodeOp::ExitNodeOn { .. }
        | NodeOp::Released { .. }
        | NodeOp::Armed { .. }
        | NodeOp::Disarmed
        | NodeOp::Refilled { .. }
        | NodeOp::CacheFlushed
        | NodeOp::Rebooted => Vec::new(),
    }
}

/// What holds for the plan of a last rung as a whole.
fn of_last(plan: &NodePlan) -> Vec<String> {
    let mut out = Vec::new();
    match plan.rung {
        Rung::Reset => {
            // Armed last, it would not be there when it is needed; earlier than the engine's own undoing, it would cut into it.
            match plan.steps.first().map(|s| &s.op) {
                Some(NodeOp::Armed { after_ms }) if *after_ms > plan.deadline_ms => {}
                _ => out.push("a reset begins with a timer that undoes it".to_string()),
            }
            if !(10_000..=600_000).contains(&plan.deadline_ms) {
                out.push("a reset is confirmed within 10 s to 10 min".to_string());
            }
            let held = |s: &&Step<NodeOp>| s.on_unhealthy != OnUnhealthy::Undo;
            if let Some(s) = plan.steps.iter().find(held) {
                out.push(format!("step {} would stay when the reset does not help", s.id));
            }
            let filter = |s: &Step<NodeOp>| matches!(&s.op, NodeOp::Flushed { table, .. } if table == "filter");
            let other = |s: &Step<NodeOp>| matches!(&s.op, NodeOp::Flushed { table, .. } if table != "filter");
            // A policy of DROP without its rules shuts everybody out.
            let first = plan.steps.iter().position(other);
            let last = plan.steps.iter().rposition(filter);
            if first.zip(last).is_some_and(|(first, last)| last > first) {
                out.push("the filters are opened before anything else is flushed".to_string());
            }
        }
        Rung::Reboot => {
            if plan.steps.len() != 1 {
                out.push("a reboot is a plan of its own".to_string());
            }
        }
        Rung::Controller => out.push("rung 7 is the controller's: no node takes it".to_string()),
        Rung::Guard | Rung::Quiet | Rung::Clean | Rung::Reconnect => {}
    }
    out
}

fn of_process(id: &ProcessId, seen: &Observation, base: &Baseline) -> Vec<String> {
    let mut out = Vec::new();
    let Some(p) = seen.processes.iter().find(|p| p.pid == id.pid && p.start == id.start) else {
        return [format!("process {} was not seen", id.pid)].into();
    };
    if p.pid <= 2 || p.exe != id.exe || p.inode != id.inode {
        out.push(format!("process {} is not what it is said to be", p.pid));
    }
    if p.netns != Netns::Host {
        out.push(format!("process {} does not live in the node's own network", p.pid));
    }
    let name = p.exe.trim_end_matches(" (deleted)").rsplit('/').next().unwrap_or_default();
    if is_spared(name) || is_spared(&p.comm) {
        out.push(format!("{name} (pid {}) is never stopped", p.pid));
    }
    if carries(p, base) {
        out.push(format!("the cluster itself runs over a tunnel of process {}", p.pid));
    }
    out
}

fn is_spared(name: &str) -> bool {
    SPARED.contains(&name) || name.starts_with("systemd") || name.starts_with("containerd-shim")
}

fn carries(p: &Process, base: &Baseline) -> bool {
    base.expected.iter().filter_map(|e| e.path.as_ref()).any(|path| p.tuns.contains(&path.dev))
}

fn rule(r: &Rule, seen: &Observation, base: &Baseline) -> Option<String> {
    let line = crate::text::rule_line(r);
    let kernel = [TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT].map(Action::Lookup).contains(&r.action);
    if r.exotic {
        Some(format!("has a selector that cannot be named: {line}"))
    } else if r.protocol == 2
        || [0, 32_766, 32_767].contains(&r.pref)
        || (kernel && r.is_plain() && r.suppress.is_none())
    {
        Some(format!("is the kernel's own: {line}"))
    } else if base.rules.contains(r) {
        Some(format!("the healthy node has {line}"))
    } else if fib::is_ours(r) {
        Some(format!("is our own, and the guard's affair: {line}"))
    } else if !seen.rules.contains(r) {
        Some(format!("was not seen: {line}"))
    } else {
        None
    }
}

fn restored_rule(r: &Rule, base: &Baseline) -> Option<String> {
    let known = base.rules.contains(r) || crate::critical::kernel_rules().contains(r);
    (!known).then(|| format!("the healthy node has no {}", crate::text::rule_line(r)))
}

fn nf_rule(r: &NfRule) -> Option<String> {
    let words = r.spec.split(' ');
    let to = words
        .skip_while(|w| !matches!(*w, "-j" | "-g" | "jump" | "goto"))
        .nth(1)
        .unwrap_or_default();
    if is_spared_chain(&r.chain) || is_spared_chain(to) {
        Some(format!("is not ours to delete: -A {} {}", r.chain, r.spec))
    } else if r.spec.is_empty() {
        Some(format!("an empty rule of {} names nothing", r.chain))
    } else {
        None
    }
}

/// A chain that others live by.
pub(crate) fn is_spared_chain(name: &str) -> bool {
    SPARED_CHAINS.iter().any(|s| name.starts_with(s))
}
