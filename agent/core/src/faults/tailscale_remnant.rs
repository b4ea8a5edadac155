//! What a Tailscale that is gone left behind.

use super::{Consent, Fault, Found, Want, tailscale};
use crate::diagnosis::{Culprit, Finding, Severity, Verdict};
use crate::evidence::Evidence;
use crate::net::Family;
use crate::observation::{Resolv, Sense};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use crate::text::{route_line, rule_line};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

pub(super) static FAULT: Fault = Fault {
    id: "tailscale-remnant",
    rows: &["R3", "N1", "D1", "D2"],
    title: "Tailscale left things behind",
    why: "A tailscaled that was killed leaves its rules, a throw route, its chains and sometimes resolv.conf; its own \
          --cleanup leaves the rules and the connection marks. Forwarding is right, so nothing is urgent, but the next \
          start, a truncated iptables-save or a k3s that picks its backend by counting rules can trip over it.",
    needs: &[
        Sense::Rules,
        Sense::Routes,
        Sense::Links,
        Sense::Processes,
        Sense::Legacy4,
        Sense::Legacy6,
        Sense::Nft4,
        Sense::Nft6,
    ],
    debounce_ms: 60_000,
    severity: Severity::Notice,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Operator,
    becomes: &[],
};

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    // While it takes traffic it is a capture, and while it lives these are its tools.
    let at_work = !tailscale::live(e).is_empty() || tailscale::carries_the_cluster(e);
    if at_work || !super::taken_by(e, super::Captor::Tailscale).is_empty() {
        return Vec::new();
    }
    let mut evidence: Vec<String> = Vec::new();
    for family in Family::ALL {
        evidence.extend(tailscale::rules(e, family).into_iter().map(rule_line));
        evidence.extend(tailscale::routes(e, family).into_iter().map(route_line));
    }
    for t in &e.seen.netfilter {
        let (rules, chains) = tailscale::in_table(t);
        if !rules.is_empty() || !chains.is_empty() {
            let name = tailscale::table_name(t);
            evidence.push(format!("{name}: {} rules, {} chains", rules.len(), chains.len()));
        }
    }
    evidence.extend(tailscale::orphans(e).into_iter().map(|l| format!("device {}", l.name)));
    if e.seen.resolv.as_ref().is_some_and(|r| tailscale::wrote(&r.text)) {
        evidence.push("resolv.conf was written by it".to_string());
    }
    if evidence.is_empty() {
        return Vec::new();
    }
    [Found {
        verdict: Verdict::Healthy,
        severity: None,
        culprit: Some(Culprit { tool: "tailscale".to_string(), ..Culprit::default() }),
        harm: false,
        evidence,
    }]
    .into()
}

pub(super) fn remedy(e: &Evidence<'_>, finding: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    let allowed = finding.verdict == Verdict::Captured || e.policy.clean_remnants;
    let at_work = !tailscale::live(e).is_empty() || tailscale::carries_the_cluster(e);
    if rung != Rung::Clean || !allowed || at_work {
        return Vec::new();
    }
    let mut out = Vec::new();
    for family in Family::ALL {
        let absent: Vec<_> = tailscale::rules(e, family).into_iter().cloned().collect();
        if !absent.is_empty() {
            let op = NodeOp::Rules { family, absent, present: Vec::new() };
            out.push(Want::must(op, "they lead into its table, which nobody keeps any more"));
        }
    }
    for family in Family::ALL {
        let absent: Vec<_> = tailscale::routes(e, family).into_iter().cloned().collect();
        if !absent.is_empty() {
            let table = tailscale::TABLE;
            let op = NodeOp::Routes { family, table, absent, present: Vec::new() };
            out.push(Want::must(op, "everything in its table is its own"));
        }
    }
    for l in tailscale::orphans(e) {
        let op = NodeOp::LinkGone { name: l.name.clone(), kind: l.kind.clone() };
        out.push(Want::must(op, "a persistent tunnel nobody holds"));
    }
    for t in &e.seen.netfilter {
        let (absent, absent_chains) = tailscale::in_table(t);
        if !absent.is_empty() || !absent_chains.is_empty() {
            let op = NodeOp::Netfilter {
                backend: t.backend,
                family: t.family,
                table: t.name.clone(),
                dialect: t.dialect,
                absent,
                absent_chains,
                present_chains: Vec::new(),
                present: Vec::new(),
            };
            out.push(Want::must(op, "its chains, the jumps to them and its connection marks"));
        }
    }
    out.extend(resolv(e));
    out.extend(flows(e));
    out
}

fn resolv(e: &Evidence<'_>) -> Option<Want> {
    let now = e.seen.resolv.as_ref().filter(|r| tailscale::wrote(&r.text))?;
    // Without a healthy state on record its own backup says what there was.
    let backup = || now.backup.clone().map(|text| Resolv { text, link: None, backup: None });
    let healthy = e.base.resolv.clone().or_else(backup)?;
    let wanted = Resolv { backup: now.backup.clone(), ..healthy };
    Some(Want::must(NodeOp::ResolvConf { wanted }, "its name server went away with it"))
}

/// Connections from addresses that the node no longer has.
fn flows(e: &Evidence<'_>) -> Option<Want> {
    let mut sources: Vec<IpAddr> = e
        .seen
        .sockets
        .iter()
        .map(|s| s.src.ip())
        .filter(|ip| !e.seen.addrs.iter().any(|a| a.addr == *ip) && tailscale::in_ranges(*ip))
        .collect();
    sources.sort_unstable();
    sources.dedup();
    let op = NodeOp::FlowsGone { sources, dead_to: Vec::new() };
    let empty = matches!(&op, NodeOp::FlowsGone { sources, .. } if sources.is_empty());
    (!empty).then(|| Want::may(op, "their address died with the tunnel"))
}
