//! Warning before a capture: a rule of somebody's that could take critical traffic, as soon as its table has a route for it.
//!
//! tailscaled puts its rules in place when it starts and the exit node's route when its network map arrives; on a real node
//! three seconds lie between. In that time the guard can be raised before anything is lost. It cannot be known whether the
//! route will come: a tailscaled without an exit node has the same rules. So the precaution ends by itself, and whoever is feared
//! in vain again and again is feared no more until that is ten minutes ago: a pod that adds and deletes a rule all day must not keep
//! the guard up all day.

use crate::baseline::Baseline;
use crate::critical::flow;
use crate::fib::{self, Answer, TABLE_MIRROR};
use crate::guard::Captured;
use crate::observation::{Action, Rule, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use alloc::vec::Vec;

/// How long a precaution stands, milliseconds: ten times what was measured between rules and route of a real tailscaled.
pub const EXPIRY_MS: u64 = 30_000;

/// How long the guard outlasts a captor that has let go and has gone, milliseconds: daemons put their rules back after 250 ms (R4).
pub const LINGER_MS: u64 = 3_000;

/// The same while its rule still stands, milliseconds: a route is all it needs to capture again, and of that nobody warns. A
/// script that insisted on its exit node was seen to set it again after four seconds.
pub const WARY_MS: u64 = 10_000;

/// The same for one that has come back already, milliseconds, and how long it is remembered: as long as the hold-down.
pub const PROVEN_MS: u64 = 600_000;

/// How long a precaution that was in vain is remembered, milliseconds.
pub const VAIN_MS: u64 = 600_000;

/// So many precautions in vain against rules of one shape, and it is only watched: that is a daemon's start, and two more.
pub const VAIN_EACH: usize = 3;

/// The same for all strangers together, who may choose another shape each time: at most so many times [`EXPIRY_MS`], less than a
/// third of [`VAIN_MS`], does the guard stand for nothing. A capture raises it all the same, some milliseconds later.
pub const VAIN_ALL: usize = 6;

/// More captors that have gone are not remembered; the oldest are forgotten first. Nor are more shapes of one precaution.
const MEMORY: usize = 64;

/// Which threats there are, and since when.
#[derive(Clone, Debug, Default)]
pub struct Threats {
    known: Vec<Known>,
    /// Precautions against strangers that have captured nothing yet, oldest first.
    vain: Vec<Vain>,
}

/// A precaution against rules that came in one look.
#[derive(Clone, Debug)]
struct Vain {
    /// Since when.
    since_ms: u64,
    /// Against what.
    shapes: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Known {
    rule: Rule,
    /// It stands, as of the last look.
    there: bool,
    /// Since when it stands.
    since_ms: u64,
    /// No precaution is to stand against it: it has captured since it stands and is a captor now, or is not feared any more.
    spent: bool,
    /// It captures, as of the last look.
    captures: bool,
    /// How often it began to.
    times: u32,
    /// When it last did.
    last_ms: u64,
}

impl Threats {
    /// The threats that a precaution should stand against now. Only a change makes one: a rule that has been there for
    /// longer than [`EXPIRY_MS`] is none any more.
    ///
    /// `anew` when somebody has added a rule since the last look: one that was deleted and put back at once looks as if it had
    /// never gone, and a daemon that is started again does that. `now_ms` is any clock that never goes back.
    pub fn fresh(
        &mut self,
        rules: &[Rule],
        base: &Baseline,
        caught: &[Captured<'_>],
        anew: bool,
        now_ms: u64,
    ) -> Vec<Rule> {
        let there = could_capture(rules, base);
        self.vain.retain(|v| now_ms.saturating_sub(v.since_ms) < VAIN_MS);
        let mut feared = Vain { since_ms: now_ms, shapes: Vec::new() };
        for rule in &there {
            match self.known.iter_mut().find(|k| k.rule == **rule) {
                // Only of one that has captured: somebody who adds harmless rules all day long would keep the guard up otherwise.
                Some(k) if !k.there || (anew && k.is_remembered(now_ms)) => {
                    (k.since_ms, k.spent) = (now_ms, false);
                }
                Some(_) => {}
                None => {
                    let since = self.fear(rule, &mut feared);
                    self.known.push(Known::of(rule, since, now_ms));
                }
            }
        }
        if !feared.shapes.is_empty() {
            self.vain.push(feared);
        }
        let captors: Vec<u32> = caught
            .iter()
            .filter_map(|c| match c.answer {
                Answer::Leaves { pref, .. } | Answer::Refused { pref, .. } => Some(pref),
                Answer::Unknown { .. } | Answer::Local | Answer::NoRoute => None,
            })
            .collect();
        for k in &mut self.known {
            k.there = there.contains(&&k.rule);
            let captures = k.there && captors.contains(&k.rule.pref);
            if captures && !k.captures {
                k.times += 1;
                let was_right = shape(&k.rule);
                self.vain.retain(|v| !v.shapes.contains(&was_right));
            }
            k.spent |= captures;
            if captures {
                k.last_ms = now_ms;
            }
            k.captures = captures;
        }
        self.known.retain(|k| k.there || k.is_remembered(now_ms));
        // What stands is kept whatever its number: forgotten, it would be new at each look.
        let gone = self.known.iter().filter(|k| !k.there).count();
        let mut over = gone.saturating_sub(MEMORY);
        self.known.retain(|k| {
            let drop = !k.there && over > 0;
            over -= usize::from(drop);
            !drop
        });
        self.known
            .iter()
            .filter(|k| k.there && !k.spent && now_ms.saturating_sub(k.since_ms) < EXPIRY_MS)
            .map(|k| k.rule.clone())
            .collect()
    }

    /// Since when a stranger's new rule is to be feared; `None`: others of its shape, or too many others, were feared in vain.
    fn fear(&self, rule: &Rule, feared: &mut Vain) -> Option<u64> {
        let shape = shape(rule);
        let before = self.vain.iter().filter(|v| v.shapes.contains(&shape));
        // Deleted and put back meanwhile: it is the same precaution, and ends when it would have.
        let stands = |v: &&Vain| feared.since_ms.saturating_sub(v.since_ms) < EXPIRY_MS;
        if let Some(same) = before.clone().rfind(stands) {
            return Some(same.since_ms);
        }
        if before.count() >= VAIN_EACH || self.vain.len() >= VAIN_ALL {
            return None;
        }
        if feared.shapes.len() < MEMORY && !feared.shapes.contains(&shape) {
            feared.shapes.push(shape);
        }
        Some(feared.since_ms)
    }

    /// How long the guard is to outlast the last capture, milliseconds, by the captors whose rules still stand.
    pub fn linger_ms(&self, now_ms: u64) -> u64 {
        let wary = |k: &Known| match k.times {
            1 => WARY_MS,
            _ => PROVEN_MS,
        };
        let standing = self.known.iter().filter(|k| k.there && k.is_remembered(now_ms));
        standing.map(wary).max().unwrap_or(LINGER_MS)
    }

    /// An operator has looked after the node: what is left was meant to be left, and is not held against anybody any more.
    pub fn forgive(&mut self) {
        self.known.iter_mut().for_each(|k| k.times = 0);
    }
}

impl Known {
    fn of(rule: &Rule, feared_since: Option<u64>, now_ms: u64) -> Self {
        Self {
            rule: rule.clone(),
            there: true,
            since_ms: feared_since.unwrap_or(now_ms),
            spent: feared_since.is_none(),
            captures: false,
            times: 0,
            last_ms: 0,
        }
    }

    fn is_remembered(&self, now_ms: u64) -> bool {
        self.times > 0 && now_ms.saturating_sub(self.last_ms) < PROVEN_MS
    }
}

/// What a rule does, wherever it stands: its place may be another each time.
fn shape(rule: &Rule) -> Rule {
    Rule { pref: 0, ..rule.clone() }
}

/// Rules that are neither ours nor the healthy node's, stand in front of `main`, and lead a destination whose healthy path
/// is in `main` into another table.
fn could_capture<'r>(rules: &'r [Rule], base: &Baseline) -> Vec<&'r Rule> {
    let main_at = |rule: &Rule| {
        rules
            .iter()
            .filter(|r| r.family == rule.family && !fib::is_ours(r))
            .filter(|r| {
                r.is_plain() && r.suppress.is_none() && r.action == Action::Lookup(TABLE_MAIN)
            })
            .map(|r| r.pref)
            .min()
    };
    let elsewhere = |rule: &Rule| match rule.action {
        Action::Lookup(table) => {
            ![TABLE_MAIN, TABLE_LOCAL, TABLE_DEFAULT, TABLE_MIRROR].contains(&table)
        }
        Action::Goto(_)
        | Action::Nop
        | Action::Blackhole
        | Action::Unreachable
        | Action::Prohibit => false,
    };
    let takes = |rule: &Rule| {
        base.expected.iter().any(|e| {
            let in_main = e.path.as_ref().is_some_and(|p| p.table == TABLE_MAIN);
            in_main
                && e.prefix.family() == rule.family
                // What cannot be told may.
                && fib::matches(rule, &flow(e, &base.cluster)) != Some(false)
        })
    };
    rules
        .iter()
        .filter(|r| !fib::is_ours(r) && !base.rules.contains(r) && elsewhere(r))
        .filter(|r| main_at(r).is_none_or(|main| r.pref < main))
        .filter(|r| takes(r))
        .collect()
}
