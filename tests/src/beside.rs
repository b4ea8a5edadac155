//! Work done in several labs beside each other: most of it is waiting, and labs do not know of each other.

use std::fmt;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

use crate::{names, process};

/// What one lab takes of the work: every `of`-th piece, from `nth` on, counted from 1.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub nth: usize,
    pub of: usize,
}

impl Share {
    pub const WHOLE: Self = Self { nth: 1, of: 1 };

    /// Whether the piece at this place is one of them.
    #[must_use]
    pub fn has(self, place: usize) -> bool {
        place % self.of + 1 == self.nth
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.nth, self.of)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (nth, of) = text.split_once('/').ok_or("a share is written 1/3")?;
        let number = |n: &str| n.parse::<usize>().map_err(|e| format!("{n}: {e}"));
        let share = Self { nth: number(nth)?, of: number(of)? };
        if share.nth == 0 || share.nth > share.of {
            return Err(format!("{text}: there is no such share"));
        }
        Ok(share)
    }
}

/// Work that labs take piece by piece: whoever has done one takes the next that nobody has, so that all are done at about the same
/// time however long a piece is.
#[derive(Debug, Clone)]
pub struct Queue(PathBuf);

impl Queue {
    /// A queue that those who know this empty folder share.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Whether the piece at this place is ours now: nobody has had it before.
    pub fn take(&self, place: usize) -> anyhow::Result<bool> {
        let path = self.0.join(place.to_string());
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).with_context(|| format!("take {}", path.display())),
        }
    }
}

impl FromStr for Queue {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(Path::new(text)))
    }
}

/// A lab of its own with a share of the work.
#[derive(Debug)]
pub struct Beside {
    child: Child,
    /// Where it writes what came of it.
    summary: tempfile::NamedTempFile,
}

impl Beside {
    /// Runs this program again with these arguments, for a share of the work; it ends with us.
    pub fn begin(share: Share, args: &[String]) -> anyhow::Result<Self> {
        let summary = tempfile::NamedTempFile::new().context("make a file for a summary")?;
        let me = process::own_program()?;
        // A lab's name has at most eight characters.
        let mut name: String = names::chosen().chars().take(6).collect();
        name += &format!("x{}", share.nth);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(me).args(args);
        command.args(["--share", &share.to_string()]).arg("--summary").arg(summary.path());
        let child = command.env(names::VARIABLE, name).stdin(Stdio::null()).spawn();
        Ok(Self { child: child.context("begin a lab beside this one")?, summary })
    }

    /// Waits for its end.
    pub fn done<T: DeserializeOwned>(mut self) -> anyhow::Result<T> {
        let status = self.child.wait().context("wait for a lab beside this one")?;
        let text = std::fs::read_to_string(self.summary.path()).context("read its summary")?;
        if text.is_empty() {
            bail!("a lab beside this one broke off ({status}): see what it said above");
        }
        serde_json::from_str(&text).context("understand its summary")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_taken_once_whoever_asks_and_a_lost_queue_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (Queue::new(folder.path()), Queue::new(folder.path()));
        assert!(one.take(0).unwrap());
        assert!(!other.take(0).unwrap());
        assert!(other.take(1).unwrap());
        assert!(!one.take(1).unwrap());
        let path = folder.path().to_owned();
        folder.close().unwrap();
        assert!(Queue::new(&path).take(2).unwrap_err().to_string().contains("take "));
    }
}
