//! The kernel does not forward packets any more.

use super::{Consent, Fault, Found, Want};
use crate::diagnosis::{Finding, Severity, Verdict};
use crate::evidence::Evidence;
use crate::observation::Sense;
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

/// `net.ipv4.conf.all.forwarding` is the first one's other name.
const KEYS: [&str; 2] = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];

pub(super) static FAULT: Fault = Fault {
    id: "forwarding-off",
    rows: &["S2"],
    title: "the kernel does not forward packets",
    why: "Pods reach other nodes and services only because this node forwards for them. Somebody switched that off (a sysctl file, a \
          hardening script, the end of a VPN), and kube-proxy and the kubelet switch it on only at their start. It is switched on \
          again when the healthy node had it so; it is never switched off.",
    needs: &[Sense::Sysctls],
    debounce_ms: 5_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Undo,
    consent: Consent::Automatic,
    becomes: &["kubelet-stuck"],
};

fn off(e: &Evidence<'_>) -> impl Iterator<Item = &'static str> {
    KEYS.into_iter().filter(|key| {
        let was = e.base.sysctls.get(*key).is_some_and(|v| v == "1");
        was && e.seen.sysctls.get(*key).is_some_and(|v| v == "0")
    })
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let evidence: Vec<_> = off(e).map(|key| format!("{key} is 0 and was 1")).collect();
    if evidence.is_empty() {
        return Vec::new();
    }
    [Found { verdict: Verdict::Lost, severity: None, culprit: None, harm: true, evidence }].into()
}

fn remedy(e: &Evidence<'_>, _: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    if rung != Rung::Clean {
        return Vec::new();
    }
    off(e)
        .map(|key| {
            let op = NodeOp::Sysctl { key: key.to_string(), value: "1".to_string() };
            Want::must(op, "pods' packets are forwarded by this node")
        })
        .collect()
}
