//! Rung 1, judged: which of our rules and routes should stand right now. The hands only make it so.
//!
//! Two things are ours. The *lifeline path* always stands: traffic with the lifeline mark follows a mirror of the healthy main
//! table, and nothing else. The *guard* stands while something captures: `to PREFIX lookup main` for every critical prefix
//! at once, in front of the captor. A guard rule does not match the see-through mark, so the node can be asked how it
//! would be without it.

use crate::baseline::{Baseline, Expected};
use crate::critical::flow;
use crate::fib::{self, Answer, PROTOCOL, TABLE_MIRROR};
use crate::filter::Marked;
use crate::net::Family;
use crate::observation::{Action, Link, Mark, Route, RouteKind, Rule, TABLE_LOCAL, TABLE_MAIN};
use crate::policy::Policy;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Where the guard stands when nothing forces it elsewhere: in front of tailscaled's 5210, and outside the 5200–5299 whose
/// changes tailscaled watches.
pub const USUAL_PREF: u32 = 5_100;

/// The kernel keeps 0 for `local`; a rule added without a preference lands at (second rule's − 1), so 1 is left for nobody.
const LEAST_PREF: u32 = 2;

/// What should stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// Nothing of ours: uninstalled.
    Nothing,
    /// The lifeline path only.
    Lifeline,
    /// The lifeline path, and the guard if a rule of somebody's captures.
    Guard,
    /// As [`Self::Guard`], and where `main` itself is damaged the guard leads into our mirror. Only after a full look said
    /// so: a gateway that was changed on purpose looks the same to a quick one.
    GuardByMirror,
}

/// What should be there of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Rules, in the order they are to be added.
    pub rules: Vec<Rule>,
    /// Routes of [`TABLE_MIRROR`], on-link ones first.
    pub mirror: Vec<Route>,
    /// A guard is among the rules.
    pub guarded: bool,
    /// The captors, a line each, for people.
    pub captors: Vec<String>,
    /// Why no guard can be placed where one is needed.
    pub no_room: Option<String>,
}

/// The difference between what is there of ours and what should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Mirror routes to add, first of all.
    pub add_routes: Vec<Route>,
    /// Rules to add, before any is deleted, so that there is no gap.
    pub add_rules: Vec<Rule>,
    /// Rules to delete.
    pub delete_rules: Vec<Rule>,
    /// Mirror routes to delete, last of all.
    pub delete_routes: Vec<Route>,
}

impl Changes {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.add_routes.is_empty()
            && self.add_rules.is_empty()
            && self.delete_rules.is_empty()
            && self.delete_routes.is_empty()
    }
}

/// A critical destination that leaves elsewhere than it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured<'a> {
    /// The destination.
    pub expected: &'a Expected,
    /// What happens instead.
    pub answer: Answer,
}

/// Which destinations leave elsewhere than they should, as if our rules were not there?
///
/// `marks` is what the packet filter writes on them, as of the last full look.
pub fn captured<'a>(
    rules: &[Rule],
    routes: &[Route],
    base: &'a Baseline,
    marks: &[Marked],
) -> Vec<Captured<'a>> {
    let rules = fib::without_ours(rules);
    base.expected
        .iter()
        .filter_map(|expected| {
            let path = expected.path.as_ref()?;
            let flow = flow(expected, &base.cluster);
            let flow = flow.marked(Marked::mark(marks, expected.ask, 0));
            let answer = fib::lookup(&rules, routes, &flow);
            (!fib::same(&answer, path)).then_some(Captured { expected, answer })
        })
        .collect()
}

/// What a quick look saw.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// Every rule, ours too.
    pub rules: &'a [Rule],
    /// Routes of all tables.
    pub routes: &'a [Route],
    /// Devices.
    pub links: &'a [Link],
    /// Rules against which the guard is raised as a precaution ([`crate::threat`]).
    pub threats: &'a [Rule],
    /// What the packet filter writes on critical calls, as of the last full look.
    pub marks: &'a [Marked],
}

