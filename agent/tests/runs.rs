//! Recoveries on a real disk: asked for, cut off, gone on with, cancelled, undone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod stage;

use lifeline_agent::clock::Clock;
use lifeline_agent::journal;
use lifeline_agent::roles::{Caller, Operator};
use lifeline_agent::runs::story::Story;
use lifeline_agent::runs::{Refused, Runs};
use lifeline_core::observation::{NfTable, Observation};
use lifeline_core::op::NodeOp;
use lifeline_core::plan::Consent;
use stage::{Cut, Stage, ended, heal, start};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

fn operator() -> Operator {
    Caller::local(0, 0).unwrap().operator().unwrap()
}

/// One life of the agent's process: everything in it dies with it.
fn life<F: Future>(work: F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let out = rt.block_on(work);
    rt.shutdown_background();
    // The kernel frees a dead process's locks at once; here they go with their threads.
    std::thread::sleep(Duration::from_millis(20));
    out
}

fn clock() -> Clock {
    Clock::read().unwrap()
}

fn numbers(story: &Story) -> Vec<u64> {
    story.since(0).iter().map(|i| i.number).collect()
}

fn texts(story: &Story) -> Vec<String> {
    story.since(0).iter().map(|i| format!("{:?}", i.what)).collect()
}

#[test]
fn a_captured_node_is_healed_and_the_story_on_the_disk_is_the_one_that_was_told() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let stage = Arc::new(Stage::of("r1-exit-node", &clock));
    life(async {
        let runs = start(&stage, dir.path(), &clock).await;
        let (incident, repeated) =
            runs.heal(&operator(), heal("req-1", stage.consent())).await.unwrap();
        assert_eq!((incident.as_str(), repeated), ("calypso-1", false));
        let live = runs.story(&incident).await.unwrap();
        let (ending, text) = ended(&runs, &incident).await;
        assert_eq!(ending, "recovered", "{text}\n{:#?}", texts(&live));
        assert!(!stage.is_captured());
        assert_eq!(
            *stage.held.lock().unwrap(),
            [true, false],
            "the guard stood meanwhile and no longer"
        );
        let told = Story::read(&dir.path().join("journal"), &incident).unwrap();
        assert_eq!(texts(&told), texts(&live));
        assert_eq!(numbers(&told), (1..=told.since(0).len() as u64).collect::<Vec<_>>());
        assert!(dir.path().join("evidence/calypso-1/observation.json").is_file());
        let history = runs.history(10);
        assert_eq!(history[0].ending.as_deref(), Some("recovered"));
        assert!(history[0].runs.len() >= 2, "{history:?}");
    });
}

#[test]
fn the_same_request_is_the_same_incident_also_after_a_restart() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let stage = Arc::new(Stage::of("r1-exit-node", &clock));
    let consent = stage.consent();
    life(async {
        let runs = start(&stage, dir.path(), &clock).await;
        let gate = Arc::new(Notify::new());
        *stage.gate.lock().unwrap() = Some(gate.clone());
        let first = runs.heal(&operator(), heal("req-1", consent.clone())).await.unwrap();
        let again = runs.heal(&operator(), heal("req-1", consent.clone())).await.unwrap();
        assert_eq!(again, (first.0.clone(), true));
        let other = runs.heal(&operator(), heal("req-2", consent.clone())).await;
        assert!(
            matches!(&other, Err(Refused::Busy { incident }) if *incident == first.0),
            "{other:?}"
        );
        let reused = runs.undo(&operator(), "calypso-1.1-quiet", "req-3".to_string()).await;
        assert!(
            matches!(reused, Err(Refused::NoRun { .. } | Refused::Unfinished { .. })),
            "{reused:?}"
        );
        *stage.gate.lock().unwrap() = None;
        gate.notify_one();
        assert_eq!(ended(&runs, &first.0).await.0, "recovered");
    });
    life(async {
        let runs = start(&stage, dir.path(), &clock).await;
        let again = runs.heal(&operator(), heal("req-1", consent.clone())).await.unwrap();
        assert_eq!(again, ("calypso-1".to_string(), true));
        let next = runs.heal(&operator(), heal("req-2", consent.clone())).await.unwrap();
        assert_eq!(next, ("calypso-2".to_string(), false));
        assert_eq!(ended(&runs, &next.0).await.0, "recovered", "it is well already");
        let run = runs.history(10)[1].runs[0].clone();
        let reused = runs.undo(&operator(), &run, "req-1".to_string()).await;
        assert!(matches!(reused, Err(Refused::Reused { .. })), "{reused:?}");
    });
}

