//! From a look to a verdict, findings with their evidence, and what is held back.
//!
//! A control-plane outage must never make a fleet of agents tear down its own nodes: everything above the guard needs
//! proof on this node that the API server is there and only the way to it is not, or that pods' traffic goes astray.

use crate::baseline::{Baseline, Role};
use crate::diagnosis::{Diagnosis, Finding, Health, Held, Verdict};
use crate::evidence::Evidence;
use crate::faults;
use crate::observation::{Observation, Sense, Unit};
use crate::policy::Policy;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Without these nothing at all can be said about forwarding.
const FORWARDING: [Sense; 3] = [Sense::Links, Sense::Rules, Sense::Routes];

/// Judges one look.
pub fn judge(seen: &Observation, base: &Baseline, policy: &Policy) -> Diagnosis {
    let e = Evidence::of(seen, base, policy);
    let (findings, held) = find(&e);
    let verdict = verdict(&e, &findings);
    let findings = match verdict {
        // Nothing is wrong that is ours to mend, whatever lies about; remnants can wait for better days.
        Verdict::Upstream | Verdict::Unknown => Vec::new(),
        Verdict::Moved => {
            let is_idle = |f: &Finding| matches!(f.verdict, Verdict::Moved | Verdict::Healthy);
            findings.into_iter().filter(is_idle).collect()
        }
        Verdict::Healthy
        | Verdict::Captured
        | Verdict::Lost
        | Verdict::Filtered
        | Verdict::KubeletStuck => findings,
    };
    let works = e.api_works();
    let health = match verdict {
        Verdict::Healthy | Verdict::Moved => Health::Well,
        Verdict::Upstream | Verdict::Unknown => Health::Unknown,
        Verdict::Captured | Verdict::Lost | Verdict::Filtered
            if e.guarded && e.api.plain == Some(true) =>
        {
            Health::Contained
        }
        Verdict::Captured | Verdict::Lost | Verdict::Filtered | Verdict::KubeletStuck => {
            Health::Unwell
        }
    };
    Diagnosis {
        taken: seen.taken.clone(),
        verdict,
        health,
        guarded: e.guarded,
        summary: summary(verdict, &e, &findings, works),
        findings,
        held,
        forwarding: forwarding(&e),
    }
}

/// Asks every fault, by precedence. One whose inputs could not be read is held, not absent.
fn find(e: &Evidence<'_>) -> (Vec<Finding>, Vec<Held>) {
    let (mut findings, mut held) = (Vec::new(), Vec::new());
    for fault in faults::ALL {
        let gap = e.seen.gaps.iter().find(|g| fault.needs.contains(&g.what));
        if let Some(gap) = gap {
            let why = format!("{} could not be read: {}", crate::text::word(gap.what), gap.why);
            held.push(Held { fault: fault.id.to_string(), why });
        } else {
            findings.extend((fault.detect)(e).into_iter().map(|f| f.of(fault)));
        }
    }
    (findings, held)
}

fn verdict(e: &Evidence<'_>, findings: &[Finding]) -> Verdict {
    if FORWARDING.iter().any(|s| e.seen.has_gap(*s)) || e.expected.iter().all(|x| x.path.is_none())
    {
        return Verdict::Unknown;
    }
    if !e.uplinks_down().is_empty() {
        return Verdict::Upstream;
    }
    if e.shifting {
        return Verdict::Unknown;
    }
    if e.has_moved() {
        return Verdict::Moved;
    }
    if e.strays.iter().any(|s| !s.lost && !s.replaced) {
        return Verdict::Captured;
    }
    if !e.strays.is_empty() || !e.missing_kernel_rules().is_empty() {
        // Without the forwarding entries nobody can tell a lost way from a node that has left; one that is refused, or
        // taken, in its very place is no farewell.
        let pods_only = e.strays.iter().all(|s| s.lost && s.expected.role == Role::RemotePods);
        if e.seen.has_gap(Sense::Fdb) && pods_only && e.missing_kernel_rules().is_empty() {
            return Verdict::Unknown;
        }
        return Verdict::Lost;
    }
    match e.api_works() {
        Some(true) if kubelet_trouble(e).is_some() => Verdict::KubeletStuck,
        _ if !e.doubts.is_empty() => Verdict::Unknown,
        // The API server answers, and something else of the node's does proven harm: its pods are cut off, its services are dead.
        Some(true) => findings.iter().find(|f| f.harm).map_or(Verdict::Healthy, |f| f.verdict),
        Some(false)
            if faults::policy_drop::is_there(e)
                || faults::local_filter::is_there(e)
                || faults::xfrm_policy::is_there(e) =>
        {
            Verdict::Filtered
        }
        Some(false) => Verdict::Upstream,
        None => Verdict::Unknown,
    }
}

/// What keeps the kubelet from working although the API server can be reached, in words.
pub fn kubelet_trouble(e: &Evidence<'_>) -> Option<String> {
    let unit = unit(e);
    if let Some(u) = unit.filter(|u| matches!(u.active.as_str(), "failed" | "inactive")) {
        return Some(format!("{} is {} ({}, {})", u.name, u.active, u.load, u.sub));
    }
    let lease = e.seen.lease.as_ref().filter(|l| l.age_ms > e.policy.lease_stale_ms)?;
    let unit =
        unit.map(|u| format!(", {} is {} ({})", u.name, u.active, u.sub)).unwrap_or_default();
    Some(format!("the lease was renewed {} s ago, at {}{unit}", lease.age_ms / 1000, lease.renewed))
}

