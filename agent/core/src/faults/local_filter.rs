//! Packets leave by the right device and are dropped on this node all the same, by a rule.

use super::{Consent, Fault, Found, Want, policy_drop, tailscale, testimony};
use crate::baseline::{KnownRule, calls};
use crate::diagnosis::{Finding, Severity, Verdict};
use crate::evidence::Evidence;
use crate::filter::{self, Refusal, Way};
use crate::observation::{NfTable, Reach, Sense};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "local-filter",
    rows: &["N3"],
    title: "packets to the API server are dropped on this node",
    why: "Forwarding is right, but calls to the API server fail, and either a rule on this node that was not there when all was \
          well drops or rejects them, or calls that carry our mark get through where others do not. The rules that could do it are \
          named. Whose they are is for a person to say: with your consent exactly those are removed, and put back if that does not help.",
    needs: &[Sense::Rules, Sense::Routes, Sense::Links, Sense::Probes],
    debounce_ms: 10_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Undo,
    consent: Consent::Operator,
    becomes: &["kubelet-stuck"],
};

/// What may drop calls to the API server.
enum Suspect<'e> {
    /// A rule.
    Rule { table: &'e NfTable, inet: bool, refusal: Refusal<'e> },
    /// A policy that was another when all was well, with exceptions.
    Policy { place: String, chain: &'e str },
}

impl Suspect<'_> {
    fn line(&self) -> String {
        match self {
            Self::Rule { table, inet, refusal } => {
                format!("{}: {}", filter::place(table, *inet), filter::rule_line(refusal.rule))
            }
            Self::Policy { place, chain } => {
                format!("{place}: chain {chain} drops what no rule lets through, and did not")
            }
        }
    }

    fn is_certain(&self) -> bool {
        matches!(self, Self::Rule { refusal, .. } if refusal.certain)
    }
}

/// Forwarding is right, and something on this node accounts for the silence: a rule that refuses for certain, or one that may
/// while the machine next door answers.
pub(crate) fn is_there(e: &Evidence<'_>) -> bool {
    let right = e.strays.is_empty() && e.missing_kernel_rules().is_empty();
    if !right || e.api_works() != Some(false) {
        return false;
    }
    let gateway = e.seen.probes.iter().any(|p| p.reach == Reach::Echo);
    let marked = e.api.lifeline == Some(true);
    let suspects = suspects(e);
    suspects.iter().any(Suspect::is_certain)
        || (gateway && !suspects.is_empty())
        || (marked && !policy_drop::is_there(e))
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    if !is_there(e) {
        return Vec::new();
    }
    let mut evidence = testimony(e, &[]);
    evidence.extend(suspects(e).iter().map(Suspect::line));
    [Found { verdict: Verdict::Filtered, severity: None, culprit: None, harm: true, evidence }]
        .into()
}

/// Exactly the rules that were named, in the tables that can be changed without guessing.
fn remedy(e: &Evidence<'_>, _: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    if rung != Rung::Clean || !is_there(e) {
        return Vec::new();
    }
    let suspects = suspects(e);
    let mut out = Vec::new();
    for table in &e.seen.netfilter {
        let named = |s: &Suspect<'_>| match s {
            Suspect::Rule { table: t, inet: false, refusal } if core::ptr::eq(*t, table) => {
                (refusal.certain || refusal.names).then(|| refusal.rule.clone())
            }
            Suspect::Rule { .. } | Suspect::Policy { .. } => None,
        };
        let absent: Vec<_> = suspects.iter().filter_map(named).collect();
        if !absent.is_empty() {
            let lines: Vec<String> = absent.iter().map(filter::rule_line).collect();
            let because = format!("refuses calls to the API server: {}", lines.join("; "));
            let op = NodeOp::Netfilter {
                backend: table.backend,
                family: table.family,
                table: table.name.clone(),
                dialect: table.dialect,
                absent,
                absent_chains: Vec::new(),
                present_chains: Vec::new(),
                present: Vec::new(),
            };
            out.push(Want::must(op, because));
        }
    }
    out
}

/// Rules that refuse calls to the API server and were not there when all was well, and policies that were others.
fn suspects<'e>(e: &'e Evidence<'_>) -> Vec<Suspect<'e>> {
    let known = e.base.firewall.as_ref();
    let mut out: Vec<Suspect<'e>> = Vec::new();
    let tables = e.seen.netfilter.iter().map(|t| (t, false));
    for (table, inet) in tables.chain(e.seen.inet.iter().map(|t| (t, true))) {
        let place = filter::place(table, inet);
        let was_there = |r: &Refusal<'_>| {
            let is_it = |k: &KnownRule| {
                k.place == place && k.chain == r.rule.chain && k.spec == r.rule.spec
            };
            known.is_some_and(|f| f.refusals.iter().any(is_it))
        };
        for call in calls(e.seen, &e.expected) {
            for refusal in filter::refusals(table, &call) {
                // What carries the cluster drops strangers as its daily work, and a culprit's own chains go as a whole.
                if was_there(&refusal) || crate::check::is_spared_chain(&refusal.rule.chain) {
                    continue;
                }
                if tailscale::is_own_chain(&refusal.rule.chain) {
                    continue;
                }
                let same = |s: &Suspect<'_>| matches!(s, Suspect::Rule { refusal: r, .. } if core::ptr::eq(r.rule, refusal.rule));
                if !out.iter().any(same) {
                    out.push(Suspect::Rule { table, inet, refusal });
                }
            }
        }
        for chain in table.chains.iter().filter(|c| filter::drops_by_default(c)) {
            let ours = matches!(filter::way(table, chain), Some(Way::Out | Way::In));
            let other = known.is_some_and(|f| f.policy(&place, &chain.name) != "DROP");
            // One that lets nothing through is a fault of its own.
            if ours && other && filter::may_accept(table, &chain.name) {
                out.push(Suspect::Policy { place: place.clone(), chain: &chain.name });
            }
        }
    }
    out
}
