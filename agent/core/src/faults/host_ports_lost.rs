//! Host ports are dead on this node: their rules, or what leads to them, are gone.

use super::{Consent, Fault, Found, Want, proxy_rules_lost};
use crate::diagnosis::{Finding, Severity, Verdict};
use crate::evidence::Evidence;
use crate::observation::{Dialect, HostPorts, NfRule, Sense};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "host-ports-lost",
    rows: &["N8"],
    title: "the rules that pods' host ports need are gone",
    why: "Somebody flushed the packet filter. The CNI's portmap plugin writes the rules of a pod's host ports once, when the pod's \
          sandbox is made, and never again, not even when k3s-agent restarts. They come back only with a new sandbox. With your \
          consent the agent stops the sandboxes of exactly those pods, as `k3s crictl stopp ID` does; the kubelet makes new ones \
          within seconds. Their containers start anew, so it is for a person to say.",
    needs: &[Sense::Nft4, Sense::Nft6, Sense::Legacy4, Sense::Legacy6],
    debounce_ms: 90_000,
    severity: Severity::Warning,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Operator,
    becomes: &[],
};

/// Where portmap's rules are led to; its nftables backend, of plugins since 1.6, has a table of its own and no such chain.
const CHAIN: &str = "CNI-HOSTPORT-DNAT";

/// Pods whose rules are not there. When nothing leads to portmap's chain any more they are dead whatever is in it.
fn dead<'e>(e: &'e Evidence<'_>) -> Vec<&'e HostPorts> {
    let known = e.base.firewall.iter().flat_map(|f| &f.hooks).any(|h| h.to == CHAIN);
    if !known {
        return Vec::new();
    }
    let cut = !proxy_rules_lost::missing(e, CHAIN).is_empty();
    let named = named(e);
    let ruled = |h: &HostPorts| {
        named.as_ref().is_none_or(|all| all.iter().any(|r| r.spec.contains(h.sandbox.as_str())))
    };
    e.seen.host_ports.iter().filter(|h| cut || !ruled(h)).collect()
}

/// Portmap's rules, each of which names its sandbox in a comment; `None` where that cannot be seen. nft prints no comments of iptables',
/// and in that language a table is read as soon as somebody has put a rule of nft's own into it.
fn named<'e>(e: &'e Evidence<'_>) -> Option<Vec<&'e NfRule>> {
    let mut found = Vec::new();
    let mut there = false;
    for table in e.seen.netfilter.iter().filter(|t| t.chains.iter().any(|c| c.name == CHAIN)) {
        there = true;
        if table.dialect != Dialect::Iptables {
            return None;
        }
        found.extend(table.rules.iter().filter(|r| r.chain == CHAIN));
    }
    (there && found.iter().all(|r| r.spec.contains("id: "))).then_some(found)
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    // Since a reboot there may have been no pod with a host port.
    if e.base.taken.boot != e.seen.taken.boot {
        return Vec::new();
    }
    let mut evidence: Vec<String> = proxy_rules_lost::missing(e, CHAIN)
        .iter()
        .map(|h| format!("{}: nothing leads from {} to {} any more", h.place, h.chain, h.to))
        .collect();
    let dead = dead(e);
    evidence.extend(dead.iter().map(|h| {
        format!(
            "pod {}: host port {} is dead; its sandbox is {}",
            h.pod,
            h.ports.join(", "),
            h.sandbox
        )
    }));
    if evidence.is_empty() {
        return Vec::new();
    }
    let gap = e.seen.gaps.iter().find(|g| g.what == Sense::HostPorts);
    if let Some(gap) = gap {
        evidence.push(format!("which pods hold host ports could not be read: {}", gap.why));
    }
    if dead.is_empty() {
        evidence.push("only a new sandbox brings them back: k3s crictl stopp ID".into());
    }
    [Found { verdict: Verdict::Lost, severity: None, culprit: None, harm: false, evidence }].into()
}

fn remedy(e: &Evidence<'_>, _: &Finding, rung: Rung, attempt: u32) -> Vec<Want> {
    if rung != Rung::Reconnect || attempt > 0 {
        return Vec::new();
    }
    let stopped =
        |h: &HostPorts| NodeOp::SandboxStopped { id: h.sandbox.clone(), pod: h.pod.clone() };
    let why = "only a new sandbox has the rules of its host ports written again";
    dead(e).into_iter().map(|h| Want::must(stopped(h), why)).collect()
}
