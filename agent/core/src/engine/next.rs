//! What is to be done next, decided from a journal and the present moment alone.

use super::event::{Ending, Entry, Event, Outcome};
use crate::clock::Stamp;
use crate::diagnosis::Health;
use crate::op::{Op, Scope};
use crate::plan::{OnUnhealthy, Plan};
use alloc::string::String;
use alloc::vec::Vec;

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

/// How long to wait between judgements while a confirmation is awaited, or a node comes up again, milliseconds.
pub const ASK_MS: u64 = 2_000;

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
            // Too late once the undoing has begun: half a ruleset is nobody's wish.
            Event::Confirmed { .. } if r.undoing => {}
            Event::Confirmed { .. } => {
                r.confirmed = true;
                r.judged = None;
            }
            Event::Cancelled { .. } => r.cancelled = true,
            // Something was written after the end: not by this program.
            Event::Closed { .. } => return None,
        }
    }
    Some(r)
}

/// Is this a run that nobody confirmed in time, and that is not undone yet? What the timer outside the process asks.
pub fn is_overdue<O: Op>(entries: &[Entry<O>], here: &Stamp) -> bool {
    let Some(r) = read(entries) else { return false };
    let asks = r.plan.steps.iter().any(|s| s.op.asks());
    let late = here.since(r.opened).is_some_and(|ms| ms > r.plan.deadline_ms);
    asks && late && !r.confirmed
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
    let undoable = |want: &dyn Fn(usize) -> bool| {
        steps.iter().rev().map(|s| s.id).find(|id| {
            let i = index(*id);
            r.began[i] && r.undo_ended[i].is_none() && want(i)
        })
    };
    let asks = steps.iter().any(|s| s.op.asks());
    // A failed undo is never retried blindly. Of a plan that asks, the other steps are put back all the same: one table that
    // does not come back must not keep the others open.
    if r.undo_ended.iter().flatten().any(|o| matches!(o, Outcome::Failed { .. })) {
        return match undoable(&|_| true) {
            Some(id) if asks => Next::Undo(id),
            _ => Next::Close(Ending::Stuck),
        };
    }
    let wanted_boot = |i: usize| steps[i].op.scope() == Scope::Boots && r.began[i];
    let same_boot = here.since(r.opened);
    let rebooted = same_boot.is_none() && (0..steps.len()).any(wanted_boot);
    let elapsed = match same_boot {
        Some(ms) => ms,
        // The boot that was wanted: its time counts from its beginning.
        None if rebooted => here.ms,
        // Another boot, which nobody here wanted: the kernel has forgotten its part; what lies on disk is put back as it was.
        None => {
            let on_disk = |i: usize| !matches!(steps[i].op.scope(), Scope::Boot | Scope::Boots);
            return match undoable(&on_disk) {
                Some(id) => Next::Undo(id),
                None if r.undo_ended.iter().any(Option::is_some) => Next::Close(Ending::RolledBack),
                None => Next::Close(Ending::Void),
            };
        }
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
    if asks && !failed && !r.undoing && pending.is_none() {
        return match (r.judged, r.confirmed) {
            (None, _) => Next::Judge,
            (Some(Health::Well), true) => Next::Close(Ending::Recovered),
            (Some(Health::Unknown), true) => Next::Close(Ending::Held),
            // Confirmed is confirmed: it stays, and what it did not heal is the next rung's affair.
            (Some(Health::Contained | Health::Unwell), true) => Next::Close(Ending::Unwell),
            (Some(_), false) if !late => {
                Next::Wait(ASK_MS.min(r.plan.deadline_ms.saturating_sub(elapsed) + 1))
            }
            (Some(_), false) => match undoable(&|_| true) {
                Some(id) => Next::Undo(id),
                None => Next::Close(Ending::RolledBack),
            },
        };
    }
    if !failed && !r.undoing {
        match pending {
            // Of a boot that has come, only the name is asked.
            Some(s) if !late || rebooted => return Next::Do(s.id),
            Some(_) => {}
            None => match r.judged {
                None => return Next::Judge,
                Some(Health::Well) => return Next::Close(Ending::Recovered),
                Some(Health::Unknown) if late => return Next::Close(Ending::Held),
                Some(Health::Unknown) => return Next::Wait(WAIT_MS),
                // A node that comes up is not well at once.
                Some(Health::Contained | Health::Unwell) if rebooted && !late => {
                    return Next::Wait(ASK_MS);
                }
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
        let unconfirmed = asks && !r.confirmed;
        unconfirmed || (steps[i].on_unhealthy == OnUnhealthy::Undo && !helped) || !whole
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
