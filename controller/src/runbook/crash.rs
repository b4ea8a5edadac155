//! The runbook cut at every entry of its journals, the last line kept or lost, and gone on with: the same end, and what is for
//! good happened once.

mod memory;
mod sim;

use super::conduct::{Conduct, NodeEnd, Told, Word};
use super::leg::{Halt, LegEnd};
use super::op::RunbookOp;
use super::opened::{NodeObject, NodeWas, Opened};
use lifeline_core::engine::{Entry, Event};
use memory::Memory;
use sim::{NODES, Sim};

fn opened() -> Opened {
    let node = |name: &str| NodeWas {
        name: name.to_owned(),
        ready: Some(false),
        object: Some(NodeObject { uid: format!("uid-{name}"), ..NodeObject::default() }),
        ..NodeWas::default()
    };
    Opened {
        id: "r".to_owned(),
        namespace: Some("tailscale-system".to_owned()),
        nodes: NODES.map(node).into(),
        ..Opened::default()
    }
}

async fn recover(world: &Sim, shelf: &Memory) -> Result<Told, Halt> {
    Conduct::new(world, shelf, &opened()).run().await
}

#[tokio::test]
async fn cut_anywhere_and_gone_on_with_it_ends_the_same_and_nothing_for_good_happens_twice() {
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    let whole = recover(&world, &shelf).await.unwrap();
    assert_eq!(whole.word(), Word::Recovered, "{whole:?}");
    let lines = shelf.lines();
    assert!(lines > 40, "{lines}");
    for fuse in 0..lines {
        for kept in [true, false] {
            let (world, shelf) = (Sim::day(), Memory::new(Some(fuse), kept));
            assert!(recover(&world, &shelf).await.is_err(), "cut at {fuse}");
            *shelf.fuse.lock().unwrap() = None;
            let told = recover(&world, &shelf).await.unwrap();
            assert_eq!(told.word(), Word::Recovered, "cut at {fuse}, kept {kept}: {told:?}");
            let ended: Vec<_> = told.nodes.iter().map(|(n, e)| (n.as_str(), e.is_well())).collect();
            assert_eq!(ended, [("calypso", true), ("styx", true)]);
            for once in ["machine-restarted", "committed", "commented", "issue-left"] {
                assert_eq!(world.times(once), 1, "{once}, cut at {fuse}, kept {kept}");
            }
            let open = |e: &Vec<Entry<RunbookOp>>| {
                !e.is_empty() && !matches!(e.last().unwrap().event, Event::Closed { .. })
            };
            let runs = shelf.runs.lock().unwrap();
            assert!(!runs.values().any(open), "a run is left open, cut at {fuse}: {runs:#?}");
        }
    }
}

#[tokio::test]
async fn a_node_that_nothing_helps_is_left_cordoned_and_does_not_hold_up_its_neighbour() {
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    world.0.lock().unwrap().refused = ["a restart that helps", "node-deleted", "drained"].into();
    let told = recover(&world, &shelf).await.unwrap();
    assert_eq!(told.word(), Word::Unwell);
    assert_eq!(told.nodes[0].1, NodeEnd::Healed("its agent"));
    let NodeEnd::Dead(tried) = &told.nodes[1].1 else { panic!("{told:?}") };
    assert!(tried[0].contains("no path led to its agent") && tried.len() == 4, "{tried:?}");
    assert_eq!((world.times("left-cordoned"), world.times("drained")), (1, 0));
    assert_eq!(world.times("node-deleted"), 0);
}

#[tokio::test]
async fn a_machine_is_restarted_once_in_a_recovery_however_often_it_is_gone_on_with() {
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    world.0.lock().unwrap().refused = ["a restart that helps", "left-cordoned"].into();
    for _ in 0..3 {
        let told = recover(&world, &shelf).await.unwrap();
        assert!(matches!(&told.nodes[1].1, NodeEnd::Dead(_)), "{told:?}");
        assert_eq!(world.times("machine-restarted"), 1);
    }
    let told = recover(&world, &shelf).await.unwrap();
    let NodeEnd::Dead(tried) = &told.nodes[1].1 else { panic!("{told:?}") };
    assert!(tried.iter().any(|t| t.contains("restarted in this recovery already")), "{tried:?}");
}

