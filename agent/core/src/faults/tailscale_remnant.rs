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

/// Of every packet or of none: `1` since 1.98, and never put back (field guide A7).
const SRC_VALID_MARK: &str = "net.ipv4.conf.all.src_valid_mark";

pub(super) static FAULT: Fault = Fault {
    id: "tailscale-remnant",
    rows: &["R3"],
    title: "Tailscale left things behind",
    why: "A tailscaled that was killed leaves its rules, a throw route, its chains, a sysctl and sometimes resolv.conf; its own \
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
    if !tailscale::live(e).is_empty() || !super::taken_by(e, super::Captor::Tailscale).is_empty() {
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
    // By itself a sysctl says nothing of who set it; nor does a directory that waits for a clean-up.
    if evidence.is_empty() && e.seen.paths.is_empty() {
        return Vec::new();
    }
    evidence.extend(sysctl(e).map(|v| format!("{SRC_VALID_MARK} is not {v}")));
    evidence.extend(e.seen.paths.iter().cloned());
    [Found {
        verdict: Verdict::Healthy,
        severity: None,
        culprit: Some(Culprit { tool: "tailscale".to_string(), ..Culprit::default() }),
        harm: false,
        evidence,
    }]
    .into()
}

/// The value src_valid_mark should have again, if it has another.
fn sysctl<'e>(e: &'e Evidence<'_>) -> Option<&'e String> {
    let wanted = e.base.sysctls.get(SRC_VALID_MARK)?;
    let now = e.seen.sysctls.get(SRC_VALID_MARK)?;
    // wg-quick and NetBird need it while they are up.
    let used = e.seen.links.iter().any(|l| l.kind == "wireguard" || l.name == "wt0");
    (now != wanted && !used).then_some(wanted)
}

pub(super) fn remedy(e: &Evidence<'_>, finding: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    let allowed = finding.verdict == Verdict::Captured || e.policy.clean_remnants;
    if rung != Rung::Clean || !allowed || !tailscale::live(e).is_empty() {
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
    if let Some(value) = sysctl(e).cloned() {
        let op = NodeOp::Sysctl { key: SRC_VALID_MARK.to_string(), value };
        out.push(Want::must(op, "it sets this and never puts it back"));
    }
    if e.policy.quarantine {
        // The senses name only directories that a culprit seen here called its own: never a package's default by guess.
        for path in &e.seen.paths {
            let op = NodeOp::Quarantined { path: path.clone() };
            out.push(Want::may(op, "its state, kept aside: an identity that may be wanted again"));
        }
    }
    out.extend(flows(e));
    out
}

fn resolv(e: &Evidence<'_>) -> Option<Want> {
    let now = e.seen.resolv.as_ref().filter(|r| tailscale::wrote(&r.text))?;
    let healthy = e.base.resolv.as_ref()?;
    let wanted = Resolv { backup: now.backup.clone(), ..healthy.clone() };
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
