//! Telling an incident from its journals alone: a line for each event, and a Markdown report that goes to git and issues.
//!
//! Reports leave the house, so no text gets into one except through [`Clean`], whose only way in blanks secrets out.
//! Pre-images (`resolv.conf`, preferences) are never printed.

use crate::clock::Stamp;
use crate::diagnosis::Health;
use crate::engine::{Ending, Entry, Event, Outcome};
use crate::op::{NodeOp, Op, Undo};
use crate::plan::NodePlan;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

mod clean;
mod markdown;

pub use clean::Clean;
pub use markdown::markdown;

/// What is known of an incident beside its runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Incident {
    /// The node.
    pub node: String,
    /// The incident's id.
    pub id: String,
    /// What was noted between the runs.
    pub notes: Vec<Note>,
    /// Its end; `None` while it goes on.
    pub end: Option<End>,
    /// What was seen from elsewhere afterwards, a line each: the API server's view.
    pub proof: Vec<String>,
}

/// Something between the runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Wall clock, milliseconds.
    pub wall_ms: u64,
    /// What it says.
    pub text: String,
}

/// An incident's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Wall clock, milliseconds.
    pub wall_ms: u64,
    /// `recovered`, `rolled-back`…
    pub ending: String,
    /// One sentence.
    pub text: String,
}

/// One run's journal.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The run's id.
    pub id: &'a str,
    /// Its entries.
    pub entries: &'a [Entry<NodeOp>],
}

impl<'a> Run<'a> {
    /// Its plan and who asked for it; `None` when the journal does not begin as it must.
    pub fn opened(&self) -> Option<(&'a NodePlan, &'a str)> {
        match &self.entries.first()?.event {
            Event::Opened { plan, by } => Some((plan, by)),
            Event::Began { .. }
            | Event::Ended { .. }
            | Event::Judged { .. }
            | Event::Confirmed { .. }
            | Event::Cancelled { .. }
            | Event::UndoBegan { .. }
            | Event::UndoEnded { .. }
            | Event::Closed { .. }
            | Event::Unknown => None,
        }
    }

    /// How it ended.
    pub fn ending(&self) -> Option<Ending> {
        self.entries.iter().rev().find_map(|e| match e.event {
            Event::Closed { ending } => Some(ending),
            Event::Opened { .. }
            | Event::Began { .. }
            | Event::Ended { .. }
            | Event::Judged { .. }
            | Event::Confirmed { .. }
            | Event::Cancelled { .. }
            | Event::UndoBegan { .. }
            | Event::UndoEnded { .. }
            | Event::Unknown => None,
        })
    }

    /// What became of each step, in order.
    pub fn steps(&self) -> Vec<Taken<'a>> {
        let Some((plan, _)) = self.opened() else { return Vec::new() };
        let mut steps: Vec<Taken<'a>> = plan
            .steps
            .iter()
            .map(|step| Taken {
                op: &step.op,
                because: &step.because,
                id: step.id,
                ..Taken::new(&step.op)
            })
            .collect();
        for entry in self.entries {
            let at = &entry.stamp;
            match &entry.event {
                Event::Began { step, before } => {
                    if let Some(s) = steps.iter_mut().find(|s| s.id == *step) {
                        s.began = Some(at);
                        s.irreversible = match s.op.undo(before) {
                            Undo::Irreversible(why) => Some(why),
                            Undo::Put(_) | Undo::Nothing => None,
                        };
                    }
                }
                Event::Ended { step, outcome } => {
                    if let Some(s) = steps.iter_mut().find(|s| s.id == *step) {
                        s.ended = Some((at, outcome));
                    }
                }
                Event::UndoEnded { step, outcome } => {
                    if let Some(s) = steps.iter_mut().find(|s| s.id == *step) {
                        s.undone = Some((at, outcome));
                    }
                }
                Event::Opened { .. }
                | Event::Judged { .. }
                | Event::Confirmed { .. }
                | Event::Cancelled { .. }
                | Event::UndoBegan { .. }
                | Event::Closed { .. }
                | Event::Unknown => {}
            }
        }
        steps
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    /// Its number.
    pub id: u32,
    /// What was wanted.
    pub op: &'a NodeOp,
    /// Why.
    pub because: &'a str,
    /// When it began.
    pub began: Option<&'a Stamp>,
    /// When and how it ended.
    pub ended: Option<(&'a Stamp, &'a Outcome)>,
    /// When and how it was undone.
    pub undone: Option<(&'a Stamp, &'a Outcome)>,
    /// Why it cannot be undone.
    pub irreversible: Option<&'static str>,
}

impl<'a> Taken<'a> {
    fn new(op: &'a NodeOp) -> Self {
        Self { id: 0, op, because: "", began: None, ended: None, undone: None, irreversible: None }
    }

    /// It changed the node, and the change still stands.
    pub fn stands(&self) -> bool {
        let done = self.ended.is_some_and(|(_, o)| *o == Outcome::Done);
        done && !self.undone.is_some_and(|(_, o)| o.is_ok())
    }
}

/// An ending in a word.
pub fn ending_word(ending: Ending) -> &'static str {
    match ending {
        Ending::Recovered => "recovered",
        Ending::RolledBack => "rolled-back",
        Ending::Held => "held",
        Ending::Unwell => "unwell",
        Ending::Cancelled => "cancelled",
        Ending::Void => "void",
        Ending::Stuck => "stuck",
    }
}

/// Health in a word.
pub fn health_word(health: Health) -> &'static str {
    match health {
        Health::Well => "well",
        Health::Contained => "contained",
        Health::Unwell => "unwell",
        Health::Unknown => "unknown",
    }
}

/// An outcome in a few words.
pub fn outcome_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "done".to_string(),
        Outcome::AlreadySo => "was so already".to_string(),
        Outcome::Foreign => "left alone: somebody else changed it".to_string(),
        Outcome::Irreversible { why } => format!("not undone: {why}"),
        Outcome::Failed { why, .. } => format!("failed: {why}"),
    }
}

/// One event in a line, for a terminal. `plan` is the run's, to say a step by what it does.
pub fn say(event: &Event<NodeOp>, plan: Option<&NodePlan>) -> String {
    let step = |id: &u32| {
        let step = plan.and_then(|p| p.steps.iter().find(|s| s.id == *id));
        step.map_or_else(|| format!("step {id}"), |s| s.op.to_string())
    };
    match event {
        Event::Opened { plan, by } => {
            let (rung, n) = (plan.rung.word(), plan.steps.len());
            let s = if n == 1 { "" } else { "s" };
            format!("rung {} ({rung}) opened by {by}: {n} step{s}", plan.rung.number())
        }
        Event::Began { step: id, .. } => format!("{} …", step(id)),
        Event::Ended { step: id, outcome } => format!("{}: {}", step(id), outcome_words(outcome)),
        Event::Judged { health, findings, summary } => {
            let found = if findings.is_empty() {
                String::new()
            } else {
                format!(" [{}]", findings.join(", "))
            };
            format!("judged {}: {summary}{found}", health_word(*health))
        }
        Event::Confirmed { by } => format!("confirmed by {by}"),
        Event::Cancelled { by } => format!("cancelled by {by}"),
        Event::UndoBegan { step: id } => format!("undo: {} …", step(id)),
        Event::UndoEnded { step: id, outcome } => {
            format!("undo: {}: {}", step(id), outcome_words(outcome))
        }
        Event::Closed { ending } => format!("ended: {}", ending_word(*ending)),
        Event::Unknown => "an event of a newer version".to_string(),
    }
}
