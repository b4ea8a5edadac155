//! Time as a crash-safe program can use it: which boot, and how long since that boot.

use alloc::string::String;
use serde::{Deserialize, Serialize};

/// A moment: boot id and `CLOCK_BOOTTIME`. The wall clock is only shown, never computed with.
///
/// `CLOCK_BOOTTIME` goes on during suspend and does not jump when somebody sets the clock (U5 of the catalogue).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// Milliseconds of `CLOCK_BOOTTIME`.
    pub ms: u64,
    /// Milliseconds since the Unix epoch, for people.
    pub wall_ms: u64,
}

impl Stamp {
    /// Milliseconds from `earlier` to `self`; `None` when a reboot lies between them.
    pub fn since(&self, earlier: &Self) -> Option<u64> {
        (self.boot == earlier.boot).then(|| self.ms.saturating_sub(earlier.ms))
    }
}
