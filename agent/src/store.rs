//! What the agent remembers on the disk besides its journals: the last baselines, and evidence bundles. Everything is
//! written beside, made durable, and then renamed, so that a power cut leaves the old or the new, never a half.

pub mod disk;
mod ledger;

use crate::lines::sync_folder;
use crate::sight::chain;
use arc_swap::ArcSwapOption;
use lifeline_core::baseline::Baseline;
use lifeline_core::reboots::Reboots;
use std::borrow::Cow;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Baselines kept.
const GENERATIONS: usize = 5;
/// Evidence bundles kept.
const BUNDLES: usize = 20;
/// Longest evidence file, bytes: 100 000 routes are about 20 MB and are cut.
const EVIDENCE: usize = 8 << 20;
/// All bundles together, bytes; the oldest go first, and the newest stays.
const ALL_EVIDENCE: u64 = 256 << 20;

/// Why something was not remembered.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk said no.
    #[error("{doing} {path}")]
    Disk {
        /// `write`.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Evidence that would take more than half of what is left.
    #[error("write {path}: {bytes} bytes, and the disk has {free} left")]
    Room {
        /// Where.
        path: PathBuf,
        /// So much it is.
        bytes: u64,
        /// So much there is.
        free: u64,
    },
    /// It has no JSON form.
    #[error("write {path}")]
    Form {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// The state directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    baseline: ArcSwapOption<Baseline>,
    ledger: Mutex<ledger::Ledger>,
    /// Why the disk takes nothing.
    trouble: watch::Sender<Option<String>>,
}

impl Store {
    /// Opens the state directory, making what is missing, and loads the newest baseline that is whole. A disk that takes
    /// nothing is no reason not to run: the guard needs none.
    pub fn open(dir: &Path) -> (Self, Option<StoreError>) {
        let store = Self::unread(dir);
        let made = store.try_disk().err();
        store.trouble.send_replace(made.as_ref().map(|why| chain(why)));
        for generation in store.generations().into_iter().rev() {
            match load(&store.file(generation)) {
                Ok(baseline) => {
                    store.baseline.store(Some(Arc::new(baseline)));
                    break;
                }
                Err(why) => tracing::warn!("baseline {generation} is passed over: {why}"),
            }
        }
        (store, made)
    }

    /// A state directory that could not be read: nothing is known, and keeping anything will fail by itself.
    pub fn unread(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            baseline: ArcSwapOption::empty(),
            ledger: Mutex::default(),
            trouble: watch::Sender::new(None),
        }
    }

    /// Where journals lie.
    pub fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// The baseline, if there is one yet.
    pub fn baseline(&self) -> Option<Arc<Baseline>> {
        self.baseline.load_full()
    }

    /// Keeps a baseline as the newest generation. It counts at once, even when the disk does not take it.
    ///
    /// # Errors
    /// When it will not outlive this process.
    pub fn keep(&self, mut baseline: Baseline) -> Result<Arc<Baseline>, StoreError> {
        let before = self.baseline().map_or(0, |b| b.generation);
        let on_disk = self.generations().last().copied().unwrap_or(0);
        baseline.generation = before.max(on_disk) + 1;
        let kept = Arc::new(baseline);
        self.baseline.store(Some(kept.clone()));
        let path = self.file(kept.generation);
        let json = serde_json::to_string(&*kept)
            .map_err(|source| StoreError::Form { path: path.clone(), source })?;
        let text = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        replace(&path, text.as_bytes())?;
        for old in self.generations().iter().rev().skip(GENERATIONS) {
            forget(&self.file(*old));
        }
        Ok(kept)
    }

    /// Counts one more reboot, on the disk before it returns; the inner error says in how many milliseconds the next is
    /// allowed.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn spend_reboot(&self, now_ms: u64, most: u32) -> Result<Result<(), u64>, StoreError> {
        let path = self.dir.join("budget").join("reboots.json");
        let mut reboots = self.reboots();
        if let Err(wait) = reboots.spend(now_ms, most) {
            return Ok(Err(wait));
        }
        make_dir(&self.dir.join("budget"))?;
        let json = serde_json::to_vec(&reboots)
            .map_err(|source| StoreError::Form { path: path.clone(), source })?;
        replace(&path, &json)?;
        Ok(Ok(()))
    }

    /// Reboots that were asked for.
    pub fn reboots(&self) -> Reboots {
        let path = self.dir.join("budget").join("reboots.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|why| {
                tracing::warn!("read {}: {why}; the count begins anew", path.display());
                Reboots::default()
            }),
            Err(_) => Reboots::default(),
        }
    }

    /// Puts evidence beside an incident's journal before anything is destroyed. Each file is cut at a bound, behind a whole line, and
    /// says so.
    ///
    /// # Errors
    /// When the disk does not take it, or would hardly have anything left then: journals need it more.
    pub fn bundle(&self, incident: &str, files: &[(&str, Vec<u8>)]) -> Result<(), StoreError> {
        let dir = self.dir.join("evidence").join(incident);
        make_dir(&dir)?;
        let cut: Vec<_> = files.iter().map(|(name, bytes)| (dir.join(name), cut(bytes))).collect();
        let bytes = cut.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let free = free(&dir)?;
        if bytes > free / 2 {
            return Err(StoreError::Room { path: dir, bytes, free });
        }
        for (path, bytes) in &cut {
            replace(path, bytes)?;
        }
        self.prune(ALL_EVIDENCE);
        Ok(())
    }

    fn prune(&self, most: u64) {
        let Ok(entries) = fs::read_dir(self.dir.join("evidence")) else { return };
        let mut bundles: Vec<_> = entries
            .flatten()
            .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
            .collect();
        bundles.sort();
        let mut together = 0_u64;
        for (n, (_, path)) in bundles.iter().rev().enumerate() {
            together = together.saturating_add(size(path));
            if n < BUNDLES && (n == 0 || together <= most) {
                continue;
            }
            if let Err(why) = fs::remove_dir_all(path) {
                tracing::warn!("remove old evidence {}: {why}", path.display());
            }
        }
    }

    fn file(&self, generation: u64) -> PathBuf {
        self.dir.join("baseline").join(format!("{generation:08}.json"))
    }

    /// Generations on the disk, oldest first.
    fn generations(&self) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(self.dir.join("baseline")) else { return Vec::new() };
        let number = |name: &str| name.strip_suffix(".json")?.parse().ok();
        let mut all: Vec<u64> =
            entries.flatten().filter_map(|e| number(&e.file_name().to_string_lossy())).collect();
        all.sort_unstable();
        all
    }
}

