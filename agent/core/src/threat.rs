//! Warning before a capture: a rule of somebody's that could take critical traffic, as soon as its table has a route for it.
//!
//! tailscaled puts its rules in place when it starts and the exit node's route when its network map arrives; on a real node
//! three seconds lie between. In that time the guard can be raised before anything is lost. It cannot be known whether the
//! route will come: a tailscaled without an exit node has the same rules. So the precaution ends by itself.

use crate::baseline::Baseline;
use crate::critical::flow;
use crate::fib::{self, Answer, TABLE_MIRROR};
use crate::guard::Captured;
use crate::observation::{Action, Rule, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use alloc::vec::Vec;

/// How long a precaution stands, milliseconds: ten times what was measured between rules and route of a real tailscaled.
pub const EXPIRY_MS: u64 = 30_000;

/// Which threats there are, and since when.
#[derive(Clone, Debug, Default)]
pub struct Threats {
    known: Vec<Known>,
}

#[derive(Clone, Debug)]
struct Known {
    rule: Rule,
    since_ms: u64,
    /// It has captured: from then on it is a captor, and when it lets go the guard goes as after any capture.
    spent: bool,
}

impl Threats {
    /// The threats that a precaution should stand against now. Only a change makes one: a rule that has been there for
    /// longer than [`EXPIRY_MS`] is none any more.
    ///
    /// `now_ms` is any clock that never goes back.
    pub fn fresh(
        &mut self,
        rules: &[Rule],
        base: &Baseline,
        caught: &[Captured<'_>],
        now_ms: u64,
    ) -> Vec<Rule> {
        let there = could_capture(rules, base);
        self.known.retain(|k| there.contains(&&k.rule));
        for rule in there {
            if !self.known.iter().any(|k| k.rule == *rule) {
                self.known.push(Known { rule: rule.clone(), since_ms: now_ms, spent: false });
            }
        }
        let captors: Vec<u32> = caught
            .iter()
            .filter_map(|c| match c.answer {
                Answer::Leaves { pref, .. } | Answer::Refused { pref, .. } => Some(pref),
                Answer::Unknown { .. } | Answer::Local | Answer::NoRoute => None,
            })
            .collect();
        for k in &mut self.known {
            k.spent |= captors.contains(&k.rule.pref);
        }
        self.known
            .iter()
            .filter(|k| !k.spent && now_ms.saturating_sub(k.since_ms) < EXPIRY_MS)
            .map(|k| k.rule.clone())
            .collect()
    }
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
