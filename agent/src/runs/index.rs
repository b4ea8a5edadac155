//! What incidents there have been, as their files say. Nothing outside this list ever becomes a path.

use crate::journal;
use crate::runs::Request;
use crate::runs::book::{self, Asked, Mark};
use lifeline_core::alone::Past;
use lifeline_core::clock::Stamp;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

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
    /// What was said of its end.
    pub said: String,
    /// Runs, in order.
    pub runs: Vec<String>,
    /// Keys of findings.
    pub findings: Vec<String>,
    /// The same, of what was asked for: one that ended before its first run has met none.
    pub agreed: Vec<String>,
}

/// All of them, by number.
#[derive(Debug, Default)]
pub struct Index {
    all: BTreeMap<u64, Summary>,
    /// The highest number that was ever given out.
    given: u64,
}

/// Deletes files of incidents nobody needs any more. A disk that hangs is not to hang with: off the threads that others wait for.
pub fn remove(files: &[PathBuf]) {
    for file in files {
        match std::fs::remove_file(file) {
            // A run that was marked and never begun has none.
            Err(why) if why.kind() != ErrorKind::NotFound => {
                tracing::warn!("remove {}: {why}", file.display());
            }
            Ok(()) | Err(_) => {}
        }
    }
}

fn agreed(asked: &Asked) -> Vec<String> {
    match asked {
        Asked::Heal { consent, .. } => consent.findings.clone(),
        Asked::Reboot { .. } | Asked::Undo { .. } => Vec::new(),
    }
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
        remove(&index.overdue(dir));
        tracing::debug!("{} incidents are known", index.all.len());
        index
    }

    /// Forgets the oldest incidents that are too many, and names their files, which [`remove`] deletes. One that has not ended is
    /// never too old.
    pub fn overdue(&mut self, dir: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        while self.all.len() > KEPT {
            let ended = self.all.iter().find(|(_, s)| s.ending.is_some()).map(|(n, _)| *n);
            let Some(old) = ended.and_then(|n| self.all.remove(&n)) else { break };
            files.extend(old.runs.iter().map(|r| journal::path_of(dir, r)));
            files.push(book::path_of(dir, &old.id));
        }
        files
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
            said: String::new(),
            runs: Vec::new(),
            findings: Vec::new(),
            agreed: agreed(&request.asked),
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

    /// All that is known, newest first.
    pub fn past(&self) -> Vec<Past> {
        self.all.values().rev().map(Summary::past).collect()
    }

    /// Those that have not ended, oldest first.
    pub fn open(&self) -> Vec<Summary> {
        self.all.values().filter(|s| s.ending.is_none()).cloned().collect()
    }
}

impl Summary {
    /// What the next decision goes by.
    pub fn past(&self) -> Past {
        Past {
            id: self.id.clone(),
            opened: self.opened.clone(),
            ending: self.ending.clone(),
            why: self.said.clone(),
            findings: self.findings.iter().chain(&self.agreed).cloned().collect(),
        }
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
        said: String::new(),
        runs: Vec::new(),
        findings: Vec::new(),
        agreed: Vec::new(),
    };
    let lines = match book::read(dir, id) {
        Ok(lines) => lines,
        Err(why) => {
            s.said = crate::sight::chain(&why);
            tracing::error!("{}", s.said);
            s.ending = Some("stuck".to_string());
            s.runs = runs_beside(dir, id);
            return s;
        }
    };
    for line in lines {
        match line.mark {
            Mark::Opened { request, by, asked, .. } => {
                s.agreed = agreed(&asked);
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
            Mark::Ended { ending, text, .. } => (s.ending, s.said) = (Some(ending), text),
            Mark::Note { .. } | Mark::Unknown => {}
        }
    }
    // A finished run nobody needs any more is read all the same: a record that has been damaged is said to be.
    if s.ending.is_some() {
        for run in &s.runs {
            match journal::read(dir, run) {
                Err(why) if why.is_stuck() => {
                    let why = crate::sight::chain(&why);
                    tracing::error!("{why}");
                    (s.ending, s.said) = (Some("stuck".to_string()), why);
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

    #[test]
    fn a_hundred_incidents_are_kept_and_one_that_goes_on_is_never_too_old() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = Index::default();
        let mut gone = Vec::new();
        for n in 1..=KEPT as u64 + 20 {
            let id = index.fresh("calypso");
            let asked = Asked::Undo { run: "calypso-0.1-clean".to_string() };
            index.begin(&id, &Request { id: n.to_string(), asked }, "alice", &Stamp::default());
            let run = format!("{id}.1-clean");
            for file in [journal::path_of(dir.path(), &run), book::path_of(dir.path(), &id)] {
                std::fs::write(file, "x").unwrap();
            }
            let summary = index.get_mut(&id).unwrap();
            summary.runs.push(run);
            summary.ending = (n != 1).then(|| "recovered".to_string());
            gone.extend(index.overdue(dir.path()));
        }
        assert_eq!(index.all.len(), KEPT, "as many as are kept, without a restart");
        assert!(index.get("calypso-1").is_some() && index.get("calypso-2").is_none());
        remove(&gone);
        remove(&gone);
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2 * KEPT, "two files for each, and none of the others");
    }
}
