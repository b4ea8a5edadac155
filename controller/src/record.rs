//! An incident as it was watched: every line once, in order, whatever the connection did meanwhile.

use crate::words::clock;
use lifeline_core::engine::{Entry, Event, Outcome};
use lifeline_core::op::{NodeOp, Op};
use lifeline_core::plan::NodePlan;
use lifeline_core::report::{self, Incident, Note, Run};
use lifeline_proto::v1::watch_reply::What;
use lifeline_proto::v1::{End, WatchReply};
use serde::Serialize;
use std::time::Instant;

/// One run of the incident.
#[derive(Debug)]
pub struct RunRecord {
    /// Its id.
    pub id: String,
    /// Its rung.
    pub rung: String,
    /// Its journal.
    pub entries: Vec<Entry<NodeOp>>,
}

impl RunRecord {
    fn plan(&self) -> Option<&NodePlan> {
        match &self.entries.first()?.event {
            Event::Opened { plan, .. } => Some(plan),
            _ => None,
        }
    }
}

impl RunRecord {
    /// How to keep what is undone otherwise, said once: when everything is done and judged for the first time.
    fn hint(&self) -> Option<String> {
        let (plan, opened) = (self.plan()?, &self.entries.first()?.stamp);
        let judged = |e: &Entry<NodeOp>| matches!(e.event, Event::Judged { .. });
        let now = self.entries.last().filter(|e| judged(e))?;
        let undone = |e: &Entry<NodeOp>| matches!(e.event, Event::UndoBegan { .. });
        let first = self.entries.iter().filter(|e| judged(e)).count() == 1;
        if !first || self.entries.iter().any(undone) || !plan.steps.iter().any(|s| s.op.asks()) {
            return None;
        }
        let left = plan.deadline_ms.saturating_sub(now.stamp.since(opened)?) / 1_000;
        Some(format!("; undone in {left} s unless confirmed: ctl confirm NODE {}", self.id))
    }
}

/// The incident so far.
#[derive(Debug, Default)]
pub struct Record {
    /// Its id.
    pub incident: String,
    /// Number of the last line seen.
    pub seen: u64,
    /// Its runs.
    pub runs: Vec<RunRecord>,
    /// What was noted between them.
    pub notes: Vec<Note>,
    /// Its end.
    pub end: Option<End>,
    /// Lines that could not be read; a newer agent wrote them.
    pub strange: u32,
    /// Lines of which viewers are told the words, and not the journal behind them.
    pub withheld: u32,
    /// When the last line before the end came here: what is seen later is from after the last act. The guard's coming and going is
    /// told by notes, and viewers are told the words alone, so any line counts.
    pub acted: Option<Instant>,
    /// The clock of the last line that had one.
    last: u64,
}

/// A line as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its number within the incident.
    pub number: u64,
    /// Time of day, UTC.
    pub at: String,
    /// The same moment, for people: milliseconds since 1970; 0 where nobody said.
    #[serde(skip)]
    pub wall_ms: u64,
    /// `agent`, a rung's name, or `end`.
    pub part: String,
    /// What it says.
    pub text: String,
}

/// A run in the JSON of `heal`, `watch` and `report`.
#[derive(Debug, Serialize)]
pub struct RunJson {
    run: String,
    rung: String,
    /// `null` while it goes on.
    ending: Option<&'static str>,
    steps: Vec<StepJson>,
}

#[derive(Debug, Serialize)]
struct StepJson {
    what: String,
    kind: &'static str,
    /// `done`, `already-so`, `foreign`, `irreversible`, `failed`; `null` when it was not reached, or was cut off.
    outcome: Option<&'static str>,
    /// The same words; `null` when nobody undid it.
    undone: Option<&'static str>,
    /// What went wrong.
    why: Option<String>,
    irreversible: Option<&'static str>,
}

fn outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::AlreadySo => "already-so",
        Outcome::Foreign => "foreign",
        Outcome::Irreversible { .. } => "irreversible",
        Outcome::Failed { .. } => "failed",
    }
}

fn why(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Failed { why, .. } => Some(why.clone()),
        _ => None,
    }
}