/// As much of a file as is kept: whole lines, and a last one that says what is missing. "Cut" is never "that was all".
fn cut(bytes: &[u8]) -> Cow<'_, [u8]> {
    /// The last line's own room.
    const NOTE: usize = 128;
    if bytes.len() <= EVIDENCE {
        return Cow::Borrowed(bytes);
    }
    let most = EVIDENCE - NOTE;
    let line = bytes[..most].iter().rposition(|b| *b == b'\n');
    let kept = line.map_or(most, |at| at + 1);
    let note = format!("… cut here: {kept} of {} bytes are kept\n", bytes.len());
    let start = if line.is_some() { "" } else { "\n" };
    Cow::Owned([&bytes[..kept], start.as_bytes(), note.as_bytes()].concat())
}

/// How much more the disk takes, bytes.
fn free(dir: &Path) -> Result<u64, StoreError> {
    let disk = rustix::fs::statvfs(dir).map_err(|why| StoreError::Disk {
        doing: "ask for the room at",
        path: dir.into(),
        source: why.into(),
    })?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Of a bundle, which has no folders in it.
fn size(bundle: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(bundle) else { return 0 };
    entries.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
}

fn load(path: &Path) -> Result<Baseline, String> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    serde_json::from_str(checked(&text)?).map_err(|e| e.to_string())
}

/// What stands behind a checksum that matches.
fn checked(text: &str) -> Result<&str, String> {
    let (crc, json) = text.trim_end().split_once(' ').ok_or("it has no checksum")?;
    if u32::from_str_radix(crc, 16) != Ok(crc32fast::hash(json.as_bytes())) {
        return Err("its checksum does not match".to_string());
    }
    Ok(json)
}

