//! A route of the healthy node, other than its default route, is gone.

use super::{Consent, Fault, Found, Want, address_lost, default_route, testimony};
use crate::diagnosis::{Finding, Severity, Verdict};
use crate::evidence::{Evidence, Stray};
use crate::fib;
use crate::net::Family;
use crate::observation::{Route, Sense, TABLE_MAIN};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use crate::text::route_line;
use alloc::format;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "route-lost",
    rows: &["R15"],
    title: "a route of the healthy node is lost",
    why: "The link's own prefix, this node's pods, or the pods of every other node have no route any more. The pod \
          network makes its routes when nodes come and go and not again, so they do not come back alone. A single missing \
          pod route is a node that left, and is not restored.",
    needs: &[Sense::Routes, Sense::Rules, Sense::Links, Sense::Fdb],
    debounce_ms: 5_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Undo,
    consent: Consent::Automatic,
    becomes: &[],
};

/// The baseline routes whose lack sends a critical destination astray; for a gateway, the way to it as well.
fn lost<'e>(e: &'e Evidence<'_>) -> Vec<(&'e Stray, &'e Route)> {
    let strays = e.strays.iter().filter(|s| s.lost);
    strays
        .filter_map(|s| {
            let family = s.expected.prefix.family();
            let route = fib::best(&e.base.routes, TABLE_MAIN, family, s.expected.ask)?;
            (!route.dst.is_all()).then_some((s, route))
        })
        .filter(|(_, r)| e.missing_routes.contains(r) && default_route::restorable(e, r))
        // Without the device's address the kernel refuses it as a source, and the neighbours it would lead to are gone as well.
        .filter(|(_, r)| !address_lost::has_lost(e, r.dev()))
        .collect()
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let lost = lost(e);
    if lost.is_empty() {
        return Vec::new();
    }
    let strays: Vec<&Stray> = lost.iter().map(|(s, _)| *s).collect();
    let mut evidence: Vec<_> =
        routes(e).iter().map(|r| format!("missing: {}", route_line(r))).collect();
    evidence.extend(testimony(e, &strays));
    [Found { verdict: Verdict::Lost, severity: None, culprit: None, harm: true, evidence }].into()
}

fn routes<'e>(e: &'e Evidence<'_>) -> Vec<&'e Route> {
    let mut out: Vec<&Route> = Vec::new();
    for (_, r) in lost(e) {
        if !out.contains(&r) {
            out.push(r);
        }
    }
    out
}

fn remedy(e: &Evidence<'_>, _: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    if rung != Rung::Clean {
        return Vec::new();
    }
    let all = routes(e);
    Family::ALL
        .into_iter()
        .filter_map(|family| {
            let present: Vec<Route> =
                all.iter().filter(|r| r.family == family).map(|r| (*r).clone()).collect();
            let because = "the healthy node has it, and its device is there";
            let op = NodeOp::Routes { family, table: TABLE_MAIN, absent: Vec::new(), present };
            let empty = matches!(&op, NodeOp::Routes { present, .. } if present.is_empty());
            (!empty).then(|| Want::must(op, because))
        })
        .collect()
}
