//! What is not this node's fault, over a quarter of an hour of virtual time: nothing is planned, whatever comes and goes.
//!
//! The clock is the test's: a look every five seconds, as the agent takes them, judged with the same functions, and the recovery an
//! operator might have begun meanwhile asked at each look what it would do.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and says its seed"
)]

mod dice;

use dice::{Dice, seed};
use lifeline_core::baseline::{self, Baseline};
use lifeline_core::diagnosis::Verdict;
use lifeline_core::incident::{Climb, Incident, climb};
use lifeline_core::judge::judge;
use lifeline_core::observation::{Gap, Lease, Observation, Reach, Sense};
use lifeline_core::plan::{Consent, Rung};
use lifeline_core::planner::plan;
use lifeline_core::policy::Policy;
use lifeline_core::text;

const HEALTHY: &str = include_str!("golden/healthy/observation.txt");
/// Between two looks, milliseconds.
const TICK: u64 = 5_000;
/// A quarter of an hour.
const LONG: u64 = 15 * 60_000;

fn healthy() -> (Observation, Baseline) {
    let seen = text::read(HEALTHY).unwrap();
    let derived = baseline::derive(&seen);
    let base = baseline::learn(&seen, &judge(&seen, &derived, &Policy::default()), None).unwrap();
    (seen, base)
}

/// The API server is called, and this is how far it gets.
fn api(seen: &mut Observation, reach: &Reach, lease: Option<u64>) {
    for p in seen.probes.iter_mut().filter(|p| p.name.starts_with("api")) {
        p.reach = reach.clone();
    }
    if *reach == Reach::Tls {
        seen.lease = Some(Lease { renewed: "t".into(), age_ms: lease.unwrap_or(4_000) });
    } else {
        seen.lease = None;
        let why = "read the lease: it does not answer".into();
        seen.gaps.push(Gap { what: Sense::Lease, why });
    }
}

fn gateway(seen: &mut Observation, reach: &Reach) {
    for p in seen.probes.iter_mut().filter(|p| p.name.starts_with("gateway")) {
        p.reach = reach.clone();
    }
}

/// Lives through a quarter of an hour; `what` says how the node looks at a time. Returns the verdicts, as they changed.
fn live(name: &str, mut what: impl FnMut(u64, &mut Observation)) -> Vec<Verdict> {
    let (node, base) = healthy();
    let policy = Policy::default();
    let mut verdicts: Vec<Verdict> = Vec::new();
    for ms in (0..=LONG).step_by(usize::try_from(TICK).unwrap()) {
        let mut seen = node.clone();
        seen.taken.boot = "b".into();
        seen.taken.ms = ms;
        what(ms, &mut seen);
        let diag = judge(&seen, &base, &policy);
        if verdicts.last() != Some(&diag.verdict) {
            verdicts.push(diag.verdict);
        }
        let told = || format!("{name} after {} s: {}", ms / 1000, diag.summary);
        assert!(
            matches!(diag.verdict, Verdict::Upstream | Verdict::Healthy),
            "{}: {}",
            diag.verdict,
            told()
        );
        assert!(diag.findings.is_empty(), "{:?}: {}", diag.findings, told());
        for rung in Rung::ENGINE {
            for attempt in 0..2 {
                let plan = plan(&seen, &base, &policy, &diag, rung, "i", attempt);
                assert!(plan.is_none(), "{plan:#?}: {}", told());
            }
        }
        // A recovery that has consent to everything waits too, and ends without an act.
        let all = Consent { rung: u32::MAX, ..Consent::default() };
        let mut incident = Incident::new("i".into(), seen.taken.clone(), "o".into(), all, 1_000);
        match climb(&mut incident, &seen, &base, &policy, &diag) {
            Climb::Watch(..) | Climb::Close(..) => {}
            Climb::Plan(plan) | Climb::Ask(plan, _) => panic!("{plan:#?}: {}", told()),
        }
        // What is not well is not learnt from either.
        if diag.verdict == Verdict::Upstream {
            assert!(baseline::learn(&seen, &diag, Some(&base)).is_err(), "{}", told());
        }
    }
    verdicts
}

#[test]
fn u1_an_api_server_that_is_down_for_everybody_is_waited_for() {
    for reach in [Reach::Silent, Reach::Refused, Reach::TcpOnly, Reach::Stranger] {
        let seen = live("U1", |ms, seen| {
            if ms > 20_000 {
                api(seen, &reach, None);
            }
        });
        assert_eq!(seen, [Verdict::Healthy, Verdict::Upstream]);
    }
}

