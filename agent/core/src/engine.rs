//! Doing a plan so that a crash at any instant does no harm.
//!
//! [`next`] decides everything that happens within a rung (first run, resume after a crash, undo, deadline, cancel) from the
//! journal alone; [`run`] obeys it over two narrow traits. An entry is on disk before what it announces is done.
//!
//! ```text
//! opened ─ began 0 ─ ended 0 ─ began 1 ─ ended 1 ─ judged ─ closed
//!                       └ failed ─ undo-began 0 ─ undo-ended 0 ─ judged ─ closed (rolled back)
//! ```

use crate::clock::Stamp;
use crate::diagnosis::Health;
use crate::op::{Now, Op, Scope, Undo};
use crate::plan::{OnUnhealthy, Plan};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How a step or its undoing went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// Done, and seen done.
    Done,
    /// It was so already: a redo after a crash, or somebody was faster.
    AlreadySo,
    /// Somebody else changed the object: it is theirs and was left.
    Foreign,
    /// It cannot be undone; the text says why.
    Irreversible {
        /// Why.
        why: String,
    },
    /// It failed.
    Failed {
        /// What was tried, and what went wrong.
        why: String,
        /// Trying again later may help.
        retryable: bool,
    },
}

impl Outcome {
    /// Did it bring the object where it was wanted?
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Done | Self::AlreadySo)
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The node is well without our guard.
    Recovered,
    /// What was done has been undone.
    RolledBack,
    /// Nothing can be said now (unknown, or not this node's doing); what was done stays.
    Held,
    /// The steps are done and the node is not well: the next rung's turn.
    Unwell,
    /// Somebody cancelled it; undoable steps were undone.
    Cancelled,
    /// A reboot made it pointless.
    Void,
    /// A human is needed: a failed undo, a damaged journal, or one of a newer version.
    Stuck,
}

/// What is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "event",
    rename_all = "kebab-case",
    bound(
        serialize = "O: Serialize, O::Seen: Serialize",
        deserialize = "O: Deserialize<'de>, O::Seen: Deserialize<'de>"
    )
)]
pub enum Event<O: Op> {
    /// First entry: the whole plan, so that a journal stands alone.
    Opened {
        /// The plan.
        plan: Plan<O>,
        /// Who asked: `operator alice`, `agent`.
        by: String,
    },
    /// A step is about to be taken; the pre-image comes first.
    Began {
        /// Step.
        step: u32,
        /// What was there.
        before: O::Seen,
    },
    /// A step has been taken.
    Ended {
        /// Step.
        step: u32,
        /// How it went.
        outcome: Outcome,
    },
    /// A fresh look was judged.
    Judged {
        /// Health as if our guard were not.
        health: Health,
        /// Keys of the findings still there.
        findings: Vec<String>,
        /// One sentence.
        summary: String,
    },
    /// An operator confirmed what would otherwise be undone.
    Confirmed {
        /// Who.
        by: String,
    },
    /// Somebody asked to stop and to undo.
    Cancelled {
        /// Who.
        by: String,
    },
    /// A step is about to be undone.
    UndoBegan {
        /// Step.
        step: u32,
    },
    /// A step has been undone.
    UndoEnded {
        /// Step.
        step: u32,
        /// How it went.
        outcome: Outcome,
    },
    /// The end.
    Closed {
        /// How.
        ending: Ending,
    },
    /// Written by a newer version.
    #[serde(other)]
    Unknown,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "O: Serialize, O::Seen: Serialize",
    deserialize = "O: Deserialize<'de>, O::Seen: Deserialize<'de>"
))]
pub struct Entry<O: Op> {
    /// Counts from 0.
    pub seq: u64,
    /// When.
    pub stamp: Stamp,
    /// What.
    pub event: Event<O>,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Take (or finish) this step.
    Do(u32),
    /// Undo this step.
    Undo(u32),
    /// Look afresh and judge.
    Judge,
    /// Wait this long, then judge again, milliseconds.
    Wait(u64),
    /// Write the end.
    Close(Ending),
    /// It has ended.
    Ended(Ending),
}

/// How long to wait between judgements that could not say anything, milliseconds.
pub const WAIT_MS: u64 = 1_000;

