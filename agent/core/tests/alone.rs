//! The agent by itself, in virtual time: when it acts, when it waits, when it gives up, and when it leaves a node alone.
//!
//! Longer than most files: every case stands on one clock and one node.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod case;

use lifeline_core::alone::{self, Past, Resolve, Vigil};
use lifeline_core::baseline::{self, Baseline};
use lifeline_core::budget::{self, Allowance, Budget, LONGEST_MS, PAUSE_MS};
use lifeline_core::clock::Stamp;
use lifeline_core::engine::Ending;
use lifeline_core::incident::{Climb, Incident, Run, climb};
use lifeline_core::judge::judge;
use lifeline_core::observation::Observation;
use lifeline_core::plan::{Consent, Rung};
use lifeline_core::policy::{Mode, Policy};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn at(ms: u64) -> Stamp {
    Stamp { boot: "boot-1".into(), ms, wall_ms: ms }
}

/// A look of a golden case, taken at this moment, and its baseline.
fn look(name: &str, ms: u64) -> (Observation, Baseline) {
    let mut seen = case::observation(&golden(name)).unwrap();
    seen.taken = at(ms);
    (seen, case::baseline_of(&golden(name)).unwrap())
}

fn heal() -> Policy {
    Policy { mode: Mode::Heal, ..Policy::default() }
}

fn weigh(vigil: &mut Vigil, name: &str, ms: u64, budget: &Budget) -> Resolve {
    weigh_by(&heal(), vigil, name, ms, budget)
}

fn weigh_by(policy: &Policy, vigil: &mut Vigil, name: &str, ms: u64, budget: &Budget) -> Resolve {
    let (seen, base) = look(name, ms);
    vigil.weigh(&seen, 0, &base, policy, &judge(&seen, &base, policy), budget)
}

#[test]
fn a_capture_is_met_when_it_has_been_there_for_as_long_as_the_fault_says() {
    let (mut vigil, budget) = (Vigil::default(), Budget::default());
    assert_eq!(weigh(&mut vigil, "r1-in-a-pod", 1_000, &budget), Resolve::Look(2_000));
    assert_eq!(weigh(&mut vigil, "r1-in-a-pod", 2_500, &budget), Resolve::Look(500));
    let Resolve::Open(consent, accounts) = weigh(&mut vigil, "r1-in-a-pod", 3_000, &budget) else {
        panic!("it has been there for 2 s")
    };
    assert_eq!(consent.findings, ["tailscale-capture/tailscale"]);
    assert_eq!(consent.rung, 4);
    assert_eq!(
        accounts,
        ["tailscale-capture/tailscale by tailscale-system DaemonSet/tailscale-worker"]
    );
}

#[test]
fn a_capture_that_goes_away_in_time_is_not_met_and_begins_anew_when_it_returns() {
    let (mut vigil, budget) = (Vigil::default(), Budget::default());
    weigh(&mut vigil, "r1-exit-node", 1_000, &budget);
    assert_eq!(weigh(&mut vigil, "healthy", 2_000, &budget), Resolve::Rest);
    assert_eq!(weigh(&mut vigil, "r1-exit-node", 9_000, &budget), Resolve::Look(2_000));
}

#[test]
fn a_look_that_could_not_tell_neither_acts_nor_forgets() {
    let (mut vigil, budget) = (Vigil::default(), Budget::default());
    weigh(&mut vigil, "r1-exit-node", 1_000, &budget);
    assert_eq!(weigh(&mut vigil, "unknown-rules", 5_000, &budget), Resolve::Rest);
    assert!(matches!(weigh(&mut vigil, "r1-exit-node", 6_000, &budget), Resolve::Open(..)));
}

#[test]
fn nothing_is_done_alone_but_in_mode_heal() {
    for mode in [Mode::Observe, Mode::Guard] {
        let policy = Policy { mode, ..Policy::default() };
        let (mut vigil, budget) = (Vigil::default(), Budget::default());
        for ms in [0, 10_000, 100_000] {
            let said = weigh_by(&policy, &mut vigil, "r1-exit-node", ms, &budget);
            assert_eq!(said, Resolve::Rest, "{mode:?}");
        }
    }
}

