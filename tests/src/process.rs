//! Processes by pid *and* start time, so that a recycled pid is never taken for the one we knew.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};

/// One process, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Start time in clock ticks after boot, field 22 of `/proc/PID/stat`.
    pub born: u64,
}

impl Process {
    /// The living process with this pid; a zombie is not living.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = stat(pid)?;
        (!matches!(stat.state, 'Z' | 'X')).then_some(Self { pid, born: stat.born })
    }

    #[must_use]
    pub fn alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Whether it leads a session, as what systemd starts does and what that forks does not.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.alive() && stat(self.pid).is_some_and(|s| s.session == self.pid)
    }

    /// Sends `signal` by pidfd, after a second look that it is still the same process. A process that is
    /// gone is no error.
    pub fn signal(&self, signal: Signal) -> std::io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            other => other?,
        };
        if !self.alive() {
            return Ok(());
        }
        match pidfd_send_signal(fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[derive(Debug)]
struct Stat {
    state: char,
    parent: i32,
    session: i32,
    born: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command name may hold spaces and parentheses, so fields are counted from the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let rest: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    Some(Stat {
        state: rest.first()?.chars().next()?,
        parent: rest.get(1)?.parse().ok()?,
        session: rest.get(3)?.parse().ok()?,
        born: rest.get(19)?.parse().ok()?,
    })
}

/// Our own program, also when a build has meanwhile put a new one in its place.
pub fn own_program() -> Result<PathBuf> {
    std::env::current_exe().map(in_its_place).doing(|| "find our own program".to_owned())
}

/// The kernel says ` (deleted)` behind a program's path once the file there is another one.
fn in_its_place(path: PathBuf) -> PathBuf {
    let new = path.to_str().and_then(|p| p.strip_suffix(" (deleted)")).map(PathBuf::from);
    new.filter(|p| p.is_file()).unwrap_or(path)
}

/// Every pid there is now.
#[must_use]
pub fn pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

#[must_use]
pub fn children(of: i32) -> Vec<Process> {
    let is_child = |pid: &i32| stat(*pid).is_some_and(|s| s.parent == of);
    pids().into_iter().filter(is_child).filter_map(Process::of).collect()
}

/// This process and all above it: a sweep that is started from inside the lab must not saw off its own branch.
#[must_use]
pub fn own_line() -> Vec<i32> {
    let mut line = Vec::new();
    let mut pid = i32::try_from(std::process::id()).unwrap_or(0);
    while pid > 0 && !line.contains(&pid) {
        line.push(pid);
        pid = stat(pid).map_or(0, |s| s.parent);
    }
    line
}

/// Whether this is the first process of a pid namespace below ours.
#[must_use]
pub fn is_inner_init(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let Some(line) = status.lines().find_map(|l| l.strip_prefix("NSpid:")) else { return false };
    let ids: Vec<&str> = line.split_whitespace().collect();
    ids.len() > 1 && ids.last() == Some(&"1")
}

#[must_use]
pub fn arguments(pid: i32) -> Vec<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    raw.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}

/// Inode of the network namespace a process is in.
#[must_use]
pub fn net_namespace(pid: i32) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Pids in a cgroup and all below it.
#[must_use]
pub fn in_cgroup(dir: &Path) -> Vec<i32> {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<i32> = procs.lines().filter_map(|l| l.parse().ok()).collect();
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            found.extend(in_cgroup(&entry.path()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_command_name_with_parentheses_is_read_right() {
        let fields = (0..18).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let stat = parse_stat(&format!("7 (a) b) S 1 {fields} 99 0")).unwrap();
        assert_eq!((stat.state, stat.parent, stat.session, stat.born), ('S', 1, 1, 17));
    }

    #[test]
    fn a_pid_with_another_start_time_is_another_process_and_is_not_signalled() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let known = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        let stranger = Process { born: known.born + 1, ..known };
        assert!(known.alive() && !stranger.alive());
        stranger.signal(Signal::KILL).unwrap();
        assert!(known.alive());
        known.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(!known.alive());
    }

    #[test]
    fn what_was_forked_leads_no_session_until_it_begins_one() {
        let known =
            |child: &std::process::Child| Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        let mut plain = Command::new("sleep").arg("30").spawn().unwrap();
        let mut own = Command::new("setsid").args(["sleep", "30"]).spawn().unwrap();
        let begun = std::time::Instant::now();
        while !known(&own).leads() {
            assert!(begun.elapsed().as_secs() < 10, "setsid has begun no session");
        }
        assert!(!known(&plain).leads());
        for child in [&mut plain, &mut own] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_program_that_a_build_has_replaced_is_found_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("lab");
        let replaced = folder.path().join("lab (deleted)");
        assert_eq!(in_its_place(replaced.clone()), replaced, "there is no other");
        fs::write(&program, "").unwrap();
        assert_eq!(in_its_place(replaced), program);
        assert_eq!(in_its_place(program.clone()), program);
    }

    #[test]
    fn our_own_line_ends_at_the_top() {
        let line = own_line();
        assert_eq!(line.first().copied(), i32::try_from(std::process::id()).ok());
        assert!(line.len() > 1);
    }
}