#[tokio::test]
async fn a_node_that_is_heard_or_not_at_fault_is_neither_restarted_nor_taken_out_of_its_cluster() {
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    world.0.lock().unwrap().spared = ["styx"].into();
    let told = recover(&world, &shelf).await.unwrap();
    assert!(matches!(&told.nodes[1].1, NodeEnd::Spared(_)), "{told:?}");
    assert_eq!(told.word(), Word::Unwell);
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    {
        let mut state = world.0.lock().unwrap();
        state.refused = ["machine-restarted"].into();
        state.belongs = ["styx"].into();
    }
    let told = recover(&world, &shelf).await.unwrap();
    assert!(matches!(&told.nodes[1].1, NodeEnd::Dead(_)), "{told:?}");
    let kinds = ["machine-restarted", "left-cordoned", "drained", "out-of-service", "node-deleted"];
    assert_eq!(kinds.map(|kind| world.times(kind)), [0; 5]);
}

#[tokio::test]
async fn a_wiped_machine_is_forgotten_with_its_password_and_neither_restarted_nor_drained() {
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    // calypso's agent answers: whoever says that it was wiped is wrong.
    world.0.lock().unwrap().wiped = NODES.into();
    let told = recover(&world, &shelf).await.unwrap();
    let ends: Vec<_> = told.nodes.iter().map(|(_, end)| end.clone()).collect();
    assert_eq!(ends, [NodeEnd::Healed("its agent"), NodeEnd::Wiped]);
    assert_eq!(told.word(), Word::Unwell);
    let kinds = ["machine-restarted", "left-cordoned", "drained", "node-deleted"];
    assert_eq!(kinds.map(|kind| world.times(kind)), [0, 0, 0, 1]);
    let styx =
        RunbookOp::NodeDeleted { node: "styx".to_owned(), uid: "uid-styx".to_owned(), wiped: true };
    assert!(world.0.lock().unwrap().so.contains(&styx.to_string()));
    assert!(shelf.said("its machine is not taken to be wiped") && shelf.said("styx is forgotten"));
    // It has joined anew, and has an agent: the same run goes on, and gives back what it was.
    world.0.lock().unwrap().agents.insert("styx");
    let told = recover(&world, &shelf).await.unwrap();
    assert_eq!((told.word(), &told.nodes[1].1), (Word::Recovered, &NodeEnd::Healed("its agent")));
    assert_eq!((world.times("node-deleted"), world.times("node-restored")), (1, 2));
}

#[tokio::test]
async fn a_machine_whose_agent_answers_and_cannot_look_is_restarted_by_who_was_told_so() {
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    world.0.lock().unwrap().dumb = ["styx"].into();
    world.0.lock().unwrap().refused = ["machine-restarted", "left-cordoned"].into();
    let told = recover(&world, &shelf).await.unwrap();
    let NodeEnd::Dead(tried) = &told.nodes[1].1 else { panic!("{told:?}") };
    let at = |what: &str| tried.iter().position(|t| t.contains(what)).unwrap();
    assert!(at("its agent answers, and cannot look") < at("its provider: not agreed to"));
    assert!(shelf.said("what a restart ends may be well"));
    world.0.lock().unwrap().refused.clear();
    assert_eq!(recover(&world, &shelf).await.unwrap().word(), Word::Recovered);
    assert_eq!(world.times("machine-restarted"), 1);
}

#[tokio::test]
async fn where_an_agent_says_upstream_nothing_is_done_and_where_it_no_longer_does_it_is_healed() {
    let mut found = opened();
    found.nodes.iter_mut().for_each(|n| n.verdict = Some("Upstream".to_owned()));
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    world.0.lock().unwrap().upstream = NODES.into();
    let told = Conduct::new(&world, &shelf, &found).run().await.unwrap();
    assert!(told.nodes.iter().all(|(_, end)| matches!(end, NodeEnd::Spared(_))), "{told:?}");
    let kinds = ["node-healed", "machine-restarted", "left-cordoned"];
    assert_eq!(kinds.map(|kind| world.times(kind)), [0; 3]);
    world.0.lock().unwrap().upstream.clear();
    let told = Conduct::new(&world, &shelf, &found).run().await.unwrap();
    assert_eq!(told.nodes[0].1, NodeEnd::Healed("its agent"), "{told:?}");
}

#[tokio::test]
async fn an_agent_that_answers_again_is_asked_before_its_machine_is_restarted() {
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    world.0.lock().unwrap().comes_back = Some("styx");
    let told = recover(&world, &shelf).await.unwrap();
    assert_eq!(told.nodes[1].1, NodeEnd::Healed("its agent, which answers again"));
    assert_eq!((told.word(), world.times("machine-restarted")), (Word::Recovered, 0));
}

