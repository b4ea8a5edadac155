//! A node made of its own observation: looks read it, acts change it, a power cut makes the kernel forget.
#![allow(dead_code, reason = "shared by several test files, each of which uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod node;

pub use node::settled;

use core::pin::pin;
use core::task::{Context, Poll, Waker};
use lifeline_core::clock::Stamp;
use lifeline_core::diagnosis::Health;
use lifeline_core::engine::{self, Ending, Entry, Event, Failure, Host, Journal, Judgement};
use lifeline_core::observation::Observation;
use lifeline_core::op::{NodeOp, Op, Prefs, Seen, Undo};
use lifeline_core::plan::NodePlan;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// Runs a future that never really waits.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(out) = future.as_mut().poll(&mut cx) {
            return out;
        }
    }
}

/// What lies on the node's disk and in its daemons, beside what an observation holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    pub prefs: BTreeMap<u32, Prefs>,
    pub quarantine: BTreeSet<String>,
    pub invocations: u32,
    pub flows: u32,
    /// The timer outside the process.
    pub armed: bool,
    /// What the kernel has learnt beside its routes.
    pub cache: u32,
    /// How often it has been rebooted.
    pub boots: u32,
}

/// The node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub seen: Observation,
    pub extra: Extra,
}

/// When and how the next crash comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// At the n-th append: the entry is lost.
    Lost(u32),
    /// At the n-th append: the entry is kept.
    Kept(u32),
    /// At the n-th act: nothing of it happened.
    BeforeAct(u32),
    /// At the n-th act: half of it happened.
    InAct(u32),
    /// At the n-th act: it happened, and nobody could write it down.
    AfterAct(u32),
    /// Never.
    Never,
}

/// Node, clock and crash, shared by host and journal.
pub struct World {
    pub node: Node,
    pub boot: String,
    pub ms: u64,
    pub cut: Cut,
    pub refuse: Option<u32>,
    pub appends: u32,
    pub acts: u32,
    pub dead: bool,
    pub judge: Box<dyn Fn(&Node) -> Health + Send>,
    /// What a judgement that is not well finds.
    pub findings: Vec<String>,
}

pub type Shared = Arc<Mutex<World>>;

impl World {
    pub fn new(node: Node, judge: impl Fn(&Node) -> Health + Send + 'static) -> Shared {
        Arc::new(Mutex::new(Self {
            node,
            boot: "boot-1".into(),
            ms: 1_000,
            cut: Cut::Never,
            refuse: None,
            appends: 0,
            acts: 0,
            dead: false,
            judge: Box::new(judge),
            findings: vec!["f".into()],
        }))
    }

    fn stamp(&mut self) -> Stamp {
        self.ms += 1;
        Stamp { boot: self.boot.clone(), ms: self.ms, wall_ms: self.ms }
    }
}

pub struct Hands(pub Shared);

pub struct Paper {
    pub world: Shared,
    pub entries: Vec<Entry<NodeOp>>,
}

#[derive(Debug)]
pub struct Crash;

impl Journal<NodeOp> for Paper {
    type Error = Crash;

    fn entries(&self) -> &[Entry<NodeOp>] {
        &self.entries
    }

    async fn append(&mut self, stamp: Stamp, event: Event<NodeOp>) -> Result<(), Crash> {
        let mut w = self.world.lock().unwrap();
        if w.dead {
            return Err(Crash);
        }
        w.appends += 1;
        let n = w.appends;
        let entry = Entry { seq: self.entries.len() as u64, stamp, event };
        match w.cut {
            Cut::Lost(at) if at == n => {
                w.dead = true;
                Err(Crash)
            }
            Cut::Kept(at) if at == n => {
                self.entries.push(entry);
                w.dead = true;
                Err(Crash)
            }
            _ => {
                self.entries.push(entry);
                Ok(())
            }
        }
    }
}

impl Host<NodeOp> for Hands {
    fn now(&mut self) -> Stamp {
        self.0.lock().unwrap().stamp()
    }

    async fn wait(&mut self, ms: u64) {
        self.0.lock().unwrap().ms += ms;
    }

    async fn look(&mut self, op: &NodeOp) -> Result<Seen, String> {
        Ok(self.0.lock().unwrap().node.look(op))
    }

    async fn act(&mut self, op: &NodeOp, _before: &Seen) -> Result<(), Failure> {
        let mut w = self.0.lock().unwrap();
        if w.dead {
            return Ok(());
        }
        w.acts += 1;
        let n = w.acts;
        match w.cut {
            Cut::BeforeAct(at) if at == n => w.dead = true,
            Cut::InAct(at) if at == n => {
                w.node.act(op, true);
                w.dead = true;
            }
            Cut::AfterAct(at) if at == n => {
                w.node.act(op, false);
                w.dead = true;
            }
            _ if w.refuse == Some(n) => {
                return Err(Failure { why: "refused by the test".into(), retryable: false });
            }
            _ => w.node.act(op, false),
        }
        Ok(())
    }

    async fn judge(&mut self) -> Judgement {
        let w = self.0.lock().unwrap();
        let health = (w.judge)(&w.node);
        // The findings stay as long as the node is unwell.
        let findings = if health == Health::Well { vec![] } else { w.findings.clone() };
        Judgement { health, findings, summary: "judged by the test".into() }
    }
}

/// A judge to whom a node is well when all the plan wants is so.
pub fn judge(plan: &NodePlan) -> impl Fn(&Node) -> Health + Send + 'static {
    let ops: Vec<NodeOp> = plan.steps.iter().map(|s| s.op.clone()).collect();
    move |node| if ops.iter().all(|op| settled(node, op)) { Health::Well } else { Health::Unwell }
}

pub fn open(world: &Shared, plan: &NodePlan) -> Paper {
    let mut paper = Paper { world: world.clone(), entries: vec![] };
    let stamp = Stamp { boot: "boot-1".into(), ms: 1_000, wall_ms: 0 };
    paper.entries.push(Entry {
        seq: 0,
        stamp,
        event: Event::Opened { plan: plan.clone(), by: "test".into() },
    });
    paper
}

/// Goes on after a crash, without further ones.
pub fn resume(world: &Shared, entries: Vec<Entry<NodeOp>>) -> (Ending, Vec<Entry<NodeOp>>) {
    {
        let mut w = world.lock().unwrap();
        w.dead = false;
        w.cut = Cut::Never;
    }
    let mut paper = Paper { world: world.clone(), entries };
    let ending =
        block_on(engine::run(&mut Hands(world.clone()), &mut paper)).expect("no crash is left");
    (ending, paper.entries.clone())
}

/// As it was, but for what is declared irreversible.
pub fn as_it_was(before: &Node, after: &Node, plan: &NodePlan) -> Result<(), String> {
    for step in &plan.steps {
        let (b, a) = (before.look(&step.op), after.look(&step.op));
        if matches!(step.op.undo(&b), Undo::Irreversible(_)) {
            continue;
        }
        if a != b && !matches!(a, Seen::Prefs { prefs: None }) {
            return Err(format!("{}: was {b:?}, is {a:?}", step.op.target()));
        }
    }
    Ok(())
}

pub fn cuts(appends: u32, acts: u32) -> Vec<Cut> {
    let mut all: Vec<Cut> = (1..=appends).flat_map(|n| [Cut::Lost(n), Cut::Kept(n)]).collect();
    all.extend((1..=acts).flat_map(|n| [Cut::BeforeAct(n), Cut::InAct(n), Cut::AfterAct(n)]));
    all
}
