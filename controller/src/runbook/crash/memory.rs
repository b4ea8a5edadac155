//! Journals in memory, and power that is cut at any of their lines.

use crate::runbook::book::{BookError, Noted};
use crate::runbook::op::RunbookOp;
use crate::runbook::run::{Clocked, Shelf, WorkClock};
use lifeline_core::clock::Stamp;
use lifeline_core::engine::{Entry, Event, Journal};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Journals in memory, and a fuse that burns with every line.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) runs: Arc<Mutex<BTreeMap<String, Vec<Entry<RunbookOp>>>>>,
    notes: Arc<Mutex<Vec<String>>>,
    pub(super) fuse: Arc<Mutex<Option<usize>>>,
    /// The line at which it burns out gets to the disk.
    kept: bool,
}

#[derive(Debug)]
pub(super) struct Page {
    name: String,
    shelf: Memory,
    entries: Vec<Entry<RunbookOp>>,
    clock: WorkClock,
}

impl Memory {
    pub(super) fn new(fuse: Option<usize>, kept: bool) -> Self {
        Self { runs: Arc::default(), notes: Arc::default(), fuse: Arc::new(Mutex::new(fuse)), kept }
    }

    pub(super) fn said(&self, words: &str) -> bool {
        self.notes.lock().unwrap().iter().any(|note| note.contains(words))
    }

    pub(super) fn lines(&self) -> usize {
        self.runs.lock().unwrap().values().map(Vec::len).sum()
    }
}

fn crash() -> BookError {
    BookError::File { path: PathBuf::from("/"), source: std::io::Error::other("power cut") }
}

impl Journal<RunbookOp> for Page {
    type Error = BookError;

    fn entries(&self) -> &[Entry<RunbookOp>] {
        &self.entries
    }

    async fn append(&mut self, stamp: Stamp, event: Event<RunbookOp>) -> Result<(), BookError> {
        let mut fuse = self.shelf.fuse.lock().unwrap();
        let (dies, gone) = (*fuse == Some(0), *fuse == Some(usize::MAX));
        if gone || (dies && !self.shelf.kept) {
            *fuse = Some(usize::MAX);
            return Err(crash());
        }
        let entry = Entry { seq: self.entries.len() as u64, stamp, event };
        self.entries.push(entry.clone());
        self.shelf.runs.lock().unwrap().entry(self.name.clone()).or_default().push(entry);
        if dies {
            *fuse = Some(usize::MAX);
            return Err(crash());
        }
        if let Some(left) = fuse.as_mut() {
            *left -= 1;
        }
        Ok(())
    }
}

impl Clocked for Page {
    fn clock(&self) -> WorkClock {
        self.clock
    }
}

impl Shelf for Memory {
    type Run = Page;

    fn run(&self, name: &str) -> Result<Page, BookError> {
        let entries = self.runs.lock().unwrap().entry(name.to_owned()).or_default().clone();
        let clock = WorkClock::after(&entries);
        Ok(Page { name: name.to_owned(), shelf: self.clone(), entries, clock })
    }

    fn runs(&self) -> Result<Vec<String>, BookError> {
        Ok(self.runs.lock().unwrap().keys().cloned().collect())
    }

    fn note(&self, _: &str, text: &str) -> Result<(), BookError> {
        self.notes.lock().unwrap().push(text.to_owned());
        Ok(())
    }

    fn notes(&self) -> Result<Vec<Noted>, BookError> {
        Ok(Vec::new())
    }

    fn end(&self, _: &str) -> Result<(), BookError> {
        Ok(())
    }
}
