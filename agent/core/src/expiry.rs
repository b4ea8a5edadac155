//! When certificates end, and when that is worth a word. An agent whose certificate has ended still guards, and nobody reaches it
//! any more: that is found out in the night when it is needed, unless it has been said before.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

const DAY_MS: u64 = 86_400_000;
/// From so long before its end a certificate is spoken of.
const SOON_MS: u64 = 14 * DAY_MS;
/// From so long before its end it presses.
const PRESSING_MS: u64 = 3 * DAY_MS;
/// 9999-12-31 23:59:59 UTC, by which X.509 says that there is no end (RFC 5280, 4.1.2.5).
const NEVER_S: u64 = 253_402_300_799;

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The one this node's agent shows.
    Agent,
    /// That of the authority which signed it.
    Authority,
}

impl Whose {
    /// As metrics have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Authority => "authority",
        }
    }
}

/// A certificate that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose.
    pub whose: Whose,
    /// Its last second, Unix time.
    pub not_after_s: u64,
}

impl Certificate {
    /// With the last second that stands in it, Unix time; `None` when that says that there is none.
    pub fn of(whose: Whose, not_after_s: i64) -> Option<Self> {
        // What ended before 1970 has ended.
        let not_after_s = u64::try_from(not_after_s).unwrap_or(0);
        (not_after_s < NEVER_S).then_some(Self { whose, not_after_s })
    }

    fn stage(self, now_ms: u64) -> Option<Stage> {
        match self.not_after_s.saturating_mul(1_000).checked_sub(now_ms) {
            None | Some(0) => Some(Stage::Over),
            Some(left) if left <= PRESSING_MS => Some(Stage::Pressing),
            Some(left) if left <= SOON_MS => Some(Stage::Soon),
            Some(_) => None,
        }
    }
}

/// How near the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// At most 14 days.
    Soon,
    /// At most 3 days.
    Pressing,
    /// It is behind us.
    Over,
}

/// What is to be said now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Of which certificate.
    pub certificate: Certificate,
    /// How near its end is.
    pub stage: Stage,
    now_ms: u64,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end_ms = self.certificate.not_after_s.saturating_mul(1_000);
        let span = span(end_ms.abs_diff(self.now_ms));
        let when = match self.stage {
            Stage::Soon | Stage::Pressing => format!("ends in {span}"),
            Stage::Over => format!("ended {span} ago"),
        };
        match (self.certificate.whose, self.stage) {
            (Whose::Agent, Stage::Over) => write!(
                f,
                "this agent's certificate {when}: nobody reaches it but root on this node; make a new one with ctl pki agent"
            ),
            (Whose::Agent, _) => write!(
                f,
                "this agent's certificate {when}: renew it from the operator's machine with ctl pki renew"
            ),
            (Whose::Authority, _) => write!(
                f,
                "the authority's certificate {when}, and with it every certificate that it signed: begin a new authority with ctl pki init"
            ),
        }
    }
}

/// Whole days, or whole hours of less than one.
fn span(ms: u64) -> String {
    let (count, unit) = match (ms / DAY_MS, ms / (DAY_MS / 24)) {
        (0, 0) => return "less than an hour".to_string(),
        (0, hours) => (hours, "hour"),
        (days, _) => (days, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// Remembers what has been said, so that it is said once a day, and at once when it begins to press.
#[derive(Debug, Default)]
pub struct Herald(Vec<Notice>);

impl Herald {
    /// What is to be said of these at this moment, milliseconds of Unix time. A certificate that was renewed is another one.
    pub fn due(&mut self, all: &[Certificate], now_ms: u64) -> Vec<Notice> {
        self.0.retain(|said| all.contains(&said.certificate));
        let mut due = Vec::new();
        for &certificate in all {
            let Some(stage) = certificate.stage(now_ms) else { continue };
            let said = self.0.iter_mut().find(|said| said.certificate == certificate);
            let notice = Notice { certificate, stage, now_ms };
            match said {
                // A clock that was set is no reason to fall silent, in either direction.
                Some(said) if said.stage == stage && said.now_ms.abs_diff(now_ms) < DAY_MS => {}
                Some(said) => {
                    *said = notice;
                    due.push(notice);
                }
                None => {
                    self.0.push(notice);
                    due.push(notice);
                }
            }
        }
        due
    }
}
