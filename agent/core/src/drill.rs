//! The drill: a capture of addresses that nobody uses, on a live node, to prove what would happen to the ones it lives by.
//!
//! What it puts into the kernel has a protocol number of its own, so that whoever finds it (a look, the guard, the next start
//! after a kill) knows it for what it is: it is never judged, never learnt, and taken away when no drill is under way. The
//! addresses are documentation's (RFC 5737, RFC 3849): were it ever left behind, nobody would miss them.
//!
//! Its guard is judged by the code of the real one, by a baseline that holds nothing but these addresses.

use crate::baseline::{Baseline, Expected, Path, Role};
use crate::critical::flow;
use crate::diagnosis::{Diagnosis, Verdict};
use crate::fib::{self, Answer};
use crate::guard::{self, Changes, Stand, Tables};
use crate::net::Prefix;
use crate::observation::{Action, Addr, Link, Route, RouteKind, Rule, TABLE_MAIN};
use crate::policy::Policy;
use crate::text;
use crate::threat::Threats;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

mod told;

pub use told::{Call, Capture, Outcome, Step, Trial, Warning, is_proven, steps};

/// rtnetlink protocol number of all that a drill puts into the kernel's tables; the one behind ours.
pub const PROTOCOL: u8 = 214;

/// The table that a drill's rule leads to.
pub const TABLE: u32 = 21_301;

/// Where a drill's rule may stand: behind the guard's usual place, outside what tailscaled watches.
const PREFS: core::ops::RangeInclusive<u32> = 5_310..=5_399;

/// Documentation's prefixes.
const V4: [[u8; 4]; 3] = [[192, 0, 2, 0], [198, 51, 100, 0], [203, 0, 113, 0]];
const V6: [u16; 8] = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0];

/// Is this rule a drill's? The number alone hides nobody: what takes another address is judged like anybody's.
pub fn is_rule(rule: &Rule) -> bool {
    rule.protocol == PROTOCOL && rule.to.is_some_and(is_documentation)
}

/// Is this route a drill's?
pub fn is_route(route: &Route) -> bool {
    route.protocol == PROTOCOL && route.table == TABLE && is_documentation(route.dst)
}

/// Does all of it belong to documentation?
fn is_documentation(prefix: Prefix) -> bool {
    let nets = V4.map(|p| Prefix::new(IpAddr::from(p), 24));
    nets.iter().chain([&Prefix::new(IpAddr::from(V6), 32)]).any(|net| net.covers(&prefix))
}

/// The rule of a drill that captures, rather than guards.
pub fn is_captor(rule: &Rule) -> bool {
    is_rule(rule) && rule.action == Action::Lookup(TABLE)
}

/// Why this node is not to be drilled now; a drill proves something on a node that is well, and is in the way on any other.
pub fn refusal(diagnosis: &Diagnosis, incident: Option<&str>) -> Option<String> {
    if let Some(incident) = incident {
        return Some(format!("incident {incident} is under way"));
    }
    if diagnosis.verdict != Verdict::Healthy {
        return Some(format!("it is {}: {}", diagnosis.verdict, diagnosis.summary));
    }
    diagnosis
        .guarded
        .then(|| String::from("the guard stands against a real captor, or outlasts one"))
}

/// A node's tables, as far as a drill goes by them.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// Every rule.
    pub rules: &'a [Rule],
    /// Routes of all tables.
    pub routes: &'a [Route],
    /// Addresses.
    pub addrs: &'a [Addr],
    /// The healthy node.
    pub base: &'a Baseline,
}

