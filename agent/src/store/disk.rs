//! Does the state directory take what is written? Tried as a journal would, not guessed from numbers: a quota, a read-only
//! remount, a table of inodes that is full and a disk that hangs all look alike to `df`.
//!
//! Tried now and then while nothing happens, so that an operator hears before the incident that nothing will be repaired.

use super::{Store, StoreError, make_dir};
use crate::event;
use crate::lines::{DEADLINE, ROOM, reserve};
use crate::sight::chain;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between two tries while all is well.
const RARELY: Duration = Duration::from_secs(60);
/// The same while it is not.
const AGAIN: Duration = Duration::from_secs(10);

impl Store {
    /// Why the disk takes nothing, as it was found last.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Tells when that changes.
    pub fn troubles(&self) -> watch::Receiver<Option<String>> {
        self.trouble.subscribe()
    }

    /// Says why the disk takes nothing; known from elsewhere.
    pub fn fell_silent(&self) {
        let why = format!(
            "{}: the disk has not answered for {} s",
            self.dir.display(),
            DEADLINE.as_secs()
        );
        self.note(Some(why));
    }

    /// Makes what is missing, and writes a file with the room of a journal; it is gone afterwards.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn try_disk(&self) -> Result<(), StoreError> {
        for sub in ["", "journal", "baseline", "evidence", "quarantine"] {
            make_dir(&self.dir.join(sub))?;
        }
        let path = self.dir.join("trial");
        let disk = |doing| {
            let path = path.clone();
            move |source| StoreError::Disk { doing, path, source }
        };
        let tried = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(disk("create"))
            .and_then(|mut file| {
                reserve(&file, 0, ROOM).map_err(disk("take space for"))?;
                file.write_all(b"taken\n").map_err(disk("write"))?;
                file.sync_data().map_err(disk("bring to the disk"))
            });
        // What was taken is given back, whatever came of it.
        match fs::remove_file(&path) {
            // Another process tries it, too: `lifeline-agent look`.
            Err(why) if why.kind() != ErrorKind::NotFound => {
                tried.and_then(|()| Err(disk("remove")(why)))
            }
            Ok(()) | Err(_) => tried,
        }
    }

    /// Tries the disk for ever. A disk that hangs costs one thread, however long it hangs.
    pub async fn keep_trying(self: Arc<Self>) {
        loop {
            let rest = if self.trouble().is_some() { AGAIN } else { RARELY };
            tokio::time::sleep(rest).await;
            let store = self.clone();
            let mut trying = tokio::task::spawn_blocking(move || store.try_disk());
            let tried = match tokio::time::timeout(DEADLINE, &mut trying).await {
                Ok(tried) => tried,
                Err(_) => {
                    self.fell_silent();
                    trying.await
                }
            };
            self.note(match tried {
                Ok(Ok(())) => None,
                Ok(Err(why)) => Some(chain(&why)),
                Err(broken) => Some(broken.to_string()),
            });
        }
    }

    fn note(&self, trouble: Option<String>) {
        let new = self.trouble.send_if_modified(|known| {
            let new = *known != trouble;
            known.clone_from(&trouble);
            new
        });
        match (new, trouble) {
            (true, Some(why)) => event::tell(&event::DISK, event::About::default(), &said(&why)),
            (true, None) => tracing::info!("the state directory takes what is written again"),
            (false, _) => {}
        }
    }
}

/// As `Status` and the journal say it.
pub fn said(why: &str) -> String {
    format!("it can guard and not repair, because nothing can be journalled: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_takes_it_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (store, trouble) = Store::open(dir.path());
        assert!(trouble.is_none() && store.trouble().is_none());
        store.try_disk().unwrap();
        let left = fs::read_dir(dir.path()).unwrap().flatten();
        assert!(left.into_iter().all(|e| e.file_type().unwrap().is_dir()), "folders only");
    }

    #[test]
    fn a_disk_that_takes_nothing_is_said_with_what_was_tried() {
        let dir = tempfile::tempdir().unwrap();
        // In the place of the file: root may write wherever modes forbid it.
        fs::create_dir(dir.path().join("trial")).unwrap();
        let (store, trouble) = Store::open(dir.path());
        let why = store.trouble().unwrap();
        assert!(why.contains("create") && why.contains("trial"), "{why}");
        assert_eq!(trouble.map(|t| chain(&t)), Some(why));
        fs::remove_dir(dir.path().join("trial")).unwrap();
        store.fell_silent();
        assert!(store.trouble().unwrap().contains("has not answered for 10 s"));
        store.note(store.try_disk().err().map(|why| chain(&why)));
        assert_eq!(store.trouble(), None, "a disk that answers again is believed");
    }
}
