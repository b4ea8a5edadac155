//! Finds and removes all that a lab may have left, by name and place rather than by memory: after a kill -9 of the lab
//! its state file may be missing or wrong.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use rustix::process::Signal;

use crate::error::{Doing, LabError, Result};
use crate::names;
use crate::node::{self, Node};
use crate::process::{self, Process};
use crate::run;
use crate::topology::Machine;
use crate::{root, state};

const LIMIT: Duration = Duration::from_secs(15);
/// Between the death of a pid 1 and that of its container, or its next pid 1, lie a few hundred milliseconds.
const MOMENT: Duration = Duration::from_secs(10);

/// What was found on the host that is the lab's.
#[derive(Debug, Default)]
pub struct Leftovers {
    pub processes: Vec<Process>,
    pub namespaces: Vec<String>,
    pub cgroups: Vec<PathBuf>,
    pub mounts: Vec<PathBuf>,
    pub files: Vec<PathBuf>,
}

impl Leftovers {
    /// Looks at the machine. It changes nothing.
    pub fn find() -> Result<Self> {
        let namespaces = namespaces()?;
        let cgroups: Vec<PathBuf> = node::all_hierarchies()
            .into_iter()
            .map(|h| h.join(names::cgroup()))
            .filter(|p| p.is_dir())
            .collect();
        let processes = processes(&namespaces, &cgroups);
        Ok(Self { processes, namespaces, cgroups, mounts: mounts()?, files: files() })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
            && self.namespaces.is_empty()
            && self.cgroups.is_empty()
            && self.mounts.is_empty()
            && self.files.is_empty()
    }

    #[must_use]
    pub fn told(&self) -> String {
        let parts = [
            (self.processes.len(), "processes"),
            (self.namespaces.len(), "network namespaces"),
            (self.cgroups.len(), "cgroups"),
            (self.mounts.len(), "mounts"),
            (self.files.len(), "folders and files"),
        ];
        let some = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}"));
        some.collect::<Vec<_>>().join(", ")
    }
}

/// Removes everything, then looks again; what is still there is an error that names it.
pub fn sweep() -> Result<Leftovers> {
    let found = Leftovers::find()?;
    end(LIMIT)?;
    for namespace in &found.namespaces {
        run::host("ip", &["netns", "delete", namespace])?.success()?;
    }
    for mount in found.mounts.iter().rev() {
        umount2(mount, MntFlags::MNT_DETACH).doing(|| format!("unmount {}", mount.display()))?;
    }
    for cgroup in &found.cgroups {
        remove_cgroup(cgroup)?;
    }
    // Read now: held by a living container they were not ours to remove, and the notes go with the state.
    for path in locks().iter().chain(&found.files) {
        remove(path)?;
    }
    root::clear_unfinished()?;
    leave_folders();
    let left = Leftovers::find()?;
    if left.is_empty() {
        return Ok(found);
    }
    Err(LabError::Refused(format!("these could not be removed: {left:?}")))
}

/// Kills until nobody is left: a process may have forked between our look and our blow.
fn end(limit: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        let left = Leftovers::find()?.processes;
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > limit {
            return Err(LabError::TimedOut { doing: format!("kill {left:?}"), after: limit });
        }
        for process in &left {
            process.signal(Signal::KILL).doing(|| format!("kill pid {}", process.pid))?;
        }
        thread::sleep(Duration::from_millis(30));
    }
}

/// Everyone in one of our cgroups or namespaces, every container supervisor of ours and its child: but never ourselves.
fn processes(namespaces: &[String], cgroups: &[PathBuf]) -> Vec<Process> {
    let mut found: HashSet<i32> = cgroups.iter().flat_map(|c| process::in_cgroup(c)).collect();
    let inodes: HashSet<u64> = namespaces
        .iter()
        .filter_map(|n| fs::metadata(format!("/run/netns/{n}")).ok().map(|m| m.ino()))
        .collect();
    for pid in process::pids() {
        if process::net_namespace(pid).is_some_and(|n| inodes.contains(&n)) || supervises(pid) {
            found.insert(pid);
            if supervises(pid) {
                found.extend(process::children(pid).iter().map(|p| p.pid));
            }
        }
    }
    for own in process::own_line() {
        found.remove(&own);
    }
    found.into_iter().filter_map(Process::of).collect()
}

