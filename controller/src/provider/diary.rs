//! What was asked of the provider, written down on this machine before it is asked: a wish that was cut off is looked up
//! from here, and never sent a second time.
//!
//! One file a node, a line an event, synced before the next step; the lock on it keeps two commands off one machine.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why the diary cannot be kept. Without it nothing is asked that changes anything.
#[derive(Debug, thiserror::Error)]
pub enum DiaryError {
    /// The file cannot be used.
    #[error("keep the diary {}", path.display())]
    File {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another command has it.
    #[error("keep the diary {}: another ctl is at work on this machine", path.display())]
    Held {
        /// File.
        path: PathBuf,
    },
    /// A line cannot be read.
    #[error("read the diary {}, line {line}", path.display())]
    Line {
        /// File.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// There is no place for it.
    #[error("find a place for the diary: neither XDG_STATE_HOME nor HOME is set")]
    NoHome,
}

/// What can be wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// Stop fully, and start.
    Restart,
    /// Boot the rescue image.
    Rescue,
    /// Boot its own disk again.
    RescueEnd,
    /// Wipe and install.
    Recreate,
}

impl Wish {
    /// The verb that goes on with it.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Rescue => "rescue",
            Self::RescueEnd => "rescue --end",
            Self::Recreate => "recreate",
        }
    }

    /// Could an action of this name be this wish's? The provider publishes no list of names.
    pub fn fits(self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let words: &[&str] = match self {
            Self::Restart => &["restart", "reboot"],
            Self::Rescue | Self::RescueEnd => &["recovery", "rescue"],
            Self::Recreate => &["recreate", "reinstall", "rebuild"],
        };
        words.iter().any(|w| name.contains(w))
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A wish was agreed to.
    Opened {
        /// Which.
        wish: Wish,
        /// The machine's number.
        machine: u64,
        /// The machine as it was then.
        was: String,
        /// The node's boot then, if it was known.
        boot: Option<String>,
        /// The newest action then: what is newer may be ours.
        newest: u64,
    },
    /// It is about to be sent.
    Sending,
    /// It was certainly not taken.
    NotTaken {
        /// Why.
        why: String,
    },
    /// Nobody knows what became of it.
    Unclear {
        /// Why.
        why: String,
    },
    /// The provider made this action of it.
    Accepted {
        /// Its number.
        action: u64,
    },
    /// This action was found to be ours.
    Found {
        /// Its number.
        action: u64,
    },
    /// The action ended.
    Ended {
        /// In the provider's word.
        state: String,
    },
    /// The node was seen in another boot.
    Booted {
        /// Which.
        boot: String,
        /// Who said so.
        by: String,
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

/// A diary, ours alone as long as it is open.
#[derive(Debug)]
pub struct Diary {
    file: File,
    path: PathBuf,
    lines: Vec<Line>,
}

/// A wish that has not been closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Which.
    pub wish: Wish,
    /// The machine's number.
    pub machine: u64,
    /// The node's boot before.
    pub boot: Option<String>,
    /// The newest action before.
    pub newest: u64,
    /// When it was agreed to.
    pub wall_ms: i64,
    /// Was it sent, or may it have been?
    pub sent: bool,
    /// Its action, if it is known.
    pub action: Option<u64>,
}

impl Diary {
    /// Opens the diary of a node's machine, and keeps others out of it.
    pub fn open(cluster: &str, node: &str) -> Result<Self, DiaryError> {
        Self::at(&place()?.join(cluster).join(format!("vps-{node}.jsonl")))
    }

    /// The open wish of a node's machine, without keeping anybody out; `None` when there is none, or no diary.
    pub fn peek(cluster: &str, node: &str) -> Result<Option<Open>, DiaryError> {
        let path = place()?.join(cluster).join(format!("vps-{node}.jsonl"));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DiaryError::File { path, source }),
        };
        Ok(pending(&read(&path, &text)?.0))
    }

    fn at(path: &Path) -> Result<Self, DiaryError> {
        let fail = |source| DiaryError::File { path: path.to_owned(), source };
        let dir = path.parent().unwrap_or_else(|| Path::new("."));
        crate::files::create_dir(dir).map_err(|e| fail(io::Error::other(e)))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DiaryError::Held { path: path.to_owned() });
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

    /// Writes an event down; when it returns, it is on the disk.
    pub fn note(&mut self, event: Event) -> Result<(), DiaryError> {
        let fail = |source| DiaryError::File { path: self.path.clone(), source };
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

    /// The wish that is still open, if there is one.
    pub fn pending(&self) -> Option<Open> {
        pending(&self.lines)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn pending(lines: &[Line]) -> Option<Open> {
    let mut open: Option<Open> = None;
    for line in lines {
        match (&line.event, &mut open) {
            (Event::Opened { wish, machine, boot, newest, .. }, _) => {
                open = Some(Open {
                    wish: *wish,
                    machine: *machine,
                    boot: boot.clone(),
                    newest: *newest,
                    wall_ms: line.wall_ms,
                    sent: false,
                    action: None,
                });
            }
            (Event::Closed { .. }, _) => open = None,
            (Event::Sending, Some(open)) => open.sent = true,
            (Event::NotTaken { .. }, Some(open)) => open.sent = false,
            (Event::Accepted { action } | Event::Found { action }, Some(open)) => {
                open.action = Some(*action);
            }
            _ => {}
        }
    }
    open
}

/// Where this program keeps its state.
pub fn place() -> Result<PathBuf, DiaryError> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    // A relative XDG path is to be ignored, says the specification.
    let state = var("XDG_STATE_HOME").filter(|p| p.is_absolute());
    let state = state.or_else(|| Some(var("HOME")?.join(".local/state")));
    Ok(state.ok_or(DiaryError::NoHome)?.join("lifeline"))
}

/// All whole lines, and where they end.
fn read(path: &Path, text: &str) -> Result<(Vec<Line>, u64), DiaryError> {
    let mut lines = Vec::new();
    let mut good = 0;
    for (i, piece) in text.split_inclusive('\n').enumerate() {
        let Some(whole) = piece.strip_suffix('\n') else { break };
        let line = serde_json::from_str(whole).map_err(|source| DiaryError::Line {
            path: path.to_owned(),
            line: i + 1,
            source,
        })?;
        lines.push(line);
        good += piece.len() as u64;
    }
    Ok((lines, good))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Fuzz;

    fn opened() -> Event {
        Event::Opened {
            wish: Wish::Restart,
            machine: 2,
            was: "2 srv2".into(),
            boot: Some("a".into()),
            newest: 7,
        }
    }

    #[test]
    fn a_wish_that_was_cut_off_is_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab/vps-styx.jsonl");
        {
            let mut diary = Diary::at(&path).unwrap();
            assert_eq!(diary.pending(), None);
            diary.note(opened()).unwrap();
            diary.note(Event::Sending).unwrap();
            assert!(matches!(Diary::at(&path), Err(DiaryError::Held { .. })), "it is ours alone");
        }
        let mut diary = Diary::at(&path).unwrap();
        let open = diary.pending().unwrap();
        assert_eq!((open.sent, open.action, open.newest), (true, None, 7));
        diary.note(Event::Found { action: 8 }).unwrap();
        assert_eq!(diary.pending().unwrap().action, Some(8));
        diary.note(Event::Closed { ending: "done".into() }).unwrap();
        assert_eq!(diary.pending(), None);
    }

    #[test]
    fn a_torn_last_line_had_not_begun_and_a_bad_one_is_never_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vps-styx.jsonl");
        Diary::at(&path).unwrap().note(opened()).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"n\":2,\"wall_ms\":1,\"eve")).unwrap();
        let mut diary = Diary::at(&path).unwrap();
        assert!(!diary.pending().unwrap().sent);
        diary.note(Event::Sending).unwrap();
        drop(diary);
        assert!(Diary::at(&path).unwrap().pending().unwrap().sent);
        std::fs::write(&path, format!("rubbish\n{whole}")).unwrap();
        assert!(matches!(Diary::at(&path), Err(DiaryError::Line { line: 1, .. })));
    }

    #[test]
    fn a_diary_is_read_to_its_torn_end_or_refused_with_its_line() {
        Fuzz::new("diary").folder("tests/corpus/diary", |_| true).run(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            match read(Path::new("vps-styx.jsonl"), &text) {
                Ok((lines, good)) => {
                    let whole = usize::try_from(good).unwrap();
                    assert_eq!(lines.len(), text[..whole].matches('\n').count());
                    assert!(!text[whole..].contains('\n'), "a whole line was passed over");
                    for line in &lines {
                        let json = serde_json::to_string(line).unwrap();
                        let again: Line = serde_json::from_str(&json).unwrap();
                        assert_eq!((again.n, &again.event), (line.n, &line.event));
                    }
                }
                Err(DiaryError::Line { line, .. }) => assert!(line <= text.matches('\n').count()),
                Err(other) => panic!("{other}"),
            }
        });
    }

    #[test]
    fn an_action_of_another_name_is_not_taken_for_ours() {
        assert!(Wish::Restart.fits("ct_restart") && Wish::Restart.fits("VM Reboot"));
        assert!(!Wish::Restart.fits("ct_set_rootpasswd") && !Wish::Restart.fits("ct_recreate"));
    }
}
