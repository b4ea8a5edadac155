//! Packets leave by the right device and are dropped on this node all the same.

use super::{Consent, Fault, Found, nothing, testimony};
use crate::diagnosis::{Severity, Verdict};
use crate::evidence::Evidence;
use crate::observation::{NfRule, Sense};
use crate::plan::OnUnhealthy;
use alloc::format;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "local-filter",
    rows: &["N2", "N3"],
    title: "packets to the API server are dropped on this node",
    why: "Forwarding is right, the API server answers packets that carry our mark, and does not answer those that carry none: \
          a packet filter, a mark or a policy on this node treats them differently. Rules that could do it are named. \
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

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let right = e.strays.is_empty() && e.missing_kernel_rules().is_empty();
    if !right || e.api_works() != Some(false) || e.api.lifeline != Some(true) {
        return Vec::new();
    }
    let mut evidence = testimony(e, &[]);
    for t in &e.seen.netfilter {
        let word = crate::op::backend_word(t.backend);
        let suffix = t.family.suffix();
        for c in t
            .chains
            .iter()
            .filter(|c| c.policy.as_deref().is_some_and(|p| p.eq_ignore_ascii_case("drop")))
        {
            evidence.push(format!("{word}{suffix} {}: chain {} drops by default", t.name, c.name));
        }
        for r in t.rules.iter().filter(|r| refuses(e, r)) {
            evidence.push(format!("{word}{suffix} {}: -A {} {}", t.name, r.chain, r.spec));
        }
    }
    [Found { verdict: Verdict::Filtered, severity: None, culprit: None, harm: true, evidence }]
        .into()
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
