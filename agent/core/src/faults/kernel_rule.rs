//! One of the rules every kernel starts with is gone.

use super::{Consent, Fault, Found, Want};
use crate::diagnosis::{Finding, Severity, Verdict};
use crate::evidence::Evidence;
use crate::net::Family;
use crate::observation::{Action, Sense, TABLE_DEFAULT};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use crate::text::rule_line;
use alloc::format;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "kernel-rule-missing",
    rows: &["R13"],
    title: "a rule of the kernel's own is missing",
    why: "Every kernel starts with rules that lead to the tables local, main and default. Without the one for main no \
          route applies at all: the node is cut off however right its routes are. Somebody flushed the rules, or a tool \
          took one away and did not put it back. Restoring it adds one rule and removes nothing.",
    needs: &[Sense::Rules],
    debounce_ms: 1_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Automatic,
    becomes: &[],
};

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let missing = e.missing_kernel_rules();
    if missing.is_empty() {
        return Vec::new();
    }
    // Table default is empty on nearly every machine: nothing breaks without its rule today.
    let harmless = missing.iter().all(|r| r.action == Action::Lookup(TABLE_DEFAULT));
    [Found {
        verdict: Verdict::Lost,
        severity: harmless.then_some(Severity::Notice),
        culprit: None,
        harm: !harmless,
        evidence: missing.iter().map(|r| format!("missing: {}", rule_line(r))).collect(),
    }]
    .into()
}

fn remedy(e: &Evidence<'_>, _: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    if rung != Rung::Clean {
        return Vec::new();
    }
    let missing = e.missing_kernel_rules();
    Family::ALL
        .into_iter()
        .filter_map(|family| {
            let present: Vec<_> = missing.iter().filter(|r| r.family == family).cloned().collect();
            let because = "every kernel has it from the start, and nothing works without it";
            (!present.is_empty())
                .then(|| Want::must(NodeOp::Rules { family, absent: Vec::new(), present }, because))
        })
        .collect()
}
