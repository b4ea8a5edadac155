//! What is written down of a recovery, on the operator's own machine: one directory each, so that it can be gone on with.
//!
//! ```text
//! ~/.local/state/lifeline/CLUSTER/recover/
//!   lock                     one recovery at a time from this machine; the cluster's own is a Lease
//!   20251013T120000-5d1c/
//!     opened.json            cluster, context, UID, nodes as they were, what was agreed to
//!     notes.jsonl            what was seen and decided between the runs
//!     01-stop.journal        one engine run each, in core's line form
//!     02-node-calypso-1.journal
//!     calypso-i-7.json       what its agent told of the incident
//! ```

use super::opened::Opened;
use super::run::{RunJournal, Shelf};
use crate::files::{self, FileError, Present};
use crate::kept::Kept;
use crate::provider::diary::{DiaryError, place};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Why it cannot be written down. Then nothing is done.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// A file cannot be used.
    #[error("keep the journal {}", path.display())]
    File {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be used.
    #[error(transparent)]
    Small(#[from] FileError),
    /// There is no place for it.
    #[error(transparent)]
    Place(#[from] DiaryError),
    /// Another command has it.
    #[error("recover cluster {cluster}: another ctl is at it")]
    Held {
        /// Which.
        cluster: String,
    },
    /// A journal is damaged.
    #[error("read the journal {}", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// How.
        #[source]
        source: lifeline_core::journal::Damage,
    },
    /// A document is damaged, or of another version.
    #[error("read {}", path.display())]
    Form {
        /// File.
        path: PathBuf,
        /// How.
        #[source]
        source: serde_json::Error,
    },
    /// There is no such recovery.
    #[error("find recovery {id} of cluster {cluster}: there is none in {}", dir.display())]
    None {
        /// As typed, or `latest`.
        id: String,
        /// Cluster.
        cluster: String,
        /// Where was looked.
        dir: PathBuf,
    },
}

/// Something that was seen or decided between the runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// The wall clock.
    pub wall_ms: u64,
    /// What it is about: a node, `cluster`, `record`.
    pub about: String,
    /// What it says.
    pub text: String,
}

/// A recovery's directory, ours alone as long as it is open.
#[derive(Debug)]
pub struct Book {
    dir: PathBuf,
    notes: Mutex<()>,
    _lock: File,
}

/// Milliseconds since the epoch.
pub fn wall_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

fn home(cluster: &str) -> Result<PathBuf, BookError> {
    Ok(place()?.join(cluster).join("recover"))
}

fn lock(cluster: &str) -> Result<File, BookError> {
    let dir = home(cluster)?;
    files::create_dir(&dir)?;
    let path = dir.join("lock");
    let fail = |source| BookError::File { path: path.clone(), source };
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BookError::Held { cluster: cluster.to_owned() }),
        Err(TryLockError::Error(e)) => Err(fail(e)),
    }
}

