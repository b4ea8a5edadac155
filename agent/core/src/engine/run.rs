//! Obeying [`next`] over two narrow traits: the machine and the journal.

use super::event::{Ending, Entry, Event, Outcome};
use super::next::{Next, next};
use crate::clock::Stamp;
use crate::diagnosis::Health;
use crate::op::{Now, Op, Scope, Undo};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

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
            let again = begun.is_some();
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
                // The boot that was wanted has come, and we were the ones who asked for it.
                Now::Settled if again && op.scope() == Scope::Boots => Outcome::Done,
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