#[test]
fn near_misses_and_what_needs_an_operator_are_left_alone_for_fifteen_minutes() {
    for name in [
        "healthy",
        "r16-benign",
        "r17-over-tailscale",
        "r18-in-a-pod",
        "r19-foreign",
        "r19-foreign-in-front",
        "r20-gateway",
        "r20-metric",
        "r20-uplink",
        "r20-vpn",
        "r20-vpn-guarded",
        "r20-api-moved",
        "r21-node-left",
        "r3-remnants",
        "r10-unknown",
        "n3-reject",
        "u2-no-carrier",
    ] {
        let (mut vigil, budget, policy) = (Vigil::default(), Budget::default(), heal());
        let (mut seen, base) = look(name, 0);
        let diag = judge(&seen, &base, &policy);
        for second in 0..900 {
            seen.taken = at(second * 1_000);
            let said = vigil.weigh(&seen, 0, &base, &policy, &diag, &budget);
            assert_eq!(said, Resolve::Rest, "{name} after {second} s");
        }
    }
}

#[test]
fn what_a_look_waits_counts_when_an_earlier_look_had_the_finding_and_one_look_alone_never_does() {
    let (budget, policy) = (Budget::default(), heal());
    let weigh = |vigil: &mut Vigil, ms, took_ms| {
        let (seen, base) = look("r1-in-a-pod", ms);
        vigil.weigh(&seen, took_ms, &base, &policy, &judge(&seen, &base, &policy), &budget)
    };
    let mut vigil = Vigil::default();
    assert_eq!(weigh(&mut vigil, 1_000, 60_000), Resolve::Look(2_000), "seen once");
    assert_eq!(weigh(&mut vigil, 2_000, 900), Resolve::Look(1_000), "it ended after 1.9 s");
    let third = weigh(&mut vigil, 2_100, 950);
    assert!(matches!(third, Resolve::Open(..)), "it ended after 2.05 s: {third:?}");
}

#[test]
fn remnants_are_met_alone_only_when_the_operator_wants_it_so() {
    let policy = Policy { remnants_alone: true, ..heal() };
    let (mut vigil, budget) = (Vigil::default(), Budget::default());
    let first = weigh_by(&policy, &mut vigil, "r3-remnants", 0, &budget);
    assert_eq!(first, Resolve::Look(60_000), "nothing about them is urgent");
    let then = weigh_by(&policy, &mut vigil, "r3-remnants", 60_000, &budget);
    assert!(matches!(then, Resolve::Open(..)), "{then:?}");
}

#[test]
fn a_derived_baseline_permits_guards_only() {
    let (mut seen, _) = look("r1-exit-node", 0);
    let base = baseline::derive(&case::observation(&golden("healthy")).unwrap());
    assert!(!base.is_trusted());
    let (policy, mut vigil) = (heal(), Vigil::default());
    for ms in [0, 60_000] {
        seen.taken = at(ms);
        let diag = judge(&seen, &base, &policy);
        let said = vigil.weigh(&seen, 0, &base, &policy, &diag, &Budget::default());
        assert!(matches!(said, Resolve::Hold(_)), "{said:?}");
    }
    let mut incident = opened(0, &["tailscale-capture/tailscale"]);
    let diag = judge(&seen, &base, &policy);
    let next = climb(&mut incident, &seen, &base, &policy, &diag);
    assert!(matches!(next, Climb::Close(Ending::Held, _)), "{next:?}");
}

fn opened(ms: u64, findings: &[&str]) -> Incident {
    let findings = findings.iter().map(|f| (*f).to_string()).collect();
    let consent = Consent { findings, rung: 4, ..Consent::default() };
    Incident::new("i-1".into(), at(ms), "lifeline-agent".into(), consent, 30_000).by_itself()
}

fn ran(rung: Rung, ending: Ending, ms: u64) -> Run {
    Run { id: "i-1.1".into(), rung, ending, at: at(ms) }
}

