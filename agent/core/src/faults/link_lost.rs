//! A device that a critical destination leaves by is gone.

use super::{Consent, Fault, Found, Want};
use crate::diagnosis::{Finding, Severity, Verdict};
use crate::evidence::{Evidence, Stray};
use crate::judge::unit;
use crate::observation::Sense;
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "link-lost",
    rows: &["R15", "R17"],
    title: "a device of the healthy node is gone",
    why: "The device by which pods, or the API server itself, are reached is not there. A device of the pod network comes \
          back when the kubelet's unit is restarted. A tunnel the cluster really runs over is somebody's to start again: \
          it is reported and nothing is touched.",
    needs: &[Sense::Links, Sense::Routes, Sense::Rules],
    debounce_ms: 10_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Automatic,
    becomes: &[],
};

fn gone(e: &Evidence<'_>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for s in &e.strays {
        let Some(path) = &s.expected.path else { continue };
        if e.seen.link(&path.dev).is_none_or(|l| !l.up) && !out.contains(&path.dev) {
            out.push(path.dev.clone());
        }
    }
    out
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let gone = gone(e);
    if gone.is_empty() {
        return Vec::new();
    }
    let mut evidence: Vec<String> = gone.iter().map(|dev| format!("missing: link {dev}")).collect();
    for s in &e.strays {
        if let Some(path) = s.expected.path.as_ref().filter(|p| gone.contains(&p.dev)) {
            let Stray { expected, answer, .. } = s;
            evidence.push(format!("{} {answer}, should leave by {}", expected.prefix, path.dev));
        }
    }
    [Found { verdict: Verdict::Lost, severity: None, culprit: None, harm: true, evidence }].into()
}

fn remedy(e: &Evidence<'_>, _: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    let gone = gone(e);
    let of_pods = gone.iter().find(|d| e.policy.cni_links.contains(d));
    let (Rung::Reconnect, Some(dev)) = (rung, of_pods) else { return Vec::new() };
    restart(e, format!("the pod network makes {dev} when it starts")).into_iter().collect()
}

/// The kubelet's unit anew, where that can help.
pub(super) fn restart(e: &Evidence<'_>, because: String) -> Option<Want> {
    let may = unit(e).is_some_and(|u| u.load != "masked");
    // Without the API server a restart brings nothing: the unit would wait for it for ever (field guide B1).
    (may && e.api_works() == Some(true))
        .then(|| Want::must(NodeOp::Restarted { unit: e.policy.unit.clone() }, because))
}
