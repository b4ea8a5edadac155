//! How far a node's wall clock is from this machine's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One comparison of two clocks, over a question and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    /// Milliseconds that the node's clock is ahead; negative when it is behind.
    pub ahead_ms: i64,
    /// It may be so much more or less: half of what question and answer took, milliseconds.
    pub within_ms: u64,
}

impl Skew {
    /// Of a node that said its clock shows `said_ms` (Unix), at some moment of the `took` before `now`. `None` for 0, which is what
    /// comes from an agent that does not say it.
    pub fn of(said_ms: u64, now: SystemTime, took: Duration) -> Option<Self> {
        let half = took / 2;
        let middle = now.checked_sub(half)?.duration_since(UNIX_EPOCH).ok()?;
        let said = i64::try_from(said_ms).ok().filter(|ms| *ms > 0)?;
        let ahead_ms = said.checked_sub(i64::try_from(middle.as_millis()).ok()?)?;
        // Rounded up: what was cut off of either clock is in doubt as well.
        let within_ms = u64::try_from(half.as_millis()).ok()?.saturating_add(1);
        Some(Self { ahead_ms, within_ms })
    }

    /// They differ by more than this beyond doubt.
    pub fn exceeds(self, limit_ms: u64) -> bool {
        self.ahead_ms.unsigned_abs() > limit_ms.saturating_add(self.within_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(said_ms: u64, now_ms: u64, took_ms: u64) -> Option<Skew> {
        Skew::of(
            said_ms,
            UNIX_EPOCH + Duration::from_millis(now_ms),
            Duration::from_millis(took_ms),
        )
    }

    #[test]
    fn the_answer_was_given_in_the_middle_of_what_it_took() {
        assert_eq!(of(100_000, 100_000, 0), Some(Skew { ahead_ms: 0, within_ms: 1 }));
        assert_eq!(of(100_000, 100_500, 1_000), Some(Skew { ahead_ms: 0, within_ms: 501 }));
        assert_eq!(of(90_000, 100_000, 0).unwrap().ahead_ms, -10_000);
        assert_eq!(of(0, 100_000, 0), None, "nothing was said");
        assert_eq!(of(u64::MAX, 100_000, 0), None, "no clock shows that");
    }

    #[test]
    fn a_slow_answer_is_no_difference() {
        let slow = of(100_000, 104_900, 5_000).unwrap();
        assert!(slow.ahead_ms == -2_400 && !slow.exceeds(2_000), "{slow:?}");
        let fast = of(100_000, 102_410, 20).unwrap();
        assert!(fast.ahead_ms == -2_400 && fast.exceeds(2_000), "{fast:?}");
    }
}