/// A journal, as the state it tells.
struct Reading<'a, O: Op> {
    plan: &'a Plan<O>,
    opened: &'a Stamp,
    began: Vec<bool>,
    ended: Vec<Option<&'a Outcome>>,
    undo_ended: Vec<Option<&'a Outcome>>,
    undoing: bool,
    cancelled: bool,
    confirmed: bool,
    /// Judgement after the last step or undo.
    judged: Option<Health>,
    /// What the last judgement after a step found, whatever was undone since.
    found: Option<&'a [String]>,
}

fn read<O: Op>(entries: &[Entry<O>]) -> Option<Reading<'_, O>> {
    let first = entries.first()?;
    let Event::Opened { plan, .. } = &first.event else { return None };
    let n = plan.steps.len();
    let mut r = Reading {
        plan,
        opened: &first.stamp,
        began: alloc::vec![false; n],
        ended: alloc::vec![None; n],
        undo_ended: alloc::vec![None; n],
        undoing: false,
        cancelled: false,
        confirmed: false,
        judged: None,
        found: None,
    };
    for entry in &entries[1..] {
        match &entry.event {
            Event::Opened { .. } | Event::Unknown => return None,
            Event::Began { step, .. } => {
                *r.began.get_mut(*step as usize)? = true;
                (r.judged, r.found) = (None, None);
            }
            Event::Ended { step, outcome } => {
                *r.ended.get_mut(*step as usize)? = Some(outcome);
                r.judged = None;
            }
            Event::UndoBegan { step } => {
                r.began.get(*step as usize)?;
                r.undoing = true;
                r.judged = None;
            }
            Event::UndoEnded { step, outcome } => {
                *r.undo_ended.get_mut(*step as usize)? = Some(outcome);
                r.judged = None;
            }
            Event::Judged { health, findings, .. } => {
                r.judged = Some(*health);
                if !r.undoing {
                    r.found = Some(findings);
                }
            }
            Event::Confirmed { .. } => r.confirmed = true,
            Event::Cancelled { .. } => r.cancelled = true,
            // Something was written after the end: not by this program.
            Event::Closed { .. } => return None,
        }
    }
    Some(r)
}

/// Decides what is to be done next, from the journal and the present moment alone.
pub fn next<O: Op>(entries: &[Entry<O>], here: &Stamp) -> Next {
    // An end that is written stands, whatever else the journal holds.
    if let Some(Event::Closed { ending }) = entries.last().map(|e| &e.event) {
        return Next::Ended(*ending);
    }
    let Some(r) = read(entries) else { return Next::Close(Ending::Stuck) };
    let steps = &r.plan.steps;
    let index = |id: u32| id as usize;
    // A failed undo is never retried blindly.
    if r.undo_ended.iter().flatten().any(|o| matches!(o, Outcome::Failed { .. })) {
        return Next::Close(Ending::Stuck);
    }
    let undoable = |want: &dyn Fn(usize) -> bool| {
        steps.iter().rev().map(|s| s.id).find(|id| {
            let i = index(*id);
            r.began[i] && r.undo_ended[i].is_none() && want(i)
        })
    };
    let Some(elapsed) = here.since(r.opened) else {
        // Another boot: the kernel has forgotten its part; what lies on disk is put back as it was.
        let on_disk = |i: usize| steps[i].op.scope() != Scope::Boot;
        return match undoable(&on_disk) {
            Some(id) => Next::Undo(id),
            None if r.undo_ended.iter().any(Option::is_some) => Next::Close(Ending::RolledBack),
            None => Next::Close(Ending::Void),
        };
    };
    if r.cancelled {
        return match undoable(&|_| true) {
            Some(id) => Next::Undo(id),
            None => Next::Close(Ending::Cancelled),
        };
    }
    let failed =
        r.ended.iter().zip(steps).any(|(o, s)| o.is_some_and(|o| !o.is_ok()) && !s.optional);
    let late = elapsed > r.plan.deadline_ms && !r.confirmed;
    // A step cut off by the deadline in the middle is finished first only if nothing failed; late steps are not begun.
    let pending = steps.iter().find(|s| r.ended[index(s.id)].is_none());
    if !failed && !r.undoing {
        match pending {
            Some(s) if !late => return Next::Do(s.id),
            Some(_) => {}
            None => match r.judged {
                None => return Next::Judge,
                Some(Health::Well) => return Next::Close(Ending::Recovered),
                Some(Health::Unknown) if late => return Next::Close(Ending::Held),
                Some(Health::Unknown) => return Next::Wait(WAIT_MS),
                Some(Health::Contained | Health::Unwell) => {}
            },
        }
    }
    // The rung failed: each step says whether it is undone.
    let wants_undo = |i: usize| {
        // A step that failed or was cut off half-way is undone whatever it says: nobody knows how far it got.
        let whole = r.ended[i].is_some_and(Outcome::is_ok);
        // What it was for has gone, so it did help: another trouble that shows only now is the next rung's affair.
        let helped = r.found.is_some_and(|found| !found.contains(&steps[i].finding));
        (steps[i].on_unhealthy == OnUnhealthy::Undo && !helped) || !whole
    };
    if let Some(id) = undoable(&wants_undo) {
        return Next::Undo(id);
    }
    let undone = r.undo_ended.iter().any(Option::is_some);
    match r.judged {
        None => Next::Judge,
        // What was undone was not needed after all, or somebody else healed the node.
        Some(Health::Well) if !undone => Next::Close(Ending::Recovered),
        Some(_) if undone => Next::Close(Ending::RolledBack),
        Some(Health::Unknown) => Next::Close(Ending::Held),
        Some(Health::Well | Health::Contained | Health::Unwell) => Next::Close(Ending::Unwell),
    }
}

