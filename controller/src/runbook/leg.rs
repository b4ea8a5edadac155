//! One stretch of a recovery: a plan of a few steps on core's engine, with its own journal.
//!
//! A recovery is several engine runs and not one, because the engine takes one step after the other, and undoes a rung that did
//! not help: nodes are healed beside each other here, and a node that cannot be helped must not undo its neighbour.

use super::book::BookError;
use super::op::{RunbookOp, Seen};
use super::run::{Clocked, Shelf, WorkClock};
use crate::error::CommandError;
use lifeline_core::clock::Stamp;
use lifeline_core::diagnosis::Health;
use lifeline_core::engine::{
    self, Ending, Entry, Event, Failure, Host, Journal, Judgement, Outcome,
};
use lifeline_core::plan::{FORMAT, OnUnhealthy, Plan, Rung, Step};
use std::time::Duration;

/// A stretch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The phase it belongs to.
    pub phase: u8,
    /// What it is called within the phase.
    pub name: String,
    /// Its steps, in order.
    pub ops: Vec<RunbookOp>,
    /// How much time may be spent on it.
    pub limit: Duration,
}

impl Leg {
    /// A stretch of one phase.
    pub fn new(phase: u8, name: impl Into<String>, ops: Vec<RunbookOp>, limit: Duration) -> Self {
        Self { phase, name: name.into(), ops, limit }
    }

    fn stem(&self) -> String {
        format!("{:02}-{}", self.phase, self.name)
    }

