//! What an operator is shown and agrees to covers what will then be done, so that nobody is asked twice.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod case;

use lifeline_core::engine::Ending;
use lifeline_core::incident::{Climb, Incident, KUBELET_MS, Run, climb};
use lifeline_core::judge::judge;
use lifeline_core::observation::{Observation, Unit};
use lifeline_core::plan::{Consent, NodePlan, Rung};
use lifeline_core::planner::{forecast, plan};
use lifeline_core::policy::Policy;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn consent(plans: &[NodePlan]) -> Consent {
    Consent {
        findings: plans.iter().flat_map(|p| p.findings.clone()).collect(),
        rung: plans.iter().map(|p| p.rung.number()).max().unwrap_or(0),
        kinds: plans.iter().flat_map(|p| p.steps.iter().map(|s| s.op.kind().to_string())).collect(),
        ..Consent::default()
    }
}

/// The captures before and after the daemon was killed: what was agreed to on the first covers the plan on the second.
#[test]
fn what_is_agreed_to_before_covers_what_is_found_after_the_daemon_has_gone() {
    for (before, after) in [
        ("capture-04-exit-node-nft", "capture-05-after-sigkill-nft"),
        ("capture-04-exit-node-nft", "capture-07-after-sigterm-nft"),
        ("capture-08-exit-node-legacy", "capture-09-after-sigkill-legacy"),
    ] {
        let seen = case::observation(&golden(before)).unwrap();
        let base = case::baseline_of(&golden(before)).unwrap();
        let policy = Policy::default();
        let plans = forecast(&seen, &base, &policy, &judge(&seen, &base, &policy));
        assert!(plans.iter().any(|p| p.rung == Rung::Clean), "{before}: {plans:#?}");
        let later: Observation = case::observation(&golden(after)).unwrap();
        let diag = judge(&later, &base, &policy);
        for rung in Rung::ENGINE {
            if let Some(then) = plan(&later, &base, &policy, &diag, rung, "i", 0) {
                let lacks = consent(&plans).lacks(&then);
                assert_eq!(lacks, Vec::<String>::new(), "{before} → {after}: {rung:?}");
            }
        }
    }
}

#[test]
fn a_node_that_was_cut_off_may_need_its_kubelet_restarted_and_that_is_said_before() {
    let seen = case::observation(&golden("capture-04-exit-node-nft")).unwrap();
    let base = case::baseline_of(&golden("capture-04-exit-node-nft")).unwrap();
    let policy = Policy::default();
    let mut seen = seen;
    // The captures hold neither units nor the lease; a live node has both.
    seen.gaps.clear();
    seen.units.push(Unit {
        name: policy.unit.clone(),
        load: "loaded".into(),
        active: "active".into(),
        sub: "running".into(),
        pid: 77,
        invocation: "a".into(),
        ..Unit::default()
    });
    let plans = forecast(&seen, &base, &policy, &judge(&seen, &base, &policy));
    let kinds: Vec<&str> = plans.iter().flat_map(|p| p.steps.iter().map(|s| s.op.kind())).collect();
    assert!(kinds.contains(&"restarted"), "{kinds:?}");
}

#[test]
fn a_kubelet_whose_connections_were_closed_in_vain_is_restarted_without_being_asked_about_again() {
    let policy = Policy::default();
    for name in ["k4-dead-connections", "k4-live-connections"] {
        let (mut seen, base) =
            (case::observation(&golden(name)).unwrap(), case::baseline_of(&golden(name)).unwrap());
        seen.taken.boot = "b".into();
        let diag = judge(&seen, &base, &policy);
        let plans = forecast(&seen, &base, &policy, &diag);
        let shown: Vec<Vec<&str>> =
            plans.iter().map(|p| p.steps.iter().map(|s| s.op.kind()).collect()).collect();
        assert_eq!(shown, [vec!["flows-gone"], vec!["flows-gone", "restarted"]], "{name}");
        let stamp = seen.taken.clone();
        let mut incident = Incident::new("i".into(), stamp, "o".into(), consent(&plans), 1_000);
        let Climb::Plan(first) = climb(&mut incident, &seen, &base, &policy, &diag) else {
            panic!("{name}: nothing is done")
        };
        assert_eq!(first.digest(), plans[0].digest(), "{name}");
        let (ending, at) = (Ending::Unwell, seen.taken.clone());
        incident.runs.push(Run { id: "1".into(), rung: Rung::Reconnect, ending, at });
        // Closed, it dials again when it next renews its lease: it is given the time before it is restarted.
        seen.taken.ms += KUBELET_MS - 1;
        let waits = climb(&mut incident, &seen, &base, &policy, &judge(&seen, &base, &policy));
        assert!(matches!(waits, Climb::Watch(..)), "{name}: {waits:?}");
        seen.taken.ms += 1;
        match climb(&mut incident, &seen, &base, &policy, &judge(&seen, &base, &policy)) {
            Climb::Plan(next) => assert_eq!(next.digest(), plans[1].digest(), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn what_fails_by_itself_is_forecast_one_start_and_no_second() {
    let case = golden("k3-broken-config");
    let (seen, base) = (case::observation(&case).unwrap(), case::baseline_of(&case).unwrap());
    let policy = Policy::default();
    let plans = forecast(&seen, &base, &policy, &judge(&seen, &base, &policy));
    let kinds: Vec<&str> = plans.iter().flat_map(|p| p.steps.iter().map(|s| s.op.kind())).collect();
    assert_eq!(kinds, ["restarted"]);
}

#[test]
fn a_healthy_node_is_forecast_nothing() {
    let seen = case::observation(&golden("capture-01-healthy")).unwrap();
    let base = case::baseline_of(&golden("capture-01-healthy")).unwrap();
    let policy = Policy::default();
    assert!(forecast(&seen, &base, &policy, &judge(&seen, &base, &policy)).is_empty());
}