#[test]
fn a_kept_culprit_is_asked_first_given_a_moment_and_only_then_stopped() {
    let (policy, mut incident) = (heal(), opened(0, &["tailscale-capture/tailscale"]));
    let next = |incident: &mut Incident, ms| {
        let (seen, base) = look("r1-in-a-pod", ms);
        let diag = judge(&seen, &base, &policy);
        climb(incident, &seen, &base, &policy, &diag)
    };
    let kinds = |c: &Climb| match c {
        Climb::Plan(plan) => plan.steps.iter().map(|s| s.op.kind()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let first = next(&mut incident, 1_000);
    assert_eq!(kinds(&first), ["exit-node-off", "flows-gone"]);
    incident.runs.push(ran(Rung::Quiet, Ending::Unwell, 2_000));
    assert!(matches!(next(&mut incident, 3_000), Climb::Watch(..)), "it is given a moment");
    let firm = next(&mut incident, 4_500);
    assert!(kinds(&firm).contains(&"stopped"), "{firm:?}");
}

#[test]
fn a_kept_culprit_that_was_started_anew_is_asked_again_and_not_stopped() {
    let (policy, mut incident) = (heal(), opened(0, &["tailscale-capture/tailscale"]));
    let kinds = |incident: &mut Incident, pid, ms| {
        let (mut seen, base) = look("r1-in-a-pod", ms);
        seen.processes.iter_mut().filter(|p| p.pid == 4711).for_each(|p| p.pid = pid);
        let diag = judge(&seen, &base, &policy);
        let Climb::Plan(plan) = climb(incident, &seen, &base, &policy, &diag) else {
            panic!("nothing is planned")
        };
        plan.steps.iter().map(|s| s.op.kind()).collect::<Vec<_>>()
    };
    assert!(!kinds(&mut incident, 4711, 1_000).contains(&"stopped"));
    incident.runs.push(ran(Rung::Quiet, Ending::Recovered, 2_000));
    assert!(
        !kinds(&mut incident, 4801, 14_000).contains(&"stopped"),
        "its keeper would start a third"
    );
    incident.runs.push(ran(Rung::Quiet, Ending::Unwell, 15_000));
    assert!(
        kinds(&mut incident, 4801, 18_000).contains(&"stopped"),
        "it was asked and did not obey"
    );
}

#[test]
fn the_end_says_that_a_culprit_that_obeys_still_runs_who_keeps_it_and_what_ends_it() {
    let (policy, mut incident) = (heal(), opened(0, &["tailscale-capture/tailscale"]));
    incident.runs.push(ran(Rung::Quiet, Ending::Recovered, 1_000));
    let mut said = None;
    for ms in [2_000, 40_000] {
        let (mut seen, base) = look("r16-benign", ms);
        let kept = look("r1-in-a-pod", 0).0.processes;
        seen.processes = kept;
        let diag = judge(&seen, &base, &policy);
        said = Some(climb(&mut incident, &seen, &base, &policy, &diag));
    }
    let Some(Climb::Close(Ending::Recovered, text)) = said else { panic!("{said:?}") };
    for part in [
        "all is well",
        "pid 4711",
        "pod tailscale-system/tailscale-worker-x7k2p of DaemonSet tailscale-worker",
        "kubectl -n tailscale-system delete daemonset tailscale-worker",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn what_is_gone_before_anything_was_done_ends_the_incident_at_once() {
    let (policy, mut incident) = (heal(), opened(0, &["tailscale-capture/tailscale"]));
    let (seen, base) = look("healthy", 500);
    let diag = judge(&seen, &base, &policy);
    let next = climb(&mut incident, &seen, &base, &policy, &diag);
    assert!(matches!(next, Climb::Close(Ending::Void, _)), "{next:?}");
}

/// A node whose culprit obeys when it is asked and captures again ten seconds later, for this long; the moments of the acts.
fn returns_for_ever(lasts_ms: u64, every_ms: u64, step_ms: usize) -> (Vec<u64>, u32) {
    let (policy, mut vigil, mut budget) = (heal(), Vigil::default(), Budget::default());
    let (sick, base) = look("r1-in-a-pod", 0);
    let well = look("r16-benign", 0).0;
    let (sick_diag, well_diag) = (judge(&sick, &base, &policy), judge(&well, &base, &policy));
    let (mut acts, mut returns, mut incident) = (Vec::new(), 0_u64, None::<Incident>);
    let mut held = 0;
    let (mut sick, mut well) = (sick, well);
    for ms in (0..lasts_ms).step_by(step_ms) {
        let is_sick = ms >= returns;
        let (seen, diag) = if is_sick { (&mut sick, &sick_diag) } else { (&mut well, &well_diag) };
        seen.taken = at(ms);
        let (seen, now) = (&*seen, at(ms));
        let resolve = vigil.weigh(seen, 0, &base, &policy, diag, &budget);
        let Some(open) = &mut incident else {
            match resolve {
                Resolve::Open(consent, accounts) => {
                    for account in accounts {
                        budget.spend(&account, budget::OPENING, &now);
                    }
                    let new = Incident::new("i".into(), at(ms), "a".into(), consent, 30_000);
                    incident = Some(new.by_itself());
                }
                Resolve::Hold(_) => held += 1,
                Resolve::Rest | Resolve::Look(_) => {}
            }
            continue;
        };
        match climb(open, seen, &base, &policy, diag) {
            Climb::Plan(plan) => match alone::afford(&plan, diag, seen, &budget) {
                Ok(accounts) => {
                    for account in accounts {
                        budget.spend(&account, plan.rung.number(), &now);
                    }
                    acts.push(ms);
                    returns = ms + every_ms;
                    open.runs.push(ran(plan.rung, Ending::Recovered, ms));
                }
                Err(_) => incident = None,
            },
            Climb::Close(..) => incident = None,
            Climb::Watch(..) => {}
            Climb::Ask(_, lacks) => panic!("nobody is there to ask: {lacks:?}"),
        }
    }
    (acts, held)
}

#[test]
fn a_culprit_that_returns_every_ten_seconds_is_met_three_times_and_then_held_down_by_the_guard() {
    let (acts, held) = returns_for_ever(15 * 60_000, 10_000, 500);
    assert_eq!(acts.len(), 4, "three at once, one after ten minutes: {acts:?}");
    assert!(acts[2] < 60_000 && acts[3] >= acts[2] + PAUSE_MS, "{acts:?}");
    assert!(held > 1_000, "it says so all the while: {held}");
}

#[test]
fn a_culprit_that_returns_for_half_a_day_costs_no_more_than_one_act_an_hour_in_the_long_run() {
    for every in [10_000, 300_000] {
        let (acts, _) = returns_for_ever(12 * LONGEST_MS, every, 5_000);
        assert!((10..=20).contains(&acts.len()), "every {every} ms: {} acts", acts.len());
    }
}

fn past(n: u32, ending: &str, boot: &str, findings: &[&str]) -> Past {
    Past {
        id: format!("calypso-{n}"),
        opened: Stamp { boot: boot.into(), ms: 1, wall_ms: 1 },
        ending: (!ending.is_empty()).then(|| ending.to_string()),
        why: "run calypso-7.1-clean needs a human".into(),
        findings: findings.iter().map(|f| (*f).to_string()).collect(),
    }
}

const TAILSCALE: &str = "tailscale-capture/tailscale";

#[test]
fn what_ended_stuck_is_not_opened_again_until_an_operator_ended_it_otherwise_or_the_node_booted() {
    let open = || {
        let findings = vec![TAILSCALE.to_string()];
        Resolve::Open(Consent { findings, rung: 4, ..Consent::default() }, vec!["account".into()])
    };
    let stuck = past(7, "stuck", "boot-1", &[TAILSCALE]);
    let Resolve::Hold(held) = alone::heed(open(), std::slice::from_ref(&stuck), &at(9)) else {
        panic!("the same finding was opened again after a stuck incident")
    };
    for part in ["calypso-7", "stuck", "needs a human", "ctl report calypso", "ctl heal calypso"] {
        assert!(held.why.contains(part), "{part:?} in {}", held.why);
    }
    assert_eq!(held.ms, 0, "no time mends it");
    for (why, newer) in [
        ("an operator was asked for more and went away", past(8, "ask", "boot-1", &[TAILSCALE])),
        ("nothing was done", past(8, "void", "boot-1", &[TAILSCALE])),
        ("it was cancelled", past(8, "cancelled", "boot-1", &[TAILSCALE])),
        ("it met something else", past(8, "recovered", "boot-1", &["refusing-route/x"])),
        ("it is stuck, too", past(8, "stuck", "boot-1", &[TAILSCALE])),
        ("it goes on", past(8, "", "boot-1", &[TAILSCALE])),
    ] {
        let said = alone::heed(open(), &[newer, stuck.clone()], &at(9));
        assert!(matches!(said, Resolve::Hold(_)), "{why}: {said:?}");
    }
    for ending in ["recovered", "unwell", "held", "rolled-back"] {
        let newer = past(8, ending, "boot-1", &[TAILSCALE]);
        assert_eq!(alone::heed(open(), &[newer, stuck.clone()], &at(9)), open(), "{ending}");
    }
    let before = past(7, "stuck", "boot-0", &[TAILSCALE]);
    assert_eq!(alone::heed(open(), &[before], &at(9)), open(), "another boot is another node");
    assert_eq!(alone::heed(open(), &[], &at(9)), open());
}

#[test]
fn a_stuck_finding_holds_nothing_but_itself() {
    let findings = vec![TAILSCALE.to_string(), "refusing-route/refusing-route".to_string()];
    let consent = Consent { findings, rung: 4, ..Consent::default() };
    let open = Resolve::Open(consent, vec!["one".into(), "two".into()]);
    let said = alone::heed(open, &[past(7, "stuck", "boot-1", &[TAILSCALE])], &at(9));
    let Resolve::Open(consent, accounts) = said else { panic!("{said:?}") };
    assert_eq!(consent.findings, ["refusing-route/refusing-route"]);
    assert_eq!(accounts, ["two"]);
    assert_eq!(alone::heed(Resolve::Look(5), &[], &at(9)), Resolve::Look(5));
}

#[test]
fn one_culprit_uses_up_its_own_account_only() {
    let mut budget = Budget::default();
    for n in 0..100 {
        budget.spend("tailscale-capture/tailscale by evil DaemonSet/x", 2, &at(n * 1_000));
    }
    let now = at(100_000);
    let evil = budget.ask("tailscale-capture/tailscale by evil DaemonSet/x", 2, &now);
    assert!(matches!(evil, Allowance::After(_)), "{evil:?}");
    let real = budget.ask("tailscale-capture/tailscale by tailscale-system DaemonSet/w", 2, &now);
    assert_eq!(real, Allowance::Yes);
    // Nor does a flood of names use up anybody's.
    for n in 0..1_000 {
        budget.spend(&format!("flood {n}"), 2, &now);
    }
    assert_eq!(
        budget.ask("tailscale-capture/tailscale by tailscale-system DaemonSet/w", 2, &now),
        Allowance::Yes
    );
    assert!(serde_json::to_string(&budget).unwrap().len() < 64 * 1024, "it stays small");
}

#[test]
fn a_reboot_and_a_wrong_clock_are_no_way_round_the_budget() {
    let mut budget = Budget::default();
    for n in 0..3 {
        budget.spend("f", 2, &at(n));
    }
    let boot = |ms, wall_ms| Stamp { boot: "boot-2".into(), ms, wall_ms };
    // The wall clock says that ten years have passed.
    let later = boot(5_000, 1 << 60);
    assert_eq!(budget.ask("f", 2, &later), Allowance::After(PAUSE_MS));
    budget.arrive(&later);
    assert_eq!(budget.ask("f", 2, &boot(65_000, 0)), Allowance::After(PAUSE_MS - 60_000));
    assert_eq!(budget.ask("f", 2, &boot(5_000 + PAUSE_MS, 0)), Allowance::Yes);
    // Its other rungs are part of the same attempt.
    assert_eq!(budget.ask("f", 3, &later), Allowance::Yes);
}

#[test]
fn what_stays_away_for_long_enough_is_forgotten() {
    let mut budget = Budget::default();
    for n in 0..3 {
        budget.spend("f", 2, &at(n));
    }
    let later = 3 * PAUSE_MS;
    budget.spend("f", 2, &at(later));
    assert_eq!(budget.met("f"), 1);
    assert_eq!(budget.ask("f", 2, &at(later + 1)), Allowance::Yes, "a fresh round of three");
}