/// Whether `pid` is, or is about to become, the supervisor of a node of this lab.
fn supervises(pid: i32) -> bool {
    let arguments = process::arguments(pid);
    let machine = format!("--machine={}", names::prefix());
    let becoming = arguments.iter().any(|a| a == "supervise")
        && arguments.iter().any(|a| Path::new(a).starts_with(names::disks_dir()));
    becoming || arguments.iter().any(|a| a.starts_with(&machine))
}

fn namespaces() -> Result<Vec<String>> {
    names_in(Path::new("/run/netns"))
}

/// Names in a folder that carry our prefix. A folder that is not there has none; one that cannot be read is an error.
fn names_in(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing(|| format!("read {}", dir.display()))?,
    };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    Ok(names.filter(|n| n.starts_with(names::prefix())).collect())
}

/// Mounts of ours in this mount namespace: there should be none but the namespaces' own, which `ip` removes.
fn mounts() -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").doing(|| "read the mounts".to_owned())?;
    let points = text.lines().filter_map(|l| l.split(' ').nth(4)).map(PathBuf::from);
    Ok(points
        .filter(|p| p.starts_with(names::disks_dir()) || p.starts_with(names::state_dir()))
        .collect())
}

fn files() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        [names::state_dir(), names::disks_dir()].into_iter().filter(|p| p.exists()).collect();
    // nspawn makes one folder per machine name here and forgets it when it is killed.
    for dir in ["/run/systemd/nspawn/propagate", "/run/systemd/nspawn/unix-export"] {
        let names = names_in(Path::new(dir)).unwrap_or_default();
        found.extend(names.iter().map(|n| Path::new(dir).join(n)));
    }
    found
}

/// Locks of nspawn that our supervisors noted, as far as nobody holds them now.
fn locks() -> Vec<PathBuf> {
    let Ok(nodes) = fs::read_dir(names::state_dir().join("nodes")) else { return Vec::new() };
    let noted = nodes.flatten().filter_map(|n| fs::read_to_string(n.path().join("locks")).ok());
    let paths: Vec<PathBuf> =
        noted.flat_map(|t| t.lines().map(PathBuf::from).collect::<Vec<_>>()).collect();
    let free = |p: &PathBuf| fs::File::open(p).is_ok_and(|file| file.try_lock().is_ok());
    paths.into_iter().filter(free).collect()
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.doing(|| format!("remove {}", path.display())),
    }
}

/// Removes a cgroup and all below it. The kernel says EBUSY for a moment after the last process is gone.
pub fn remove_cgroup(dir: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_cgroup(&entry.path())?;
    }
    let begun = Instant::now();
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) if begun.elapsed() < Duration::from_secs(5) => {
                thread::sleep(Duration::from_millis(20));
            }
            other => return other.doing(|| format!("remove cgroup {}", dir.display())),
        }
    }
}

/// Folders that tools make and never take back. An empty one is of no use to anybody; `ip netns add` has moreover
/// mounted its own on itself.
fn leave_folders() {
    let empty = |dir: &Path| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    let netns = Path::new("/run/netns");
    if empty(netns) {
        umount2(netns, MntFlags::MNT_DETACH).ok();
    }
    for dir in ["netns", "systemd/nspawn/propagate", "systemd/nspawn/locks", "systemd/nspawn"] {
        // The kernel refuses to remove a folder that is not empty.
        fs::remove_dir(Path::new("/run").join(dir)).ok();
    }
}

/// Whether every node that was booted is still there.
#[must_use]
pub fn all_nodes_alive() -> bool {
    crate::topology::nodes().all(settled)
}

/// Whether the node runs. Its container outlives its pid 1 for a moment: when that died the container goes too, when
/// the node reboots the next pid 1 comes. Only the end of that moment tells which it is.
fn settled(machine: &'static Machine) -> bool {
    let begun = Instant::now();
    while state::supervisor(machine.name).is_some() {
        if Node::find(machine).is_ok() {
            return true;
        }
        if begun.elapsed() > MOMENT {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}