fn forget(path: &Path) {
    if let Err(why) = fs::remove_file(path) {
        tracing::warn!("remove {}: {why}", path.display());
    }
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| StoreError::Disk {
        doing: "make",
        path: path.into(),
        source,
    })
}

/// Writes a file whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let fresh = path.with_extension("new");
    let disk = |doing| {
        let path = fresh.clone();
        move |source| StoreError::Disk { doing, path, source }
    };
    let mut file: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(disk("create"))?;
    file.write_all(bytes).map_err(disk("write"))?;
    file.sync_all().map_err(disk("bring to the disk"))?;
    fs::rename(&fresh, path).map_err(disk("rename"))?;
    sync_folder(path).map_err(disk("bring to the disk the folder of"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(node: &str) -> Baseline {
        let mut b = Baseline::default();
        b.cluster.node = node.to_string();
        b
    }

    #[test]
    fn the_newest_whole_baseline_is_loaded_and_five_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (store, trouble) = Store::open(dir.path());
        assert!(trouble.is_none());
        assert!(store.baseline().is_none());
        for n in 1..=7 {
            assert_eq!(store.keep(named(&format!("n{n}"))).unwrap().generation, n);
        }
        assert_eq!(store.generations(), [3, 4, 5, 6, 7]);
        // A torn newest one is passed over, and its number is not used again.
        fs::write(store.file(7), b"0000").unwrap();
        let (again, _) = Store::open(dir.path());
        assert_eq!(again.baseline().unwrap().cluster.node, "n6");
        assert_eq!(again.keep(named("n8")).unwrap().generation, 8);
    }

    #[test]
    fn a_baseline_counts_although_the_disk_does_not_take_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (store, trouble) = Store::open(&file.path().join("below-a-file"));
        assert!(trouble.is_some());
        assert!(store.keep(named("calypso")).is_err());
        assert_eq!(store.baseline().unwrap().cluster.node, "calypso");
    }

    #[test]
    fn evidence_is_bounded_in_size_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path());
        for n in 0..BUNDLES + 3 {
            store.bundle(&format!("i{n}"), &[("a.json", vec![b'x'; EVIDENCE + 1])]).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path().join("evidence")).unwrap().count(), BUNDLES);
        let newest = dir.path().join("evidence").join(format!("i{}", BUNDLES + 2)).join("a.json");
        assert!(fs::metadata(newest).unwrap().len() <= EVIDENCE as u64);
    }

    #[test]
    fn all_evidence_together_is_bounded_and_the_newest_is_kept_whatever_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path());
        let kept = || {
            let entries = fs::read_dir(dir.path().join("evidence")).unwrap().flatten();
            let mut names: Vec<_> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        for n in 0..5 {
            store.bundle(&format!("i{n}"), &[("a", vec![b'x'; 1_000])]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        store.prune(2_500);
        assert_eq!(kept(), ["i3", "i4"]);
        store.prune(10);
        assert_eq!(kept(), ["i4"]);
    }

    #[test]
    fn evidence_that_is_too_long_ends_with_a_whole_line_and_says_what_is_missing() {
        let line = "{\"dst\":\"10.100.0.1/32\"},\n";
        let text = line.repeat(EVIDENCE / line.len() + 2);
        let kept = String::from_utf8(cut(text.as_bytes()).into_owned()).unwrap();
        assert!(kept.len() <= EVIDENCE);
        let (last, before) = kept
            .lines()
            .rev()
            .collect::<Vec<_>>()
            .split_first()
            .map_or(("", 0), |(l, b)| (*l, b.len()));
        assert_eq!(
            kept.lines().take(before).filter(|l| format!("{l}\n") != line).count(),
            0,
            "whole lines"
        );
        let told = format!("{} of {} bytes are kept", before * line.len(), text.len());
        assert!(last.contains("cut here") && last.contains(&told), "{last}");
        assert!(
            matches!(cut(&text.as_bytes()[..EVIDENCE]), Cow::Borrowed(_)),
            "what fits is left as it is"
        );
    }
}
