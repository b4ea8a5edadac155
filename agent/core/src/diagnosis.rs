//! What is wrong: a verdict, findings with their evidence, and what is held back.

use crate::clock::Stamp;
use crate::op::ProcessId;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// The one word for a node's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Forwarding as in the baseline without our guard, API server answers TLS, lease fresh.
    Healthy,
    /// A critical destination leaves elsewhere than it should.
    Captured,
    /// Forwarding differs from the baseline and works.
    Moved,
    /// Something the baseline has is missing.
    Lost,
    /// Forwarding is right and packets are dropped all the same.
    Filtered,
    /// The agent reaches the API server, the kubelet does not.
    KubeletStuck,
    /// Not this node's fault.
    Upstream,
    /// Gaps prevent judgement.
    Unknown,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 8] = [
        Self::Healthy,
        Self::Captured,
        Self::Moved,
        Self::Lost,
        Self::Filtered,
        Self::KubeletStuck,
        Self::Upstream,
        Self::Unknown,
    ];

    /// As it is written: `Healthy`, `KubeletStuck`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Captured => "Captured",
            Self::Moved => "Moved",
            Self::Lost => "Lost",
            Self::Filtered => "Filtered",
            Self::KubeletStuck => "KubeletStuck",
            Self::Upstream => "Upstream",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Health as the engine needs it, judged as if our guard were not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Well without help.
    Well,
    /// Works, thanks to our guard.
    Contained,
    /// Does not work.
    Unwell,
    /// Cannot be said, or is not this node's doing.
    Unknown,
}

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Tidy up when convenient.
    Notice,
    /// Something works only by luck, or soon will not.
    Warning,
    /// The node is cut off, or about to be.
    Critical,
}

/// Who did it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Culprit {
    /// The tool: `tailscale`, `wg-quick`, `unknown`.
    pub tool: String,
    /// Its process, when it lives.
    pub process: Option<ProcessId>,
    /// Its device.
    pub dev: Option<String>,
    /// Its table.
    pub table: Option<u32>,
}

/// One fault that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The fault's id.
    pub fault: String,
    /// The verdict it speaks for.
    pub verdict: Verdict,
    /// How bad.
    pub severity: Severity,
    /// Who.
    pub culprit: Option<Culprit>,
    /// Is there proof that it does harm? Rungs above the guard need it.
    pub harm: bool,
    /// What was seen, a line each, for people.
    pub evidence: Vec<String>,
}

impl Finding {
    /// Names the finding across looks: the fault and the tool, but no pid, which may change every second.
    pub fn key(&self) -> String {
        match &self.culprit {
            Some(c) => alloc::format!("{}/{}", self.fault, c.tool),
            None => self.fault.clone(),
        }
    }
}

/// A fault that could not be judged, or must wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The fault's id.
    pub fault: String,
    /// Why.
    pub why: String,
}

/// The judgement of one observation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// When the look was taken.
    pub taken: Stamp,
    /// The verdict.
    pub verdict: Verdict,
    /// Health as if our guard were not.
    pub health: Health,
    /// Does our guard stand?
    pub guarded: bool,
    /// One sentence for people.
    pub summary: String,
    /// Findings, by precedence.
    pub findings: Vec<Finding>,
    /// Held faults.
    pub held: Vec<Held>,
    /// Where each critical destination leaves, a line each, for people.
    pub forwarding: Vec<String>,
}
