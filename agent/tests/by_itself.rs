//! Recoveries that the agent opens by itself, on a real disk: cut off and gone on with, and not begun again where a human is needed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod stage;

use lifeline_agent::alone::BY;
use lifeline_agent::clock::Clock;
use lifeline_agent::roles::{Caller, Operator};
use lifeline_core::policy::{Mode, Policy};
use stage::{Cut, Stage, ended, heal, start_by};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn operator() -> Operator {
    Caller::local(0, 0).unwrap().operator().unwrap()
}

fn by_heal() -> Policy {
    Policy { mode: Mode::Heal, ..Policy::default() }
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

/// Within a generous time; a loop that never says it fails.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within 12 s: {what}");
}

/// The loop opens an incident by itself, and the process dies at this call of the hands; whether it got so far.
fn begun_and_killed(stage: &Arc<Stage>, dir: &Path, clock: &Clock, cut: Cut) -> bool {
    *stage.cut.lock().unwrap() = Some(cut);
    life(async {
        let (runs, alone) = start_by(by_heal(), stage, dir, clock).await;
        let alone = tokio::spawn(alone.keep());
        let died = tokio::time::timeout(Duration::from_secs(12), stage.died.notified()).await;
        alone.abort();
        died.is_ok() && runs.history(1)[0].by == BY
    })
}

#[test]
fn an_incident_that_the_agent_began_alone_is_gone_on_with_alone_when_it_was_killed() {
    let clock = Clock::read().unwrap();
    for cut in [Cut::Before(2), Cut::Half(5), Cut::After(5)] {
        let dir = tempfile::tempdir().unwrap();
        let stage = Arc::new(Stage::of("r1-exit-node", &clock));
        assert!(begun_and_killed(&stage, dir.path(), &clock, cut), "{cut:?}: nothing was begun");
        let next = Arc::new(stage.next_process(&clock));
        life(async {
            let (runs, _alone) = start_by(by_heal(), &next, dir.path(), &clock).await;
            runs.resume().await;
            let story = runs.story("calypso-1").await.unwrap();
            // It must stay well for thirty seconds, which nobody waits for here: what was begun has been ended.
            until("the culprit is gone, and what it left", || {
                !next.is_captured()
                    && story
                        .since(0)
                        .iter()
                        .any(|i| format!("{:?}", i.what).contains("stays so for 30 s"))
            })
            .await;
            assert_eq!(runs.under_way().as_deref(), Some("calypso-1"), "{cut:?}");
            let known = runs.history(9);
            assert_eq!((known.len(), known[0].by.as_str()), (1, BY), "{cut:?}: {known:?}");
            assert!(known[0].runs.len() >= 2, "{cut:?}: {known:?}");
        });
    }
}

/// Changes an entry of a run's journal behind the agent's back.
fn hurt(dir: &Path, run: &str) {
    let file = dir.join(format!("journal/{run}.jsonl"));
    let text = std::fs::read_to_string(&file).unwrap().trim_end_matches('\0').to_string();
    std::fs::write(&file, text.replacen("began", "begun", 1)).unwrap();
}

#[test]
fn what_ended_stuck_is_held_by_the_agent_alone_over_a_restart_until_an_operator_has_healed_it() {
    let clock = Clock::read().unwrap();
    let (dir, stage) = (tempfile::tempdir().unwrap(), Arc::new(Stage::of("r1-exit-node", &clock)));
    assert!(begun_and_killed(&stage, dir.path(), &clock, Cut::After(5)));
    hurt(dir.path(), "calypso-1.1-quiet");
    let mut next = Arc::new(stage.next_process(&clock));
    next.node.lock().unwrap().clone_from(&Stage::of("r1-exit-node", &clock).node.lock().unwrap());
    for restart in ["the next process", "and the one after it"] {
        life(async {
            let (runs, alone) = start_by(by_heal(), &next, dir.path(), &clock).await;
            runs.resume().await;
            until("the incident is closed", || runs.under_way().is_none()).await;
            assert_eq!(runs.history(1)[0].ending.as_deref(), Some("stuck"), "{restart}");
            let alone = tokio::spawn(alone.keep());
            until("it is held", || runs.held_back().is_some()).await;
            let why = runs.held_back().unwrap();
            // The journal's own words are in it: who reads of it knows what to look at.
            for part in ["calypso-1", "stuck", "line 2", "ctl heal calypso"] {
                assert!(why.contains(part), "{restart}: {part:?} in {why}");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(runs.history(9).len(), 1, "{restart}: it was opened again");
            assert!(next.is_captured());
            alone.abort();
        });
        next = Arc::new(next.next_process(&clock));
    }
    life(async {
        let (runs, alone) = start_by(by_heal(), &next, dir.path(), &clock).await;
        runs.resume().await;
        let (incident, _) = runs.heal(&operator(), heal("look", next.consent())).await.unwrap();
        assert_eq!(ended(&runs, &incident).await.0, "recovered");
        // The same trouble again is the agent's own to meet again.
        next.node
            .lock()
            .unwrap()
            .clone_from(&Stage::of("r1-exit-node", &clock).node.lock().unwrap());
        let alone = tokio::spawn(alone.keep());
        until("it is met alone", || runs.history(1)[0].id != incident).await;
        assert_eq!(runs.history(1)[0].by, BY);
        alone.abort();
    });
}