/// The addresses to be captured, one of each family that has a default route in `main`. `salt` is any number: another one
/// gives another address.
///
/// # Errors
/// Says why there is none.
pub fn targets(ground: Ground<'_>, salt: u32) -> Result<Vec<Expected>, String> {
    let host = 1 + salt % 254;
    let v4 = V4.map(|p| {
        let net = Prefix::new(IpAddr::from(p), 24);
        (net, IpAddr::V4((u32::from_be_bytes(p) | host).into()))
    });
    let v6 = {
        let net = Prefix::new(IpAddr::from(V6), 32);
        (net, IpAddr::V6((core::net::Ipv6Addr::from(V6).to_bits() | u128::from(host)).into()))
    };
    let mut whys = Vec::new();
    let mut found: Vec<Expected> = Vec::new();
    for (net, ask) in v4.into_iter().chain([v6]) {
        if found.iter().any(|e| e.prefix.family() == net.family()) {
            continue;
        }
        match target(ground, net, ask) {
            Ok(expected) => found.push(expected),
            Err(why) => whys.push(format!("{net} {why}")),
        }
    }
    if found.is_empty() { Err(whys.join("; ")) } else { Ok(found) }
}

fn target(ground: Ground<'_>, net: Prefix, ask: IpAddr) -> Result<Expected, String> {
    let Ground { rules, routes, addrs, base } = ground;
    let mine = |r: &&Rule| !is_rule(r) && !fib::is_ours(r);
    let theirs: Vec<Rule> = rules.iter().filter(mine).cloned().collect();
    let names = |p: Option<Prefix>| p.is_some_and(|p| !p.is_all() && p.overlaps(&net));
    if let Some(rule) = theirs.iter().find(|r| names(r.to) || names(r.from)) {
        return Err(format!("is somebody's: {}", text::rule_line(rule)));
    }
    let routed = |r: &&Route| !is_route(r) && !r.dst.is_all() && r.dst.overlaps(&net);
    // Half of all addresses is a tunnel's way to say all of them, not somebody's network.
    if let Some(route) = routes.iter().find(|r| routed(r) && r.dst.len() > 1) {
        return Err(format!("is somebody's: {}", text::route_line(route)));
    }
    if addrs.iter().any(|a| net.contains(a.addr)) {
        return Err(String::from("holds an address of this node"));
    }
    if let Some(e) = base.expected.iter().find(|e| e.prefix.overlaps(&net)) {
        return Err(format!("holds a critical destination, {}", e.prefix));
    }
    // Nothing is asked of it by protocol or port, as of the LAN.
    let mut expected = Expected { role: Role::Lan, prefix: Prefix::host(ask), ask, path: None };
    let answer = fib::lookup(&theirs, routes, &flow(&expected, &base.cluster));
    let Answer::Leaves { dev, via, table: TABLE_MAIN, .. } = answer else {
        return Err(format!("does not go by main's default route: {ask} {answer}"));
    };
    expected.path = Some(Path { dev, via, table: TABLE_MAIN });
    Ok(expected)
}

/// What captures an address: a rule and the route that it leads to.
///
/// # Errors
/// Says why it would capture nothing, or finds no room.
pub fn captor(target: &Expected, ground: Ground<'_>) -> Result<(Rule, Route), String> {
    let family = target.prefix.family();
    let taken = |p: u32| ground.rules.iter().any(|r| r.family == family && r.pref == p);
    let pref = PREFS.clone().find(|p| !taken(*p)).ok_or_else(|| {
        format!("no preference is free between {} and {}", PREFS.start(), PREFS.end())
    })?;
    let rule = Rule {
        to: Some(target.prefix),
        protocol: PROTOCOL,
        ..Rule::bare(family, pref, Action::Lookup(TABLE))
    };
    let route = Route {
        family,
        table: TABLE,
        // Whoever does call such an address hears so at once, and waits for nothing.
        kind: RouteKind::Unreachable,
        dst: target.prefix,
        hops: Vec::new(),
        metric: 0,
        src: None,
        protocol: PROTOCOL,
        scope: 0,
        exotic: false,
    };
    let mut rules = fib::without_ours(ground.rules);
    rules.retain(|r| !is_rule(r));
    rules.push(rule.clone());
    let asked = flow(target, &ground.base.cluster);
    let routes: [&[Route]; 2] = [ground.routes, core::slice::from_ref(&route)];
    let answer = fib::lookup_in(&rules, &routes, &asked);
    if matches!(answer, Answer::Refused { table: Some(TABLE), .. }) {
        return Ok((rule, route));
    }
    let ask = target.ask;
    Err(format!("a rule in front of {pref} decides about it already: {ask} {answer}"))
}

