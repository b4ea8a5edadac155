//! The budget on the disk: written before what it allows is done. Without a disk that takes it, nothing is done alone.

use super::{Store, StoreError, checked, make_dir, replace};
use crate::clock::Clock;
use lifeline_core::budget::{Allowance, Budget, PAUSE_MS};
use lifeline_core::clock::Stamp;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};

/// What has been spent, as far as it is known.
#[derive(Debug, Default)]
pub struct Ledger {
    budget: Budget,
    loaded: bool,
    /// Since when what was spent before is not known: its file is damaged. It counts as if everything had been used up.
    blind: Option<Stamp>,
}

impl Store {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger_path(&self) -> PathBuf {
        self.dir.join("budget").join("attempts.json")
    }

    /// Reads what was spent before this start. "Could not read" is never "nothing was spent".
    pub fn load_budget(&self, clock: &Clock) {
        let path = self.ledger_path();
        let now = clock.now();
        let read = match std::fs::read_to_string(&path) {
            Ok(text) => checked(&text)
                .and_then(|json| serde_json::from_str::<Budget>(json).map_err(|e| e.to_string())),
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(Budget::default()),
            Err(why) => Err(why.to_string()),
        };
        let mut ledger = self.ledger();
        ledger.loaded = true;
        match read {
            Ok(mut budget) => {
                budget.arrive(&now);
                ledger.budget = budget;
            }
            Err(why) => {
                tracing::error!(
                    "read {}: {why}; nothing is repaired alone for {} min",
                    path.display(),
                    PAUSE_MS / 60_000
                );
                ledger.blind = Some(now);
            }
        }
    }

    /// The budget, and for how many milliseconds more it is not known.
    pub fn budget(&self, now: &Stamp) -> (Budget, u64) {
        let ledger = self.ledger();
        let blind = match &ledger.blind {
            _ if !ledger.loaded => PAUSE_MS,
            Some(since) => PAUSE_MS.saturating_sub(now.since(since).unwrap_or(0)),
            None => 0,
        };
        (ledger.budget.clone(), blind)
    }

    /// Writes attempts down; they are on the disk when this returns.
    ///
    /// # Errors
    /// When the disk does not take it: then they have been spent all the same, and must not be made.
    pub fn spend(&self, accounts: &[String], rung: u32, now: &Stamp) -> Result<(), StoreError> {
        let budget = {
            let mut ledger = self.ledger();
            for account in accounts {
                ledger.budget.spend(account, rung, now);
            }
            ledger.budget.clone()
        };
        let path = self.ledger_path();
        make_dir(&self.dir.join("budget"))?;
        let json = serde_json::to_string(&budget)
            .map_err(|source| StoreError::Form { path: path.clone(), source })?;
        let text = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        replace(&path, text.as_bytes())
    }

    /// The first of these accounts that is used up at this rung, and for how long.
    pub fn used_up(&self, accounts: &[String], rung: u32, now: &Stamp) -> Option<(String, u64)> {
        let (budget, blind) = self.budget(now);
        if blind > 0 {
            return accounts.first().map(|a| (a.clone(), blind));
        }
        accounts.iter().find_map(|a| match budget.ask(a, rung, now) {
            Allowance::Yes => None,
            Allowance::After(ms) => Some((a.clone(), ms)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Stamp {
        Stamp { boot: Clock::read().unwrap().boot().to_owned(), ms, wall_ms: 0 }
    }

    #[test]
    fn what_was_spent_outlives_the_process_and_what_cannot_be_read_was_spent() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::read().unwrap();
        let names = ["f by x".to_owned()];
        let (store, _) = Store::open(dir.path());
        assert!(
            store.used_up(&names, 2, &clock.now()).is_some(),
            "nothing is known before it is read"
        );
        store.load_budget(&clock);
        assert_eq!(store.used_up(&names, 2, &clock.now()), None);
        for _ in 0..3 {
            store.spend(&names, 2, &clock.now()).unwrap();
        }
        assert!(store.used_up(&names, 2, &clock.now()).is_some());
        let (again, _) = Store::open(dir.path());
        again.load_budget(&clock);
        let (_, ms) = again.used_up(&names, 2, &clock.now()).unwrap();
        assert!(ms > PAUSE_MS - 60_000 && ms <= PAUSE_MS, "{ms}");
        assert_eq!(again.used_up(&["g by y".to_owned()], 2, &clock.now()), None);
        std::fs::write(again.ledger_path(), "00000000 {}").unwrap();
        let (torn, _) = Store::open(dir.path());
        torn.load_budget(&clock);
        assert!(torn.used_up(&["g by y".to_owned()], 2, &clock.now()).is_some());
        assert_eq!(torn.used_up(&["g by y".to_owned()], 2, &at(u64::MAX)), None);
    }

    #[test]
    fn a_disk_that_does_not_take_it_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (store, _) = Store::open(&file.path().join("below-a-file"));
        assert!(store.spend(&["f".to_owned()], 2, &at(1)).is_err());
    }
}
