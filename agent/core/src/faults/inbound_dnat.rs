//! Everything that comes to this node from outside is sent on to somebody else.

use super::{Consent, Fault, Found, Want, tailscale};
use crate::baseline::KnownRule;
use crate::diagnosis::{Culprit, Finding, Severity, Verdict};
use crate::evidence::Evidence;
use crate::filter;
use crate::observation::{NfRule, NfTable, Sense};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "inbound-dnat",
    rows: &["N5"],
    title: "what comes to this node from outside is sent elsewhere",
    why: "A rule in nat PREROUTING gives every new connection from outside another destination: SSH, the kubelet's port, services and \
          the agent's own port lead into somebody's tunnel. Tailscale's container does so when it is to pass everything to a peer, and \
          never takes the rule back. The node itself reaches the API server, so it looks well from inside. Tailscale's rule is \
          removed; one of somebody unknown is only named.",
    needs: &[Sense::Links],
    debounce_ms: 5_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Automatic,
    becomes: &["tailscale-remnant", "kubelet-stuck"],
};

/// The diverting rules that were not there when all was well, with their tables.
fn diverting<'e>(e: &'e Evidence<'_>) -> Vec<(&'e NfTable, &'e NfRule)> {
    let known = e.base.firewall.as_ref();
    let mut out = Vec::new();
    for t in &e.seen.netfilter {
        let place = filter::place(t, false);
        for r in filter::diversions(t) {
            let is_it = |k: &KnownRule| k.place == place && k.chain == r.chain && k.spec == r.spec;
            let strange = known.is_some_and(|f| !f.diversions.iter().any(is_it));
            if strange || tailscale::is_divert(t, r) {
                out.push((t, r));
            }
        }
    }
    out
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let rules = diverting(e);
    if rules.is_empty() {
        return Vec::new();
    }
    let own = rules.iter().any(|(t, r)| tailscale::is_divert(t, r));
    let process = tailscale::culprit(e, None).filter(|_| own).map(tailscale::id);
    let tool = if own { "tailscale" } else { "unknown" }.to_string();
    let evidence = rules
        .iter()
        .map(|(t, r)| format!("{}: {}", filter::place(t, false), filter::rule_line(r)))
        .collect();
    [Found {
        verdict: Verdict::Captured,
        severity: None,
        culprit: Some(Culprit { tool, process, ..Culprit::default() }),
        harm: true,
        evidence,
    }]
    .into()
}

fn remedy(e: &Evidence<'_>, _: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    if rung != Rung::Clean {
        return Vec::new();
    }
    let mut out = Vec::new();
    for t in &e.seen.netfilter {
        let own = tailscale::is_divert;
        let absent: Vec<NfRule> = filter::diversions(t).filter(|r| own(t, r)).cloned().collect();
        if !absent.is_empty() {
            let op = NodeOp::Netfilter {
                backend: t.backend,
                family: t.family,
                table: t.name.clone(),
                dialect: t.dialect,
                absent,
                absent_chains: Vec::new(),
                present_chains: Vec::new(),
                present: Vec::new(),
            };
            out.push(Want::must(op, "it sends all that comes from outside into the tunnel"));
        }
    }
    out
}
