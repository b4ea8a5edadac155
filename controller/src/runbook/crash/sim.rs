//! A world for the runbook: two nodes, an API server, a provider, papers; everything that is done is counted.

use crate::error::CommandError;
use crate::runbook::conduct::Desk;
use crate::runbook::leg::{Leg, World, all_so};
use crate::runbook::op::{Left, RunbookOp, Seen};
use crate::runbook::opened::Opened;
use crate::runbook::spare::Spare;
use lifeline_core::diagnosis::Health;
use lifeline_core::engine::{Failure, Judgement};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// What there is in the world, and what was done to it.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Agents that answer.
    pub(super) agents: BTreeSet<&'static str>,
    pub(super) well: BTreeSet<&'static str>,
    pub(super) boots: BTreeMap<&'static str, u32>,
    pub(super) so: BTreeSet<String>,
    pub(super) done: Vec<&'static str>,
    pub(super) api: bool,
    pub(super) refused: BTreeSet<&'static str>,
    /// Its agent answers by the time SSH is tried.
    pub(super) comes_back: Option<&'static str>,
    /// SSH leads there, and its agent's unit does not start.
    pub(super) starts_not: Option<&'static str>,
    /// Nodes that the cluster hears, or whose trouble is not their own.
    pub(super) spared: BTreeSet<&'static str>,
    /// Nodes whose machines were wiped.
    pub(super) wiped: BTreeSet<&'static str>,
    /// Nodes whose agents answer and cannot look.
    pub(super) dumb: BTreeSet<&'static str>,
    /// Nodes whose agents say Upstream.
    pub(super) upstream: BTreeSet<&'static str>,
    /// Nodes that must not be taken out of their cluster.
    pub(super) belongs: BTreeSet<&'static str>,
}

#[derive(Clone, Debug)]
pub(super) struct Sim(pub(super) Arc<Mutex<State>>);

pub(super) const NODES: [&str; 2] = ["calypso", "styx"];

fn name(node: &str) -> &'static str {
    NODES.into_iter().find(|n| *n == node).unwrap()
}

impl Sim {
    /// calypso's agent answers and can heal it; styx's does not, and a restart brings it back.
    pub(super) fn day() -> Self {
        let agents = ["calypso"].into();
        let boots = NODES.map(|n| (n, 1)).into();
        Self(Arc::new(Mutex::new(State { agents, boots, api: true, ..State::default() })))
    }

    pub(super) fn times(&self, kind: &str) -> usize {
        self.0.lock().unwrap().done.iter().filter(|d| **d == kind).count()
    }
}

impl World for Sim {
    async fn look(&self, op: &RunbookOp) -> Result<Seen, String> {
        let mut s = self.0.lock().unwrap();
        match op {
            RunbookOp::NodeHealed { node } if !s.agents.contains(node.as_str()) => {
                Err(format!("{node}: no path led to its agent"))
            }
            RunbookOp::NodeHealed { node } => Ok(Seen::is(s.well.contains(node.as_str()), "")),
            RunbookOp::AgentStarted { node } if s.comes_back == Some(name(node)) => {
                s.agents.insert(name(node));
                Ok(Seen::is(true, ""))
            }
            RunbookOp::MachineRestarted { node } => {
                Ok(Seen::is(false, "").known_by(s.boots[node.as_str()].to_string()))
            }
            RunbookOp::CulpritStopped { .. }
            | RunbookOp::CleanupBegun { .. }
            | RunbookOp::NamespaceGone { .. }
                if !s.api =>
            {
                Err("the API server does not answer".to_owned())
            }
            RunbookOp::ClusterVerified => Ok(Seen::is(s.well.len() == 2, "")),
            _ => Ok(Seen::is(s.so.contains(&op.to_string()), "")),
        }
    }

    async fn act(&self, op: &RunbookOp, _: &Seen) -> Result<(), Failure> {
        let mut s = self.0.lock().unwrap();
        s.done.push(op.kind());
        match op {
            RunbookOp::AgentStarted { .. } => {
                return Err(Failure {
                    why: "its unit does not start".to_owned(),
                    retryable: false,
                });
            }
            RunbookOp::AgentLent { node } => {
                s.agents.insert(name(node));
                s.so.insert(op.to_string());
            }
            RunbookOp::NodeHealed { .. } if s.refused.contains("a heal that helps") => {}
            RunbookOp::NodeHealed { node } => {
                s.well.insert(name(node));
                s.api = true;
            }
            RunbookOp::MachineRestarted { node } => {
                *s.boots.get_mut(node.as_str()).unwrap() += 1;
                if !s.refused.contains("a restart that helps") {
                    s.well.insert(name(node));
                    s.agents.insert(name(node));
                }
            }
            _ => {
                s.so.insert(op.to_string());
            }
        }
        Ok(())
    }

    async fn judge(&self, leg: &Leg) -> Judgement {
        let Some(RunbookOp::NodeHealed { node } | RunbookOp::MachineRestarted { node }) =
            leg.ops.first()
        else {
            return all_so(self, leg).await;
        };
        let well = self.0.lock().unwrap().well.contains(node.as_str());
        let health = if well { Health::Well } else { Health::Unwell };
        Judgement { health, findings: vec![], summary: format!("{node}: {health:?}") }
    }

    async fn agrees(&self, op: &RunbookOp) -> Result<bool, CommandError> {
        Ok(!self.0.lock().unwrap().refused.contains(op.kind()))
    }

    async fn wait(&self, _: u64) {}

    fn say(&self, _: &str) {}
}

impl Desk for Sim {
    fn startable(&self, node: &str) -> Result<(), String> {
        let s = self.0.lock().unwrap();
        match [s.comes_back, s.starts_not].contains(&Some(name(node))) {
            true => Ok(()),
            false => Err("no ssh is configured".to_owned()),
        }
    }

    fn restartable(&self, node: &str) -> Result<(), String> {
        match node {
            "styx" => Ok(()),
            _ => Err("it is no machine of the provider's".to_owned()),
        }
    }

    async fn spared(&self, node: &str) -> Spare {
        let s = self.0.lock().unwrap();
        match (s.spared.contains(node), s.dumb.contains(node)) {
            (true, _) => Spare::Yes(format!("the API server hears {node}")),
            (_, true) => Spare::Told("its agent answers, and cannot look".to_owned()),
            _ => Spare::No,
        }
    }

    async fn upstream(&self, node: &str) -> Option<String> {
        let upstream = self.0.lock().unwrap().upstream.contains(node);
        upstream.then(|| "its agent says Upstream".to_owned())
    }

    fn wiped(&self, node: &str) -> bool {
        self.0.lock().unwrap().wiped.contains(node)
    }

    async fn belongs(&self, node: &str) -> Option<String> {
        let belongs = self.0.lock().unwrap().belongs.contains(node);
        belongs.then(|| format!("{node} is Ready"))
    }

    fn console(&self, node: &str) -> String {
        format!("{node} has to be seen to")
    }

    fn record(&self, _: &Opened) -> Vec<RunbookOp> {
        let (dir, id, repo) = ("/papers".to_owned(), "r".to_owned(), "o/r".to_owned());
        vec![
            RunbookOp::ReportWritten { path: "/papers/r.md".to_owned() },
            RunbookOp::Committed { dir, paths: vec!["r.md".to_owned()], id },
            RunbookOp::Commented {
                repo: repo.clone(),
                issue: 99,
                text: "t".to_owned(),
                marker: "m".to_owned(),
            },
            RunbookOp::IssueLeft { repo, issue: 110, left: Left::NotPlanned },
        ]
    }
}
