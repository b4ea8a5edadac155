//! How often the stand-in puts its rules back: every 5 s, ten at once, 250 ms after a deletion.
//!
//! Copies `router_linux.go onIPRuleDeleted` with `rate.NewLimiter(rate.Every(5*time.Second), 10)`.

use std::time::Duration;

const EVERY: Duration = Duration::from_secs(5);
const BURST: u32 = 10;
const SETTLE: Duration = Duration::from_millis(250);

/// A token bucket over a clock that the caller brings.
#[derive(Debug)]
pub struct FixLimit {
    /// When the next token of an empty bucket would be there, counted back to a full one.
    full_at: Duration,
}

impl FixLimit {
    /// A full bucket.
    #[must_use]
    pub const fn new() -> Self {
        Self { full_at: Duration::ZERO }
    }

    /// Takes a token and says how long after `now` the rules may be put back.
    pub fn reserve(&mut self, now: Duration) -> Duration {
        self.full_at = self.full_at.max(now) + EVERY;
        (self.full_at - now).saturating_sub(EVERY * BURST) + SETTLE
    }
}

/// Whether a deleted rule is one that the daemon watches: IPv4 only, because it never joins the IPv6 group, and by preference
/// alone, whoever owned it.
#[must_use]
pub fn is_watched(pref: u32) -> bool {
    (super::router::PREF_BASE..super::router::PREF_BASE + 100).contains(&pref)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_deletions_in_a_row_are_answered_after_250_ms_each() {
        let mut limit = FixLimit::new();
        for _ in 0..10 {
            assert_eq!(limit.reserve(Duration::from_secs(100)), SETTLE);
        }
        assert_eq!(limit.reserve(Duration::from_secs(100)), SETTLE + EVERY);
        assert_eq!(limit.reserve(Duration::from_secs(103)), SETTLE + Duration::from_secs(7));
    }

    #[test]
    fn a_token_comes_back_every_five_seconds() {
        let mut limit = FixLimit::new();
        for _ in 0..10 {
            limit.reserve(Duration::from_secs(100));
        }
        assert_eq!(limit.reserve(Duration::from_secs(105)), SETTLE);
        assert_eq!(limit.reserve(Duration::from_secs(106)), SETTLE + Duration::from_secs(4));
    }

    #[test]
    fn only_preferences_of_the_range_are_watched() {
        assert!(is_watched(5200) && is_watched(5299));
        assert!(!is_watched(5199) && !is_watched(5300));
    }
}
