//! How a recovery ended: each node, the namespace, the cluster, and one word for all of it.

use super::leg::LegEnd;
use super::op::RunbookOp;

/// How a recovery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Each node.
    pub nodes: Vec<(String, NodeEnd)>,
    /// The namespace, if one was to be cleaned up.
    pub namespace: Option<LegEnd>,
    /// The cluster's own checks.
    pub verified: LegEnd,
    /// Report, commit, comments.
    pub record: Vec<(RunbookOp, LegEnd)>,
}

/// How a node ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEnd {
    /// It was well, and was not touched.
    WasWell,
    /// It is well again; this brought it back.
    Healed(&'static str),
    /// It is not; this was in the way of each resort.
    Dead(Vec<String>),
    /// It is not, or nobody can say; but its machine is not what is wrong. This was tried, and why it was left alone.
    Spared(Vec<String>),
    /// Its machine was wiped: there is nothing to be brought back, and it joins anew.
    Wiped,
    /// It can be gone on with.
    Held(String),
    /// A human is needed.
    Stuck(String),
}

impl NodeEnd {
    /// Is it well now?
    pub fn is_well(&self) -> bool {
        matches!(self, Self::WasWell | Self::Healed(_))
    }
}

/// One word for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Every node is well, the namespace is gone, the cluster is verified.
    Recovered,
    /// Something is not.
    Unwell,
    /// A limit passed: it can be gone on with.
    Held,
    /// A human is needed.
    Stuck,
}

impl Word {
    /// The word.
    pub fn text(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::Unwell => "unwell",
            Self::Held => "held",
            Self::Stuck => "stuck",
        }
    }
}

impl Told {
    /// The word for it. What is recorded of a recovery does not decide whether it was one.
    pub fn word(&self) -> Word {
        let legs: Vec<&LegEnd> = self.namespace.iter().chain([&self.verified]).collect();
        let stuck = |l: &&LegEnd| matches!(l, LegEnd::Stuck(_));
        let held = |l: &&LegEnd| matches!(l, LegEnd::Held(_));
        if legs.iter().any(stuck) || self.nodes.iter().any(|(_, n)| matches!(n, NodeEnd::Stuck(_)))
        {
            return Word::Stuck;
        }
        if legs.iter().any(held) || self.nodes.iter().any(|(_, n)| matches!(n, NodeEnd::Held(_))) {
            return Word::Held;
        }
        let well = |l: &&LegEnd| matches!(l, LegEnd::Well | LegEnd::WasSo(_));
        match legs.iter().all(well) && self.nodes.iter().all(|(_, n)| n.is_well()) {
            true => Word::Recovered,
            false => Word::Unwell,
        }
    }
}
