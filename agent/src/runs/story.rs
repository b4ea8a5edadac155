//! An incident as it is told to watchers: everything so far at once, then each new thing, without a gap.

use crate::journal::{self, NodeEntry};
use crate::runs::book::{self, Line, Mark};
use crate::runs::tell;
use lifeline_core::plan::{NodePlan, Rung};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Item {
    /// Counts from 1.
    pub number: u64,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    /// In a run.
    Entry {
        /// Which run.
        run: String,
        /// Its rung.
        rung: Rung,
        /// The journal's entry.
        entry: NodeEntry,
        /// For people.
        text: String,
    },
    /// Between the runs.
    Mark(Line),
}

/// All that happened in one incident. It only grows.
#[derive(Debug)]
pub struct Story {
    /// Which incident.
    pub incident: String,
    items: Mutex<Vec<Arc<Item>>>,
    grew: watch::Sender<u64>,
}

impl Story {
    /// Nothing has happened yet.
    pub fn new(incident: &str) -> Self {
        Self {
            incident: incident.to_string(),
            items: Mutex::default(),
            grew: watch::Sender::new(0),
        }
    }

    /// Reads a story from the disk.
    ///
    /// # Errors
    /// When the incident's file cannot be read whole. A run that cannot be read is told as far as it can: not at all.
    pub fn read(dir: &Path, incident: &str) -> Result<Self, book::BookError> {
        let story = Self::new(incident);
        let mut lines = book::read(dir, incident)?.into_iter().peekable();
        while let Some(line) = lines.next() {
            let run = match &line.mark {
                Mark::Run { run, .. } => Some(run.clone()),
                _ => None,
            };
            story.push(What::Mark(line));
            let Some(run) = run else { continue };
            let Ok(entries) = journal::read(dir, &run) else { continue };
            let Some(plan) = journal::plan(&entries).cloned() else { continue };
            for entry in entries {
                // A mark that was made while the run was under way has its own place.
                while lines.peek().is_some_and(|l| l.number == story.next()) {
                    if let Some(line) = lines.next() {
                        story.push(What::Mark(line));
                    }
                }
                story.push(What::entry(&run, &plan, entry));
            }
        }
        Ok(story)
    }

    /// The number the next item will have.
    pub fn next(&self) -> u64 {
        self.len() + 1
    }

    fn len(&self) -> u64 {
        self.items.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// Adds what happened. What is on the disk under another number keeps its place in the order.
    pub fn push(&self, what: What) {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        let number = items.len() as u64 + 1;
        items.push(Arc::new(Item { number, what }));
        drop(items);
        self.grew.send_replace(number);
    }

    /// What happened after the first `seen` items.
    pub fn since(&self, seen: u64) -> Vec<Arc<Item>> {
        let items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        let from = usize::try_from(seen).unwrap_or(usize::MAX).min(items.len());
        items[from..].to_vec()
    }

    /// Tells when something has happened.
    pub fn grew(&self) -> watch::Receiver<u64> {
        self.grew.subscribe()
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<(String, String)> {
        let items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.iter().rev().find_map(|i| match &i.what {
            What::Mark(Line { mark: Mark::Ended { ending, text, .. }, .. }) => {
                Some((ending.clone(), text.clone()))
            }
            _ => None,
        })
    }
}

impl What {
    /// An entry of a run, with its text for people.
    pub fn entry(run: &str, plan: &NodePlan, entry: NodeEntry) -> Self {
        let text = tell::event(plan, &entry.event);
        Self::Entry { run: run.to_string(), rung: plan.rung, entry, text }
    }
}
