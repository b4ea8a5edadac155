//! A tun device that outlived its process still takes critical traffic.

use super::{Captor, Consent, Fault, Found, Want, default_route, taken_by, testimony};
use crate::diagnosis::{Culprit, Finding, Severity, Verdict};
use crate::evidence::{Evidence, Stray};
use crate::net::Family;
use crate::observation::{Link, Netns, Route, Sense, TABLE_MAIN};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "orphan-tun-capture",
    rows: &["R7"],
    title: "a tunnel without a process takes critical traffic",
    why: "A persistent tun device stayed when the program that made it went away. Its routes still send critical traffic into \
          it, and nobody reads what arrives there. Deleting the device takes its routes along; the device cannot be \
          brought back, but nobody is left who could miss it.",
    needs: &[Sense::Rules, Sense::Routes, Sense::Links, Sense::Processes],
    debounce_ms: 3_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Automatic,
    becomes: &[],
};

/// A persistent tun that no process holds and the healthy node does not have.
pub(super) fn is_orphan(e: &Evidence<'_>, link: &Link) -> bool {
    link.kind == "tun"
        && link.persist
        && !e.base.links.iter().any(|l| l.name == link.name)
        // In another network namespace the same name is another device.
        && !e.seen.processes.iter().any(|p| p.netns != Netns::Other && p.tuns.contains(&link.name))
        && !e.seen.has_gap(Sense::Processes)
}

/// Only in `main`: a table and a rule of its own are a tool's work, and a tool we do not know may come back for them.
pub(super) fn takes(e: &Evidence<'_>, s: &Stray) -> bool {
    s.table() == Some(TABLE_MAIN)
        && s.dev().and_then(|d| e.seen.link(d)).is_some_and(|l| is_orphan(e, l))
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let strays = taken_by(e, Captor::OrphanTun);
    let mut out: Vec<Found> = Vec::new();
    let mut devs: Vec<&str> = strays.iter().filter_map(|s| s.dev()).collect();
    devs.dedup();
    for dev in devs {
        let mine: Vec<&Stray> = strays.iter().filter(|s| s.dev() == Some(dev)).copied().collect();
        let mut evidence = testimony(e, &mine);
        evidence.push(format!("{dev} is persistent and no process holds it"));
        out.push(Found {
            verdict: Verdict::Captured,
            severity: None,
            culprit: Some(Culprit {
                tool: "orphan-tun".to_string(),
                dev: Some(dev.to_string()),
                table: mine.first().and_then(|s| s.table()),
                process: None,
            }),
            harm: e.harm(&mine),
            evidence,
        });
    }
    out
}

fn remedy(e: &Evidence<'_>, finding: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    let dev = finding.culprit.as_ref().and_then(|c| c.dev.as_deref()).unwrap_or_default();
    let link = e.seen.link(dev).filter(|l| is_orphan(e, l));
    let (Rung::Clean, true, Some(link)) = (rung, finding.harm, link) else { return Vec::new() };
    let op = NodeOp::LinkGone { name: link.name.clone(), kind: link.kind.clone() };
    let mut out = [Want::must(op, "no process holds it, and critical traffic ends in it")].to_vec();
    for family in Family::ALL {
        // It may have taken the place of a route in main.
        let present: Vec<Route> = e
            .missing_routes
            .iter()
            .filter(|r| r.family == family && default_route::restorable(e, r))
            .filter(|r| {
                let mine = |s: &&Route| s.table == TABLE_MAIN && s.dev() == Some(dev);
                let gone: Vec<Route> = e.seen.routes.iter().filter(mine).cloned().collect();
                gone.iter().any(|s| s.dst == r.dst) && default_route::has_room(e, r, &gone)
            })
            .cloned()
            .collect();
        if !present.is_empty() {
            let because = format!("{dev} took its place");
            let op = NodeOp::Routes { family, table: TABLE_MAIN, absent: Vec::new(), present };
            out.push(Want::must(op, because));
        }
    }
    out
}