#[test]
fn u2_a_cable_that_is_pulled_and_a_gateway_that_is_dead_are_waited_for_and_it_is_well_when_they_are_back()
 {
    let seen = live("U2 cable", |ms, seen| {
        if (60_000..600_000).contains(&ms) {
            seen.links.iter_mut().filter(|l| l.name == "eth0").for_each(|l| l.carrier = false);
            api(seen, &Reach::Silent, None);
            gateway(seen, &Reach::Unsent(113));
        }
    });
    assert_eq!(seen, [Verdict::Healthy, Verdict::Upstream, Verdict::Healthy]);
    let seen = live("U2 gateway", |ms, seen| {
        if (60_000..600_000).contains(&ms) {
            api(seen, &Reach::Silent, None);
            gateway(seen, &Reach::Silent);
        }
    });
    assert_eq!(seen, [Verdict::Healthy, Verdict::Upstream, Verdict::Healthy]);
}

#[test]
fn u3_loss_delay_and_flapping_bring_no_act() {
    let seed = seed();
    println!("seed {seed}");
    let mut dice = Dice(seed);
    // Calls are tried again within a look, so that three of ten lost packets cost one look in a hundred; take one in five.
    let mut renewed = 0;
    live("U3 loss", |ms, seen| {
        let lost = dice.roll(5) == 0;
        // The kubelet's renewals are lost as ours are, and tried again.
        if !lost && dice.roll(3) > 0 {
            renewed = ms;
        }
        let age = (ms - renewed).min(24_000);
        let how = dice.pick(&[Reach::Silent, Reach::TcpOnly]);
        api(seen, if lost { how } else { &Reach::Tls }, Some(age));
        if dice.roll(5) == 0 {
            gateway(seen, &Reach::Silent);
        }
    });
    let seen = live("U3 flapping", |ms, seen| {
        if (ms / 5_000) % 2 == 1 {
            seen.links.iter_mut().filter(|l| l.name == "eth0").for_each(|l| l.carrier = false);
            api(seen, &Reach::Silent, None);
            gateway(seen, &Reach::Silent);
        }
    });
    assert!(seen.len() > 100, "it flapped");
}

#[test]
fn u4_one_port_that_is_blocked_on_the_way_is_nobodys_fault_here() {
    for reach in [Reach::Silent, Reach::Refused] {
        let seen = live("U4", |_, seen| api(seen, &reach, None));
        assert_eq!(seen, [Verdict::Upstream]);
    }
}

#[test]
fn u5_a_wall_clock_that_jumps_and_a_machine_that_slept_change_nothing() {
    let (node, base) = healthy();
    let policy = Policy::default();
    let mut incident = None;
    for (ms, wall) in [(0u64, 1_000_000u64), (5_000, 8_200_000), (10_000, 5_000), (7_210_000, 0)] {
        let mut seen = node.clone();
        seen.taken.boot = "b".into();
        seen.taken.ms = ms;
        seen.taken.wall_ms = wall;
        let diag = judge(&seen, &base, &policy);
        assert_eq!(diag.verdict, Verdict::Healthy, "at {ms}, wall {wall}");
        let begun = incident.get_or_insert_with(|| {
            let stamp = seen.taken.clone();
            Incident::new("i".into(), stamp, "o".into(), Consent::default(), 9_000)
        });
        match (ms, climb(begun, &seen, &base, &policy, &diag)) {
            // Only time that passed counts: two hours by the wall clock are five seconds here.
            (0 | 5_000, Climb::Watch(..)) | (10_000.., Climb::Close(..)) => {}
            (_, other) => panic!("at {ms}: {other:?}"),
        }
    }
}

#[test]
fn an_outage_in_the_middle_of_a_recovery_pushes_nobody_up_the_ladder() {
    // R1's rules are gone already, the kubelet has not come back yet, and then the API server dies for everybody.
    let (node, base) = healthy();
    let policy = Policy::default();
    let consent = Consent {
        findings: vec!["kubelet-stuck".into()],
        rung: 4,
        kinds: vec!["flows-gone".into(), "restarted".into()],
        ..Consent::default()
    };
    let mut incident = Incident::new("i".into(), node.taken.clone(), "o".into(), consent, 1_000);
    for ms in (0..LONG).step_by(500) {
        let mut seen = node.clone();
        seen.taken.boot = "b".into();
        seen.taken.ms = ms;
        api(&mut seen, &Reach::Silent, None);
        let diag = judge(&seen, &base, &policy);
        match climb(&mut incident, &seen, &base, &policy, &diag) {
            Climb::Watch(..) => {}
            Climb::Close(ending, _) => {
                assert_eq!(ending, lifeline_core::engine::Ending::Held);
                assert!(ms >= lifeline_core::incident::HOLD_MS);
                return;
            }
            other => panic!("after {ms} ms: {other:?}"),
        }
    }
    panic!("it never ends");
}
