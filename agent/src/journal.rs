//! Core's journal on the disk: one file for each run, `<run>.jsonl`, each entry durable before the act it announces.
//!
//! A journal that cannot be read whole is never written to: neither a damaged one nor one of a newer version.

use crate::lines::{Lines, LinesError};
use lifeline_core::clock::Stamp;
use lifeline_core::engine::{self, Ending, Entry, Event};
use lifeline_core::journal::{Damage, Decoded, decode, encode};
use lifeline_core::op::NodeOp;
use lifeline_core::plan::NodePlan;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// An entry of a node's run.
pub type NodeEntry = Entry<NodeOp>;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file.
    #[error("journal run {run}")]
    File {
        /// Which run.
        run: String,
        /// Why.
        source: LinesError,
    },
    /// A line in its middle is bad.
    #[error("read the journal of run {run}")]
    Damaged {
        /// Which run.
        run: String,
        /// Where.
        source: Damage,
    },
    /// A newer Lifeline wrote it.
    #[error(
        "read the journal of run {run}: a newer version wrote it; use that version to finish the run"
    )]
    Newer {
        /// Which run.
        run: String,
    },
    /// It cannot be read.
    #[error("read the journal of run {run}")]
    Read {
        /// Which run.
        run: String,
        /// Why.
        source: io::Error,
    },
    /// An entry has no JSON form.
    #[error("write an entry of run {run}")]
    Form {
        /// Which run.
        run: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The program is being stopped: what is on the disk is gone on with after its next start.
    #[error("run {run} is left for the next start")]
    Leaving {
        /// Which run.
        run: String,
    },
}

impl JournalError {
    /// A human is needed: neither waiting nor a restart will help.
    pub fn is_stuck(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Newer { .. })
    }
}

/// The journal of one run, open for writing.
#[derive(Debug)]
pub struct Disk {
    run: String,
    lines: Lines,
    entries: Vec<NodeEntry>,
}

/// Where a run's journal lies.
pub fn path_of(dir: &Path, run: &str) -> PathBuf {
    dir.join(format!("{run}.jsonl"))
}

impl Disk {
    /// Opens a new run: its file begins with the whole plan.
    ///
    /// # Errors
    /// When it is there already, or the disk does not take it: then nothing has been done, and nothing may be.
    pub async fn create(
        dir: &Path,
        run: &str,
        stamp: Stamp,
        plan: NodePlan,
        by: String,
    ) -> Result<Self, JournalError> {
        let first = Entry { seq: 0, stamp, event: Event::Opened { plan, by } };
        let line = form(run, &first)?;
        let lines = Lines::create(path_of(dir, run), line.into_bytes())
            .await
            .map_err(|source| JournalError::File { run: run.to_string(), source })?;
        Ok(Self { run: run.to_string(), lines, entries: vec![first] })
    }

    /// Opens a run that was left; a torn last line is cut off.
    ///
    /// # Errors
    /// When another process has it, it is damaged, or a newer version wrote it. It is left untouched then.
    pub async fn open(dir: &Path, run: &str) -> Result<Self, JournalError> {
        let file = |source| JournalError::File { run: run.to_string(), source };
        let (mut lines, bytes) = Lines::open(path_of(dir, run)).await.map_err(file)?;
        let Decoded { entries, good, torn } = understand(run, &bytes)?;
        if torn {
            lines.cut(good).await.map_err(file)?;
        }
        Ok(Self { run: run.to_string(), lines, entries })
    }

    /// Which run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// How it ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        ending(&self.entries)
    }

    /// Gives back space a finished run does not need.
    ///
    /// # Errors
    /// When the disk does not do it in time; nothing is lost by that.
    pub async fn seal(&mut self) -> Result<(), JournalError> {
        self.lines
            .seal()
            .await
            .map_err(|source| JournalError::File { run: self.run.clone(), source })
    }
}

impl engine::Journal<NodeOp> for Disk {
    type Error = JournalError;

    fn entries(&self) -> &[NodeEntry] {
        &self.entries
    }

    async fn append(&mut self, stamp: Stamp, event: Event<NodeOp>) -> Result<(), JournalError> {
        let entry = Entry { seq: self.entries.len() as u64, stamp, event };
        let line = form(&self.run, &entry)?;
        self.lines
            .append(line.into_bytes())
            .await
            .map_err(|source| JournalError::File { run: self.run.clone(), source })?;
        self.entries.push(entry);
        Ok(())
    }
}

fn form(run: &str, entry: &NodeEntry) -> Result<String, JournalError> {
    encode(entry).map_err(|source| JournalError::Form { run: run.to_string(), source })
}

fn understand(run: &str, bytes: &[u8]) -> Result<Decoded<NodeOp>, JournalError> {
    let read: Decoded<NodeOp> =
        decode(bytes).map_err(|source| JournalError::Damaged { run: run.to_string(), source })?;
    if read.entries.iter().any(|e| matches!(e.event, Event::Unknown)) {
        return Err(JournalError::Newer { run: run.to_string() });
    }
    // The first line is on the disk before the file has its name: a file without it has been damaged.
    if !matches!(read.entries.first().map(|e| &e.event), Some(Event::Opened { .. })) {
        let source = Damage::Line { line: 1, why: "it does not open a run" };
        return Err(JournalError::Damaged { run: run.to_string(), source });
    }
    Ok(read)
}

/// Reads a run without touching it.
///
/// # Errors
/// As [`Disk::open`], but another process may be writing it.
pub fn read(dir: &Path, run: &str) -> Result<Vec<NodeEntry>, JournalError> {
    let bytes = fs::read(path_of(dir, run))
        .map_err(|source| JournalError::Read { run: run.to_string(), source })?;
    Ok(understand(run, &bytes)?.entries)
}

/// How a run ended, if it has.
pub fn ending(entries: &[NodeEntry]) -> Option<Ending> {
    entries.iter().rev().find_map(|e| match e.event {
        Event::Closed { ending } => Some(ending),
        _ => None,
    })
}

/// The plan a run was opened with.
pub fn plan(entries: &[NodeEntry]) -> Option<&NodePlan> {
    match &entries.first()?.event {
        Event::Opened { plan, .. } => Some(plan),
        _ => None,
    }
}
