//! What incidents there have been, as their files say. Nothing outside this list ever becomes a path.

use crate::journal;
use crate::runs::Request;
use crate::runs::book::{self, Asked, Mark};
use lifeline_core::clock::Stamp;
use std::collections::BTreeMap;
use std::path::Path;

/// Incidents kept, with their journals.
const KEPT: usize = 100;

/// One incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its name, `calypso-7`.
    pub id: String,
    /// The caller's name for the request.
    pub request: String,
    /// `heal`, or `undo RUN`.
    pub kind: String,
    /// When.
    pub opened: Stamp,
    /// Who.
    pub by: String,
    /// How it ended, if it has.
    pub ending: Option<String>,
    /// Runs, in order.
    pub runs: Vec<String>,
    /// Keys of findings.
    pub findings: Vec<String>,
}

/// All of them, by number.
#[derive(Debug, Default)]
pub struct Index {
    all: BTreeMap<u64, Summary>,
    /// The highest number that was ever given out.
    given: u64,
}

/// What was asked for, as the index names it.
pub fn kind(asked: &Asked) -> String {
    match asked {
        Asked::Heal { .. } => "heal".to_string(),
        Asked::Reboot { .. } => "reboot".to_string(),
        Asked::Undo { run } => format!("undo {run}"),
    }
}

impl Index {
    /// Reads the directory. What cannot be read is listed as stuck, not left out.
    pub fn read(dir: &Path) -> Self {
        let mut index = Self::default();
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(why) => {
                tracing::warn!("list {}: {why}", dir.display());
                return index;
            }
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(id) = name.strip_suffix(".incident") else { continue };
            let Some(number) = number_of(id) else { continue };
            index.all.insert(number, summary(dir, id));
        }
        index.given = index.all.keys().next_back().copied().unwrap_or(0);
        index.prune(dir);
        tracing::debug!("{} incidents are known", index.all.len());
        index
    }

    fn prune(&mut self, dir: &Path) {
        while self.all.len() > KEPT {
            let Some((_, old)) = self.all.pop_first() else { return };
            let files = old.runs.iter().map(|r| journal::path_of(dir, r));
            for file in files.chain([book::path_of(dir, &old.id)]) {
                if let Err(why) = std::fs::remove_file(&file) {
                    tracing::warn!("remove {}: {why}", file.display());
                }
            }
        }
    }

    /// A name nobody has had. One whose file could not be written is not given out again: a disk that hung may make that file yet.
    pub fn fresh(&mut self, node: &str) -> String {
        self.given += 1;
        format!("{node}-{}", self.given)
    }

    /// A new incident.
    pub fn begin(&mut self, id: &str, request: &Request, by: &str, now: &Stamp) {
        let summary = Summary {
            id: id.to_string(),
            request: request.id.clone(),
            kind: kind(&request.asked),
            opened: now.clone(),
            by: by.to_string(),
            ending: None,
            runs: Vec::new(),
            findings: Vec::new(),
        };
        self.all.insert(number_of(id).unwrap_or(0), summary);
    }

    /// It was never written down.
    pub fn forget(&mut self, id: &str) {
        self.all.retain(|_, s| s.id != id);
    }

    /// By name.
    pub fn get(&self, id: &str) -> Option<&Summary> {
        self.all.values().find(|s| s.id == id)
    }

    /// By name, to change it.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Summary> {
        self.all.values_mut().find(|s| s.id == id)
    }

    /// By the caller's name for it.
    pub fn by_request(&self, request: &str) -> Option<&Summary> {
        self.all.values().find(|s| s.request == request)
    }

    /// The incident a run belongs to.
    pub fn of_run(&self, run: &str) -> Option<&Summary> {
        self.all.values().find(|s| s.runs.iter().any(|r| r == run))
    }

    /// Newest first.
    pub fn newest(&self, limit: usize) -> Vec<Summary> {
        self.all.values().rev().take(limit).cloned().collect()
    }

    /// Those that have not ended, oldest first.
    pub fn open(&self) -> Vec<Summary> {
        self.all.values().filter(|s| s.ending.is_none()).cloned().collect()
    }
}

/// `calypso-7` is number 7.
fn number_of(id: &str) -> Option<u64> {
    id.rsplit_once('-')?.1.parse().ok()
}

fn summary(dir: &Path, id: &str) -> Summary {
    let mut s = Summary {
        id: id.to_string(),
        request: String::new(),
        kind: "heal".to_string(),
        opened: Stamp::default(),
        by: String::new(),
        ending: None,
        runs: Vec::new(),
        findings: Vec::new(),
    };
    let lines = match book::read(dir, id) {
        Ok(lines) => lines,
        Err(why) => {
            tracing::error!("{}", crate::sight::chain(&why));
            s.ending = Some("stuck".to_string());
            s.runs = runs_beside(dir, id);
            return s;
        }
    };
    for line in lines {
        match line.mark {
            Mark::Opened { request, by, asked, .. } => {
                (s.request, s.by, s.kind, s.opened) = (request, by, kind(&asked), line.stamp);
            }
            Mark::Run { run, findings, .. } => {
                s.runs.push(run);
                for f in findings {
                    if !s.findings.contains(&f) {
                        s.findings.push(f);
                    }
                }
            }
            Mark::Ended { ending, .. } => s.ending = Some(ending),
            Mark::Note { .. } | Mark::Unknown => {}
        }
    }
    // A finished run nobody needs any more is read all the same: a record that has been damaged is said to be.
    if s.ending.is_some() {
        for run in &s.runs {
            match journal::read(dir, run) {
                Err(why) if why.is_stuck() => {
                    tracing::error!("{}", crate::sight::chain(&why));
                    s.ending = Some("stuck".to_string());
                }
                _ => {}
            }
        }
    }
    s
}

/// Runs that belong to an incident whose file cannot be read: their names say so.
fn runs_beside(dir: &Path, id: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut runs: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().to_string_lossy().strip_suffix(".jsonl").map(str::to_string))
        .filter(|run| run.strip_prefix(id).is_some_and(|rest| rest.starts_with('.')))
        .collect();
    runs.sort();
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_whose_file_was_never_written_is_not_given_out_again() {
        let mut index = Index::default();
        let first = index.fresh("calypso");
        let asked = Asked::Undo { run: "calypso-0.1-clean".to_string() };
        index.begin(&first, &Request { id: "a".to_string(), asked }, "alice", &Stamp::default());
        index.forget(&first);
        assert_eq!((first.as_str(), index.get(&first)), ("calypso-1", None));
        assert_eq!(index.fresh("calypso"), "calypso-2");
    }
}
