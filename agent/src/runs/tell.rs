//! Journal entries as lines for people.

use lifeline_core::diagnosis::Health;
use lifeline_core::engine::{Event, Outcome};
use lifeline_core::op::NodeOp;
use lifeline_core::plan::NodePlan;

/// What an entry says, in a line.
pub fn event(plan: &NodePlan, event: &Event<NodeOp>) -> String {
    let step = |id: &u32| {
        plan.steps
            .iter()
            .find(|s| s.id == *id)
            .map_or_else(|| format!("step {id}"), |s| s.op.to_string())
    };
    match event {
        Event::Opened { plan, by } => {
            format!(
                "rung {} ({}), {} steps, by {by}",
                plan.rung.number(),
                plan.rung.word(),
                plan.steps.len()
            )
        }
        Event::Began { step: id, .. } => step(id),
        Event::Ended { step: id, outcome: how } => format!("{}: {}", step(id), outcome(how)),
        Event::Judged { health, summary, .. } => format!("{}: {summary}", word(*health)),
        Event::Confirmed { by } => format!("confirmed by {by}"),
        Event::Cancelled { by } => format!("cancelled by {by}"),
        Event::UndoBegan { step: id } => format!("undo: {}", step(id)),
        Event::UndoEnded { step: id, outcome: how } => {
            format!("undo: {}: {}", step(id), outcome(how))
        }
        Event::Closed { ending: how } => format!("rung {}: {}", plan.rung.number(), how.word()),
        Event::Unknown => "written by a newer version".to_string(),
    }
}

/// How a step went, in words.
pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "done".to_string(),
        Outcome::AlreadySo => "already so".to_string(),
        Outcome::Foreign => "left as it is, somebody else changed it".to_string(),
        Outcome::Irreversible { why } => why.clone(),
        Outcome::Failed { why, .. } => format!("failed: {why}"),
    }
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Well => "well",
        Health::Contained => "works thanks to our guard",
        Health::Unwell => "not well",
        Health::Unknown => "cannot be said",
    }
}
