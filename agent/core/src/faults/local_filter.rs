//! Packets leave by the right device and are dropped on this node all the same.

use super::{Consent, Fault, Found, nothing, testimony};
use crate::diagnosis::{Severity, Verdict};
use crate::evidence::Evidence;
use crate::observation::{NfRule, Reach, Sense};
use crate::plan::OnUnhealthy;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "local-filter",
    rows: &["N2", "N3"],
    title: "packets to the API server are dropped on this node",
    why: "Forwarding is right and the gateway answers, but calls to the API server fail, and either a rule on this node drops or \
          rejects them, or those that carry our mark get through where others do not. The rules that could do it are named. \
          Whose they are is for a person to say, so nothing is removed.",
    needs: &[Sense::Rules, Sense::Routes, Sense::Links, Sense::Probes],
    debounce_ms: 10_000,
    severity: Severity::Critical,
    detect,
    remedy: nothing,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Operator,
    becomes: &[],
};

/// Forwarding is right, the machine next door answers, and something on this node accounts for the silence.
pub(crate) fn is_there(e: &Evidence<'_>) -> bool {
    let right = e.strays.is_empty() && e.missing_kernel_rules().is_empty();
    let gateway = e.seen.probes.iter().any(|p| p.reach == Reach::Echo);
    let marked = e.api.lifeline == Some(true);
    right && e.api_works() == Some(false) && (marked || (gateway && !suspects(e).is_empty()))
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    if !is_there(e) {
        return Vec::new();
    }
    let mut evidence = testimony(e, &[]);
    evidence.extend(suspects(e));
    [Found { verdict: Verdict::Filtered, severity: None, culprit: None, harm: true, evidence }]
        .into()
}

/// Rules and policies that could drop what this node sends to the API server, or its answers.
fn suspects(e: &Evidence<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for t in &e.seen.netfilter {
        let name =
            format!("{}{} {}", crate::op::backend_word(t.backend), t.family.suffix(), t.name);
        let ours = |chain: &str| matches!(chain, "INPUT" | "OUTPUT");
        let drops = |p: &String| p.eq_ignore_ascii_case("drop");
        for c in t.chains.iter().filter(|c| ours(&c.name) && c.policy.as_ref().is_some_and(drops)) {
            // A firewall that lets the API server in drops by default too; a chain without rules lets nobody in.
            if !t.rules.iter().any(|r| r.chain == c.name) {
                out.push(format!("{name}: chain {} drops everything", c.name));
            }
        }
        for r in t.rules.iter().filter(|r| refuses(e, r)) {
            out.push(format!("{name}: -A {} {}", r.chain, r.spec));
        }
    }
    out
}

/// A rule that drops and names the API server's address or port.
fn refuses(e: &Evidence<'_>, r: &NfRule) -> bool {
    let drops =
        ["DROP", "REJECT", "drop", "reject"].iter().any(|w| r.spec.split(' ').any(|x| x == *w));
    drops
        && e.base.cluster.api.iter().any(|a| {
            r.spec.contains(&format!("{}", a.ip()))
                || r.spec.contains(&format!("dport {}", a.port()))
        })
}
