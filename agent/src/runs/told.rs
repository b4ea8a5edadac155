//! What an incident's listeners are told, each word on the disk before it is heard, and how it ends.

use crate::journal::JournalError;
use crate::runs::book::{self, Book, Mark};
use crate::runs::story::{Story, What};
use lifeline_core::diagnosis::Diagnosis;
use lifeline_core::engine::Ending;
use std::sync::Arc;
use tokio::sync::watch;

/// An incident's file and its listeners.
#[derive(Debug)]
pub struct Told {
    /// The file.
    pub book: Book,
    /// The listeners.
    pub story: Arc<Story>,
    /// Who asked to cancel.
    pub cancel: watch::Receiver<Option<String>>,
    /// Which run was confirmed, and by whom.
    pub confirm: watch::Receiver<Option<(String, String)>>,
}

/// How an incident ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// As the wire has it.
    pub ending: &'static str,
    /// For people.
    pub text: String,
    /// What the consent did not cover.
    pub lacks: Vec<String>,
}

impl End {
    /// An end that lacks nothing.
    pub fn of(ending: Ending, text: impl Into<String>) -> Self {
        Self { ending: ending.word(), text: text.into(), lacks: Vec::new() }
    }
}

/// Why an incident cannot go on in this process.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// The agent is being stopped; the next one goes on.
    #[error("the agent is being stopped")]
    Leaving,
    /// A run's journal.
    #[error("the run cannot be journalled")]
    Journal(#[source] JournalError),
    /// The incident's file.
    #[error("the incident cannot be written down")]
    Book(#[from] book::BookError),
}

impl From<JournalError> for Halt {
    fn from(why: JournalError) -> Self {
        match why {
            JournalError::Leaving { .. } => Self::Leaving,
            other => Self::Journal(other),
        }
    }
}

impl Told {
    /// Writes a mark, then tells it.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn mark(&mut self, mark: Mark) -> Result<(), Halt> {
        let line = self.book.write(self.story.next(), mark).await?;
        self.story.push(What::Mark(line));
        Ok(())
    }

    /// Writes a note.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn note(&mut self, kind: &str, text: impl Into<String>) -> Result<(), Halt> {
        self.mark(Mark::Note { kind: kind.to_string(), text: text.into() }).await
    }

    /// Who asked to cancel, if anybody has.
    pub fn cancelled(&self) -> Option<String> {
        self.cancel.borrow().clone()
    }
}

/// What was said last, of each kind: a wait of a minute is one line, not sixty.
#[derive(Debug, Default)]
pub(super) struct Said {
    verdict: String,
    wait: String,
    kept: Vec<String>,
}

impl Said {
    pub(super) async fn verdict(&mut self, told: &mut Told, text: String) -> Result<(), Halt> {
        if self.verdict != text {
            told.note("verdict", text.clone()).await?;
            self.verdict = text;
        }
        Ok(())
    }

    /// Who keeps a culprit, and what ends it for good: once each, and not only at the end, when it may lie between two of its starts.
    pub(super) async fn kept(
        &mut self,
        told: &mut Told,
        diagnosis: &Diagnosis,
    ) -> Result<(), Halt> {
        let lines = diagnosis.findings.iter().flat_map(|f| &f.evidence);
        for line in lines.filter(|l| l.contains("; for good: ")) {
            if !self.kept.contains(line) {
                told.note("kept", line.clone()).await?;
                self.kept.push(line.clone());
            }
        }
        Ok(())
    }

    pub(super) async fn wait(&mut self, told: &mut Told, text: String) -> Result<(), Halt> {
        if self.wait != text {
            told.note("wait", text.clone()).await?;
            self.wait = text;
        }
        Ok(())
    }
}