/// Decides what of ours should stand, from a quick look.
///
/// `mirror_from` is what the lifeline path copies: the baseline's main routes, or the node's own when an operator or the
/// judge says the network has moved.
pub fn wanted(
    seen: Tables<'_>,
    base: &Baseline,
    mirror_from: &[Route],
    policy: &Policy,
    stand: Stand,
) -> Wanted {
    let Tables { rules, routes, links, threats, marks } = seen;
    let mut out = Wanted::default();
    if stand == Stand::Nothing {
        return out;
    }
    out.mirror = mirror(mirror_from, links);
    let watchful = stand != Stand::Lifeline;
    let caught = if watchful { captured(rules, routes, base, marks) } else { Vec::new() };
    let threats = if watchful { threats } else { &[] };
    for family in Family::ALL {
        let mirrored = out.mirror.iter().any(|r| r.family == family);
        let (needed, captors) = needed(family, &caught, threats, routes, base, stand, mirrored);
        let guards =
            if needed { guards(family, routes, base, policy, stand, mirrored) } else { Vec::new() };
        if guards.is_empty() && !mirrored {
            continue;
        }
        let captor = caught
            .iter()
            .filter(|c| c.expected.prefix.family() == family)
            .filter_map(|c| match &c.answer {
                Answer::Leaves { pref, table, .. } => (*table != TABLE_MAIN).then_some(*pref),
                Answer::Refused { pref, .. } | Answer::Unknown { pref } => Some(*pref),
                Answer::Local | Answer::NoRoute => None,
            })
            .min()
            .filter(|_| !guards.is_empty());
        match place(family, rules, base, captor) {
            Ok([path, stop, guard]) => {
                if mirrored {
                    out.rules.push(lifeline(family, path, Action::Lookup(TABLE_MIRROR), policy));
                    // An empty or incomplete mirror must not leak marked traffic into the capture.
                    out.rules.push(lifeline(family, stop, Action::Unreachable, policy));
                }
                if !guards.is_empty() {
                    out.guarded = true;
                    out.captors.extend(captors);
                    out.rules.extend(guards.into_iter().map(|g| Rule { pref: guard, ..g }));
                }
            }
            Err(why) => out.no_room = Some(why),
        }
    }
    out
}

/// Does `main` by itself lead this destination as it should?
fn main_is_right(e: &Expected, routes: &[Route], base: &Baseline) -> bool {
    let only = [only_main(e.prefix.family())];
    let in_main = fib::lookup(&only, routes, &flow(e, &base.cluster));
    e.path.as_ref().is_some_and(|path| fib::same(&in_main, path))
}