#[test]
fn what_the_consent_does_not_cover_is_asked_and_nothing_is_touched() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let stage = Arc::new(Stage::of("r1-exit-node", &clock));
    let before = stage.node.lock().unwrap().clone();
    life(async {
        let runs = start(&stage, dir.path(), &clock).await;
        let mut partial = stage.consent();
        partial.kinds.retain(|k| k != "stopped");
        for (n, consent) in [Consent::default(), partial].into_iter().enumerate() {
            let (incident, _) =
                runs.heal(&operator(), heal(&format!("r{n}"), consent)).await.unwrap();
            let (ending, text) = ended(&runs, &incident).await;
            assert_eq!(ending, "ask", "{text}");
            assert!(text.contains("stopped") || text.contains("rung 2"), "{text}");
            assert!(runs.history(1)[0].runs.is_empty());
        }
    });
    assert_eq!(*stage.node.lock().unwrap(), before);
}

#[test]
fn a_request_that_makes_no_sense_is_refused_before_anything_is_written() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let stage = Arc::new(Stage::of("healthy", &clock));
    life(async {
        let runs = start(&stage, dir.path(), &clock).await;
        let deep = Consent { rung: 7, ..Consent::default() };
        for request in [
            heal("", Consent::default()),
            heal("a b", Consent::default()),
            heal("../../etc/passwd", Consent::default()),
            heal(&"x".repeat(65), Consent::default()),
            heal("fine", deep),
        ] {
            let refused = runs.heal(&operator(), request).await;
            assert!(matches!(refused, Err(Refused::Request { .. })), "{refused:?}");
        }
        assert!(matches!(runs.story("../x").await, Err(Refused::NoIncident { .. })));
        assert!(matches!(runs.cancel(&operator(), ""), Err(Refused::Idle)));
    });
    assert_eq!(std::fs::read_dir(dir.path().join("journal")).unwrap().count(), 0);
}

/// Heals, killed at `cut`; gives whether the cut was reached.
fn killed(stage: &Arc<Stage>, dir: &Path, clock: &Clock, cut: Cut) -> bool {
    *stage.cut.lock().unwrap() = Some(cut);
    life(async {
        let runs = start(stage, dir, clock).await;
        let (incident, _) = runs.heal(&operator(), heal("req", stage.consent())).await.unwrap();
        tokio::select! {
            () = stage.died.notified() => true,
            _ = ended(&runs, &incident) => false,
        }
    })
}

#[test]
fn killed_at_every_call_of_the_hands_it_ends_recovered() {
    let clock = clock();
    let (mut n, mut cuts) = (0, 0);
    loop {
        n += 1;
        let mut reached = false;
        for cut in [Cut::Before(n), Cut::Half(n), Cut::After(n)] {
            let dir = tempfile::tempdir().unwrap();
            let stage = Arc::new(Stage::of("r1-exit-node", &clock));
            if !killed(&stage, dir.path(), &clock, cut) {
                continue;
            }
            (reached, cuts) = (true, cuts + 1);
            let next = Arc::new(stage.next_process(&clock));
            life(async {
                let runs = start(&next, dir.path(), &clock).await;
                runs.resume().await;
                let other = runs.heal(&operator(), heal("other", Consent::default())).await;
                assert!(
                    matches!(other, Err(Refused::Busy { .. })),
                    "{cut:?}: what was begun comes first: {other:?}"
                );
                let story = runs.story("calypso-1").await.unwrap();
                let (ending, text) = ended(&runs, "calypso-1").await;
                assert_eq!(ending, "recovered", "{cut:?}: {text}\n{:#?}", texts(&story));
                let told = Story::read(&dir.path().join("journal"), "calypso-1").unwrap();
                assert_eq!(texts(&told), texts(&story), "{cut:?}");
            });
            assert!(!next.is_captured(), "{cut:?}");
        }
        if !reached {
            break;
        }
    }
    assert!(cuts > 30, "only {cuts} cuts were reached");
}

