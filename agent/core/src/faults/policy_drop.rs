//! A chain that lets nothing through any more: its policy is DROP, and the rules that made exceptions are gone.

use super::{Consent, Fault, Found, Want, testimony};
use crate::baseline::Firewall;
use crate::diagnosis::{Finding, Severity, Verdict};
use crate::evidence::Evidence;
use crate::filter::{self, Way};
use crate::observation::{Chain, NfTable, Sense};
use crate::op::{ChainPolicy, NodeOp};
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "policy-drop",
    rows: &["N2"],
    title: "a chain of the packet filter drops everything",
    why: "A built-in chain has the policy DROP and not one rule that lets anything through: what a flush leaves behind when the \
          policy is not set first, and how an operator locks himself out. The node cannot be reached over the network while it \
          stands, so when the healthy node is known to have had ACCEPT there, the agent sets it back by itself. Rules are not touched.",
    needs: &[Sense::Links],
    debounce_ms: 5_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Automatic,
    becomes: &["kubelet-stuck", "local-filter"],
};

/// A chain that drops everything that comes its way.
struct Shut<'e> {
    table: &'e NfTable,
    inet: bool,
    chain: &'e Chain,
}

fn shut<'e>(e: &'e Evidence<'_>) -> Vec<Shut<'e>> {
    let works = e.api_works() == Some(true);
    let all = e.seen.netfilter.iter().map(|t| (t, false));
    let all = all.chain(e.seen.inet.iter().map(|t| (t, true)));
    all.flat_map(|(table, inet)| table.chains.iter().map(move |chain| Shut { table, inet, chain }))
        .filter(|s| {
            let way = filter::way(s.table, s.chain);
            let matters = match way {
                // What answers has not been dropped: then it is a chain of another family, or of another hook's.
                Some(Way::Out | Way::In) => !works && carries_calls(e, s),
                Some(Way::Through) => true,
                None => false,
            };
            matters
                && filter::drops_by_default(s.chain)
                && !filter::may_accept(s.table, &s.chain.name)
                && before(e, s) != Some("DROP")
        })
        .collect()
}

/// Do calls to an API server pass this chain?
fn carries_calls(e: &Evidence<'_>, s: &Shut<'_>) -> bool {
    let api = e.expected.iter().filter(|x| x.role == crate::baseline::Role::Api);
    api.into_iter().any(|x| s.inet || x.prefix.family() == s.table.family)
}

/// The policy it had when all was well; none when that is not known.
fn before<'e>(e: &'e Evidence<'_>, s: &Shut<'_>) -> Option<&'e str> {
    let known: &Firewall = e.base.firewall.as_ref().filter(|_| e.base.is_trusted())?;
    Some(known.policy(&filter::place(s.table, s.inet), &s.chain.name))
}

/// Is what goes from or to this machine itself dropped?
pub(crate) fn is_there(e: &Evidence<'_>) -> bool {
    shut(e).iter().any(|s| filter::way(s.table, s.chain) != Some(Way::Through))
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let shut = shut(e);
    if shut.is_empty() {
        return Vec::new();
    }
    let mut evidence = testimony(e, &[]);
    evidence.extend(shut.iter().map(|s| {
        let was = match before(e, s) {
            Some(policy) => format!("its policy was {policy}"),
            None => "what its policy was is not known".into(),
        };
        let place = filter::place(s.table, s.inet);
        format!("{place}: chain {} drops everything; {was}", s.chain.name)
    }));
    [Found { verdict: Verdict::Filtered, severity: None, culprit: None, harm: true, evidence }]
        .into()
}

fn remedy(e: &Evidence<'_>, _: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    if rung != Rung::Clean {
        return Vec::new();
    }
    let shut = shut(e);
    let mut out: Vec<Want> = Vec::new();
    for table in &e.seen.netfilter {
        let wanted: Vec<ChainPolicy> = shut
            .iter()
            .filter(|s| core::ptr::eq(s.table, table) && before(e, s) == Some("ACCEPT"))
            .map(|s| ChainPolicy { chain: s.chain.name.clone(), policy: "ACCEPT".into() })
            .collect();
        if !wanted.is_empty() {
            let op = NodeOp::Policies {
                backend: table.backend,
                family: table.family,
                table: table.name.clone(),
                dialect: table.dialect,
                wanted,
            };
            out.push(Want::must(op, "that is what it was, and nothing else lets anything through"));
        }
    }
    out
}
