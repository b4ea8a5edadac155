//! From rung to rung: a repair that never took is no recovery, however well the node is, and who undoes it is named.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod case;

use lifeline_core::engine::Ending;
use lifeline_core::incident::{ATTEMPTS, Climb, Incident, REWRITE_MS, Run, climb};
use lifeline_core::judge::judge;
use lifeline_core::plan::{Consent, Rung};
use lifeline_core::policy::Policy;
use lifeline_core::threat::EXPIRY_MS;
use std::path::Path;

#[test]
fn what_could_not_be_cleaned_however_often_it_was_tried_is_no_recovery() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/r3-remnants");
    let (mut seen, base) = (case::observation(&case).unwrap(), case::baseline_of(&case).unwrap());
    let policy = Policy::default();
    let diag = judge(&seen, &base, &policy);
    seen.taken.boot = "b".into();
    let stamp = seen.taken.clone();
    let all = Consent { rung: 4, ..Consent::default() };
    let mut incident = Incident::new("i".into(), stamp, "o".into(), all, 0);
    for n in 0..ATTEMPTS {
        let next = climb(&mut incident, &seen, &base, &policy, &diag);
        assert!(matches!(next, Climb::Plan(_) | Climb::Ask(..)), "try {n}: {next:?}");
        let (id, ending) = (n.to_string(), Ending::RolledBack);
        incident.runs.push(Run { id, rung: Rung::Clean, ending, at: seen.taken.clone() });
        seen.taken.ms += 60_000;
    }
    match climb(&mut incident, &seen, &base, &policy, &diag) {
        Climb::Close(Ending::Unwell, why) => assert!(why.contains("in vain"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rules_that_were_asked_for_are_waited_for_and_not_for_ever() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let policy = Policy::default();
    let all = Consent { rung: 4, ..Consent::default() };
    for (name, rewritten) in
        [("n8-flushed", true), ("n8-host-ports-known", true), ("n8-host-ports", false)]
    {
        let case = cases.join(name);
        let (mut seen, base) =
            (case::observation(&case).unwrap(), case::baseline_of(&case).unwrap());
        let diag = judge(&seen, &base, &policy);
        let mut incident =
            Incident::new("i".into(), seen.taken.clone(), "o".into(), all.clone(), 0);
        let at = seen.taken.clone();
        incident.runs.push(Run {
            id: "1".into(),
            rung: Rung::Reconnect,
            ending: Ending::Recovered,
            at,
        });
        seen.taken.ms += 5_000;
        let next = climb(&mut incident, &seen, &base, &policy, &diag);
        match next {
            Climb::Watch(_, why) if rewritten => {
                assert!(why.contains("are written anew"), "{name}: {why}");
            }
            Climb::Close(Ending::Recovered, _) if !rewritten => {}
            other => panic!("{name}: {other:?}"),
        }
        seen.taken.ms += REWRITE_MS;
        let next = climb(&mut incident, &seen, &base, &policy, &diag);
        assert!(matches!(next, Climb::Close(..)), "{name}: {next:?}");
    }
}

#[test]
fn when_a_culprit_came_back_each_time_the_end_names_who_keeps_it_and_what_ends_it_for_good() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/r1-in-a-pod");
    let (mut seen, base) = (case::observation(&case).unwrap(), case::baseline_of(&case).unwrap());
    let policy = Policy::default();
    let diag = judge(&seen, &base, &policy);
    seen.taken.boot = "b".into();
    let all = Consent { rung: 4, ..Consent::default() };
    let mut incident = Incident::new("i".into(), seen.taken.clone(), "o".into(), all, 0);
    for n in 0..ATTEMPTS {
        let (id, ending) = (n.to_string(), Ending::Recovered);
        incident.runs.push(Run { id, rung: Rung::Quiet, ending, at: seen.taken.clone() });
        seen.taken.ms += 60_000;
    }
    let end = climb(&mut incident, &seen, &base, &policy, &diag);
    let Climb::Close(Ending::Unwell, why) = end else { panic!("{end:?}") };
    assert!(why.contains("it came back; tailscaled (pid 4711) is kept by pod"), "{why}");
    for named in [
        "pod tailscale-system/tailscale-worker-x7k2p of DaemonSet tailscale-worker",
        "for good: kubectl -n tailscale-system delete daemonset tailscale-worker",
    ] {
        assert!(why.contains(named), "{why}");
    }
}

#[test]
fn a_guard_that_stands_against_nothing_but_what_might_be_holds_no_incident_open() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/healthy");
    let (mut seen, base) = (case::observation(&case).unwrap(), case::baseline_of(&case).unwrap());
    let policy = Policy::default();
    let mut diag = judge(&seen, &base, &policy);
    seen.taken.boot = "b".into();
    let (all, stability) = (Consent { rung: 4, ..Consent::default() }, 30_000);
    let mut incident = Incident::new("i".into(), seen.taken.clone(), "o".into(), all, stability);
    let (begun, mut ended) = (seen.taken.ms, None);
    // Somebody adds and deletes a rule that could capture: the guard is up at every look.
    diag.guarded = true;
    while ended.is_none() && seen.taken.ms < begun + 600_000 {
        match climb(&mut incident, &seen, &base, &policy, &diag) {
            Climb::Watch(ms, _) => seen.taken.ms += ms,
            Climb::Close(ending, why) => ended = Some((ending, why)),
            other => panic!("{other:?}"),
        }
    }
    let took = seen.taken.ms - begun;
    let Some((Ending::Recovered, why)) = ended else { panic!("{ended:?} after {took} ms") };
    assert!(why.contains("still stands as a precaution"), "{why}");
    assert!(
        (stability + EXPIRY_MS..90_000).contains(&took),
        "{took} ms: also who captured once had its time"
    );
    // Without a guard it is as soon as it was.
    diag.guarded = false;
    let mut next =
        Incident::new("j".into(), seen.taken.clone(), "o".into(), Consent::default(), 1_000);
    assert!(matches!(climb(&mut next, &seen, &base, &policy, &diag), Climb::Watch(..)));
    seen.taken.ms += 1_000;
    let end = climb(&mut next, &seen, &base, &policy, &diag);
    let Climb::Close(Ending::Recovered, why) = end else { panic!("{end:?}") };
    assert!(!why.contains("precaution"), "{why}");
}