/// When the last restart of a unit, or of the node, began in these runs, by the node's clock.
pub fn restarted_ms(runs: &[Run<'_>]) -> Option<u64> {
    let steps = runs.iter().flat_map(|r| r.steps());
    let done = steps.filter(|s| {
        matches!(s.op, NodeOp::Restarted { .. } | NodeOp::Rebooted)
            && matches!(s.ended, Some((_, Outcome::Done | Outcome::AlreadySo)))
    });
    done.filter_map(|s| s.began).map(|at| at.wall_ms).max()
}

impl Record {
    /// An incident of which nothing has been seen.
    pub fn new(incident: &str) -> Self {
        Self { incident: incident.into(), ..Self::default() }
    }

    /// Takes a line in; `None` when it had been seen before, or says nothing.
    pub fn take(&mut self, reply: WatchReply) -> Option<Line> {
        if reply.number <= self.seen {
            return None;
        }
        self.seen = reply.number;
        let number = reply.number;
        let last = self.last;
        let line = |at: u64, part: &str, text: String| {
            let wall_ms = if at == 0 { last } else { at };
            Line { number, at: clock(wall_ms), wall_ms, part: part.into(), text }
        };
        let what = reply.what?;
        if !matches!(what, What::End(_)) {
            self.acted = Some(Instant::now());
        }
        match what {
            What::Line(l) if l.json.is_empty() => {
                self.withheld += 1;
                Some(line(0, &l.rung, l.text))
            }
            What::Line(l) => {
                let at = match self.runs.iter().position(|r| r.id == l.run) {
                    Some(at) => at,
                    None => {
                        let (id, rung) = (l.run.clone(), l.rung.clone());
                        self.runs.push(RunRecord { id, rung, entries: Vec::new() });
                        self.runs.len() - 1
                    }
                };
                let run = &mut self.runs[at];
                let Ok(entry) = serde_json::from_str::<Entry<NodeOp>>(&l.json) else {
                    self.strange += 1;
                    return Some(line(0, &l.rung, l.text));
                };
                let wall = entry.stamp.wall_ms;
                self.last = wall;
                run.entries.push(entry);
                let said = run.entries.last().map(|e| report::say(&e.event, run.plan()));
                let keep = run.hint().unwrap_or_default();
                Some(line(wall, &l.rung, said.unwrap_or(l.text) + &keep))
            }
            What::Note(n) => {
                self.last = n.wall_ms;
                self.notes.push(Note { wall_ms: n.wall_ms, text: n.text.clone() });
                Some(line(n.wall_ms, "agent", n.text))
            }
            What::End(e) => {
                let said = if e.text.is_empty() {
                    e.ending.clone()
                } else {
                    format!("{}: {}", e.ending, e.text)
                };
                let line = line(e.wall_ms, "end", said);
                self.end = Some(e);
                Some(line)
            }
        }
    }

    /// Its ending, `None` while it goes on.
    pub fn ending(&self) -> Option<&str> {
        self.end.as_ref().map(|e| e.ending.as_str())
    }

    /// The runs as core's report takes them.
    pub fn borrowed(&self) -> Vec<Run<'_>> {
        self.runs.iter().map(|r| Run { id: &r.id, entries: &r.entries }).collect()
    }

    /// When the last restart of a unit, or of the node, began, by the node's clock; `None` when none was done.
    pub fn restarted_ms(&self) -> Option<u64> {
        restarted_ms(&self.borrowed())
    }

    /// The runs for machines.
    pub fn json(&self) -> Vec<RunJson> {
        let runs = self.runs.iter().zip(self.borrowed());
        runs.map(|(r, run)| RunJson {
            run: r.id.clone(),
            rung: r.rung.clone(),
            ending: run.ending().map(report::ending_word),
            steps: run
                .steps()
                .iter()
                .map(|s| StepJson {
                    what: s.op.to_string(),
                    kind: s.op.kind(),
                    outcome: s.ended.map(|(_, o)| outcome(o)),
                    undone: s.undone.map(|(_, o)| outcome(o)),
                    why: s.ended.iter().chain(&s.undone).find_map(|(_, o)| why(o)),
                    irreversible: s.irreversible,
                })
                .collect(),
        })
        .collect()
    }

    /// The report in Markdown.
    pub fn markdown(&self, node: &str, proof: &[String]) -> String {
        let incident = Incident {
            node: node.into(),
            id: self.incident.clone(),
            notes: self.notes.clone(),
            end: self.end.as_ref().map(|e| report::End {
                wall_ms: e.wall_ms,
                ending: e.ending.clone(),
                text: e.text.clone(),
            }),
            proof: proof.to_vec(),
        };
        report::markdown(&incident, &self.borrowed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeline_proto::v1::Note as WireNote;

    fn note(number: u64, text: &str) -> WatchReply {
        let note = WireNote { wall_ms: 1000, kind: "guard".into(), text: text.into() };
        WatchReply { number, what: Some(What::Note(note)) }
    }

    #[test]
    fn a_line_that_comes_twice_counts_once() {
        let mut record = Record::new("i-1");
        assert_eq!(record.take(note(1, "a")).unwrap().text, "a");
        assert_eq!(record.take(note(1, "a")), None);
        assert_eq!(record.take(note(2, "b")).unwrap().at, "00:00:01");
        assert_eq!((record.seen, record.notes.len()), (2, 2));
    }

    #[test]
    fn every_new_line_but_the_end_may_be_of_an_act() {
        let mut record = Record::new("i-1");
        assert_eq!(record.acted, None);
        record.take(note(1, "well without our guard; the guard is being lowered")).unwrap();
        let lowered = record.acted;
        assert!(lowered.is_some(), "a guard that goes is an act too");
        let words = lifeline_proto::v1::RunLine { text: "done".into(), ..Default::default() };
        record.take(WatchReply { number: 2, what: Some(What::Line(words)) }).unwrap();
        assert!(record.acted > lowered, "an act of which only the words are told");
        let last = record.acted;
        record.take(WatchReply { number: 3, what: Some(What::End(End::default())) }).unwrap();
        assert_eq!(record.acted, last);
    }
}
