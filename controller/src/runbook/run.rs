//! One engine run's journal as a file: core's lines, each synced before what it announces is done.
//!
//! Its clock counts the time somebody was at work on the run: a laptop that sleeps or is started anew voids nothing that was
//! done elsewhere, and a clock that is set makes nothing late.

use super::book::{BookError, Noted, wall_ms};
use super::op::RunbookOp;
use lifeline_core::clock::Stamp;
use lifeline_core::engine::{Entry, Event, Journal};
use lifeline_core::journal;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where runs and notes are kept; on disk, or in a test's memory.
pub trait Shelf: Sync {
    /// A run's journal.
    type Run: Clocked;
    /// Opens a run's journal, or begins it.
    fn run(&self, name: &str) -> Result<Self::Run, BookError>;
    /// Names of all runs, in order.
    fn runs(&self) -> Result<Vec<String>, BookError>;
    /// Writes a note.
    fn note(&self, about: &str, text: &str) -> Result<(), BookError>;
    /// All notes, in order.
    fn notes(&self) -> Result<Vec<Noted>, BookError>;
    /// Nothing goes on any more.
    fn end(&self, word: &str) -> Result<(), BookError>;
}

/// A journal that knows what time it is for its run.
pub trait Clocked: Journal<RunbookOp, Error = BookError> + Send {
    /// The present moment of the run.
    fn clock(&self) -> WorkClock;
}

/// Counts the time spent at work on a run.
#[derive(Clone, Copy, Debug)]
pub struct WorkClock {
    begun: Instant,
    before_ms: u64,
}

impl WorkClock {
    /// Goes on where the last entry stopped.
    pub fn after(entries: &[Entry<RunbookOp>]) -> Self {
        let before_ms = entries.last().map_or(0, |e| e.stamp.ms);
        Self { begun: Instant::now(), before_ms }
    }

    /// The present moment.
    pub fn now(&self) -> Stamp {
        let spent = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        // No boot of this machine: what the steps change lies elsewhere, and outlives it.
        let boot = "elsewhere".to_owned();
        Stamp { boot, ms: self.before_ms.saturating_add(spent), wall_ms: wall_ms() }
    }
}

/// A run's journal on disk.
#[derive(Debug)]
pub struct RunJournal {
    file: File,
    path: PathBuf,
    entries: Vec<Entry<RunbookOp>>,
    clock: WorkClock,
    /// A write failed: what is on the disk is not known, and the file is not used again.
    broken: bool,
}

impl RunJournal {
    /// Opens it; a torn last line is cut off: what it told had not begun.
    pub fn open(path: &Path) -> Result<Self, BookError> {
        let fail = |source| BookError::File { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(fail)?;
        if let Some(dir) = path.parent() {
            File::open(dir).and_then(|d| d.sync_all()).map_err(fail)?;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fail)?;
        let found = journal::decode(&bytes)
            .map_err(|source| BookError::Damaged { path: path.to_owned(), source })?;
        file.set_len(found.good as u64).map_err(fail)?;
        let clock = WorkClock::after(&found.entries);
        Ok(Self { file, path: path.to_owned(), entries: found.entries, clock, broken: false })
    }

    fn put(&mut self, line: &str) -> io::Result<()> {
        self.file.seek(SeekFrom::End(0))?;
        self.file.write_all(line.as_bytes())?;
        self.file.sync_data()
    }
}

impl Journal<RunbookOp> for RunJournal {
    type Error = BookError;

    fn entries(&self) -> &[Entry<RunbookOp>] {
        &self.entries
    }

    async fn append(&mut self, stamp: Stamp, event: Event<RunbookOp>) -> Result<(), BookError> {
        let fail = |path: &Path, source| BookError::File { path: path.to_owned(), source };
        if self.broken {
            return Err(fail(&self.path, io::Error::other("an earlier write to it failed")));
        }
        let entry = Entry { seq: self.entries.len() as u64, stamp, event };
        let line = journal::encode(&entry)
            .map_err(|source| BookError::Form { path: self.path.clone(), source })?;
        if let Err(source) = self.put(&line) {
            self.broken = true;
            return Err(fail(&self.path, source));
        }
        self.entries.push(entry);
        Ok(())
    }
}

impl Clocked for RunJournal {
    fn clock(&self) -> WorkClock {
        self.clock
    }
}