/// All recoveries of a cluster, newest last.
fn all(cluster: &str) -> Result<Vec<PathBuf>, BookError> {
    let dir = home(cluster)?;
    let fail = |source| BookError::File { path: dir.clone(), source };
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fail(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        if path.join("opened.json").is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The newest recovery that has not ended, without keeping anybody out.
pub fn unfinished(cluster: &str) -> Result<Option<Opened>, BookError> {
    for dir in all(cluster)?.iter().rev() {
        let opened = opened_of(dir)?;
        if !dir.join("ended.json").exists() {
            return Ok(Some(opened));
        }
    }
    Ok(None)
}

/// How a recovery ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// One word, as `recovered`.
    pub ending: String,
    /// When, in milliseconds since 1970.
    pub wall_ms: u64,
}

/// The newest recovery of the whole cluster, if it has ended.
pub fn newest_ended(cluster: &str) -> Result<Option<(Opened, Ended)>, BookError> {
    for dir in all(cluster)?.iter().rev() {
        let opened = opened_of(dir)?;
        if opened.heal {
            continue;
        }
        let path = dir.join("ended.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = files::read(&path)?;
        let ended =
            serde_json::from_str(&text).map_err(|source| BookError::Form { path, source })?;
        return Ok(Some((opened, ended)));
    }
    Ok(None)
}

fn opened_of(dir: &Path) -> Result<Opened, BookError> {
    let path = dir.join("opened.json");
    let text = files::read(&path)?;
    serde_json::from_str(&text).map_err(|source| BookError::Form { path, source })
}

impl Book {
    /// Opens a new one; what is in `opened` is on the disk when this returns.
    pub fn begin(opened: &Opened) -> Result<Self, BookError> {
        let lock = lock(&opened.cluster)?;
        let dir = home(&opened.cluster)?.join(&opened.id);
        files::create_dir(&dir)?;
        let book = Self { dir, notes: Mutex::new(()), _lock: lock };
        book.put("opened.json", opened)?;
        Ok(book)
    }

    /// Opens one that was cut off: the one that is named, or the newest.
    pub fn again(cluster: &str, id: Option<&str>) -> Result<(Self, Opened), BookError> {
        let lock = lock(cluster)?;
        let named = |p: &&PathBuf| match id {
            Some(id) => p.file_name().is_some_and(|n| n == id),
            None => !p.join("ended.json").exists(),
        };
        let found = all(cluster)?;
        let Some(dir) = found.iter().rev().find(named) else {
            return Err(BookError::None {
                id: id.unwrap_or("that has not ended").to_owned(),
                cluster: cluster.to_owned(),
                dir: home(cluster)?,
            });
        };
        let opened = opened_of(dir)?;
        Ok((Self { dir: dir.clone(), notes: Mutex::new(()), _lock: lock }, opened))
    }

    fn put<T: Serialize>(&self, name: &str, what: &T) -> Result<(), BookError> {
        let path = self.dir.join(name);
        let text = serde_json::to_string_pretty(what)
            .map_err(|source| BookError::Form { path: path.clone(), source })?;
        Ok(files::write(&path, &(text + "\n"), 0o600, Present::Replace)?)
    }

    /// Keeps what an agent told of an incident.
    pub fn keep(&self, kept: &Kept) -> Result<(), BookError> {
        self.put(&format!("{}-{}.json", kept.node, kept.incident), kept)
    }

    /// All that agents told.
    pub fn kept(&self) -> Result<Vec<Kept>, BookError> {
        let fail = |source| BookError::File { path: self.dir.clone(), source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if name.ends_with(".json") && !["opened.json", "ended.json"].contains(&name) {
                let text = files::read(&path)?;
                let kept: Kept = serde_json::from_str(&text)
                    .map_err(|source| BookError::Form { path, source })?;
                found.push(kept);
            }
        }
        found.sort_by(|a, b| (a.first_ms(), &a.node).cmp(&(b.first_ms(), &b.node)));
        Ok(found)
    }
}

impl Shelf for Book {
    type Run = RunJournal;

    fn run(&self, name: &str) -> Result<RunJournal, BookError> {
        RunJournal::open(&self.dir.join(format!("{name}.journal")))
    }

    fn runs(&self) -> Result<Vec<String>, BookError> {
        let fail = |source| BookError::File { path: self.dir.clone(), source };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_suffix(".journal").map(ToOwned::to_owned));
        }
        names.sort();
        Ok(names)
    }

    fn note(&self, about: &str, text: &str) -> Result<(), BookError> {
        let _one = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.join("notes.jsonl");
        let fail = |source| BookError::File { path: path.clone(), source };
        let note = Noted { wall_ms: wall_ms(), about: about.to_owned(), text: text.to_owned() };
        let mut line = serde_json::to_string(&note).map_err(|e| fail(e.into()))?;
        line.push('\n');
        let mut file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(fail)?;
        file.write_all(line.as_bytes()).and_then(|()| file.sync_data()).map_err(fail)
    }

    fn notes(&self) -> Result<Vec<Noted>, BookError> {
        let path = self.dir.join("notes.jsonl");
        match std::fs::read_to_string(&path) {
            // A last line that was torn by a power cut told of nothing that was done.
            Ok(text) => Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(BookError::File { path, source }),
        }
    }

    fn end(&self, word: &str) -> Result<(), BookError> {
        self.put("ended.json", &Ended { ending: word.to_owned(), wall_ms: wall_ms() })
    }
}