/// The guard's rules for a drill, as the real guard would place them, in the drill's name.
///
/// The real guard's own rules, the node's and the drill's captor are all seen; only the destinations are the drill's.
pub fn guards(
    tables: (&[Rule], &[Route], &[Link]),
    base: &Baseline,
    targets: &[Expected],
    threats: &mut Threats,
    (policy, stand, now_ms): (&Policy, Stand, u64),
) -> (Vec<Rule>, Option<String>) {
    let (rules, routes, links) = tables;
    let base = Baseline {
        rules: base.rules.clone(),
        cluster: base.cluster.clone(),
        expected: targets.to_vec(),
        ..Baseline::default()
    };
    // What the drill's guard has placed stands for a guard of ours here.
    let ours = |r: &Rule| match is_rule(r) && !is_captor(r) {
        true => Rule { protocol: fib::PROTOCOL, ..r.clone() },
        false => r.clone(),
    };
    let rules: Vec<Rule> = rules.iter().map(ours).collect();
    let caught = guard::captured(&rules, routes, &base, &[]);
    let threats = threats.fresh(&rules, &base, &caught, false, now_ms);
    let tables = Tables { rules: &rules, routes, links, threats: &threats, marks: &[] };
    let wanted = guard::wanted(tables, &base, &[], policy, stand);
    let rules = wanted.rules.into_iter().map(|r| Rule { protocol: PROTOCOL, ..r }).collect();
    (rules, wanted.no_room)
}

/// What has to change so that nothing of a drill stands but these rules of its guard, and, while it is under way, its captor.
pub fn changes(rules: &[Rule], routes: &[Route], guards: &[Rule], under_way: bool) -> Changes {
    let drills = || rules.iter().filter(|r| is_rule(r));
    let (captors, others): (Vec<&Rule>, Vec<&Rule>) = drills().partition(|r| is_captor(r));
    let stale = others.into_iter().filter(|r| !guards.contains(r));
    let gone: Vec<&Rule> = match under_way {
        true => stale.collect(),
        // The captor first: its address is never captured without a guard that would be lifted a moment later.
        false => captors.into_iter().chain(stale).collect(),
    };
    let left = routes.iter().filter(|r| is_route(r) && !under_way);
    Changes {
        add_routes: Vec::new(),
        add_rules: guards.iter().filter(|g| !drills().any(|r| r == *g)).cloned().collect(),
        delete_rules: gone.into_iter().cloned().collect(),
        delete_routes: left.cloned().collect(),
    }
}

/// How two looks at the rules and routes differ, a line each; the order of rules counts.
pub fn differences(before: (&[Rule], &[Route]), after: (&[Rule], &[Route])) -> Vec<String> {
    let lines = |(rules, routes): (&[Rule], &[Route])| -> Vec<String> {
        let mut routes: Vec<String> = routes.iter().map(text::route_line).collect();
        // The kernel dumps a table of routes in the order of its tree, which is the same for the same routes.
        routes.sort();
        rules.iter().map(text::rule_line).chain(routes).collect()
    };
    let (before, after) = (lines(before), lines(after));
    let but = |these: &[String], those: &[String], sign| -> Vec<String> {
        these.iter().filter(|l| !those.contains(l)).map(|l| format!("{sign} {l}")).collect()
    };
    let mut found = but(&before, &after, '-');
    found.extend(but(&after, &before, '+'));
    if found.is_empty() && before != after {
        found.push(String::from("the same rules and routes in another order or number"));
    }
    found
}

/// What of a drill's is there, a line each.
pub fn of_drill(rules: &[Rule], routes: &[Route]) -> Vec<String> {
    let rules = rules.iter().filter(|r| is_rule(r)).map(text::rule_line);
    rules.chain(routes.iter().filter(|r| is_route(r)).map(text::route_line)).collect()
}
