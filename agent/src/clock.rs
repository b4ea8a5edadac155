//! The moment: boot id and `CLOCK_BOOTTIME`, as core's journal wants it.

use lifeline_core::clock::Stamp;
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::path::Path;

/// Knows which boot this is; a boot id does not change while a process lives.
#[derive(Clone, Debug)]
pub struct Clock {
    boot: String,
}

impl Clock {
    /// Reads the boot id.
    ///
    /// # Errors
    /// When `/proc` cannot be read: then nothing can be journalled.
    pub fn read() -> io::Result<Self> {
        Self::read_from(Path::new("/proc/sys/kernel/random/boot_id"))
    }

    fn read_from(path: &Path) -> io::Result<Self> {
        let boot = std::fs::read_to_string(path)?.trim().to_string();
        if boot.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the boot id is empty"));
        }
        Ok(Self { boot })
    }

    /// A clock of another boot, for tests of what a reboot does.
    pub fn of_boot(boot: &str) -> Self {
        Self { boot: boot.to_string() }
    }

    /// Which boot.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Now.
    pub fn now(&self) -> Stamp {
        Stamp { boot: self.boot.clone(), ms: millis(ClockId::Boottime), wall_ms: wall_ms() }
    }
}

/// What this machine's wall clock shows, Unix milliseconds.
pub fn wall_ms() -> u64 {
    millis(ClockId::Realtime)
}

fn millis(clock: ClockId) -> u64 {
    let t = clock_gettime(clock);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_within_a_boot_and_says_nothing_across_two() {
        let here = Clock::read().unwrap();
        let first = here.now();
        let second = here.now();
        assert!(second.since(&first).is_some());
        assert!(Clock::of_boot("another").now().since(&first).is_none());
    }

    #[test]
    fn an_empty_boot_id_is_an_error_and_not_a_boot() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Clock::read_from(file.path()).is_err());
    }
}
