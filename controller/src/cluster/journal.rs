//! What is done to the cluster, written down on this machine before it is done, and what was seen after.
//!
//! One file a subject (a namespace, a node), a line an event, synced before the next step; the lock on it keeps two commands
//! off one subject. Nothing is replayed from it: a run that was cut off looks at the cluster again.

use super::pin::Pin;
use crate::provider::diary;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why the journal cannot be kept. Without it nothing is done.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be used.
    #[error("keep the journal {}", path.display())]
    File {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another command has it.
    #[error("keep the journal {}: another ctl is at work on it", path.display())]
    Held {
        /// File.
        path: PathBuf,
    },
    /// A line cannot be read.
    #[error("read the journal {}, line {line}", path.display())]
    Line {
        /// File.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// What it tells of began on another cluster.
    #[error("go on with the journal {}: it began on cluster {began}, and this one is {here}", path.display())]
    OtherCluster {
        /// File.
        path: PathBuf,
        /// Its `kube-system`.
        began: String,
        /// The uid of this one's.
        here: String,
    },
    /// There is no place for it.
    #[error(transparent)]
    Place(#[from] diary::DiaryError),
}

/// What an act is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// As `kubectl` names it.
    pub name: String,
    /// Its uid, the act's precondition.
    pub uid: String,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// It was agreed to.
    Opened {
        /// Where.
        pin: Pin,
        /// What.
        what: String,
    },
    /// Something as it was before.
    Before {
        /// What.
        what: String,
        /// It.
        state: serde_json::Value,
    },
    /// It is about to be done.
    Intent {
        /// What.
        act: String,
        /// To what.
        targets: Vec<Target>,
    },
    /// It was seen after.
    Seen {
        /// What.
        what: String,
    },
    /// Nothing goes on any more.
    Closed {
        /// What came of it.
        ending: String,
    },
}

/// A line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// From 1.
    pub n: u64,
    /// The wall clock.
    pub wall_ms: i64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// A journal, ours alone as long as it is open.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    lines: Vec<Line>,
}

impl Journal {
    /// Opens the journal of a subject of a cluster, keeps others out of it, and notes what begins.
    pub fn open(
        cluster: &str,
        subject: &str,
        pin: &Pin,
        what: impl Into<String>,
    ) -> Result<Self, JournalError> {
        let path = diary::place()?.join(cluster).join(format!("{subject}.jsonl"));
        let mut journal = Self::at(&path)?;
        journal.same_cluster(pin)?;
        journal.note(Event::Opened { pin: pin.clone(), what: what.into() })?;
        Ok(journal)
    }