/// Is a guard needed in this family, and against whom, in words?
fn needed(
    family: Family,
    caught: &[Captured<'_>],
    threats: &[Rule],
    routes: &[Route],
    base: &Baseline,
    stand: Stand,
    mirrored: bool,
) -> (bool, Vec<String>) {
    let mut captors = Vec::new();
    for c in caught.iter().filter(|c| c.expected.prefix.family() == family) {
        let by_rule = match &c.answer {
            Answer::Leaves { table, .. } => *table != TABLE_MAIN,
            Answer::Refused { table, .. } => *table != Some(TABLE_MAIN),
            // Nothing leads anywhere: with main's own rule gone (R13) ours can stand for it, with a route gone only the mirror.
            Answer::NoRoute => main_is_right(c.expected, routes, base),
            Answer::Local => true,
            Answer::Unknown { .. } => true,
        };
        if by_rule || (stand == Stand::GuardByMirror && mirrored) {
            captors.push(format!("{} {}", c.expected.prefix, c.answer));
        }
    }
    for threat in threats.iter().filter(|t| t.family == family) {
        captors.push(format!("as a precaution: {}", crate::text::rule_line(threat)));
    }
    (!captors.is_empty(), captors)
}

/// The guard rules of a family, preference still open.
fn guards(
    family: Family,
    routes: &[Route],
    base: &Baseline,
    policy: &Policy,
    stand: Stand,
    mirrored: bool,
) -> Vec<Rule> {
    let mine = |e: &Expected| e.prefix.family() == family;
    // The set is guarded as one: a service guard without its endpoints breaks what worked (field guide K7).
    let mut rules: Vec<Rule> = Vec::new();
    for e in base.expected.iter().filter(|e| mine(e)) {
        // Never one whose healthy path is a tunnel in a table of its own.
        if e.path.as_ref().is_none_or(|p| p.table != TABLE_MAIN) {
            continue;
        }
        let table = if main_is_right(e, routes, base) {
            TABLE_MAIN
        } else if stand == Stand::GuardByMirror && mirrored {
            TABLE_MIRROR
        } else {
            // `lookup main` would not be right either, and our mirror is not asked for.
            continue;
        };
        let rule = Rule {
            to: Some(e.prefix),
            mark: Some(Mark { value: 0, mask: policy.see_through }),
            ..bare(family, 0, Action::Lookup(table))
        };
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    // A prefix inside another that leads to the same table needs no rule of its own.
    let all = rules.clone();
    rules.retain(|r| {
        !all.iter().any(|o| {
            o.action == r.action
                && o.to != r.to
                && matches!((o.to, r.to), (Some(o), Some(r)) if o.covers(&r))
        })
    });
    rules
}

/// Preferences for the lifeline rule, the stop behind it, and the guard.
fn place(
    family: Family,
    rules: &[Rule],
    base: &Baseline,
    captor: Option<u32>,
) -> Result<[u32; 3], String> {
    let of_family = || rules.iter().filter(|r| r.family == family);
    let known =
        |r: &Rule| base.rules.contains(r) || matches!(r.action, Action::Lookup(TABLE_LOCAL));
    // In front of the first rule that is neither ours nor the healthy node's: it may capture, now or in a moment. Without
    // one, in front of main. And in front of whoever captures now, even if the healthy node has that rule too: a tunnel
    // that was harmless yesterday.
    let stranger =
        of_family().filter(|r| !fib::is_ours(r) && !known(r)).map(|r| r.pref).min().unwrap_or_else(
            || {
                of_family()
                    .filter(|r| matches!(r.action, Action::Lookup(TABLE_MAIN)) && !fib::is_ours(r))
                    .map(|r| r.pref)
                    .min()
                    .unwrap_or(32_766)
            },
        );
    let first = captor.map_or(stranger, |c| c.min(stranger));
    // Behind `local` and behind what the healthy node has in front of that.
    let floor = of_family()
        .filter(|r| !fib::is_ours(r) && known(r) && r.pref < first)
        .map(|r| r.pref + 1)
        .max()
        .unwrap_or(0)
        .max(LEAST_PREF);
    let Some(ceiling) = first.checked_sub(1).filter(|c| *c >= floor) else {
        return Err(format!("no preference is free between {floor} and the rule at {first}"));
    };
    let place = |g: u32| [g.saturating_sub(2).max(floor), g.saturating_sub(1).max(floor), g];
    // Ours stays where it is as long as that is right: moving for beauty would only wake others.
    let stands = of_family().filter(|r| fib::is_ours(r));
    let (low, high) = stands.fold((u32::MAX, 0), |(l, h), r| (l.min(r.pref), h.max(r.pref)));
    if low >= floor && high <= ceiling && low <= high && high - low <= 2 {
        // The lifeline pair alone stands at g − 2 and g − 1, with a guard the highest is g.
        let guard_stands = of_family().any(|r| fib::is_ours(r) && r.to.is_some());
        let g = if guard_stands { high } else { (low + 2).min(ceiling) };
        if place(g)[0] == low {
            return Ok(place(g));
        }
    }
    Ok(place(ceiling.min(USUAL_PREF)))
}

fn bare(family: Family, pref: u32, action: Action) -> Rule {
    Rule { protocol: PROTOCOL, ..Rule::bare(family, pref, action) }
}

fn only_main(family: Family) -> Rule {
    bare(family, 0, Action::Lookup(TABLE_MAIN))
}

fn lifeline(family: Family, pref: u32, action: Action, policy: &Policy) -> Rule {
    Rule {
        mark: Some(Mark { value: policy.lifeline, mask: policy.lifeline }),
        ..bare(family, pref, action)
    }
}

/// Every usable main route, in our table. A mirror with only a default would send local pods out of the uplink (K9).
fn mirror(from: &[Route], links: &[Link]) -> Vec<Route> {
    let exists = |r: &Route| {
        !r.hops.is_empty()
            && r.hops.iter().all(|h| {
                h.dev.as_deref().is_some_and(|d| links.iter().any(|l| l.name == d && l.up))
            })
    };
    let mut routes: Vec<Route> = from
        .iter()
        .filter(|r| r.table == TABLE_MAIN && r.kind == RouteKind::Unicast && !r.exotic && exists(r))
        // The kernel makes IPv6 link-local and multicast routes itself, and a reply to a link-local peer names its device.
        .filter(|r| !(r.family == Family::V6 && r.dst.addr().to_string().starts_with("fe80")))
        .map(|r| {
            let mut r = r.clone();
            r.table = TABLE_MIRROR;
            r.protocol = PROTOCOL;
            for h in &mut r.hops {
                h.dead = false;
                // The link route may be missing when it is needed most (K16).
                h.onlink = h.via.is_some();
            }
            r
        })
        .collect();
    routes.sort_by_key(|r| r.via().is_some());
    routes
}

/// What has to change so that what is there of ours is what is wanted.
pub fn changes(rules: &[Rule], routes: &[Route], wanted: &Wanted) -> Changes {
    let ours: Vec<&Rule> = rules.iter().filter(|r| fib::is_ours(r)).collect();
    let mirror = || routes.iter().filter(|r| r.table == TABLE_MIRROR && r.protocol == PROTOCOL);
    // What the kernel reports of a next hop's state is not part of a route's identity.
    let is = |a: &Route, b: &Route| {
        a.family == b.family
            && a.dst == b.dst
            && a.metric == b.metric
            && a.dev() == b.dev()
            && a.via() == b.via()
            && a.src == b.src
    };
    Changes {
        add_routes: fib::lacking(&wanted.mirror, mirror(), is).into_iter().cloned().collect(),
        add_rules: wanted.rules.iter().filter(|w| !ours.contains(w)).cloned().collect(),
        delete_rules: ours
            .iter()
            .filter(|o| !wanted.rules.contains(o))
            .map(|o| (*o).clone())
            .collect(),
        delete_routes: fib::lacking(mirror(), &wanted.mirror, is).into_iter().cloned().collect(),
    }
}
