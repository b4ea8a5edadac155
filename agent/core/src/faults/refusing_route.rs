//! A route of `main` refuses critical traffic: blackhole, unreachable or prohibit.

use super::{Captor, Consent, Fault, Found, Want, default_route, taken_by, testimony};
use crate::diagnosis::{Culprit, Finding, Severity, Verdict};
use crate::evidence::{Evidence, Stray};
use crate::fib::{self, Answer};
use crate::net::Family;
use crate::observation::{Route, Sense, TABLE_MAIN};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use crate::text::route_line;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "refusing-route",
    rows: &["R12"],
    title: "a route refuses critical traffic",
    why: "The main table holds a blackhole, unreachable or prohibit route for the API server, another node, pods or services: \
          the kernel answers with an error where the healthy node has a way. A ban tool struck the wrong address, or somebody's \
          null route stayed behind. Those routes are taken away, and written down first; what they stood in the place of is put \
          back. One that refuses nothing critical, or stands in a table of somebody's own, is left alone.",
    needs: &[Sense::Routes, Sense::Rules, Sense::Links],
    debounce_ms: 3_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Undo,
    consent: Consent::Automatic,
    becomes: &["kubelet-stuck"],
};

/// Refused by a route of `main`: a table of its own is a tool's work, its kill switch perhaps.
pub(super) fn takes(_: &Evidence<'_>, s: &Stray) -> bool {
    matches!(s.answer, Answer::Refused { table: Some(TABLE_MAIN), .. })
}

/// The refusing routes that are asked before a stray's healthy one: narrower, or as wide and of no higher metric.
fn refusing<'e>(e: &'e Evidence<'_>, s: &Stray) -> Vec<&'e Route> {
    let family = s.expected.prefix.family();
    let healthy = fib::best(&e.base.routes, TABLE_MAIN, family, s.expected.ask);
    let before = |r: &Route| {
        healthy.is_none_or(|h| {
            r.dst.len() > h.dst.len() || (r.dst.len() == h.dst.len() && r.metric <= h.metric)
        })
    };
    let all = e.seen.routes.iter().filter(|r| r.family == family && r.table == TABLE_MAIN);
    all.filter(|r| r.kind.refuses() && r.dst.contains(s.expected.ask) && before(r)).collect()
}

fn all<'e>(e: &'e Evidence<'_>, strays: &[&Stray]) -> Vec<&'e Route> {
    let mut out: Vec<&Route> = Vec::new();
    for r in strays.iter().flat_map(|s| refusing(e, s)) {
        if !out.contains(&r) {
            out.push(r);
        }
    }
    out
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let strays = taken_by(e, Captor::Refuser);
    if strays.is_empty() {
        return Vec::new();
    }
    let mut evidence = testimony(e, &strays);
    evidence.extend(all(e, &strays).into_iter().map(|r| format!("there is: {}", route_line(r))));
    // In the very place of a healthy route, which is gone.
    let replaced = strays.iter().all(|s| s.replaced);
    [Found {
        verdict: if replaced { Verdict::Lost } else { Verdict::Captured },
        severity: None,
        culprit: Some(Culprit {
            tool: "refusing-route".to_string(),
            table: Some(TABLE_MAIN),
            ..Culprit::default()
        }),
        harm: e.harm(&strays),
        evidence,
    }]
    .into()
}

fn remedy(e: &Evidence<'_>, finding: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    if rung != Rung::Clean || !finding.harm {
        return Vec::new();
    }
    let refusing = all(e, &taken_by(e, Captor::Refuser));
    let mut out = Vec::new();
    for family in Family::ALL {
        let absent: Vec<Route> = refusing
            .iter()
            .filter(|r| r.family == family && !r.exotic)
            .map(|r| (*r).clone())
            .collect();
        if absent.is_empty() {
            continue;
        }
        let replaced = |r: &&Route| {
            absent.iter().any(|a| a.dst == r.dst)
                && default_route::restorable(e, r)
                && default_route::has_room(e, r, &absent)
        };
        let present: Vec<Route> = e.missing_routes.iter().filter(replaced).cloned().collect();
        let op = NodeOp::Routes { family, table: TABLE_MAIN, absent, present };
        out.push(Want::must(op, "the healthy node has a way there, and no such route"));
    }
    out
}