    fn at(path: &Path) -> Result<Self, JournalError> {
        let fail = |source| JournalError::File { path: path.to_owned(), source };
        let dir = path.parent().unwrap_or_else(|| Path::new("."));
        crate::files::create_dir(dir).map_err(|e| fail(io::Error::other(e)))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(JournalError::Held { path: path.to_owned() });
            }
            Err(TryLockError::Error(e)) => return Err(fail(e)),
        }
        // The name itself is durable only when the directory is.
        File::open(dir).and_then(|d| d.sync_all()).map_err(fail)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(fail)?;
        let (lines, good) = read(path, &text)?;
        // Only the last line can be torn, by a power cut while it was written: then what it tells had not begun.
        file.set_len(good).map_err(fail)?;
        Ok(Self { file, path: path.to_owned(), lines })
    }

    /// What is still open must have begun here.
    fn same_cluster(&self, here: &Pin) -> Result<(), JournalError> {
        for line in open(&self.lines) {
            if let Event::Opened { pin, .. } = &line.event
                && pin.uid != here.uid
            {
                return Err(JournalError::OtherCluster {
                    path: self.path.clone(),
                    began: pin.uid.clone(),
                    here: here.uid.clone(),
                });
            }
        }
        Ok(())
    }

    /// Writes an event down; when it returns, it is on the disk.
    pub fn note(&mut self, event: Event) -> Result<(), JournalError> {
        let fail = |source| JournalError::File { path: self.path.clone(), source };
        let n = self.lines.last().map_or(0, |l| l.n) + 1;
        let line = Line { n, wall_ms: jiff::Timestamp::now().as_millisecond(), event };
        let mut text = serde_json::to_string(&line).map_err(|e| fail(e.into()))?;
        text.push('\n');
        self.file.seek(SeekFrom::End(0)).map_err(fail)?;
        self.file.write_all(text.as_bytes()).map_err(fail)?;
        self.file.sync_data().map_err(fail)?;
        self.lines.push(line);
        Ok(())
    }

    /// Something as it was before, as it was written down last.
    pub fn before<T: serde::de::DeserializeOwned>(&self, what: &str) -> Option<T> {
        self.lines.iter().rev().find_map(|line| match &line.event {
            Event::Before { what: w, state } if w == what => {
                serde_json::from_value(state.clone()).ok()
            }
            _ => None,
        })
    }

    /// What goes on, for who is interrupted: what was begun last, or was seen last.
    pub fn last(&self) -> Option<String> {
        self.lines.iter().rev().find_map(|line| match &line.event {
            Event::Intent { act, targets } => {
                let few: Vec<&str> = targets.iter().take(3).map(|t| t.name.as_str()).collect();
                let rest = match targets.len() - few.len() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                Some(format!("under way: {act} {}{rest}", few.join(", ")))
            }
            Event::Seen { what } => Some(format!("seen last: {what}")),
            Event::Opened { .. } | Event::Closed { .. } | Event::Before { .. } => None,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes what is about to be done, to what.
    pub fn intent(
        &mut self,
        act: impl Into<String>,
        targets: Vec<Target>,
    ) -> Result<(), JournalError> {
        self.note(Event::Intent { act: act.into(), targets })
    }

    /// Notes what was seen.
    pub fn seen(&mut self, what: impl Into<String>) -> Result<(), JournalError> {
        self.note(Event::Seen { what: what.into() })
    }

    /// Notes that nothing goes on any more.
    pub fn close(&mut self, ending: impl Into<String>) -> Result<(), JournalError> {
        self.note(Event::Closed { ending: ending.into() })
    }
}

/// What was begun of a subject and has not ended, as its journal tells. Nobody is kept out by this, and nothing is written.
pub fn unfinished(cluster: &str, subject: &str) -> Result<Vec<Event>, JournalError> {
    let path = diary::place()?.join(cluster).join(format!("{subject}.jsonl"));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(JournalError::File { path, source }),
    };
    let (lines, _) = read(&path, &text)?;
    Ok(open(&lines).iter().map(|line| line.event.clone()).collect())
}

/// What comes after the last end.
fn open(lines: &[Line]) -> &[Line] {
    let closed = lines.iter().rposition(|l| matches!(l.event, Event::Closed { .. }));
    lines.get(closed.map_or(0, |at| at + 1)..).unwrap_or_default()
}

/// All whole lines, and where they end.
fn read(path: &Path, text: &str) -> Result<(Vec<Line>, u64), JournalError> {
    let (mut lines, mut good) = (Vec::new(), 0);
    for (i, piece) in text.split_inclusive('\n').enumerate() {
        let Some(whole) = piece.strip_suffix('\n') else { break };
        let wrong = |source| JournalError::Line { path: path.to_owned(), line: i + 1, source };
        lines.push(serde_json::from_str(whole).map_err(wrong)?);
        good += piece.len() as u64;
    }
    Ok((lines, good))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Fuzz;

    fn pin(uid: &str) -> Pin {
        Pin { context: "lab".into(), server: "https://x".into(), uid: uid.into() }
    }

    #[test]
    fn what_began_on_another_cluster_is_not_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("namespace-a.jsonl");
        let mut journal = Journal::at(&path).unwrap();
        journal.note(Event::Opened { pin: pin("one"), what: "clean".into() }).unwrap();
        assert!(matches!(Journal::at(&path), Err(JournalError::Held { .. })));
        drop(journal);
        let mut journal = Journal::at(&path).unwrap();
        assert!(
            journal.same_cluster(&pin("two")).is_err() && journal.same_cluster(&pin("one")).is_ok()
        );
        journal.close("gone").unwrap();
        assert!(journal.same_cluster(&pin("two")).is_ok());
    }

    #[test]
    fn a_journal_of_the_cluster_is_read_to_its_torn_end_or_refused_with_its_line() {
        Fuzz::new("cluster-journal").folder("tests/corpus/cluster-journal", |_| true).run(
            |bytes| {
                let text = String::from_utf8_lossy(bytes);
                match read(Path::new("namespace-a.jsonl"), &text) {
                    Ok((lines, good)) => {
                        let whole = usize::try_from(good).unwrap();
                        assert_eq!(lines.len(), text[..whole].matches('\n').count());
                        assert!(!text[whole..].contains('\n'), "a whole line was passed over");
                        for line in &lines {
                            let json = serde_json::to_string(line).unwrap();
                            let again: Line = serde_json::from_str(&json).unwrap();
                            assert_eq!(again.event, line.event);
                        }
                    }
                    Err(JournalError::Line { line, .. }) => {
                        assert!(line <= text.matches('\n').count());
                    }
                    Err(other) => panic!("{other}"),
                }
            },
        );
    }

    #[test]
    fn a_torn_last_line_is_forgotten_and_a_wrong_one_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-a.jsonl");
        Journal::at(&path).unwrap().intent("cordon", Vec::new()).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"n\":2,")).unwrap();
        assert_eq!(Journal::at(&path).unwrap().lines.len(), 1);
        std::fs::write(&path, format!("rubbish\n{whole}")).unwrap();
        assert!(matches!(Journal::at(&path), Err(JournalError::Line { line: 1, .. })));
    }
}
