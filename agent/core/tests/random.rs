//! Nodes made by chance: what is well, foreign or wanted is never touched, what is sick is found and mended.
//!
//! `SEED=clock` makes other nodes each time, `SEED` with a number repeats a run, `SEED` and `ROUND` one node of it; a failing test names both.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says its seed"
)]

mod dice;
mod nodes;

use dice::{Dice, seed};
use lifeline_core::baseline::Baseline;
use lifeline_core::check::check;
use lifeline_core::diagnosis::{Diagnosis, Severity, Verdict};
use lifeline_core::fib;
use lifeline_core::filter;
use lifeline_core::guard::{self, Stand};
use lifeline_core::judge::judge;
use lifeline_core::observation::{Gap, Reach, Route, Rule, Sense, Through};
use lifeline_core::plan::{NodePlan, Rung};
use lifeline_core::planner::plan;
use lifeline_core::policy::Policy;
use lifeline_core::text;
use nodes::faults::{self, End};
use nodes::{Node, healthy, learn, strangers};
use std::collections::BTreeMap;

/// Healthy nodes, and states of each: 10 000 in all.
const NODES: u64 = 500;
const STATES: u64 = 20;
/// Sick nodes.
const SICK: u64 = 1_500;

/// Every round with dice of its own, so that one can be repeated alone.
fn rounds(of: u64, mut each: impl FnMut(&mut Dice, &str)) {
    let seed = seed();
    println!("SEED={seed}");
    let only: Option<u64> = std::env::var("ROUND").ok().and_then(|r| r.parse().ok());
    for round in 0..of {
        if only.is_some_and(|o| o != round) {
            continue;
        }
        let mixed = (seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .wrapping_mul(0xbf58_476d_1ce4_e5b9)
            | 1;
        each(&mut Dice(mixed), &format!("SEED={seed} ROUND={round}"));
    }
}

fn told(node: &Node, diag: &Diagnosis, name: &str) -> String {
    let mut seen = node.seen.clone();
    seen.lookups.clear();
    format!(
        "{name}\n{}: {}\n{:#?}\n{}\n{}",
        diag.verdict,
        diag.summary,
        diag.findings,
        node.story.join("\n"),
        text::write(&seen)
    )
}

/// The plans an operator could be offered.
fn plans(node: &Node, base: &Baseline, diag: &Diagnosis) -> Vec<NodePlan> {
    let policy = Policy::default();
    Rung::ENGINE
        .into_iter()
        .flat_map(|rung| [(rung, 0), (rung, 1)])
        .filter_map(|(rung, attempt)| plan(&node.seen, base, &policy, diag, rung, "i", attempt))
        .filter(|p| !p.steps.is_empty())
        .collect()
}

#[test]
fn what_is_healthy_foreign_or_wanted_is_never_touched() {
    let policy = Policy::default();
    let mut verdicts: BTreeMap<Verdict, u32> = BTreeMap::new();
    rounds(NODES, |dice, name| {
        let mut well = healthy(dice);
        let base = learn(&mut well);
        for state in 0..STATES {
            let mut node = well.clone();
            for _ in 0..dice.roll(6) {
                strangers::foreign(&mut node, dice);
            }
            for _ in 0..dice.roll(3) {
                strangers::cluster(&mut node, dice);
            }
            let moved = dice.roll(4) == 0;
            let down = !moved && dice.roll(6) == 0;
            if moved {
                strangers::moved(&mut node, dice);
            }
            if down {
                strangers::upstream(&mut node, dice);
            }
            node.look(Some(&base));
            if dice.roll(8) == 0 {
                let what = *dice.pick(&[
                    Sense::Processes,
                    Sense::Units,
                    Sense::Lease,
                    Sense::Lookups,
                    Sense::Nft4,
                    Sense::Fdb,
                    Sense::Rules,
                    Sense::Routes,
                    Sense::Links,
                    Sense::Probes,
                ]);
                node.seen.gaps.push(Gap { what, why: "by chance".into() });
                node.story.push(format!("not read: {what:?}"));
            }
            let name = format!("{name} state {state}");
            let before = node.foreign();
            let diag = judge(&node.seen, &base, &policy);
            *verdicts.entry(diag.verdict).or_default() += 1;
            let told = || told(&node, &diag, &name);
            let fits = match diag.verdict {
                Verdict::Healthy => !down,
                Verdict::Moved => moved,
                Verdict::Upstream => down,
                Verdict::Unknown => !node.seen.gaps.is_empty(),
                _ => false,
            };
            assert!(fits, "{}", told());
            let plans = plans(&node, &base, &diag);
            assert!(plans.is_empty(), "{plans:#?}\n{}", told());
            let captured = !guard::captured(
                &node.seen.rules,
                &node.seen.routes,
                &base,
                &filter::marks(&node.seen),
            )
            .is_empty();
            let mut after = node.clone();
            let guarded = after.guard(&base, &diag);
            assert!(!guarded || captured, "a guard, and nothing is captured\n{}", told());
            assert!(!guarded || moved, "nobody moved, and something is captured\n{}", told());
            assert!(!guarded || nodes::stand(&diag, &base) != Stand::Lifeline, "{}", told());
            assert_eq!(after.foreign(), before, "{}", told());
        }
    });
    println!("{verdicts:?}");
    if std::env::var_os("ROUND").is_none() {
        for (verdict, least) in [
            (Verdict::Healthy, 4_000),
            (Verdict::Moved, 1_000),
            (Verdict::Upstream, 500),
            (Verdict::Unknown, 100),
        ] {
            assert!(
                verdicts.get(&verdict).is_some_and(|n| *n >= least),
                "too few {verdict}: {verdicts:?}"
            );
        }
    }
}

/// The rules and routes that are there beside the healthy node's, none of which a recovery may change.
fn others(node: &Node, base: &Baseline) -> (Vec<Rule>, Vec<Route>) {
    let strange = |r: &&Rule| !fib::is_ours(r) && !base.rules.contains(r);
    let routes =
        node.seen.routes.iter().filter(|r| nodes::is_policy(r) && !base.routes.contains(r));
    (node.seen.rules.iter().filter(strange).cloned().collect(), routes.cloned().collect())
}

#[test]
fn what_is_sick_is_found_and_mended_or_contained() {
    let policy = Policy::default();
    let mut met: BTreeMap<&str, u32> = BTreeMap::new();
    rounds(SICK, |dice, name| {
        let mut node = healthy(dice);
        let base = learn(&mut node);
        for _ in 0..dice.roll(4) {
            strangers::foreign(&mut node, dice);
        }
        let (rules, routes) = others(&node, &base);
        let mut struck: Vec<&faults::Fault> = Vec::new();
        for _ in 0..=dice.roll(2) {
            let fault = dice.pick(faults::ALL);
            let row = fault.row.split('-').next();
            if struck.iter().all(|s| s.row.split('-').next() != row)
                && (fault.strike)(&mut node, &base, dice)
            {
                node.story.push(fault.row.into());
                struck.push(fault);
            }
        }
        if struck.is_empty() {
            return;
        }
        for s in &struck {
            *met.entry(s.row).or_default() += 1;
        }
        let mut found: Vec<String> = Vec::new();
        let mut attempts: BTreeMap<Rung, u32> = BTreeMap::new();
        let mut quiet = 0;
        let (diag, guarded) = loop {
            node.look(Some(&base));
            let diag = judge(&node.seen, &base, &policy);
            let told = |node: &Node| told(node, &diag, name);
            found.extend(diag.findings.iter().map(|f| f.fault.clone()));
            let guarded = node.guard(&base, &diag);
            node.look(Some(&base));
            let diag = judge(&node.seen, &base, &policy);
            found.extend(diag.findings.iter().map(|f| f.fault.clone()));
            let next = Rung::ENGINE.into_iter().find_map(|rung| {
                let attempt = attempts.get(&rung).copied().unwrap_or(0);
                plan(&node.seen, &base, &policy, &diag, rung, "i", attempt)
                    .filter(|p| !p.steps.is_empty())
            });
            let Some(plan) = next else {
                quiet += 1;
                if quiet > 2 {
                    break (diag, guarded);
                }
                continue;
            };
            quiet = 0;
            let objections = check(&plan, &node.seen, &base);
            assert!(objections.is_empty(), "{objections:?}\n{plan:#?}\n{}", told(&node));
            let tries = attempts.entry(plan.rung).or_default();
            *tries += 1;
            assert!(*tries <= 5, "it does not end: {plan:#?}\n{}", told(&node));
            node.carry_out(&plan);
        };
        let told = || told(&node, &diag, name);
        let contained = struck.iter().any(|s| s.end == End::Contained);
        // Of several one may hide another, or be mended along with it: the end tells. One alone has to be called by its name.
        let is_found = |s: &&faults::Fault| found.iter().any(|f| f == s.finding);
        let enough = match struck.as_slice() {
            [one] => is_found(one),
            all => all.iter().any(is_found),
        };
        assert!(enough, "only {found:?} was found\n{}", told());
        if contained {
            assert_eq!(diag.verdict, Verdict::Captured, "{}", told());
            assert!(guarded, "no guard\n{}", told());
        } else {
            assert_eq!(diag.verdict, Verdict::Healthy, "{}", told());
            assert!(diag.findings.iter().all(|f| f.severity == Severity::Notice), "{}", told());
            assert!(!guarded, "the guard stays\n{}", told());
        }
        let api =
            node.seen.probes.iter().any(|p| p.reach == Reach::Tls && p.through == Through::Plain);
        assert!(api, "the API server does not answer\n{}", told());
        let rule = rules.iter().find(|r| !node.seen.rules.contains(r)).map(text::rule_line);
        let route = routes.iter().find(|r| !node.seen.routes.contains(r)).map(text::route_line);
        assert_eq!((rule, route), (None, None), "a stranger's is gone\n{}", told());
    });
    println!("{met:?}");
    if std::env::var_os("ROUND").is_none() {
        for fault in faults::ALL {
            assert!(
                met.get(fault.row).is_some_and(|n| *n >= 10),
                "{} was hardly tried: {met:?}",
                fault.row
            );
        }
    }
}
