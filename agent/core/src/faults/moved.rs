//! The node goes another way, and it works.

use super::{Consent, Fault, Found, nothing, testimony};
use crate::diagnosis::{Severity, Verdict};
use crate::evidence::Evidence;
use crate::observation::Sense;
use crate::plan::OnUnhealthy;

use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "network-moved",
    rows: &["R20"],
    title: "the network has changed, and it works",
    why: "Critical traffic takes another way than the recorded healthy one, and what it should reach answers: another gateway, \
          another uplink, a VPN somebody wants. Nothing is touched. If the change is meant, `ctl baseline accept` makes it \
          the healthy state.",
    needs: &[Sense::Rules, Sense::Routes, Sense::Links, Sense::Probes],
    debounce_ms: 10_000,
    severity: Severity::Notice,
    detect,
    remedy: nothing,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Operator,
    becomes: &[],
};

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    if !e.has_moved() {
        return Vec::new();
    }
    let strays: Vec<_> = e.strays.iter().collect();
    let evidence = testimony(e, &strays);
    [Found { verdict: Verdict::Moved, severity: None, culprit: None, harm: false, evidence }].into()
}