/// The machine, as narrowly as the engine needs it.
pub trait Host<O: Op> {
    /// The present moment.
    fn now(&mut self) -> Stamp;
    /// Waits.
    fn wait(&mut self, ms: u64) -> impl Future<Output = ()> + Send;
    /// Looks at an op's target; the text says why it could not.
    fn look(&mut self, op: &O) -> impl Future<Output = Result<O::Seen, String>> + Send;
    /// Brings an op's target to its wanted state. Returns only when every child process it started has been reaped.
    fn act(&mut self, op: &O, before: &O::Seen)
    -> impl Future<Output = Result<(), Failure>> + Send;
    /// Looks at the whole node afresh and judges it as if our guard were not.
    fn judge(&mut self) -> impl Future<Output = Judgement> + Send;
}

/// Why an act failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was tried, and what went wrong.
    pub why: String,
    /// Trying again later may help.
    pub retryable: bool,
}

/// A fresh judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Health as if our guard were not.
    pub health: Health,
    /// Keys of findings.
    pub findings: Vec<String>,
    /// One sentence.
    pub summary: String,
}

/// Where entries are kept.
pub trait Journal<O: Op> {
    /// Why an append failed.
    type Error;
    /// All entries so far.
    fn entries(&self) -> &[Entry<O>];
    /// Appends and makes it durable before it returns.
    fn append(
        &mut self,
        stamp: Stamp,
        event: Event<O>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Obeys [`next`] until the run has ended.
///
/// # Errors
/// When the journal cannot be written: then nothing more is done, and the journal on disk says how far it got.
pub async fn run<O, H, J>(host: &mut H, journal: &mut J) -> Result<Ending, J::Error>
where
    O: Op,
    H: Host<O>,
    J: Journal<O>,
{
    loop {
        let here = host.now();
        match next(journal.entries(), &here) {
            Next::Do(id) => take(host, journal, id).await?,
            Next::Undo(id) => undo(host, journal, id).await?,
            Next::Judge => judge(host, journal).await?,
            Next::Wait(ms) => {
                host.wait(ms).await;
                judge(host, journal).await?;
            }
            Next::Close(ending) => {
                let now = host.now();
                journal.append(now, Event::Closed { ending }).await?;
            }
            Next::Ended(ending) => return Ok(ending),
        }
    }
}

async fn judge<O: Op, H: Host<O>, J: Journal<O>>(
    host: &mut H,
    journal: &mut J,
) -> Result<(), J::Error> {
    let Judgement { health, findings, summary } = host.judge().await;
    let now = host.now();
    journal.append(now, Event::Judged { health, findings, summary }).await
}

/// The op of a step, its first pre-image if it has begun.
fn step_of<O: Op>(entries: &[Entry<O>], id: u32) -> Option<(O, Option<O::Seen>)> {
    let Event::Opened { plan, .. } = &entries.first()?.event else { return None };
    let op = plan.steps.iter().find(|s| s.id == id)?.op.clone();
    let mut begun = entries.iter().filter_map(|e| {
        let Event::Began { step, before } = &e.event else { return None };
        (*step == id).then(|| before.clone())
    });
    // The first pre-image counts: a later one may show our own half-done work.
    let before = begun.next();
    Some((op, before))
}

async fn take<O: Op, H: Host<O>, J: Journal<O>>(
    host: &mut H,
    journal: &mut J,
    id: u32,
) -> Result<(), J::Error> {
    let Some((op, begun)) = step_of(journal.entries(), id) else { return Ok(()) };
    let outcome = match host.look(&op).await {
        // Without a first look there is no pre-image: nothing was touched, and nothing is to be undone.
        Err(why) => Outcome::Failed { why, retryable: true },
        Ok(seen) => {
            let before = match begun {
                Some(before) => before,
                None => {
                    // The pre-image is durable before the act; if it cannot be written, the act does not happen.
                    let now = host.now();
                    journal.append(now, Event::Began { step: id, before: seen.clone() }).await?;
                    seen.clone()
                }
            };
            match op.compare(&before, &seen) {
                Now::Settled => Outcome::AlreadySo,
                Now::Foreign => Outcome::Foreign,
                Now::Pending => act(host, &op, &before).await,
            }
        }
    };
    let now = host.now();
    journal.append(now, Event::Ended { step: id, outcome }).await
}

/// Acts, and believes only what a look afterwards shows.
async fn act<O: Op, H: Host<O>>(host: &mut H, op: &O, before: &O::Seen) -> Outcome {
    let failed = host.act(op, before).await.err();
    match (host.look(op).await, failed) {
        (Ok(seen), failure) => match (op.compare(before, &seen), failure) {
            (Now::Settled, _) => Outcome::Done,
            (Now::Foreign, None) => Outcome::Foreign,
            (Now::Pending, None) => Outcome::Failed {
                why: "it was done, and afterwards it was as before".to_string(),
                retryable: true,
            },
            (_, Some(f)) => Outcome::Failed { why: f.why, retryable: f.retryable },
        },
        (Err(why), None) => Outcome::Failed { why, retryable: true },
        (Err(_), Some(f)) => Outcome::Failed { why: f.why, retryable: f.retryable },
    }
}

async fn undo<O: Op, H: Host<O>, J: Journal<O>>(
    host: &mut H,
    journal: &mut J,
    id: u32,
) -> Result<(), J::Error> {
    let Some((op, Some(before))) = step_of(journal.entries(), id) else { return Ok(()) };
    let now = host.now();
    journal.append(now, Event::UndoBegan { step: id }).await?;
    let outcome = match op.undo(&before) {
        Undo::Nothing => Outcome::AlreadySo,
        Undo::Irreversible(why) => Outcome::Irreversible { why: why.to_string() },
        Undo::Put(back) => put_back(host, &op, &before, &back).await,
    };
    let now = host.now();
    journal.append(now, Event::UndoEnded { step: id, outcome }).await
}

/// Compare-and-swap: only what still is as we made it (or part of the way) is put back.
async fn put_back<O: Op, H: Host<O>>(host: &mut H, op: &O, before: &O::Seen, back: &O) -> Outcome {
    match host.look(op).await {
        Err(why) => return Outcome::Failed { why, retryable: true },
        Ok(now) => {
            if op.compare(before, &now) == Now::Foreign {
                return Outcome::Foreign;
            }
        }
    }
    match host.look(back).await {
        Err(why) => Outcome::Failed { why, retryable: true },
        Ok(now) => match back.compare(&now, &now) {
            Now::Settled => Outcome::AlreadySo,
            Now::Foreign => Outcome::Foreign,
            Now::Pending => act(host, back, &now).await,
        },
    }
}
