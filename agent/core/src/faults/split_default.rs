//! A tunnel's routes in `main` take whatever has no more specific one.

use super::{
    Captor, Consent, Fault, Found, Want, default_route, held, holder, tailscale, taken_by,
    testimony,
};
use crate::diagnosis::{Culprit, Finding, Severity, Verdict};
use crate::evidence::{Evidence, Stray};
use crate::fib;
use crate::net::Family;
use crate::observation::{Route, Sense, TABLE_MAIN};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use crate::text::route_line;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "split-default",
    rows: &["R9"],
    title: "a tunnel's routes in main take critical traffic",
    why: "A VPN put 0.0.0.0/1 and 128.0.0.0/1, or a default route of its own, into the main table (OpenVPN's redirect-gateway \
          does): they are better than the healthy default route, so the API server and the services are sent into its tunnel. \
          Looking into main is no way around it, so the guard leads into a table of our own. If the tunnel is wanted and \
          works, nothing is touched. Otherwise those wide routes are taken out of main, and written down first; the device, its \
          own routes and its process stay.",
    needs: &[Sense::Routes, Sense::Rules, Sense::Links],
    debounce_ms: 3_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Undo,
    consent: Consent::Automatic,
    becomes: &["kubelet-stuck"],
};

/// The default, its halves, and what OpenVPN splits IPv6's into (`::/3`, `2000::/4`, `3000::/4`, `fc00::/7`).
const WIDEST: core::ops::RangeInclusive<u8> = 0..=7;

fn is_wide(r: &Route) -> bool {
    r.table == TABLE_MAIN && WIDEST.contains(&r.dst.len())
}

/// Does a wide route of `main` by somebody's tunnel take it?
pub(super) fn takes(e: &Evidence<'_>, s: &Stray) -> bool {
    let family = s.expected.prefix.family();
    s.table() == Some(TABLE_MAIN)
        && s.dev().is_some_and(|dev| e.is_tunnel(dev))
        && fib::best(&e.seen.routes, TABLE_MAIN, family, s.expected.ask).is_some_and(is_wide)
}

/// The wide routes by this device.
fn wide<'e>(e: &'e Evidence<'_>, dev: &str) -> Vec<&'e Route> {
    let by = |r: &&Route| {
        is_wide(r) && !r.hops.is_empty() && r.hops.iter().all(|h| h.dev.as_deref() == Some(dev))
    };
    e.seen.routes.iter().filter(by).collect()
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let strays = taken_by(e, Captor::SplitDefault);
    let mut devs: Vec<&str> = strays.iter().filter_map(|s| s.dev()).collect();
    devs.sort_unstable();
    devs.dedup();
    let mut out = Vec::new();
    for dev in devs {
        let mine: Vec<&Stray> = strays.iter().filter(|s| s.dev() == Some(dev)).copied().collect();
        let mut evidence = testimony(e, &mine);
        evidence.extend(wide(e, dev).into_iter().map(|r| format!("there is: {}", route_line(r))));
        let process = holder(e, dev);
        match process {
            Some(p) => evidence.extend(held(dev, p)),
            None => evidence.push(format!("no process is known to hold {dev}")),
        }
        out.push(Found {
            verdict: Verdict::Captured,
            severity: None,
            culprit: Some(Culprit {
                tool: "split-default".to_string(),
                process: process.map(tailscale::id),
                dev: Some(dev.to_string()),
                table: Some(TABLE_MAIN),
            }),
            harm: e.harm(&mine),
            evidence,
        });
    }
    out
}

fn remedy(e: &Evidence<'_>, finding: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    let dev = finding.culprit.as_ref().and_then(|c| c.dev.as_deref());
    let (Rung::Clean, true, Some(dev)) = (rung, finding.harm, dev) else { return Vec::new() };
    let mut out = Vec::new();
    for family in Family::ALL {
        let absent: Vec<Route> =
            wide(e, dev).into_iter().filter(|r| r.family == family && !r.exotic).cloned().collect();
        if absent.is_empty() {
            continue;
        }
        // `redirect-gateway` without `def1` takes the healthy default route away.
        let replaced = |r: &&Route| {
            r.family == family
                && r.dst.is_all()
                && default_route::restorable(e, r)
                && default_route::has_room(e, r, &absent)
        };
        let present: Vec<Route> = e.missing_routes.iter().filter(replaced).cloned().collect();
        let op = NodeOp::Routes { family, table: TABLE_MAIN, absent, present };
        out.push(Want::must(
            op,
            format!("they lead into {dev} what the healthy default route is for"),
        ));
    }
    out
}
