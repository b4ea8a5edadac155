//! Something takes critical traffic, and we do not know what it is.

use super::{Captor, Consent, Fault, Found, held, holder, nothing, tailscale, taken_by, testimony};
use crate::diagnosis::{Culprit, Severity, Verdict};
use crate::evidence::{Evidence, Stray};
use crate::fib;
use crate::observation::Sense;
use crate::plan::OnUnhealthy;
use crate::text::{route_line, rule_line};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "unknown-capture",
    rows: &["R6", "R10", "R14", "R24"],
    title: "critical traffic is taken by something unknown",
    why: "Traffic to the API server, other nodes, pods or services leaves elsewhere than it does on the healthy node, and no \
          tool we know left the marks it would leave. The guard leads around it. Nothing is deleted on a guess: the \
          finding names the rule, the table, the device and the process that holds it, and the packet filter's rule if \
          it is a mark that leads there, for a person to decide.",
    needs: &[Sense::Rules, Sense::Routes, Sense::Links],
    debounce_ms: 1_000,
    severity: Severity::Critical,
    detect,
    remedy: nothing,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Operator,
    becomes: &[],
};

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let mut strays = taken_by(e, Captor::Unknown);
    // A fault that would have known the captor could not be judged: the capture itself must not go unsaid.
    let is_held = |c: Captor| {
        let id = match c {
            Captor::Tailscale => "tailscale-capture",
            Captor::WgQuick => "wg-quick-capture",
            Captor::OrphanTun => "orphan-tun-capture",
            Captor::Nobody
            | Captor::OtherDefault
            | Captor::SplitDefault
            | Captor::Refuser
            | Captor::Unknown => return false,
        };
        super::by_id(id).is_some_and(|f| f.needs.iter().any(|n| e.seen.has_gap(*n)))
    };
    for c in [Captor::Tailscale, Captor::WgQuick, Captor::OrphanTun] {
        if is_held(c) {
            strays.extend(taken_by(e, c));
        }
    }
    let Some(first) = strays.first() else { return Vec::new() };
    let mut evidence = testimony(e, &strays);
    for s in &strays {
        for by in &s.marked {
            let line = format!("{} is marked by {by}", s.expected.ask);
            if !evidence.contains(&line) {
                evidence.push(line);
            }
        }
        for line in [rule_of(e, s), route_of(e, s)].into_iter().flatten() {
            if !evidence.contains(&line) {
                evidence.push(line);
            }
        }
    }
    let process = first.dev().and_then(|dev| holder(e, dev));
    evidence.extend(process.into_iter().flat_map(|p| held(first.dev().unwrap_or_default(), p)));
    [Found {
        verdict: Verdict::Captured,
        severity: None,
        culprit: Some(Culprit {
            tool: "unknown".to_string(),
            process: process.map(tailscale::id),
            dev: first.dev().map(ToString::to_string),
            table: first.table(),
        }),
        harm: e.harm(&strays),
        evidence,
    }]
    .into()
}

fn rule_of(e: &Evidence<'_>, s: &Stray) -> Option<alloc::string::String> {
    let family = s.expected.prefix.family();
    let flow = e.flow(&s.expected);
    let rule = e.rules.iter().find(|r| {
        r.family == family && Some(r.pref) == s.pref() && fib::matches(r, &flow) != Some(false)
    })?;
    Some(format!("there is: {}", rule_line(rule)))
}

fn route_of(e: &Evidence<'_>, s: &Stray) -> Option<alloc::string::String> {
    let route = fib::best(&e.seen.routes, s.table()?, s.expected.prefix.family(), s.expected.ask)?;
    Some(format!("there is: {}", route_line(route)))
}
