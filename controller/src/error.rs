//! What an operator reads when something goes wrong: `Error:` says what and to what, `Hint:` what to try.
//!
//! Every library error becomes one of these here and nowhere else, so kind and hints are decided in one file.

use crate::exit::Exit;
use crate::{files, pki};
use std::error::Error as StdError;
use std::fmt;

/// Sorts errors by what the caller can do about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was tried and failed.
    Failed,
    /// The command line or the configuration cannot be used.
    Usage,
    /// The node is not well.
    Unhealthy,
    /// A human is needed.
    Stuck,
    /// A limit passed.
    TimedOut,
}

/// An error with its hints.
#[derive(Debug)]
pub struct CommandError {
    kind: Kind,
    error: Box<dyn StdError + Send + Sync>,
    hints: Vec<String>,
}

/// What every verb returns.
pub type Outcome = Result<Exit, CommandError>;

impl CommandError {
    /// Wraps an error.
    pub fn new(kind: Kind, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, error: error.into(), hints: Vec::new() }
    }

    /// Something was tried and failed.
    pub fn failed(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Kind::Failed, error)
    }

    /// The command cannot be used like that.
    pub fn usage(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Kind::Usage, error)
    }

    /// Adds a hint.
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The exit code it stands for.
    pub fn exit(&self) -> Exit {
        match self.kind {
            Kind::Failed => Exit::Failed,
            Kind::Usage => Exit::Usage,
            Kind::Unhealthy => Exit::Unhealthy,
            Kind::Stuck => Exit::Stuck,
            Kind::TimedOut => Exit::TimedOut,
        }
    }

    /// Its hints.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

impl fmt::Display for CommandError {
    /// The error and its causes on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        let mut cause = self.error.source();
        while let Some(c) = cause {
            write!(f, ": {c}")?;
            cause = c.source();
        }
        Ok(())
    }
}

impl From<files::FileError> for CommandError {
    fn from(error: files::FileError) -> Self {
        let hint = match &error {
            files::FileError::TooOpen { path, .. } => {
                Some(format!("make it yours alone: chmod 600 {}", path.display()))
            }
            files::FileError::Exists { .. } => Some(
                "nothing was written; name another directory, or move the old file away".into(),
            ),
            files::FileError::Read { .. } | files::FileError::Write { .. } => None,
        };
        let out = Self::failed(error);
        match hint {
            Some(hint) => out.hinted(hint),
            None => out,
        }
    }
}

impl From<pki::PkiError> for CommandError {
    fn from(error: pki::PkiError) -> Self {
        match error {
            pki::PkiError::File(e) => e.into(),
            pki::PkiError::Name { .. } => Self::usage(error),
            pki::PkiError::NotOurCa { .. } => {
                Self::failed(error).hinted("create one: ctl pki init --cluster NAME --dir DIR")
            }
            pki::PkiError::KeyMismatch { .. } => Self::failed(error)
                .hinted("ca.crt and ca.key in that directory do not belong together"),
            pki::PkiError::Other { .. } => Self::failed(error)
                .hinted("nothing was written; name another --out directory for the other subject"),
            pki::PkiError::Parse { .. } | pki::PkiError::Issue { .. } | pki::PkiError::Clock => {
                Self::failed(error)
            }
        }
    }
}
