//! Where the lab keeps what it must know, and the lock that keeps two labs apart.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, LabError, Result};
use crate::names;
use crate::process::Process;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Rising,
    Up,
}

/// What stands behind the nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gear {
    /// Stand-ins with exact timing.
    #[default]
    Quick,
    /// A real cluster and the real tailscaled.
    Real,
}

/// What `up` wrote down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    pub phase: Phase,
    pub mode: String,
    #[serde(default)]
    pub gear: Gear,
    pub root: PathBuf,
    /// Size and time of the binaries the nodes were given, so that a newer build is noticed.
    pub build: String,
    /// Whether the agent was installed; before it exists, nodes are bare.
    pub agent: bool,
}

impl State {
    /// What is written down, if anything. A file that cannot be read is an error, not an absent lab.
    pub fn read() -> Result<Option<Self>> {
        let path = names::state_dir().join("state.json");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.doing(|| format!("read {}", path.display()))?,
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|source| LabError::Format { what: path.display().to_string(), source })
    }

    pub fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|source| LabError::Format { what: "the lab's state".to_owned(), source })?;
        let path = names::state_dir().join("state.json");
        let new = names::state_dir().join("state.json.new");
        let dir = names::state_dir();
        fs::create_dir_all(&dir).doing(|| format!("make {}", dir.display()))?;
        fs::write(&new, text).doing(|| format!("write {}", new.display()))?;
        fs::rename(&new, &path).doing(|| format!("write {}", path.display()))
    }
}

/// Where one node's runtime facts are.
#[must_use]
pub fn node_dir(name: &str) -> PathBuf {
    names::state_dir().join("nodes").join(name)
}

/// The container supervisor of a node, as it wrote itself down before it became `systemd-nspawn`.
#[must_use]
pub fn supervisor(name: &str) -> Option<Process> {
    let text = fs::read_to_string(node_dir(name).join("supervisor.json")).ok()?;
    let process: Process = serde_json::from_str(&text).ok()?;
    process.alive().then_some(process)
}

/// Held while the lab is being changed. The kernel lets go of it when the holder dies, however it dies.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    pub fn take(doing: &str) -> Result<Self> {
        let path = names::lock_file();
        let shown = path.display().to_string();
        for _ in 0..20 {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .doing(|| format!("open {shown}"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(held_by_other(&mut file)),
                Err(TryLockError::Error(e)) => return Err(e).doing(|| format!("lock {shown}")),
            }
            // The last holder removed the file between our open and our lock: then ours is a lock on nothing.
            if !is_still(&file, &path) {
                continue;
            }
            file.set_len(0).and_then(|()| file.rewind()).doing(|| format!("write {shown}"))?;
            write!(file, "{doing} (pid {})", std::process::id())
                .doing(|| format!("write {shown}"))?;
            return Ok(Self { path, _file: file });
        }
        Err(LabError::Refused(format!("lock {shown}: it is replaced again and again")))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}

fn is_still(file: &File, path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| file.metadata().is_ok_and(|f| f.ino() == m.ino()))
}

fn held_by_other(file: &mut File) -> LabError {
    let mut holder = String::new();
    file.read_to_string(&mut holder).ok();
    LabError::Refused(format!(
        "the lab is being changed by another: {holder}\n  try: wait for it, or end it"
    ))
}
