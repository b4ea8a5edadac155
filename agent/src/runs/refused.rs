//! Why something asked for is not done, and what is refused before anything is written.

use super::Request;
use super::book::{self, Asked};
use crate::journal;
use lifeline_core::plan::Consent;

/// Why something asked for is not done.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// One at a time.
    #[error("incident {incident} is under way: watch it with `ctl watch`, or cancel it first")]
    Busy {
        /// Which.
        incident: String,
    },
    /// No such incident.
    #[error("there is no incident {incident} on this node: `ctl history` lists them")]
    NoIncident {
        /// Which.
        incident: String,
    },
    /// None under way.
    #[error("no incident is under way")]
    Idle,
    /// No such run.
    #[error("there is no run {run} on this node: `ctl history` lists them")]
    NoRun {
        /// Which.
        run: String,
    },
    /// It has not ended.
    #[error("run {run} has not ended: cancel its incident instead")]
    Unfinished {
        /// Which.
        run: String,
    },
    /// Nobody asked.
    #[error("run {run} asks for no confirmation: what it did stays")]
    Unasked {
        /// Which.
        run: String,
    },
    /// It has ended, or is being undone.
    #[error("run {run} cannot be confirmed any more: it has ended, or its undoing has begun")]
    Late {
        /// Which.
        run: String,
    },
    /// The request makes no sense.
    #[error("{what} of the request: {why}")]
    Request {
        /// `consent`.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The same request id for something else.
    #[error("request {request} was sent before, for something else: choose another id")]
    Reused {
        /// Its id.
        request: String,
    },
    /// A run's journal.
    #[error("nothing was done, because it cannot be journalled")]
    Journal(#[from] journal::JournalError),
    /// An incident's file.
    #[error("nothing was done, because it cannot be journalled")]
    Book(#[from] book::BookError),
    /// Going down.
    #[error("the agent is being stopped: ask again in a moment")]
    Leaving,
    /// The disk.
    #[error("read the incident: the disk does not answer")]
    Silent,
    /// A task died; this is a fault in the agent.
    #[error("the recovery's task ended by itself")]
    Lost,
}

/// Refuses what makes no sense before anything is written.
pub(super) fn sound(request: &Request) -> Result<(), Refused> {
    let refuse = |what, why: &str| Err(Refused::Request { what, why: why.to_string() });
    let plain = |s: &str, most: usize| {
        s.len() <= most && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b))
    };
    if request.id.is_empty() || !plain(&request.id, 64) {
        return refuse("id", "it must be 1 to 64 letters, digits, `-`, `.`, `_` or `:`");
    }
    match &request.asked {
        Asked::Heal { consent: Consent { rung, .. }, digest, stability_ms } => {
            if *rung > 6 {
                return refuse("consent", "this agent climbs to rung 6 at most");
            }
            if !plain(digest, 128) {
                return refuse("digest", "it is none");
            }
            if *stability_ms > 600_000 {
                return refuse("stability", "it is more than 600 s");
            }
        }
        Asked::Reboot { stability_ms } => {
            if *stability_ms > 600_000 {
                return refuse("stability", "it is more than 600 s");
            }
        }
        Asked::Undo { run } => {
            if run.is_empty() {
                return refuse("run", "it is empty");
            }
        }
    }
    Ok(())
}

/// A name from outside, fit for a message.
pub(super) fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}
