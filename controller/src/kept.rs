//! An agent's incident, kept on the operator's machine: a report is written from journals alone, also when the agent is gone.

use crate::record::{Record, RunRecord};
use lifeline_core::engine::Entry;
use lifeline_core::op::NodeOp;
use lifeline_core::report::{self, Incident, Note, Run};
use serde::{Deserialize, Serialize};

/// An incident as its agent told it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The node.
    pub node: String,
    /// The incident's id.
    pub incident: String,
    /// Its runs' journals.
    pub runs: Vec<KeptRun>,
    /// What was noted between them.
    pub notes: Vec<KeptNote>,
    /// Its end; `None` while it went on.
    pub end: Option<KeptEnd>,
}

/// One run's journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptRun {
    /// Its id.
    pub id: String,
    /// Its rung.
    pub rung: String,
    /// Its entries.
    pub entries: Vec<Entry<NodeOp>>,
}

/// A note.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptNote {
    /// The node's wall clock.
    pub wall_ms: u64,
    /// What it says.
    pub text: String,
}

/// An end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptEnd {
    /// The node's wall clock.
    pub wall_ms: u64,
    /// `recovered`…
    pub ending: String,
    /// One sentence.
    pub text: String,
}

impl Kept {
    /// What was watched of an incident.
    pub fn of(node: &str, record: &Record) -> Self {
        let run = |r: &RunRecord| KeptRun {
            id: r.id.clone(),
            rung: r.rung.clone(),
            entries: r.entries.clone(),
        };
        Self {
            node: node.to_owned(),
            incident: record.incident.clone(),
            runs: record.runs.iter().map(run).collect(),
            notes: record
                .notes
                .iter()
                .map(|n| KeptNote { wall_ms: n.wall_ms, text: n.text.clone() })
                .collect(),
            end: record.end.as_ref().map(|e| KeptEnd {
                wall_ms: e.wall_ms,
                ending: e.ending.clone(),
                text: e.text.clone(),
            }),
        }
    }

    /// When it began, by the node's clock.
    pub fn first_ms(&self) -> u64 {
        let entries = self.runs.iter().flat_map(|r| &r.entries).map(|e| e.stamp.wall_ms);
        entries.chain(self.notes.iter().map(|n| n.wall_ms)).min().unwrap_or(0)
    }

    /// When the kubelet or the node was last started anew, by the node's clock.
    pub fn restarted_ms(&self) -> Option<u64> {
        crate::record::restarted_ms(&self.borrowed())
    }

    fn borrowed(&self) -> Vec<Run<'_>> {
        self.runs.iter().map(|r| Run { id: &r.id, entries: &r.entries }).collect()
    }

    /// The agent's own report of it.
    pub fn markdown(&self) -> String {
        let incident = Incident {
            node: self.node.clone(),
            id: self.incident.clone(),
            notes: self
                .notes
                .iter()
                .map(|n| Note { wall_ms: n.wall_ms, text: n.text.clone() })
                .collect(),
            end: self.end.as_ref().map(|e| report::End {
                wall_ms: e.wall_ms,
                ending: e.ending.clone(),
                text: e.text.clone(),
            }),
            proof: Vec::new(),
        };
        report::markdown(&incident, &self.borrowed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Fuzz;

    #[test]
    fn what_an_agent_told_is_kept_as_it_was_and_can_always_be_reported() {
        Fuzz::new("kept").folder("tests/corpus/kept", |_| true).run(|bytes| {
            let Ok(kept) = serde_json::from_slice::<Kept>(bytes) else { return };
            let json = serde_json::to_string(&kept).unwrap();
            let again: Kept = serde_json::from_str(&json).unwrap();
            assert_eq!(serde_json::to_string(&again).unwrap(), json);
            assert!(!kept.markdown().is_empty());
            let _restarted = kept.restarted_ms();
        });
    }
}
