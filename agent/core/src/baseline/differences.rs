//! Tells a baseline and a look apart, for people.

use super::Baseline;
use super::learn::main;
use crate::evidence::{missing_routes, same_route, same_rule};
use crate::fib;
use crate::observation::Observation;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// In what a look differs from the baseline, a line each, for people.
pub fn differences(base: &Baseline, seen: &Observation) -> Vec<String> {
    let mut out = Vec::new();
    let rules = fib::without_ours(&seen.rules);
    for b in base.rules.iter().filter(|b| !rules.iter().any(|r| same_rule(r, b))) {
        out.push(format!("missing: {}", crate::text::rule_line(b)));
    }
    for r in rules.iter().filter(|r| !base.rules.iter().any(|b| same_rule(r, b))) {
        out.push(format!("new: {}", crate::text::rule_line(r)));
    }
    for b in missing_routes(base, seen) {
        out.push(format!("missing: {}", crate::text::route_line(b)));
    }
    let known = |d: &str| base.links.iter().any(|l| l.name == d);
    let ours = main(seen).filter(|r| r.dst.is_all() || r.dev().is_some_and(known));
    for r in fib::lacking(ours, &base.routes, same_route) {
        out.push(format!("new: {}", crate::text::route_line(r)));
    }
    for b in &base.links {
        match seen.link(&b.name) {
            None => out.push(format!("missing: link {}", b.name)),
            Some(l) if l.kind != b.kind => {
                out.push(format!("changed: link {} is {} and was {}", b.name, l.kind, b.kind));
            }
            Some(l) if l.mac != b.mac => {
                out.push(format!(
                    "changed: link {} has address {} and had {}",
                    b.name, l.mac, b.mac
                ));
            }
            Some(_) => {}
        }
    }
    for b in base.addrs.iter().filter(|b| !seen.addrs.contains(b)) {
        out.push(format!("missing: addr {} {}/{}", b.dev, b.addr, b.len));
    }
    for a in seen.cluster.api.iter().filter(|a| !base.cluster.api.contains(a)) {
        out.push(format!("new: api {a}"));
    }
    for a in base.cluster.api.iter().filter(|a| !seen.cluster.api.contains(a)) {
        out.push(format!("missing: api {a}"));
    }
    for f in base.fdb.iter().filter(|f| !seen.fdb.contains(f)) {
        out.push(format!("missing: fdb {} {}", f.dev, f.dst));
    }
    for f in seen.fdb.iter().filter(|f| !f.dst.is_unspecified() && !base.fdb.contains(f)) {
        out.push(format!("new: fdb {} {}", f.dev, f.dst));
    }
    for (key, was) in &base.sysctls {
        if let Some(now) = seen.sysctls.get(key).filter(|n| *n != was) {
            out.push(format!("changed: sysctl {key} is {now} and was {was}"));
        }
    }
    if let (Some(b), Some(r)) = (&base.resolv, &seen.resolv)
        && (b.text != r.text || b.link != r.link)
    {
        out.push("changed: resolv.conf".to_string());
    }
    out
}
