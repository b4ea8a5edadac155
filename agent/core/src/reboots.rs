//! How often this node has been asked to reboot, across boots: a reboot that does not help is not tried for ever, by nobody.
//!
//! Across a reboot only the wall clock is left to count with. It may be wrong, so a reboot that lies in the future counts as
//! if it had just been: a clock that was set back makes us wait, never go on.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What counts as a day, milliseconds.
pub const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// Reboots that were asked for, wall clock, milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reboots {
    at: Vec<u64>,
}

impl Reboots {
    /// Those that count now.
    pub fn spent(&self, now_ms: u64) -> u32 {
        let counts = self.at.iter().filter(|at| now_ms.saturating_sub(**at) < DAY_MS).count();
        u32::try_from(counts).unwrap_or(u32::MAX)
    }

    /// Notes one, and forgets what no longer counts.
    ///
    /// # Errors
    /// When there have been as many as may be; says in how many milliseconds the next is allowed.
    pub fn spend(&mut self, now_ms: u64, most: u32) -> Result<(), u64> {
        self.at.retain(|at| now_ms.saturating_sub(*at) < DAY_MS);
        if self.spent(now_ms) < most {
            self.at.push(now_ms);
            return Ok(());
        }
        // As many have to leave the day as there are too many.
        let mut ages: Vec<u64> = self.at.iter().map(|at| now_ms.saturating_sub(*at)).collect();
        ages.sort_unstable();
        let frees =
            usize::try_from(most).ok().and_then(|m| m.checked_sub(1)).and_then(|m| ages.get(m));
        Err(frees.map_or(u64::MAX, |age| DAY_MS - age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn two_a_day_and_then_the_oldest_must_have_gone() {
        let (mut r, start) = (Reboots::default(), 1_000 * HOUR);
        assert_eq!(r.spend(start, 2), Ok(()));
        assert_eq!(r.spend(start + HOUR, 2), Ok(()));
        assert_eq!(
            r.spend(start + 2 * HOUR, 2),
            Err(22 * HOUR),
            "the first one leaves the day then"
        );
        assert_eq!(r.spent(start + 2 * HOUR), 2);
        assert_eq!(r.spend(start + 24 * HOUR, 2), Ok(()));
        assert_eq!(r.spend(start + 24 * HOUR, 2), Err(HOUR));
        assert_eq!(Reboots::default().spend(start, 0), Err(u64::MAX), "never");
    }

    #[test]
    fn a_clock_that_was_set_back_makes_us_wait() {
        let mut r = Reboots::default();
        r.spend(1_000 * HOUR, 1).unwrap();
        assert_eq!(r.spend(10 * HOUR, 1), Err(DAY_MS), "a reboot in the future counts as just now");
    }
}