#[test]
fn after_a_reboot_the_run_is_void_and_nothing_of_the_kernels_is_touched() {
    let clock = clock();
    let (dir, stage) = (tempfile::tempdir().unwrap(), Arc::new(Stage::of("r1-exit-node", &clock)));
    // In the middle of stopping the daemon.
    assert!(killed(&stage, dir.path(), &clock, Cut::After(5)));
    let later = Clock::of_boot("another boot");
    let next = Arc::new(stage.next_process(&later));
    let before = next.node.lock().unwrap().seen.rules.clone();
    life(async {
        let runs = start(&next, dir.path(), &later).await;
        runs.resume().await;
        let (ending, text) = ended(&runs, "calypso-1").await;
        assert_eq!(ending, "void", "{text}");
        assert!(text.contains("rebooted"), "{text}");
        // The next incident is free to begin.
        assert!(runs.under_way().is_none());
    });
    assert_eq!(next.node.lock().unwrap().seen.rules, before);
}

#[test]
fn cancelled_in_the_middle_it_ends_its_step_and_undoes_what_it_can() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let stage = Arc::new(Stage::of("r1-exit-node", &clock));
    life(async {
        let runs = start(&stage, dir.path(), &clock).await;
        let gate = Arc::new(Notify::new());
        *stage.gate.lock().unwrap() = Some(gate.clone());
        let (incident, _) = runs.heal(&operator(), heal("req", stage.consent())).await.unwrap();
        while *stage.calls.lock().unwrap() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(matches!(runs.cancel(&operator(), "calypso-9"), Err(Refused::NoIncident { .. })));
        assert_eq!(runs.cancel(&operator(), &incident).unwrap(), incident);
        *stage.gate.lock().unwrap() = None;
        gate.notify_one();
        let (ending, text) = ended(&runs, &incident).await;
        assert_eq!(ending, "cancelled", "{text}");
    });
    let node = stage.node.lock().unwrap();
    assert!(node.seen.processes.iter().any(|p| p.pid == 4711), "the daemon was not stopped");
    assert_eq!(
        node.extra.prefs[&4711].exit_node_id, "n1",
        "what it was asked to drop it has again"
    );
}

