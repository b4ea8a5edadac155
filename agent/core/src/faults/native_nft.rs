//! Rules that iptables cannot express keep k3s from starting.

use super::{Consent, Fault, Found, Want, tailscale};
use crate::diagnosis::{Culprit, Finding, Severity, Verdict};
use crate::evidence::Evidence;
use crate::filter;
use crate::judge::{kubelet_trouble, unit};
use crate::observation::{Backend, Dialect, NfTable, Sense};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "native-nft",
    rows: &["N4"],
    title: "k3s fails over packet filter rules that iptables cannot express",
    why: "Somebody wrote rules of nftables' own into a table that iptables-nft keeps too. iptables then refuses to list it, or \
          lists half of it, and k3s, which lists it at its start, fails over and over. Tailscale's own are removed by their \
          handles, one transaction a table; others' are named, and stay. Then k3s-agent is started.",
    needs: &[Sense::Units, Sense::Nft4, Sense::Nft6, Sense::Probes],
    debounce_ms: 10_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Automatic,
    becomes: &["kubelet-stuck", "tailscale-remnant"],
};

/// Tables that are iptables' by name, and beyond it by content.
fn beyond<'e>(e: &'e Evidence<'_>) -> impl Iterator<Item = &'e NfTable> {
    const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
    e.seen.netfilter.iter().filter(|t| {
        t.backend == Backend::Nft
            && t.dialect == Dialect::Nft
            && IPTABLES.contains(&t.name.as_str())
    })
}

/// The kubelet's unit does not come up, as opposed to a kubelet that runs and is cut off.
fn fails(e: &Evidence<'_>) -> bool {
    unit(e).is_some_and(|u| u.load != "masked" && u.active != "active")
        && kubelet_trouble(e).is_some()
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let tables: Vec<&NfTable> = beyond(e).collect();
    if tables.is_empty() || !fails(e) || e.api_works() != Some(true) {
        return Vec::new();
    }
    let mut evidence: Vec<String> = kubelet_trouble(e).into_iter().collect();
    let mut own = false;
    for t in tables {
        let (rules, chains) = tailscale::in_table(t);
        own |= !rules.is_empty() || !chains.is_empty();
        let place = filter::place(t, false);
        evidence.push(format!(
            "{place} holds rules that iptables cannot express; {} rules and {} chains in it are Tailscale's",
            rules.len(),
            chains.len()
        ));
    }
    let culprit = own.then(|| Culprit { tool: "tailscale".to_string(), ..Culprit::default() });
    [Found { verdict: Verdict::KubeletStuck, severity: None, culprit, harm: true, evidence }].into()
}

fn remedy(e: &Evidence<'_>, _: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    // A daemon that lives writes them again; it is the capture's or the operator's affair.
    if rung != Rung::Clean || !tailscale::live(e).is_empty() {
        return Vec::new();
    }
    let mut out = Vec::new();
    for t in beyond(e) {
        let (absent, absent_chains) = tailscale::in_table(t);
        if !absent.is_empty() || !absent_chains.is_empty() {
            let op = NodeOp::Netfilter {
                backend: t.backend,
                family: t.family,
                table: t.name.clone(),
                dialect: t.dialect,
                absent,
                absent_chains,
                present_chains: Vec::new(),
                present: Vec::new(),
            };
            out.push(Want::must(op, "k3s cannot list this table while they are in it"));
        }
    }
    out
}
