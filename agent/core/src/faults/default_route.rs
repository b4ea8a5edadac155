//! The default route is gone, or another one has taken its place.

use super::{Captor, Consent, Fault, Found, Want, taken_by, testimony};
use crate::diagnosis::{Culprit, Finding, Severity, Verdict};
use crate::evidence::{Evidence, Stray, default_now, same_route};
use crate::net::Family;
use crate::observation::{Route, Sense, TABLE_MAIN};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use crate::text::route_line;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "default-route-lost",
    rows: &["R11"],
    title: "the default route is lost or replaced",
    why: "The API server lies behind the default gateway, and the route to it is gone, or another default route with a \
          better metric or a dead gateway stands in front of it. If the other one works, it is a change somebody wanted, \
          and it is only reported. If it does not work while the healthy gateway does, the healthy route is put back with \
          its device and its gateway.",
    needs: &[Sense::Routes, Sense::Rules, Sense::Links],
    debounce_ms: 3_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Undo,
    consent: Consent::Automatic,
    becomes: &[],
};

/// Does a default route in `main` that the baseline does not know, onto a wire, take it?
pub(super) fn takes(e: &Evidence<'_>, s: &Stray) -> bool {
    s.table() == Some(TABLE_MAIN)
        && s.dev().is_some_and(|dev| !e.is_tunnel(dev))
        && impostor(e, s.expected.prefix.family()).is_some()
}

/// The default route that answers now and is not the baseline's.
fn impostor<'e>(e: &'e Evidence<'_>, family: Family) -> Option<&'e Route> {
    let now = default_now(&e.seen.routes, family)?;
    let known = e.base.routes.iter().any(|b| same_route(b, now));
    let healthy = e.base.default_route(family).is_some();
    (healthy && !known && !now.exotic).then_some(now)
}

/// The baseline's default route, when it is not there.
fn missing<'e>(e: &'e Evidence<'_>, family: Family) -> Option<&'e Route> {
    let wanted = e.base.default_route(family)?;
    e.missing_routes.iter().find(|r| same_route(r, wanted))
}

fn lost<'e>(e: &'e Evidence<'_>, family: Family) -> Vec<&'e Stray> {
    let by_default = |s: &&&Stray| {
        s.expected.prefix.family() == family
            && e.base.default_route(family).is_some_and(|d| {
                s.expected.path.as_ref().is_some_and(|p| p.via == d.via() && p.via.is_some())
            })
    };
    let strays: Vec<&Stray> = e.strays.iter().filter(|s| s.lost).collect();
    strays.iter().filter(by_default).copied().collect()
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let mut out = Vec::new();
    for family in Family::ALL {
        let taken: Vec<&Stray> = taken_by(e, Captor::OtherDefault)
            .into_iter()
            .filter(|s| s.expected.prefix.family() == family)
            .collect();
        if let (false, Some(route)) = (taken.is_empty(), impostor(e, family)) {
            let mut evidence = [format!("there is: {}", route_line(route))].to_vec();
            if let Some(r) = missing(e, family) {
                evidence.push(format!("missing: {}", route_line(r)));
            }
            evidence.extend(testimony(e, &taken));
            out.push(Found {
                verdict: if missing(e, family).is_some() {
                    Verdict::Lost
                } else {
                    Verdict::Captured
                },
                severity: None,
                culprit: Some(Culprit {
                    tool: "another-default-route".to_string(),
                    dev: route.dev().map(ToString::to_string),
                    table: Some(TABLE_MAIN),
                    process: None,
                }),
                harm: e.harm(&taken),
                evidence,
            });
        }
        let lost = lost(e, family);
        if let (false, Some(route)) = (lost.is_empty(), missing(e, family)) {
            let mut evidence = [format!("missing: {}", route_line(route))].to_vec();
            evidence.extend(testimony(e, &lost));
            out.push(Found {
                verdict: Verdict::Lost,
                severity: None,
                culprit: None,
                harm: true,
                evidence,
            });
        }
    }
    out
}

fn remedy(e: &Evidence<'_>, finding: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    if rung != Rung::Clean || !finding.harm {
        return Vec::new();
    }
    let mut out = Vec::new();
    for family in Family::ALL {
        // One in its place goes, but only where the harm it does was proven.
        let absent: Vec<Route> = impostor(e, family)
            .filter(|_| finding.culprit.is_some())
            .cloned()
            .into_iter()
            .collect();
        let present: Vec<Route> = missing(e, family)
            .filter(|r| restorable(e, r) && has_room(e, r, &absent))
            .cloned()
            .into_iter()
            .collect();
        // Nothing is taken away unless the healthy one stands, or comes, in its stead.
        if present.is_empty() && (absent.is_empty() || missing(e, family).is_some()) {
            continue;
        }
        let because = "the node's healthy default route leads by its device and its gateway";
        out.push(Want::must(
            NodeOp::Routes { family, table: TABLE_MAIN, absent, present },
            because,
        ));
    }
    out
}

/// A route whose device is there; never one without a device, which the kernel would put where a captor likes (K16).
pub(super) fn restorable(e: &Evidence<'_>, r: &Route) -> bool {
    !r.exotic
        && !r.hops.is_empty()
        && r.hops
            .iter()
            .all(|h| h.dev.as_deref().is_some_and(|d| e.seen.link(d).is_some_and(|l| l.up)))
}

/// Is its place free once these have gone? The kernel keeps one route of a prefix and a metric, and another's is not ours to push
/// out: the fault that knows it has its say first.
pub(super) fn has_room(e: &Evidence<'_>, r: &Route, absent: &[Route]) -> bool {
    let key = |o: &&Route| o.table == r.table && o.dst == r.dst && o.metric == r.metric;
    e.seen.routes.iter().filter(key).all(|o| absent.contains(o))
}
