//! When each step of the plan was done, seen from outside: by the API server, by the remote repository, by the tracker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::desk::{self, Desk};
use crate::real::culprit;
use crate::run;

const EVERY: Duration = Duration::from_millis(700);

/// A step that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    NamespaceGone,
    StyxReady,
    PathBack,
    CalypsoReady,
    Verified,
    Pushed,
    Issues,
    End,
}

impl Mark {
    pub const ALL: [Self; 8] = [
        Self::NamespaceGone,
        Self::StyxReady,
        Self::PathBack,
        Self::CalypsoReady,
        Self::Verified,
        Self::Pushed,
        Self::Issues,
        Self::End,
    ];

    /// The plan's step, and what is done.
    #[must_use]
    pub fn told(self) -> &'static str {
        match self {
            Self::NamespaceGone => "1     the namespace is gone",
            Self::StyxReady => "2     styx is Ready in another boot",
            Self::PathBack => "3     calypso reaches the API server",
            Self::CalypsoReady => "3     calypso is Ready",
            Self::Verified => "4     the cluster is verified",
            Self::Pushed => "5     committed and pushed",
            Self::Issues => "post  the issues are updated",
            Self::End => "all   the last command has ended",
        }
    }
}

/// Marks, each at its first moment.
#[derive(Debug)]
pub struct Marks {
    begun: Instant,
    seen: Mutex<Vec<(Mark, Instant)>>,
}

impl Marks {
    /// Seconds count from here.
    #[must_use]
    pub fn from_now() -> Self {
        Self { begun: Instant::now(), seen: Mutex::default() }
    }

    pub fn set(&self, mark: Mark, at: Instant) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.iter().any(|(m, _)| *m == mark) {
            seen.push((mark, at));
        }
    }

    pub fn now(&self, mark: Mark) {
        self.set(mark, Instant::now());
    }

    /// How long after the first command.
    #[must_use]
    pub fn after(&self, mark: Mark) -> Option<Duration> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = seen.iter().find(|(m, _)| *m == mark);
        found.map(|(_, at)| at.saturating_duration_since(self.begun))
    }

    /// Notes, while `work` is done, when the namespace goes and when the remote gets a commit.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let stop = AtomicBool::new(false);
        let before = tip();
        let look = || {
            if space_is_gone() {
                self.now(Mark::NamespaceGone);
            }
            if tip() != before {
                self.now(Mark::Pushed);
            }
        };
        let done = thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    look();
                    thread::sleep(EVERY);
                }
            });
            let done = work();
            stop.store(true, Ordering::Relaxed);
            done
        });
        // What was done since the last look.
        look();
        done
    }

    /// The last wish that the tracker granted.
    pub fn take_issues(&self, desk: &Desk) {
        if let Some(last) = desk.github.wishes().iter().rev().find(|t| t.status < 300) {
            self.set(Mark::Issues, last.at);
        }
    }
}

fn space_is_gone() -> bool {
    culprit::is_free().is_ok_and(|free| free)
}

fn tip() -> Option<String> {
    let at = desk::remote().display().to_string();
    let out = run::host("git", &["-C", &at, "rev-parse", "main"]).ok()?;
    out.ok().then(|| out.stdout.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_moment_counts() {
        let marks = Marks::from_now();
        let later = marks.begun + Duration::from_secs(3);
        marks.set(Mark::Pushed, later);
        marks.set(Mark::Pushed, later + Duration::from_secs(9));
        assert_eq!(marks.after(Mark::Pushed), Some(Duration::from_secs(3)));
        assert_eq!(marks.after(Mark::Issues), None);
    }
}
