//! Services are dead on this node: the jumps into kube-proxy's chains are gone.

use super::{Consent, Fault, Found, Want};
use crate::baseline::{KnownHook, hooks};
use crate::diagnosis::{Finding, Severity, Verdict};
use crate::evidence::Evidence;
use crate::judge::unit;
use crate::observation::Sense;
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "proxy-rules-lost",
    rows: &["N8"],
    title: "the rules that services need are gone",
    why: "Somebody flushed the packet filter. kube-proxy looks for its canary chain only, which a flush leaves, so its jumps stay \
          away for up to an hour and no service answers on this node. A restart of k3s-agent writes all of them again at once; pods \
          keep running. It is tried once: who runs another proxy now accepts that as the baseline.",
    needs: &[Sense::Nft4, Sense::Nft6, Sense::Legacy4, Sense::Legacy6, Sense::Units, Sense::Probes],
    // flannel puts its own back within a minute, the kubelet too.
    debounce_ms: 90_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Automatic,
    becomes: &["kubelet-stuck"],
};

/// Jumps of the healthy node that are not there, in whatever backend.
pub(super) fn missing(e: &Evidence<'_>, into: &str) -> Vec<KnownHook> {
    let Some(known) = &e.base.firewall else { return Vec::new() };
    // `nft6 nat`, `legacy6 nat`: k3s may have chosen the other backend since.
    let table = |h: &KnownHook| {
        let (tool, name) = h.place.split_once(' ').unwrap_or(("", &h.place));
        (tool.ends_with('6'), alloc::string::String::from(name))
    };
    let there: Vec<KnownHook> = e.seen.netfilter.iter().flat_map(|t| hooks(t, false)).collect();
    let is_there = |h: &KnownHook| {
        there.iter().any(|t| t.chain == h.chain && t.to == h.to && table(t) == table(h))
    };
    known.hooks.iter().filter(|h| h.to.starts_with(into) && !is_there(h)).cloned().collect()
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let missing = missing(e, "KUBE-");
    // Other jumps come and go with kube-proxy's version; without these two no service has ever worked.
    let vital = |h: &KnownHook| h.to == "KUBE-SERVICES" && h.place.ends_with(" nat");
    let runs = unit(e).is_some_and(|u| u.active == "active");
    if !missing.iter().any(vital) || !runs || e.api_works() != Some(true) {
        return Vec::new();
    }
    let evidence = missing
        .iter()
        .map(|h| format!("{}: nothing leads from {} to {} any more", h.place, h.chain, h.to))
        .collect();
    [Found { verdict: Verdict::Lost, severity: None, culprit: None, harm: true, evidence }].into()
}

fn remedy(e: &Evidence<'_>, _: &Finding, rung: Rung, attempt: u32) -> Vec<Want> {
    if rung != Rung::Reconnect || attempt > 0 {
        return Vec::new();
    }
    let op = NodeOp::Restarted { unit: e.policy.unit.clone() };
    [Want::must(op, "kube-proxy writes all its rules at its start")].into()
}
