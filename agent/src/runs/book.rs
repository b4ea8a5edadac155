//! An incident's own file: who asked for what, what happened between its runs, and how it ended.
//!
//! Every item of an incident has a number, so that a watcher that was cut off goes on without a gap. Marks carry theirs;
//! the entries of the runs, which live in the runs' journals, have the numbers that are left, in order.

use crate::clock::Clock;
use crate::lines::{Lines, LinesError};
use lifeline_core::clock::Stamp;
use lifeline_core::plan::{Consent, Rung};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Asked {
    /// Make the node well.
    Heal {
        /// How far one may go.
        consent: Consent,
        /// Digest of the plan the operator saw.
        digest: String,
        /// How long it must stay well, milliseconds.
        stability_ms: u64,
    },
    /// Reboot the node, and see that it comes back well.
    Reboot {
        /// How long it must stay well afterwards, milliseconds.
        stability_ms: u64,
    },
    /// Undo what a run did.
    Undo {
        /// Which.
        run: String,
    },
}

/// What happened besides the runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mark", rename_all = "kebab-case")]
pub enum Mark {
    /// The first line.
    Opened {
        /// Which incident.
        incident: String,
        /// The caller's name for its request.
        request: String,
        /// Who.
        by: String,
        /// What for.
        asked: Asked,
        /// Version of the agent that opened it; empty in a file that is older than this word.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        agent: String,
    },
    /// A run is about to be opened: its journal may be there, or not yet.
    Run {
        /// Which.
        run: String,
        /// Rung.
        rung: Rung,
        /// Keys of the findings it meets.
        findings: Vec<String>,
    },
    /// Said.
    Note {
        /// `verdict`, `wait`, `resumed`…
        kind: String,
        /// For people.
        text: String,
    },
    /// The last line.
    Ended {
        /// As the wire has it: `recovered`, `ask`…
        ending: String,
        /// For people.
        text: String,
        /// What the consent did not cover.
        lacks: Vec<String>,
    },
    /// Written by a newer version.
    #[serde(other)]
    Unknown,
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Counts from 1 within the incident, its runs' entries included.
    pub number: u64,
    /// When.
    pub stamp: Stamp,
    /// What.
    pub mark: Mark,
}

/// Why an incident's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The file.
    #[error("write down incident {incident}")]
    File {
        /// Which.
        incident: String,
        /// Why.
        source: LinesError,
    },
    /// A line in its middle is bad, or a newer version wrote it.
    #[error("read the file of incident {incident}, line {line}: {why}")]
    Damaged {
        /// Which.
        incident: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// It cannot be read.
    #[error("read the file of incident {incident}")]
    Read {
        /// Which.
        incident: String,
        /// Why.
        source: std::io::Error,
    },
    /// A line has no JSON form.
    #[error("write down incident {incident}")]
    Form {
        /// Which.
        incident: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// The file of one incident, open for writing.
#[derive(Debug)]
pub struct Book {
    incident: String,
    lines: Lines,
    clock: Clock,
}

/// Where an incident's file lies.
pub fn path_of(dir: &Path, incident: &str) -> PathBuf {
    dir.join(format!("{incident}.incident"))
}

impl Book {
    /// Opens a new incident.
    ///
    /// # Errors
    /// When there is one of that name, or the disk does not take it.
    pub async fn create(
        dir: &Path,
        clock: &Clock,
        incident: &str,
        opened: Mark,
    ) -> Result<(Self, Line), BookError> {
        let line = Line { number: 1, stamp: clock.now(), mark: opened };
        let lines = Lines::create(path_of(dir, incident), form(incident, &line)?)
            .await
            .map_err(|source| BookError::File { incident: incident.to_string(), source })?;
        Ok((Self { incident: incident.to_string(), lines, clock: clock.clone() }, line))
    }

    /// Opens an incident that was left.
    ///
    /// # Errors
    /// When another process has it or it is damaged; it is left untouched then.
    pub async fn open(dir: &Path, clock: &Clock, incident: &str) -> Result<Self, BookError> {
        let file = |source| BookError::File { incident: incident.to_string(), source };
        let (mut lines, bytes) = Lines::open(path_of(dir, incident)).await.map_err(file)?;
        let (_, good, torn) = understand(incident, &bytes)?;
        if torn {
            lines.cut(good).await.map_err(file)?;
        }
        Ok(Self { incident: incident.to_string(), lines, clock: clock.clone() })
    }

    /// Writes a line; it is on the disk when this returns.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn write(&mut self, number: u64, mark: Mark) -> Result<Line, BookError> {
        let line = Line { number, stamp: self.clock.now(), mark };
        let bytes = form(&self.incident, &line)?;
        let file = |source| BookError::File { incident: self.incident.clone(), source };
        self.lines.append(bytes).await.map_err(file)?;
        Ok(line)
    }

    /// Gives back space a finished incident does not need.
    ///
    /// # Errors
    /// When the disk does not do it in time; nothing is lost by that.
    pub async fn seal(&mut self) -> Result<(), BookError> {
        self.lines
            .seal()
            .await
            .map_err(|source| BookError::File { incident: self.incident.clone(), source })
    }
}

fn form(incident: &str, line: &Line) -> Result<Vec<u8>, BookError> {
    let json = serde_json::to_string(line)
        .map_err(|source| BookError::Form { incident: incident.to_string(), source })?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes())
}

