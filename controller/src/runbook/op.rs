//! What a recovery can bring about: each [`RunbookOp`] is the wanted state of one thing that no agent can reach alone.
//!
//! The engine of `core` takes them like the agent's own: look, write down, act, look again. So a step that was done before a
//! crash is seen to be done, and is not done twice.

use lifeline_core::op::{Now, Op, Scope, Undo};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How an issue is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Left {
    /// Closed as not planned.
    NotPlanned,
    /// Open, with this label.
    Label(String),
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`…
    pub effect: String,
}

/// The wanted state of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum RunbookOp {
    /// Nothing in the namespace starts the culprit again.
    CulpritStopped {
        /// Namespace.
        namespace: String,
    },
    /// The namespace's clean-up has begun; nobody waits for it yet.
    CleanupBegun {
        /// Namespace.
        namespace: String,
    },
    /// The namespace and all that was in it are gone.
    NamespaceGone {
        /// Namespace.
        namespace: String,
    },
    /// The node is well by its own agent's look, without our guard.
    NodeHealed {
        /// Node.
        node: String,
    },
    /// The node's agent answers; its unit was started over SSH.
    AgentStarted {
        /// Node.
        node: String,
    },
    /// An agent answers there that was lent for this alone: brought over SSH, it works on the node's own journals.
    AgentLent {
        /// Node.
        node: String,
    },
    /// What was lent is gone again, with all it made.
    AgentReturned {
        /// Node.
        node: String,
    },
    /// The node runs in another boot than before; the provider stopped its machine fully and started it.
    MachineRestarted {
        /// Node.
        node: String,
    },
    /// Nothing new is scheduled onto the node.
    LeftCordoned {
        /// Node.
        node: String,
    },
    /// The node may be scheduled onto again (undoes the above).
    Uncordoned {
        /// Node.
        node: String,
    },
    /// Its pods have moved elsewhere, as far as their budgets allow.
    Drained {
        /// Node.
        node: String,
    },
    /// The cluster is told that the node's machine is off, as its provider says: pods and volumes are let go of.
    OutOfService {
        /// Node.
        node: String,
        /// Its object's uid.
        uid: String,
    },
    /// The cluster knows it no longer.
    NodeDeleted {
        /// Node.
        node: String,
        /// Its object's uid: another node may come to bear its name.
        uid: String,
        /// Its machine was wiped: what the cluster keeps of its password goes, too.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        wiped: bool,
    },
    /// The node has the labels, taints and cordon it had before.
    NodeRestored {
        /// Node.
        node: String,
        /// Labels it had; others are left.
        labels: BTreeMap<String, String>,
        /// Taints it had; others are left.
        taints: Vec<Taint>,
        /// It was not cordoned before, and this recovery cordoned it.
        uncordon: bool,
        /// This recovery said that it was off, and it runs.
        #[serde(default)]
        in_service: bool,
    },
    /// Nodes, pods, critical workloads, connectivity, remnants: all as they should be.
    ClusterVerified,
    /// The report lies in this file.
    ReportWritten {
        /// Where.
        path: String,
    },
    /// Report and papers are committed; the run's id stands in the commit.
    Committed {
        /// Work tree.
        dir: String,
        /// Relative to it.
        paths: Vec<String>,
        /// What the trailer says.
        id: String,
    },
    /// The remote has that commit.
    Pushed {
        /// Work tree.
        dir: String,
        /// Remote.
        remote: String,
        /// Branch there.
        branch: String,
        /// What the commit's trailer says.
        id: String,
    },
    /// The issue has our comment, once.
    Commented {
        /// `owner/name`.
        repo: String,
        /// Number.
        issue: u64,
        /// What it says.
        text: String,
        /// The hidden mark by which it is known again.
        marker: String,
    },
    /// The issue is closed as not planned, or has its label.
    IssueLeft {
        /// `owner/name`.
        repo: String,
        /// Number.
        issue: u64,
        /// How.
        left: Left,
    },
}

/// What a look at one of them brings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// It is as it is wanted.
    pub so: bool,
    /// What it is known by: a boot, a commit, a comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// For people; never a secret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub words: String,
}

impl Seen {
    /// It is so, or it is not.
    pub fn is(so: bool, words: impl Into<String>) -> Self {
        Self { so, token: None, words: words.into() }
    }

    /// With what it is known by.
    pub fn known_by(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }
}

impl RunbookOp {
    /// The kind, for journals and scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CulpritStopped { .. } => "culprit-stopped",
            Self::CleanupBegun { .. } => "cleanup-begun",
            Self::NamespaceGone { .. } => "namespace-gone",
            Self::NodeHealed { .. } => "node-healed",
            Self::AgentStarted { .. } => "agent-started",
            Self::AgentLent { .. } => "agent-lent",
            Self::AgentReturned { .. } => "agent-returned",
            Self::MachineRestarted { .. } => "machine-restarted",
            Self::LeftCordoned { .. } => "left-cordoned",
            Self::Uncordoned { .. } => "uncordoned",
            Self::Drained { .. } => "drained",
            Self::OutOfService { .. } => "out-of-service",
            Self::NodeDeleted { .. } => "node-deleted",
            Self::NodeRestored { .. } => "node-restored",
            Self::ClusterVerified => "cluster-verified",
            Self::ReportWritten { .. } => "report-written",
            Self::Committed { .. } => "committed",
            Self::Pushed { .. } => "pushed",
            Self::Commented { .. } => "commented",
            Self::IssueLeft { .. } => "issue-left",
        }
    }

    /// The node it is about, if it is about one.
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::NodeHealed { node }
            | Self::AgentStarted { node }
            | Self::AgentLent { node }
            | Self::AgentReturned { node }
            | Self::MachineRestarted { node }
            | Self::LeftCordoned { node }
            | Self::Uncordoned { node }
            | Self::Drained { node }
            | Self::OutOfService { node, .. }
            | Self::NodeDeleted { node, .. }
            | Self::NodeRestored { node, .. } => Some(node),
            _ => None,
        }
    }

    /// What is typed before it is done, when it cannot be undone; the plan's confirmation does not cover it. Who agreed to
    /// a restart has not agreed to a deletion.
    pub fn typed(&self) -> Option<String> {
        match self {
            Self::MachineRestarted { node } => Some(node.clone()),
            Self::OutOfService { node, .. } => Some(format!("out-of-service {node}")),
            Self::NodeDeleted { node, .. } => Some(format!("delete {node}")),
            Self::CleanupBegun { namespace } => Some(namespace.clone()),
            _ => None,
        }
    }

    /// It is asked by itself, whatever the plan's confirmation covered: it leaves the house, or brings something to a node.
    pub fn asked(&self) -> bool {
        matches!(
            self,
            Self::Committed { .. }
                | Self::Pushed { .. }
                | Self::Commented { .. }
                | Self::IssueLeft { .. }
                | Self::AgentLent { .. }
                | Self::LeftCordoned { .. }
                | Self::Drained { .. }
        ) || self.typed().is_some()
    }
}

impl Op for RunbookOp {
    type Seen = Seen;

    fn target(&self) -> String {
        match self {
            Self::CulpritStopped { namespace } => format!("culprit {namespace}"),
            Self::CleanupBegun { namespace } | Self::NamespaceGone { namespace } => {
                format!("namespace {namespace}")
            }
            Self::AgentStarted { node }
            | Self::AgentLent { node }
            | Self::AgentReturned { node } => format!("agent {node}"),
            Self::MachineRestarted { node } => format!("machine {node}"),
            Self::ClusterVerified => "cluster".to_owned(),
            Self::ReportWritten { path } => format!("file {path}"),
            Self::Committed { dir, .. } => format!("repository {dir}"),
            Self::Pushed { remote, branch, .. } => format!("remote {remote} {branch}"),
            Self::Commented { repo, issue, .. } => format!("comment {repo}#{issue}"),
            Self::IssueLeft { repo, issue, .. } => format!("issue {repo}#{issue}"),
            Self::NodeHealed { node }
            | Self::LeftCordoned { node }
            | Self::Uncordoned { node }
            | Self::Drained { node }
            | Self::OutOfService { node, .. }
            | Self::NodeDeleted { node, .. }
            | Self::NodeRestored { node, .. } => format!("node {node}"),
        }
    }

    fn scope(&self) -> Scope {
        Scope::Remote
    }

    fn compare(&self, before: &Seen, now: &Seen) -> Now {
        let so = match self {
            // Nobody's word counts: another boot than the one that was written down before.
            Self::MachineRestarted { .. } => {
                now.token.is_some() && before.token.is_some() && now.token != before.token
            }
            _ => now.so,
        };
        if so { Now::Settled } else { Now::Pending }
    }

    fn undo(&self, before: &Seen) -> Undo<Self> {
        match self {
            Self::LeftCordoned { node } if !before.so => {
                Undo::Put(Self::Uncordoned { node: node.clone() })
            }
            Self::MachineRestarted { .. } => Undo::Irreversible("a restart cannot be taken back"),
            Self::OutOfService { .. } => {
                Undo::Irreversible("pods that were let go of are not given back")
            }
            Self::NodeDeleted { .. } => Undo::Irreversible("a deleted node has to join again"),
            Self::CulpritStopped { .. }
            | Self::CleanupBegun { .. }
            | Self::NamespaceGone { .. } => {
                Undo::Irreversible("what was deleted is not created again from here")
            }
            Self::Pushed { .. } | Self::Commented { .. } | Self::IssueLeft { .. } => {
                Undo::Irreversible("it has been read by others")
            }
            // The agent keeps a journal of its own, and undoes by it: `ctl undo`.
            _ => Undo::Nothing,
        }
    }
}

impl fmt::Display for RunbookOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CulpritStopped { namespace } => {
                write!(f, "stop everything in namespace {namespace} from being started again")
            }
            Self::CleanupBegun { namespace } => {
                write!(f, "begin the clean-up of namespace {namespace}, without waiting for it")
            }
            Self::NamespaceGone { namespace } => {
                write!(f, "finish namespace {namespace}, and prove that it is gone")
            }
            Self::NodeHealed { node } => write!(f, "heal {node} through its agent"),
            Self::AgentStarted { node } => write!(f, "start {node}'s agent over SSH"),
            Self::AgentLent { node } => write!(f, "lend {node} an agent over SSH"),
            Self::AgentReturned { node } => {
                write!(f, "take away the agent that was lent to {node}")
            }
            Self::MachineRestarted { node } => {
                write!(f, "restart {node}'s machine through its provider")
            }
            Self::LeftCordoned { node } => write!(f, "leave {node} cordoned"),
            Self::Uncordoned { node } => write!(f, "uncordon {node}"),
            Self::Drained { node } => write!(f, "drain {node}"),
            Self::OutOfService { node, .. } => {
                write!(f, "let go of {node}'s pods and volumes, its machine being off")
            }
            Self::NodeDeleted { node, wiped: false, .. } => {
                write!(f, "delete {node} from the cluster")
            }
            Self::NodeDeleted { node, wiped: true, .. } => {
                write!(
                    f,
                    "delete {node} from the cluster, and its password, its machine being wiped"
                )
            }
            Self::NodeRestored { node, .. } => {
                write!(f, "give {node} its labels, taints and scheduling back")
            }
            Self::ClusterVerified => write!(f, "verify the cluster"),
            Self::ReportWritten { path } => write!(f, "write the report to {path}"),
            Self::Committed { dir, paths, .. } => {
                write!(f, "commit {} in {dir}", paths.join(", "))
            }
            Self::Pushed { remote, branch, .. } => write!(f, "push to {remote} {branch}"),
            Self::Commented { repo, issue, .. } => write!(f, "comment on {repo}#{issue}"),
            Self::IssueLeft { repo, issue, left: Left::NotPlanned } => {
                write!(f, "close {repo}#{issue} as not planned")
            }
            Self::IssueLeft { repo, issue, left: Left::Label(label) } => {
                write!(f, "label {repo}#{issue} \"{label}\"")
            }
        }
    }
}