#[tokio::test]
async fn what_is_not_agreed_to_by_name_is_not_done() {
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    world.0.lock().unwrap().refused = ["machine-restarted", "left-cordoned", "commented"].into();
    let told = recover(&world, &shelf).await.unwrap();
    assert_eq!((world.times("machine-restarted"), world.times("commented")), (0, 0));
    assert_eq!(world.times("committed"), 1, "one that was refused keeps no other back");
    assert!(told.record.iter().any(|(_, end)| *end == LegEnd::Declined));
    // Asked again, and agreed to: what was done is not done again.
    world.0.lock().unwrap().refused.clear();
    assert_eq!(recover(&world, &shelf).await.unwrap().word(), Word::Recovered);
    assert_eq!((world.times("machine-restarted"), world.times("committed")), (1, 1));
}

#[tokio::test]
async fn cluster_steps_wait_until_the_api_server_answers_and_nodes_do_not() {
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    world.0.lock().unwrap().api = false;
    let told = recover(&world, &shelf).await.unwrap();
    assert_eq!(told.word(), Word::Recovered, "{told:?}");
    let done = world.0.lock().unwrap().done.clone();
    let at = |kind: &str| done.iter().position(|d| *d == kind).unwrap();
    assert!(at("node-healed") < at("culprit-stopped"), "{done:?}");
}

/// styx's agent does not start, and SSH leads there.
fn lame() -> (Sim, Memory) {
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    world.0.lock().unwrap().starts_not = Some("styx");
    (world, shelf)
}

#[tokio::test]
async fn a_node_whose_agent_does_not_start_is_lent_one_which_is_taken_back_and_nothing_is_restarted()
 {
    let (world, shelf) = lame();
    let told = recover(&world, &shelf).await.unwrap();
    assert_eq!(told.nodes[1].1, NodeEnd::Healed("an agent lent to it over SSH"), "{told:?}");
    let times = ["agent-lent", "agent-returned", "machine-restarted"].map(|kind| world.times(kind));
    assert_eq!(times, [1, 1, 0]);
    // What was not agreed to is not brought there, and the next resort is tried.
    let (world, shelf) = lame();
    world.0.lock().unwrap().refused = ["agent-lent"].into();
    let told = recover(&world, &shelf).await.unwrap();
    assert_eq!(told.nodes[1].1, NodeEnd::Healed("its provider"), "{told:?}");
    assert_eq!(["agent-lent", "agent-returned"].map(|kind| world.times(kind)), [0, 0]);
}

#[tokio::test]
async fn a_lent_agent_stays_where_its_guard_may_be_all_that_keeps_the_node() {
    let (world, shelf) = lame();
    world.0.lock().unwrap().refused =
        ["a heal that helps", "machine-restarted", "left-cordoned"].into();
    let told = recover(&world, &shelf).await.unwrap();
    assert!(matches!(told.nodes[1].1, NodeEnd::Dead(_)), "{told:?}");
    assert_eq!(["agent-lent", "agent-returned"].map(|kind| world.times(kind)), [1, 0]);
}

#[tokio::test]
async fn one_nodes_heal_touches_neither_the_namespace_nor_other_papers_than_its_report() {
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    let mut alone = opened();
    alone.nodes.retain(|n| n.name == "styx");
    let nodes = Conduct::new(&world, &shelf, &alone).one().await.unwrap();
    assert_eq!(nodes, [("styx".to_owned(), NodeEnd::Healed("its provider"))]);
    let done = world.0.lock().unwrap().done.clone();
    assert_eq!(done, ["machine-restarted", "node-restored", "report-written"]);
}

#[tokio::test]
async fn a_node_that_was_taken_out_of_its_cluster_and_runs_again_is_given_back_what_was_changed() {
    let (world, shelf) = (Sim::day(), Memory::new(None, true));
    world.0.lock().unwrap().refused = ["machine-restarted", "node-deleted"].into();
    let mut alone = opened();
    alone.nodes.retain(|n| n.name == "styx");
    let nodes = Conduct::new(&world, &shelf, &alone).one().await.unwrap();
    assert!(matches!(nodes[0].1, NodeEnd::Dead(_)), "{nodes:?}");
    let times = ["left-cordoned", "out-of-service", "node-deleted", "node-restored"];
    assert_eq!(times.map(|kind| world.times(kind)), [1, 1, 0, 0]);
    world.0.lock().unwrap().agents.insert("styx");
    let nodes = Conduct::new(&world, &shelf, &alone).one().await.unwrap();
    assert_eq!(nodes[0].1, NodeEnd::Healed("its agent"));
    let runs = shelf.runs.lock().unwrap();
    let Event::Opened { plan, .. } = &runs["07-restore-styx.1"][0].event else {
        panic!("{runs:?}")
    };
    let RunbookOp::NodeRestored { uncordon, in_service, .. } = &plan.steps[0].op else {
        panic!("{plan:?}")
    };
    assert!(*uncordon && *in_service);
}
