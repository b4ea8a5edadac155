//! What is written down of a run: its events, and the words for outcomes and endings.

use crate::clock::Stamp;
use crate::diagnosis::Health;
use crate::op::Op;
use crate::plan::Plan;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How a step or its undoing went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// Done, and seen done.
    Done,
    /// It was so already: a redo after a crash, or somebody was faster.
    AlreadySo,
    /// Somebody else changed the object: it is theirs and was left.
    Foreign,
    /// It cannot be undone; the text says why.
    Irreversible {
        /// Why.
        why: String,
    },
    /// It failed.
    Failed {
        /// What was tried, and what went wrong.
        why: String,
        /// Trying again later may help.
        retryable: bool,
    },
}

impl Outcome {
    /// Did it bring the object where it was wanted?
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Done | Self::AlreadySo)
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The node is well without our guard.
    Recovered,
    /// What was done has been undone.
    RolledBack,
    /// Nothing can be said now (unknown, or not this node's doing); what was done stays.
    Held,
    /// The steps are done and the node is not well: the next rung's turn.
    Unwell,
    /// Somebody cancelled it; undoable steps were undone.
    Cancelled,
    /// A reboot made it pointless.
    Void,
    /// A human is needed: a failed undo, a damaged journal, or one of a newer version.
    Stuck,
}

impl Ending {
    /// Every ending.
    pub const ALL: [Self; 7] = [
        Self::Recovered,
        Self::RolledBack,
        Self::Held,
        Self::Unwell,
        Self::Cancelled,
        Self::Void,
        Self::Stuck,
    ];

    /// As the journal, the wire and metrics have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::RolledBack => "rolled-back",
            Self::Held => "held",
            Self::Unwell => "unwell",
            Self::Cancelled => "cancelled",
            Self::Void => "void",
            Self::Stuck => "stuck",
        }
    }
}

/// What is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "event",
    rename_all = "kebab-case",
    bound(
        serialize = "O: Serialize, O::Seen: Serialize",
        deserialize = "O: Deserialize<'de>, O::Seen: Deserialize<'de>"
    )
)]
pub enum Event<O: Op> {
    /// First entry: the whole plan, so that a journal stands alone.
    Opened {
        /// The plan.
        plan: Plan<O>,
        /// Who asked: `operator alice`, `agent`.
        by: String,
    },
    /// A step is about to be taken; the pre-image comes first.
    Began {
        /// Step.
        step: u32,
        /// What was there.
        before: O::Seen,
    },
    /// A step has been taken.
    Ended {
        /// Step.
        step: u32,
        /// How it went.
        outcome: Outcome,
    },
    /// A fresh look was judged.
    Judged {
        /// Health as if our guard were not.
        health: Health,
        /// Keys of the findings still there.
        findings: Vec<String>,
        /// One sentence.
        summary: String,
    },
    /// An operator confirmed what would otherwise be undone.
    Confirmed {
        /// Who.
        by: String,
    },
    /// Somebody asked to stop and to undo.
    Cancelled {
        /// Who.
        by: String,
    },
    /// A step is about to be undone.
    UndoBegan {
        /// Step.
        step: u32,
    },
    /// A step has been undone.
    UndoEnded {
        /// Step.
        step: u32,
        /// How it went.
        outcome: Outcome,
    },
    /// The end.
    Closed {
        /// How.
        ending: Ending,
    },
    /// Written by a newer version.
    #[serde(other)]
    Unknown,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "O: Serialize, O::Seen: Serialize",
    deserialize = "O: Deserialize<'de>, O::Seen: Deserialize<'de>"
))]
pub struct Entry<O: Op> {
    /// Counts from 0.
    pub seq: u64,
    /// When.
    pub stamp: Stamp,
    /// What.
    pub event: Event<O>,
}
