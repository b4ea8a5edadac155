//! One rung of the ladder, written down: the same data is shown, journalled, executed, undone and reported.

use crate::op::{NodeOp, Op};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Version of the plan's form; part of its digest.
pub const FORMAT: u32 = 1;

/// A rung of the ladder: cheapest repair first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// 1: routing rules that let critical traffic past the captor.
    Guard,
    /// 2: make the culprit stop.
    Quiet,
    /// 3: remove what it left, restore what is missing.
    Clean,
    /// 4: close dead connections, restart the kubelet.
    Reconnect,
    /// 5: flush the packet filter in every backend, restart the kubelet; undone unless confirmed.
    Reset,
    /// 6: reboot.
    Reboot,
    /// 7: what no agent can do: the provider, the cluster, the record. Never a plan for a node.
    Controller,
}

impl Rung {
    /// The rungs that repair what was found; the guard is a reconciler of its own.
    pub const ENGINE: [Self; 3] = [Self::Quiet, Self::Clean, Self::Reconnect];

    /// The rungs that do not ask what it is: only with an operator's consent that names them.
    pub const LAST: [Self; 2] = [Self::Reset, Self::Reboot];

    /// Its number in the documents.
    pub fn number(self) -> u32 {
        match self {
            Self::Guard => 1,
            Self::Quiet => 2,
            Self::Clean => 3,
            Self::Reconnect => 4,
            Self::Reset => 5,
            Self::Reboot => 6,
            Self::Controller => 7,
        }
    }

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Quiet => "quiet",
            Self::Clean => "clean",
            Self::Reconnect => "reconnect",
            Self::Reset => "reset",
            Self::Reboot => "reboot",
            Self::Controller => "controller",
        }
    }
}

/// What happens to a finished step when its rung did not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnhealthy {
    /// It is undone.
    Undo,
    /// It stays: the evidence was certain, and the node is cleaner with it.
    Hold,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step<O> {
    /// Counts from 0 within the plan.
    pub id: u32,
    /// What is wanted.
    pub op: O,
    /// Key of the finding it is for.
    pub finding: String,
    /// Why, for people.
    pub because: String,
    /// If the rung does not help.
    pub on_unhealthy: OnUnhealthy,
    /// The rung goes on when this step fails: a courtesy, such as asking a daemon before it is stopped.
    #[serde(default)]
    pub optional: bool,
}

/// One rung, all findings, at most one step for each target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan<O> {
    /// [`FORMAT`].
    pub format: u32,
    /// The incident it belongs to: the same for all rungs of one recovery.
    pub incident: String,
    /// The rung.
    pub rung: Rung,
    /// Keys of the findings it meets.
    pub findings: Vec<String>,
    /// Digest of the policy it was made under.
    pub policy: String,
    /// The steps, in the order they are taken.
    pub steps: Vec<Step<O>>,
    /// How long the whole rung may take, milliseconds of boot time.
    pub deadline_ms: u64,
}

/// First 16 hex digits of SHA-256 over the JSON of `what`.
pub fn digest<T: Serialize>(what: &T) -> String {
    let text = serde_json::to_vec(what).unwrap_or_default();
    Sha256::digest(&text).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

impl<O: Serialize + Clone + Op> Plan<O> {
    /// Names the plan by what it would do: (format, rung, policy, sorted steps), not by when or for which run.
    pub fn digest(&self) -> String {
        let mut steps: Vec<(String, &O)> =
            self.steps.iter().map(|s| (s.op.target(), &s.op)).collect();
        steps.sort_by(|a, b| a.0.cmp(&b.0));
        digest(&(self.format, self.rung, &self.policy, steps))
    }
}

/// A plan for a node.
pub type NodePlan = Plan<NodeOp>;

/// What an operator agreed to. It covers findings, rungs and kinds of ops, not one digest: a culprit that changes its
/// pid every second must not livelock anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Consent {
    /// Keys of findings.
    pub findings: Vec<String>,
    /// Highest rung (2 to 6), 0 for none. 5 and 6 need their kinds named, like all others.
    pub rung: u32,
    /// Lowest rung: those below it are passed over. 0 for all.
    pub from: u32,
    /// Kinds of ops, as [`NodeOp::kind`] names them.
    pub kinds: Vec<String>,
}

impl Consent {
    /// Says what of a plan the consent does not cover; empty when it covers all.
    pub fn lacks(&self, plan: &NodePlan) -> Vec<String> {
        let mut lacks = Vec::new();
        if plan.rung.number() > self.rung {
            lacks.push(format!("rung {} ({})", plan.rung.number(), plan.rung.word()));
        }
        for f in &plan.findings {
            if !self.findings.contains(f) {
                lacks.push(format!("finding {f}"));
            }
        }
        for s in &plan.steps {
            let kind = s.op.kind();
            if !self.kinds.iter().any(|k| k == kind) && !lacks.iter().any(|l| l.ends_with(kind)) {
                lacks.push(format!("step of kind {kind}"));
            }
        }
        lacks
    }
}
