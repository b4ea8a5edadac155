//! A full tunnel in the manner of wg-quick takes everything that has no more specific route.

use super::{Captor, Consent, Fault, Found, Want, held, holder, tailscale, taken_by, testimony};
use crate::diagnosis::{Culprit, Finding, Severity, Verdict};
use crate::evidence::{Evidence, Stray};
use crate::net::Family;
use crate::observation::{Action, Mark, Route, Rule, Sense, TABLE_MAIN};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "wg-quick-capture",
    rows: &["R8", "R22"],
    title: "a WireGuard full tunnel takes critical traffic",
    why: "wg-quick brought up a tunnel with AllowedIPs = 0.0.0.0/0: two rules send whatever has only a default route into it, \
          the API server and the services among it. The rules and the routes of its table are taken away; the device and \
          its keys stay, so that `wg-quick down` still works. If the tunnel is wanted and works, nothing is touched.",
    needs: &[Sense::Rules, Sense::Routes, Sense::Links, Sense::Processes],
    debounce_ms: 3_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Undo,
    consent: Consent::Automatic,
    becomes: &["sysctl-changed", "kubelet-stuck"],
};

/// wg-quick starts at 51820 and counts up while a table is in use (`linux.bash: get_fwmark, add_default`).
const TABLES: core::ops::RangeInclusive<u32> = 51_820..=51_899;

/// `not fwmark N lookup N`: wg-quick uses one number for both.
fn table(r: &Rule) -> Option<u32> {
    let Action::Lookup(t) = r.action else { return None };
    let shape = Rule {
        not: true,
        mark: Some(Mark { value: t, mask: u32::MAX }),
        protocol: r.protocol,
        ..Rule::bare(r.family, r.pref, r.action)
    };
    (TABLES.contains(&t) && *r == shape).then_some(t)
}

/// `lookup main suppress_prefixlength 0`: its companion.
fn is_companion(r: &Rule) -> bool {
    r.is_plain() && r.action == Action::Lookup(TABLE_MAIN) && r.suppress == Some(0)
}

pub(super) fn takes(e: &Evidence<'_>, s: &Stray) -> bool {
    let family = s.expected.prefix.family();
    let leads = |r: &Rule| {
        r.family == family
            && Some(r.pref) == s.pref()
            && table(r).is_some_and(|t| s.table() == Some(t))
    };
    e.rules.iter().any(leads)
        && e.rules.iter().any(|r| r.family == family && is_companion(r))
        && s.dev().is_some_and(|d| e.is_tunnel(d))
}

/// Is such a tunnel up, whether or not it takes anything critical?
pub(super) fn is_up(e: &Evidence<'_>) -> bool {
    e.rules.iter().any(|r| table(r).is_some())
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let strays = taken_by(e, Captor::WgQuick);
    let Some(first) = strays.first() else { return Vec::new() };
    let dev = first.dev().unwrap_or_default();
    let mut evidence = testimony(e, &strays);
    evidence
        .extend(ours(e, first.table()).map(|r| format!("there is: {}", crate::text::rule_line(r))));
    // The kernel's own WireGuard has no process; one in user space holds a tun.
    let process = holder(e, dev);
    evidence.extend(process.into_iter().flat_map(|p| held(dev, p)));
    [Found {
        verdict: Verdict::Captured,
        severity: None,
        culprit: Some(Culprit {
            tool: "wg-quick".to_string(),
            process: process.map(tailscale::id),
            dev: Some(dev.to_string()),
            table: first.table(),
        }),
        harm: e.harm(&strays),
        evidence,
    }]
    .into()
}

/// Its rules, the capturing one first.
fn ours<'e>(e: &'e Evidence<'_>, wanted: Option<u32>) -> impl Iterator<Item = &'e Rule> {
    let tables = e.rules.iter().filter(|r| table(r).is_some()).count();
    let families = e.rules.iter().filter(|r| is_companion(r)).count();
    // With two tunnels up a companion serves both, or cannot be told apart: then it stays.
    let companions = tables <= families;
    let captors = e.rules.iter().filter(move |r| wanted.is_some() && table(r) == wanted);
    captors.chain(e.rules.iter().filter(move |r| companions && is_companion(r)))
}

fn remedy(e: &Evidence<'_>, finding: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    let Some(culprit) = finding.culprit.as_ref() else { return Vec::new() };
    let (Rung::Clean, true, Some(number)) = (rung, finding.harm, culprit.table) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for family in Family::ALL {
        let absent: Vec<Rule> =
            ours(e, Some(number)).filter(|r| r.family == family).cloned().collect();
        if !absent.is_empty() {
            let op = NodeOp::Rules { family, absent, present: Vec::new() };
            out.push(Want::must(op, "they send whatever has only a default route into the tunnel"));
        }
    }
    for family in Family::ALL {
        let all = || e.seen.routes.iter().filter(|r| r.family == family && r.table == number);
        let mine = |r: &&Route| r.dev() == culprit.dev.as_deref() && !r.exotic;
        if all().count() > 0 && all().all(|r| mine(&r)) {
            let absent = all().cloned().collect();
            let op = NodeOp::Routes { family, table: number, absent, present: Vec::new() };
            out.push(Want::must(op, "the tunnel's own table: nothing else leads there"));
        }
    }
    out
}
