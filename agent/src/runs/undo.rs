//! Undoing a finished run: a new run whose steps are the old one's, backwards. What somebody changed since is theirs and is
//! left; so is what cannot be undone.

use crate::journal::{self, NodeEntry};
use crate::roles::Operator;
use crate::runs::book::Asked;
use crate::runs::node::Node;
use crate::runs::told::{End, Halt, Told};
use crate::runs::{Inner, Refused, Request, Runs, printable, tell};
use lifeline_core::engine::{Ending, Event, Outcome};
use lifeline_core::op::{NodeOp, Now, Op, Scope, Seen, Undo};
use lifeline_core::plan::{NodePlan, OnUnhealthy, Step};

/// How long an undoing may take, milliseconds.
const DEADLINE_MS: u64 = 60_000;

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undone {
    /// As the wire has it.
    pub ending: String,
    /// A line for each step.
    pub lines: Vec<String>,
}

impl<N: Node> Runs<N> {
    /// Undoes a finished run and waits for the end; it goes on without the caller.
    ///
    /// # Errors
    /// When there is no such run, it has not ended, or another incident is under way.
    pub async fn undo(&self, by: &Operator, run: &str, request: String) -> Result<Undone, Refused> {
        {
            let state = self.inner.state();
            let summary =
                state.index.of_run(run).ok_or_else(|| Refused::NoRun { run: printable(run) })?;
            if summary.ending.is_none() {
                return Err(Refused::Unfinished { run: run.to_string() });
            }
        }
        let request = Request { id: request, asked: Asked::Undo { run: run.to_string() } };
        let (incident, _) = self.begin(by.name(), request).await?;
        let story = self.story(&incident).await?;
        let mut grew = story.grew();
        loop {
            if let Some((ending, text)) = story.ended() {
                return Ok(Undone { ending, lines: text.lines().map(str::to_string).collect() });
            }
            if grew.changed().await.is_err() {
                return Err(Refused::Lost);
            }
        }
    }
}

struct Put {
    op: NodeOp,
    before: Seen,
    back: NodeOp,
    finding: String,
}

/// A step to be put back, or why not.
enum Back {
    Put(Box<Put>),
    Not(String),
}

impl<N: Node> Inner<N> {
    /// Undoes a run within an incident of its own.
    pub async fn undo(&self, told: &mut Told, by: String, run: &str) -> Result<End, Halt> {
        let entries = journal::read(&self.dir, run)?;
        let Some(plan) = journal::plan(&entries) else {
            return Ok(End::of(Ending::Stuck, "its journal holds no plan"));
        };
        let same_boot = entries.first().is_some_and(|e| e.stamp.boot == self.clock.boot());
        let (mut lines, mut steps) = (Vec::new(), Vec::new());
        for back in backwards(plan, &entries, same_boot) {
            match back {
                Back::Not(line) => lines.push(line),
                Back::Put(put) => match self.node.see(run, &put.op).await {
                    Err(why) => lines.push(format!("{}: left: {why}", put.op)),
                    Ok(now) if put.op.compare(&put.before, &now) == Now::Foreign => {
                        lines.push(format!("{}: left as it is, somebody else changed it", put.op));
                    }
                    Ok(_) => steps.push(Step {
                        id: u32::try_from(steps.len()).unwrap_or(u32::MAX),
                        because: format!("undo: {}", put.op),
                        op: put.back,
                        finding: put.finding,
                        // What an operator asks to have back stays, even though the node is not well with it.
                        on_unhealthy: OnUnhealthy::Hold,
                        optional: true,
                    }),
                },
            }
        }
        for line in &lines {
            told.note("left", line.clone()).await?;
        }
        if steps.is_empty() {
            lines.push("nothing was to be undone".to_string());
            return Ok(End::of(Ending::RolledBack, lines.join("\n")));
        }
        let plan = NodePlan {
            incident: told.story.incident.clone(),
            findings: plan.findings.clone(),
            steps,
            deadline_ms: DEADLINE_MS,
            ..plan.clone()
        };
        let id = format!("{}.1-undo", told.story.incident);
        self.open_run(told, &id, run, plan, by).await?;
        let mut end = self.undone(&id);
        lines.extend(end.text.lines().map(str::to_string));
        end.text = lines.join("\n");
        Ok(end)
    }

    /// What a finished undoing did, from its journal.
    pub fn undone(&self, run: &str) -> End {
        let entries = match journal::read(&self.dir, run) {
            Ok(entries) => entries,
            Err(why) => return End::of(Ending::Stuck, crate::sight::chain(&why)),
        };
        let (mut lines, mut failed) = (Vec::new(), false);
        for entry in &entries {
            if let (Event::Ended { step, outcome }, Some(plan)) =
                (&entry.event, journal::plan(&entries))
            {
                let what = plan.steps.iter().find(|s| s.id == *step);
                let what = what.map_or_else(|| format!("step {step}"), |s| s.op.to_string());
                lines.push(format!("{what}: {}", tell::outcome(outcome)));
                failed |= matches!(outcome, Outcome::Failed { .. });
            }
        }
        End::of(if failed { Ending::Stuck } else { Ending::RolledBack }, lines.join("\n"))
    }
}

/// What is to be put back, newest step first.
fn backwards(plan: &NodePlan, entries: &[NodeEntry], same_boot: bool) -> Vec<Back> {
    let undone = |id: u32| {
        entries.iter().any(|e| {
            matches!(&e.event, Event::UndoEnded { step, outcome } if *step == id
                && !matches!(outcome, Outcome::Failed { .. } | Outcome::Foreign))
        })
    };
    let before = |id: u32| {
        entries.iter().find_map(|e| match &e.event {
            Event::Began { step, before } if *step == id => Some(before.clone()),
            _ => None,
        })
    };
    let mut out = Vec::new();
    for step in plan.steps.iter().rev() {
        let Some(before) = before(step.id) else { continue };
        let op = step.op.clone();
        if undone(step.id) {
            out.push(Back::Not(format!("{op}: undone already")));
            continue;
        }
        if !same_boot && op.scope() == Scope::Boot {
            out.push(Back::Not(format!("{op}: a reboot has undone it")));
            continue;
        }
        match op.undo(&before) {
            Undo::Put(back) => {
                let finding = step.finding.clone();
                out.push(Back::Put(Box::new(Put { op, before, back, finding })));
            }
            Undo::Irreversible(why) => out.push(Back::Not(format!("{op}: {why}"))),
            Undo::Nothing => {}
        }
    }
    out
}