/// Reads an incident's file without touching it.
///
/// # Errors
/// When it cannot be read whole.
pub fn read(dir: &Path, incident: &str) -> Result<Vec<Line>, BookError> {
    let bytes = std::fs::read(path_of(dir, incident))
        .map_err(|source| BookError::Read { incident: incident.to_string(), source })?;
    Ok(understand(incident, &bytes)?.0)
}

/// The lines, how many bytes are good, and whether a torn last line was left out.
fn understand(incident: &str, bytes: &[u8]) -> Result<(Vec<Line>, usize, bool), BookError> {
    let damaged = |line, why| BookError::Damaged { incident: incident.to_string(), line, why };
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    let bytes = &bytes[..end];
    let (mut lines, mut good, mut torn): (Vec<Line>, usize, bool) = (Vec::new(), 0, false);
    while good < bytes.len() {
        let rest = &bytes[good..];
        let Some(stop) = rest.iter().position(|b| *b == b'\n') else {
            torn = true;
            break;
        };
        let last = good + stop + 1 == bytes.len();
        let number = lines.len() + 1;
        match parse(&rest[..stop]) {
            Ok(Line { mark: Mark::Unknown, .. }) => {
                return Err(damaged(number, "a newer version wrote it"));
            }
            Ok(line) if lines.last().is_some_and(|before| before.number >= line.number) => {
                return Err(damaged(number, "its number does not come after the one before"));
            }
            Ok(line) => lines.push(line),
            Err(_) if last => {
                torn = true;
                break;
            }
            Err(why) => return Err(damaged(number, why)),
        }
        good += stop + 1;
    }
    // The first line is on the disk before the file has its name: one without it has been damaged, whatever its end is like.
    if !matches!(lines.first().map(|l| &l.mark), Some(Mark::Opened { .. })) {
        return Err(damaged(1, "it does not open an incident"));
    }
    Ok((lines, good, torn))
}

fn parse(line: &[u8]) -> Result<Line, &'static str> {
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    let (crc, json) = text.split_once(' ').ok_or("it has no checksum")?;
    if u32::from_str_radix(crc, 16) != Ok(crc32fast::hash(json.as_bytes())) {
        return Err("its checksum does not match");
    }
    serde_json::from_str(json).map_err(|_| "it is no line of an incident")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{Fuzz, checksums};

    #[test]
    fn an_incidents_file_is_damaged_or_every_line_of_it_is_read_again() {
        let fuzz = Fuzz::new("incident").folder("tests/corpus/incident", |_| true);
        fuzz.mended(checksums).run(|bytes| {
            let Ok((lines, good, torn)) = understand("calypso-1", bytes) else { return };
            assert!(good <= bytes.len());
            assert!(torn || bytes[good..].iter().all(|b| *b == 0));
            let written: Vec<u8> =
                lines.iter().flat_map(|l| form("calypso-1", l).unwrap()).collect();
            let (again, all, torn) = understand("calypso-1", &written).unwrap();
            assert_eq!((again, all, torn), (lines, written.len(), false));
        });
    }

    #[test]
    fn a_torn_end_does_not_make_an_incident_of_a_file_that_opens_none() {
        let bytes = std::fs::read("tests/corpus/incident/torn-without-its-first-line").unwrap();
        let why = understand("calypso-1", &bytes).unwrap_err().to_string();
        assert!(why.contains("does not open an incident"), "{why}");
        assert!(understand("calypso-1", b"00000000 {\"number\":").is_err());
    }
}
