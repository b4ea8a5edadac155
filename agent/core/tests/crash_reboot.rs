//! A reboot under the exhaustive crash test: it is asked for once, and its run goes on in the boot that it brought.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod world;

use lifeline_core::clock::Stamp;
use lifeline_core::diagnosis::Health;
use lifeline_core::engine::{self, Ending, Entry, Event, Failure, Host, Judgement};
use lifeline_core::observation::Observation;
use lifeline_core::op::{NodeOp, Seen};
use lifeline_core::planner::reboot;
use lifeline_core::policy::Policy;
use world::{Cut, Extra, Hands, Node, Paper, Shared, World, block_on, cuts, open};

/// What is wrong with it is the judge's to say.
fn sick() -> Node {
    Node { seen: Observation::default(), extra: Extra::default() }
}

/// The process dies with the boot.
struct Rebooting(Hands);

impl Host<NodeOp> for Rebooting {
    fn now(&mut self) -> Stamp {
        self.0.now()
    }
    async fn wait(&mut self, ms: u64) {
        self.0.wait(ms).await;
    }
    async fn look(&mut self, op: &NodeOp) -> Result<Seen, String> {
        self.0.look(op).await
    }
    async fn act(&mut self, op: &NodeOp, before: &Seen) -> Result<(), Failure> {
        self.0.act(op, before).await?;
        let mut w = self.0.0.lock().unwrap();
        if w.node.extra.boots > 0 {
            (w.boot, w.ms, w.dead) = ("boot-2".into(), 5, true);
        }
        Ok(())
    }
    async fn judge(&mut self) -> Judgement {
        self.0.judge().await
    }
}

fn go_on(world: &Shared, entries: Vec<Entry<NodeOp>>) -> (Ending, Vec<Entry<NodeOp>>) {
    {
        let mut w = world.lock().unwrap();
        (w.dead, w.cut) = (false, Cut::Never);
    }
    let mut paper = Paper { world: world.clone(), entries };
    // The first time round the process may die with the boot once more.
    for _ in 0..3 {
        let done = block_on(engine::run(&mut Rebooting(Hands(world.clone())), &mut paper));
        match done {
            Ok(ending) => return (ending, paper.entries),
            Err(_) => world.lock().unwrap().dead = false,
        }
    }
    panic!("it never ends: {:#?}", paper.entries);
}

#[test]
fn a_reboot_cut_off_anywhere_happens_once_and_its_run_goes_on_in_the_new_boot() {
    let plan = reboot(&Policy::default(), vec!["f".into()], "i");
    let mut cases = 0;
    for (up, wanted) in [(true, Ending::Recovered), (false, Ending::Unwell)] {
        let fresh =
            || {
                World::new(sick(), move |n: &Node| {
                    if up && n.extra.boots > 0 { Health::Well } else { Health::Unwell }
                })
            };
        let (appends, acts) = {
            let world = fresh();
            let (ending, entries) = go_on(&world, open(&world, &plan).entries);
            assert_eq!(ending, wanted);
            assert!(matches!(
                &entries[2].event,
                Event::Ended { outcome: engine::Outcome::Done, .. }
            ));
            let w = world.lock().unwrap();
            if !up {
                assert!(w.ms > plan.deadline_ms, "given all its time: {} ms", w.ms);
            }
            (w.appends, w.acts)
        };
        for cut in cuts(appends, acts) {
            cases += 1;
            let world = fresh();
            world.lock().unwrap().cut = cut;
            let mut paper = open(&world, &plan);
            let died = block_on(engine::run(&mut Rebooting(Hands(world.clone())), &mut paper));
            assert!(died.is_err(), "{cut:?}");
            let (ending, _) = go_on(&world, paper.entries);
            assert_eq!(ending, wanted, "{cut:?}");
            assert_eq!(world.lock().unwrap().node.extra.boots, 1, "{cut:?}: once");
        }
    }
    println!("{cases} cuts");
}

#[test]
fn a_reboot_that_was_never_begun_is_not_done_hours_later() {
    let plan = reboot(&Policy::default(), vec!["f".into()], "i");
    let world = World::new(sick(), |_: &Node| Health::Unwell);
    world.lock().unwrap().ms = 3_600_000;
    let (ending, _) = go_on(&world, open(&world, &plan).entries);
    assert_eq!(ending, Ending::Unwell);
    assert_eq!(world.lock().unwrap().node.extra.boots, 0);
}