#[test]
fn told_to_stop_it_ends_its_step_and_the_next_process_goes_on() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let stage = Arc::new(Stage::of("r1-exit-node", &clock));
    let gate = Arc::new(Notify::new());
    *stage.gate.lock().unwrap() = Some(gate.clone());
    life(async {
        let runs = start(&stage, dir.path(), &clock).await;
        runs.heal(&operator(), heal("req", stage.consent())).await.unwrap();
        while *stage.calls.lock().unwrap() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let leaving = tokio::spawn({
            let runs = runs.clone();
            async move { runs.leave().await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!leaving.is_finished(), "the act under way is waited for");
        gate.notify_one();
        tokio::time::timeout(Duration::from_secs(5), leaving).await.unwrap().unwrap();
    });
    let entries = journal::read(&dir.path().join("journal"), "calypso-1.1-quiet").unwrap();
    assert_eq!(entries.len(), 3, "opened, began, ended: {entries:#?}");
    assert_eq!(*stage.held.lock().unwrap(), [true], "the guard stays meanwhile");
    let next = Arc::new(stage.next_process(&clock));
    life(async {
        let runs = start(&next, dir.path(), &clock).await;
        runs.resume().await;
        assert_eq!(ended(&runs, "calypso-1").await.0, "recovered");
    });
}

fn hurt(file: &Path, how: impl FnOnce(String) -> String) -> Vec<u8> {
    let text = std::fs::read_to_string(file).unwrap().trim_end_matches('\0').to_string();
    std::fs::write(file, how(text)).unwrap();
    std::fs::read(file).unwrap()
}

#[test]
fn a_damaged_or_newer_journal_of_an_open_run_is_stuck_and_left_as_it_is() {
    type Hurt = fn(String) -> String;
    let damages: [(&str, Hurt); 2] = [
        ("line 2", |t| t.replacen("began", "begun", 1)),
        ("newer version", |t| {
            let json = r#"{"seq":1,"stamp":{"boot":"b","ms":1,"wall_ms":1},"event":{"event":"teleported"}}"#;
            let first = t.lines().next().unwrap().to_string();
            format!("{first}\n{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
        }),
    ];
    for (words, how) in damages {
        let clock = clock();
        let (dir, stage) =
            (tempfile::tempdir().unwrap(), Arc::new(Stage::of("r1-exit-node", &clock)));
        assert!(killed(&stage, dir.path(), &clock, Cut::After(5)));
        let file = dir.path().join("journal/calypso-1.1-quiet.jsonl");
        let hurt = hurt(&file, how);
        let next = Arc::new(stage.next_process(&clock));
        let before = next.node.lock().unwrap().clone();
        life(async {
            let runs = start(&next, dir.path(), &clock).await;
            runs.resume().await;
            let (ending, text) = ended(&runs, "calypso-1").await;
            assert_eq!(ending, "stuck", "{text}");
            assert!(text.contains(words), "{text}");
        });
        assert_eq!(*next.node.lock().unwrap(), before, "nothing was done");
        assert_eq!(std::fs::read(&file).unwrap(), hurt, "it was not written to");
    }
}

#[test]
fn a_damaged_incident_file_is_listed_as_stuck_and_its_number_is_not_used_again() {
    let clock = clock();
    let (dir, stage) = (tempfile::tempdir().unwrap(), Arc::new(Stage::of("r1-exit-node", &clock)));
    assert!(killed(&stage, dir.path(), &clock, Cut::After(5)));
    hurt(&dir.path().join("journal/calypso-1.incident"), |t| t.replacen("opened", "opaned", 1));
    let next = Arc::new(stage.next_process(&clock));
    life(async {
        let runs = start(&next, dir.path(), &clock).await;
        runs.resume().await;
        let history = runs.history(5);
        assert_eq!(history[0].ending.as_deref(), Some("stuck"));
        assert_eq!(history[0].runs, ["calypso-1.1-quiet"]);
        let (incident, _) = runs.heal(&operator(), heal("again", next.consent())).await.unwrap();
        assert_eq!(incident, "calypso-2");
        assert_eq!(ended(&runs, &incident).await.0, "recovered");
    });
}

/// Chains have no order among themselves.
fn tables(seen: &Observation) -> Vec<NfTable> {
    let mut tables = seen.netfilter.clone();
    tables.iter_mut().for_each(|t| t.chains.sort());
    tables
}

async fn healed(runs: &Runs<Stage>, stage: &Stage) -> Vec<String> {
    let (incident, _) = runs.heal(&operator(), heal("req", stage.consent())).await.unwrap();
    let (ending, text) = ended(runs, &incident).await;
    assert_eq!(ending, "recovered", "{text}");
    runs.history(1)[0].runs.clone()
}

#[test]
fn a_finished_run_is_undone_but_for_what_somebody_changed_since() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let stage = Arc::new(Stage::of("r1-exit-node", &clock));
    let before = stage.node.lock().unwrap().seen.clone();
    life(async {
        let runs = start(&stage, dir.path(), &clock).await;
        let done = healed(&runs, &stage).await;
        let clean = done.iter().find(|r| r.ends_with("clean")).unwrap();
        // Somebody sets the sysctl to a third value: theirs.
        let entries = journal::read(&dir.path().join("journal"), clean).unwrap();
        let plan = journal::plan(&entries).unwrap();
        let sysctl = plan.steps.iter().find_map(|s| match &s.op {
            NodeOp::Sysctl { key, .. } => Some(key.clone()),
            _ => None,
        });
        let sysctl = sysctl.expect("the clean rung puts the sysctl back");
        stage.node.lock().unwrap().seen.sysctls.insert(sysctl.clone(), "2".into());
        let undone = runs.undo(&operator(), clean, "undo-1".into()).await.unwrap();
        assert_eq!(undone.ending, "rolled-back", "{undone:?}");
        assert!(undone.lines.iter().any(|l| l.contains("somebody else changed it")), "{undone:?}");
        {
            let node = stage.node.lock().unwrap();
            assert_eq!(node.seen.rules, before.rules, "the rules are back");
            assert_eq!(tables(&node.seen), tables(&before), "and the chains, where they were");
            assert_eq!(node.seen.sysctls[&sysctl], "2");
        }
        // The same request again tells the same, and does nothing.
        let again = runs.undo(&operator(), clean, "undo-1".into()).await.unwrap();
        assert_eq!(again, undone);
        let gone = runs.undo(&operator(), "calypso-77.1-clean", "undo-2".into()).await;
        assert!(matches!(gone, Err(Refused::NoRun { .. })), "{gone:?}");
        let quiet = done.iter().find(|r| r.ends_with("quiet")).unwrap();
        let undone = runs.undo(&operator(), quiet, "undo-3".into()).await.unwrap();
        assert!(undone.lines.iter().any(|l| l.contains("cannot be brought back")), "{undone:?}");
    });
}
