//! What the exit code of `ctl` says, for scripts: one number, one meaning, for every verb.

use std::process::ExitCode;

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Healthy, or done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line or the configuration cannot be used; nothing was done.
    Usage = 2,
    /// The node is not healthy, or what was done has been rolled back.
    Unhealthy = 3,
    /// A human is needed.
    Stuck = 4,
    /// A limit passed; the same command goes on where it stopped.
    TimedOut = 5,
}

impl Exit {
    /// Its number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// For `--help`.
pub const HELP: &str = "Exit codes:
  0  healthy, or done
  1  failed
  2  command line or configuration cannot be used; nothing was done
  3  not healthy, or rolled back
  4  stuck: needs a human
  5  a time limit passed; run it again to go on";