/// The kubelet's unit, when the node has one.
pub fn unit<'a>(e: &Evidence<'a>) -> Option<&'a Unit> {
    e.seen.units.iter().find(|u| u.name == e.policy.unit && u.load != "not-found")
}

fn summary(
    verdict: Verdict,
    e: &Evidence<'_>,
    findings: &[Finding],
    works: Option<bool>,
) -> String {
    let first = findings.iter().find(|f| f.verdict == verdict);
    let by = || {
        first
            .and_then(|f| f.culprit.as_ref())
            .map(|c| match (&c.process, &c.dev) {
                (Some(p), _) => format!("{} (pid {})", c.tool, p.pid),
                (None, Some(dev)) => format!("{} ({dev})", c.tool),
                (None, None) => c.tool.clone(),
            })
            .unwrap_or_else(|| "unknown".to_string())
    };
    let guard = if e.guarded { "; our guard stands" } else { "" };
    match verdict {
        Verdict::Healthy if findings.is_empty() => "all is well".to_string(),
        Verdict::Healthy => "all is well, but something was left behind".to_string(),
        Verdict::Captured | Verdict::Lost
            if e.strays.is_empty() && e.missing_kernel_rules().is_empty() =>
        {
            let fault = first.and_then(|f| faults::by_id(&f.fault));
            fault.map_or("something of this node's is missing", |f| f.title).to_string()
        }
        Verdict::Captured => {
            let reach = match works {
                Some(false) => "the API server cannot be reached",
                Some(true) => "the API server can be reached",
                None => "the API server was not called",
            };
            format!("{} taken by {}; without help {reach}{guard}", named(&e.strays), by())
        }
        Verdict::Moved => {
            format!(
                "{} goes another way, and it works: accept it or look into it",
                named(&e.strays)
            )
        }
        Verdict::Lost if e.strays.is_empty() => "a kernel rule is missing".to_string(),
        Verdict::Lost => format!("no way to {}{guard}", named(&e.strays)),
        Verdict::Filtered => {
            let fault = first.and_then(|f| faults::by_id(&f.fault));
            let what = fault.map_or("packets are dropped on this node", |f| f.title);
            format!("forwarding is right, but {what}")
        }
        Verdict::KubeletStuck => format!(
            "the API server answers, the kubelet does not reach it: {}",
            kubelet_trouble(e).unwrap_or_default()
        ),
        Verdict::Upstream => {
            let down = e.uplinks_down();
            if down.is_empty() {
                "forwarding is right and the API server does not answer: not this node's fault"
                    .to_string()
            } else {
                format!("{}: not ours to mend", down.join(", "))
            }
        }
        Verdict::Unknown => unknown(e),
    }
}

/// Each destination once, in the order of their roles.
fn named(strays: &[crate::evidence::Stray]) -> String {
    let mut names: Vec<String> = Vec::new();
    for name in strays.iter().map(|s| s.expected.prefix.to_string()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

fn unknown(e: &Evidence<'_>) -> String {
    if let Some(gap) = e.seen.gaps.iter().find(|g| FORWARDING.contains(&g.what)) {
        return format!("{} could not be read: {}", crate::text::word(gap.what), gap.why);
    }
    if e.expected.iter().all(|x| x.path.is_none()) {
        return "it is not known how this node looks when it is well".to_string();
    }
    let fdb = e.seen.gaps.iter().find(|g| g.what == Sense::Fdb);
    if let (Some(gap), false, false) = (fdb, e.strays.is_empty(), e.shifting) {
        return format!(
            "no way to {}, or its node has left: {} could not be read: {}",
            named(&e.strays),
            crate::text::word(gap.what),
            gap.why
        );
    }
    if e.shifting {
        return "our guard was raised during this look: the next one tells".to_string();
    }
    match e.doubts.first() {
        Some(doubt) => doubt.clone(),
        None => {
            "the API server was not called, so nothing proves that it can be reached".to_string()
        }
    }
}

fn forwarding(e: &Evidence<'_>) -> Vec<String> {
    let role = |r| match r {
        crate::baseline::Role::Api => "api",
        crate::baseline::Role::Gateway => "gateway",
        crate::baseline::Role::Lan => "lan",
        crate::baseline::Role::Node => "node",
        crate::baseline::Role::OwnPods => "own pods",
        crate::baseline::Role::RemotePods => "remote pods",
        crate::baseline::Role::Services => "services",
    };
    e.expected
        .iter()
        .map(|x| {
            let name = format!("{} {}", role(x.role), x.prefix);
            let Some(path) = &x.path else {
                return format!("{name}: had no path when it was well");
            };
            let via = path.via.map(|v| format!(" via {v}")).unwrap_or_default();
            let should = format!("{}{via}", path.dev);
            if let Some((_, why)) = e.left.iter().find(|(l, _)| l == x) {
                return format!("{name}: {why}");
            }
            match e.strays.iter().find(|s| s.expected == *x) {
                None => format!("{name}: leaves by {should}"),
                Some(s) => format!("{name}: {}, should leave by {should}", s.answer),
            }
        })
        .collect()
}
