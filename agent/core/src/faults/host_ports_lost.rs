//! Host ports are dead on this node: nothing leads to their rules any more.

use super::{Consent, Fault, Found, nothing, proxy_rules_lost};
use crate::diagnosis::{Severity, Verdict};
use crate::evidence::Evidence;
use crate::observation::Sense;
use crate::plan::OnUnhealthy;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "host-ports-lost",
    rows: &["N8"],
    title: "the rules that pods' host ports need are gone",
    why: "Somebody flushed the packet filter. The CNI's portmap plugin writes the rules of a pod's host ports once, when the pod's \
          sandbox is made, and never again, not even when k3s-agent restarts. They come back only with a new sandbox. The agent does \
          not make one: stop the sandboxes of pods with host ports (`k3s crictl stopp ID`; the kubelet makes new ones within seconds), \
          or delete those pods.",
    needs: &[Sense::Nft4, Sense::Nft6, Sense::Legacy4, Sense::Legacy6],
    debounce_ms: 90_000,
    severity: Severity::Warning,
    detect,
    remedy: nothing,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Operator,
    becomes: &[],
};

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    // Since a reboot there may have been no pod with a host port.
    if e.base.taken.boot != e.seen.taken.boot {
        return Vec::new();
    }
    let mut evidence: Vec<String> = proxy_rules_lost::missing(e, "CNI-HOSTPORT-DNAT")
        .iter()
        .map(|h| format!("{}: nothing leads from {} to {} any more", h.place, h.chain, h.to))
        .collect();
    if evidence.is_empty() {
        return Vec::new();
    }
    evidence.push("only a new sandbox brings them back: k3s crictl stopp ID".to_string());
    [Found { verdict: Verdict::Lost, severity: None, culprit: None, harm: false, evidence }].into()
}