    fn plan(&self, recovery: &str) -> Plan<RunbookOp> {
        let step = |(id, op): (u32, &RunbookOp)| Step {
            id,
            op: op.clone(),
            finding: self.name.clone(),
            because: super::card::because(op).to_owned(),
            on_unhealthy: OnUnhealthy::Hold,
            optional: false,
        };
        Plan {
            format: FORMAT,
            incident: recovery.to_owned(),
            rung: Rung::Controller,
            findings: vec![self.name.clone()],
            policy: String::new(),
            steps: (0..).zip(&self.ops).map(step).collect(),
            deadline_ms: u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Everything outside, as narrowly as a recovery needs it.
pub trait World: Sync {
    /// Looks at what an op is about; the text says why it could not.
    fn look(&self, op: &RunbookOp) -> impl Future<Output = Result<Seen, String>> + Send;
    /// Brings it about.
    fn act(
        &self,
        op: &RunbookOp,
        before: &Seen,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Looks afresh at what a leg was for.
    fn judge(&self, leg: &Leg) -> impl Future<Output = Judgement> + Send;
    /// Asks the operator about one op.
    fn agrees(&self, op: &RunbookOp) -> impl Future<Output = Result<bool, CommandError>> + Send;
    /// Returns when something may be begun: never, when somebody else is at the cluster, for then the run is stopped.
    fn turn(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
    /// Waits.
    fn wait(&self, ms: u64) -> impl Future<Output = ()> + Send;
    /// A line of progress.
    fn say(&self, line: &str);
}

/// Everything the leg was for is looked at afresh.
pub async fn all_so<W: World>(world: &W, leg: &Leg) -> Judgement {
    let (mut health, mut said) = (Health::Well, Vec::new());
    for op in &leg.ops {
        match world.look(op).await {
            Ok(seen) => {
                if !seen.so {
                    health = Health::Unwell;
                }
                said.push(if seen.words.is_empty() { op.to_string() } else { seen.words });
            }
            Err(why) => {
                if health == Health::Well {
                    health = Health::Unknown;
                }
                said.push(why);
            }
        }
    }
    let findings = if health == Health::Well { Vec::new() } else { vec![leg.name.clone()] };
    Judgement { health, findings, summary: said.join("; ") }
}

/// How a leg ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegEnd {
    /// It is so now, by a fresh look at all it was for.
    Well,
    /// It was so already, and nothing was done.
    WasSo(String),
    /// The operator did not want it.
    Declined,
    /// It could not be looked at, so nothing was done.
    Unseen(String),
    /// It was tried, and is not so.
    Unwell(String),
    /// Its limit passed before anything could be said: it can be gone on with.
    Held(String),
    /// A human is needed.
    Stuck(String),
}

/// Why a recovery stops where it is.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// It cannot be written down.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The operator cannot be asked.
    #[error("{0}")]
    Command(CommandError),
}

impl From<CommandError> for Halt {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

struct Bridge<'a, W> {
    world: &'a W,
    leg: &'a Leg,
    clock: WorkClock,
}

impl<W: World> Host<RunbookOp> for Bridge<'_, W> {
    fn now(&mut self) -> Stamp {
        self.clock.now()
    }

    async fn wait(&mut self, ms: u64) {
        self.world.wait(ms).await;
    }

    async fn look(&mut self, op: &RunbookOp) -> Result<Seen, String> {
        self.world.look(op).await
    }

    async fn act(&mut self, op: &RunbookOp, before: &Seen) -> Result<(), Failure> {
        self.world.say(&format!("{op} …"));
        self.world.act(op, before).await
    }

    async fn judge(&mut self) -> Judgement {
        self.world.judge(self.leg).await
    }
}

/// Takes a leg: goes on with the run that was cut off, or looks, asks, and begins one. What is so already is not done again.
pub async fn take<W: World, S: Shelf>(
    world: &W,
    shelf: &S,
    (recovery, by): (&str, &str),
    leg: &Leg,
) -> Result<LegEnd, Halt> {
    let newest = newest(shelf, leg)?;
    if let Some(mut run) = cut_off(shelf, leg)? {
        world.say(&format!("Going on with \"{}\", which was cut off: looking again.", leg.name));
        world.turn().await;
        return go(world, &mut run, leg).await;
    }
    let (mut pending, mut words) = (false, Vec::new());
    for op in &leg.ops {
        match world.look(op).await {
            Ok(seen) => {
                pending |= !seen.so;
                words.extend(Some(seen.words).filter(|w| !w.is_empty()));
            }
            Err(why) => return Ok(LegEnd::Unseen(why)),
        }
    }
    if !pending {
        return Ok(LegEnd::WasSo(words.join("; ")));
    }
    for op in leg.ops.iter().filter(|op| op.asked()) {
        if !world.agrees(op).await? {
            shelf.note(&leg.name, &format!("not agreed to: {op}"))?;
            return Ok(LegEnd::Declined);
        }
    }
    world.turn().await;
    let mut run = shelf.run(&format!("{}.{}", leg.stem(), newest + 1))?;
    let now = run.clock().now();
    let opened = Event::Opened { plan: leg.plan(recovery), by: by.to_owned() };
    run.append(now, opened).await?;
    go(world, &mut run, leg).await
}

/// How often the leg has been tried.
fn newest<S: Shelf>(shelf: &S, leg: &Leg) -> Result<u32, BookError> {
    let stem = leg.stem();
    let number = |n: &String| n.strip_prefix(&stem)?.strip_prefix('.')?.parse::<u32>().ok();
    Ok(shelf.runs()?.iter().filter_map(number).max().unwrap_or(0))
}

/// The leg's run that has begun and not ended, if there is one.
pub fn cut_off<S: Shelf>(shelf: &S, leg: &Leg) -> Result<Option<S::Run>, BookError> {
    let newest = newest(shelf, leg)?;
    if newest == 0 {
        return Ok(None);
    }
    let run = shelf.run(&format!("{}.{newest}", leg.stem()))?;
    let closed = matches!(run.entries().last().map(|e| &e.event), Some(Event::Closed { .. }));
    Ok((!run.entries().is_empty() && !closed).then_some(run))
}

/// An ended run of this leg has changed what it is about, whatever came of it.
pub fn took_place<S: Shelf>(shelf: &S, leg: &Leg) -> Result<bool, BookError> {
    for nth in 1..=newest(shelf, leg)? {
        let run = shelf.run(&format!("{}.{nth}", leg.stem()))?;
        let events = || run.entries().iter().map(|e| &e.event);
        let done = |e: &Event<RunbookOp>| {
            matches!(e, Event::Ended { outcome: Outcome::Done | Outcome::AlreadySo, .. })
        };
        if events().any(done) && events().any(|e| matches!(e, Event::Closed { .. })) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn go<W: World, R: Clocked>(world: &W, run: &mut R, leg: &Leg) -> Result<LegEnd, Halt> {
    let mut bridge = Bridge { world, leg, clock: run.clock() };
    let ending = engine::run(&mut bridge, run).await?;
    let why = why(run.entries());
    Ok(match ending {
        Ending::Recovered => LegEnd::Well,
        Ending::Held => LegEnd::Held(why),
        Ending::Stuck => LegEnd::Stuck(why),
        Ending::Unwell | Ending::RolledBack | Ending::Cancelled | Ending::Void => {
            LegEnd::Unwell(why)
        }
    })
}

/// What was in the way: the first step that failed, or the last judgement.
pub fn why(entries: &[Entry<RunbookOp>]) -> String {
    let failed = entries.iter().rev().find_map(|e| match &e.event {
        Event::Ended { outcome: Outcome::Failed { why, .. }, .. } => Some(why.clone()),
        _ => None,
    });
    let judged = entries.iter().rev().find_map(|e| match &e.event {
        Event::Judged { health, summary, .. } if *health != Health::Well => Some(summary.clone()),
        _ => None,
    });
    failed.or(judged).unwrap_or_else(|| "its journal does not say".to_owned())
}
