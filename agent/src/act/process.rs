//! Stops one process, and only that one: it is pinned by a pidfd, then told apart by start time, executable, control group and
//! network namespace, and only then signalled through that pidfd. Never a process that the node needs.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use lifeline_core::engine::Failure;
use lifeline_core::op::{ProcessId, Seen};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{blocking, lasting, passing};

/// How long a process may take to be gone after SIGKILL. Only uninterruptible sleep or a frozen v1 group takes longer.
const AFTER_KILL: Duration = Duration::from_secs(5);
/// Stopping one of these stops the node, or the way to it.
const NEEDED: [&str; 13] = [
    "init",
    "systemd",
    "sshd",
    "k3s",
    "kubelet",
    "kube-proxy",
    "containerd",
    "dockerd",
    "crio",
    "conmon",
    "runc",
    "dbus-",
    "lifeline",
];

/// What tells a process apart, as `/proc` shows it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Start time in clock ticks since boot.
    pub start: u64,
    /// Path of its executable.
    pub exe: String,
    /// `DEV:INODE` of its executable.
    pub inode: String,
    /// Its control groups in the unified and the name=systemd hierarchy.
    pub cgroups: Vec<String>,
    /// Is its network namespace the one we act in, the node's?
    pub our_netns: bool,
}

/// A process that cannot be mistaken for another as long as this lives.
#[derive(Debug)]
pub struct Pinned {
    fd: OwnedFd,
    pid: u32,
}

impl Pinned {
    /// Pins the process named; `None` when that very process is gone (ended, a zombie, or the pid is another's now).
    ///
    /// # Errors
    /// When the kernel or `/proc` does not let us look.
    pub fn open(id: &ProcessId) -> io::Result<Option<Self>> {
        let pid = i32::try_from(id.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let fd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let pinned = Self { fd, pid: id.pid };
        let start = match start_of(id.pid) {
            Ok(start) => start,
            Err(e) if pinned.has_ended()? => {
                tracing::debug!(error = %e, pid = id.pid, "it ended while we looked");
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        // While the pidfd says it lives, its number cannot be another's: what /proc said was about this one.
        Ok((!pinned.has_ended()? && start == id.start).then_some(pinned))
    }

    /// Has it ended? A zombie has.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn has_ended(&self) -> io::Result<bool> {
        self.ends_within(Duration::ZERO)
    }

    fn ends_within(&self, limit: Duration) -> io::Result<bool> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match rustix::event::poll(&mut fds, Some(&left)) {
                Ok(n) => return Ok(n > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// What `/proc` says of it; `None` when it ended meanwhile.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn identity(&self) -> io::Result<Option<Identity>> {
        match identify(self.pid) {
            Ok(identity) => Ok((!self.has_ended()?).then_some(identity)),
            Err(_) if self.has_ended()? => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

fn start_of(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name may hold anything, parentheses and spaces too; field 3 follows the last one.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other("its stat line has no start time"))
}

/// `DEV:INODE` of a file, links followed (also those of `/proc` to deleted files).
///
/// # Errors
/// When it cannot be looked at.
pub fn inode_of(path: impl AsRef<Path>) -> io::Result<String> {
    let meta = fs::metadata(path)?;
    Ok(format!("{}:{}", meta.st_dev(), meta.st_ino()))
}

/// What `/proc` says of a process by its number; pin it first.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn identify(pid: u32) -> io::Result<Identity> {
    let dir = format!("/proc/{pid}");
    let cgroups = fs::read_to_string(format!("{dir}/cgroup"))?
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            parts.next().filter(|_| controllers.is_empty() || controllers == "name=systemd")
        })
        .map(str::to_owned)
        .collect();
    Ok(Identity {
        start: start_of(pid)?,
        exe: fs::read_link(format!("{dir}/exe"))?.to_string_lossy().into_owned(),
        inode: inode_of(format!("{dir}/exe"))?,
        cgroups,
        our_netns: inode_of(format!("{dir}/ns/net"))? == inode_of("/proc/thread-self/ns/net")?,
    })
}

/// Why this process must not be stopped.
fn refusal(id: &ProcessId, now: &Identity) -> Option<String> {
    let name = now.exe.trim_end_matches(" (deleted)").rsplit('/').next().unwrap_or_default();
    if NEEDED.iter().any(|n| name.starts_with(n)) {
        Some(format!("the node needs {name}"))
    } else if now.inode != id.inode {
        Some(format!("it runs another program now: {}", now.exe))
    } else if !now.cgroups.contains(&id.cgroup) {
        Some(format!("it is in another control group now: {}", now.cgroups.join(", ")))
    } else if !now.our_netns {
        Some("it is not in the node's own network namespace".to_owned())
    } else {
        None
    }
}

fn what(id: &ProcessId) -> String {
    format!("stop process {} ({})", id.pid, id.exe)
}

/// Does that very process live?
///
/// # Errors
/// When it cannot be said.
pub async fn look(id: &ProcessId) -> Result<Seen, String> {
    let id = id.clone();
    blocking(Duration::from_secs(2), move || match Pinned::open(&id) {
        Ok(pinned) => Ok(Seen::Process { alive: pinned.is_some() }),
        Err(e) => Err(format!("look for process {}: {e}", id.pid)),
    })
    .await
    .unwrap_or_else(|late| Err(format!("look for a process: {late}")))
}

/// SIGTERM, `grace_ms`, SIGKILL; returns when the process is gone.
///
/// # Errors
/// When it is not what it was, must not be stopped, or does not go.
pub async fn stop(id: &ProcessId, grace_ms: u32) -> Result<(), Failure> {
    let grace = Duration::from_millis(grace_ms.clamp(100, 30_000).into());
    let limit = grace + AFTER_KILL + Duration::from_secs(1);
    let id = id.clone();
    let text = what(&id);
    blocking(limit, move || stop_blocking(&id, grace))
        .await
        .unwrap_or_else(|late| Err(passing(format!("{text}: {late}"))))
}

fn stop_blocking(id: &ProcessId, grace: Duration) -> Result<(), Failure> {
    let what = what(id);
    let io = |e: io::Error| lasting(format!("{what}: {e}"));
    if id.pid <= 1 || id.pid == std::process::id() {
        return Err(lasting(format!("{what}: refused: it is pid 1 or ourselves")));
    }
    let Some(pinned) = Pinned::open(id).map_err(io)? else { return Ok(()) };
    let Some(now) = pinned.identity().map_err(io)? else { return Ok(()) };
    if let Some(why) = refusal(id, &now) {
        return Err(lasting(format!("{what}: refused: {why}")));
    }
    pinned.signal(Signal::TERM).map_err(io)?;
    // One that was stopped by SIGSTOP takes the other signal, and the chance to clean up, only when it runs.
    pinned.signal(Signal::CONT).map_err(io)?;
    if pinned.ends_within(grace).map_err(io)? {
        return Ok(());
    }
    pinned.signal(Signal::KILL).map_err(io)?;
    if pinned.ends_within(AFTER_KILL).map_err(io)? {
        return Ok(());
    }
    let state = fs::read_to_string(format!("/proc/{}/wchan", id.pid)).unwrap_or_default();
    Err(passing(format!("{what}: still there {AFTER_KILL:?} after SIGKILL, asleep in {state:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::{Deref, DerefMut};
    use std::process::{Child, Command, Stdio};

    struct Daemon(Child);

    impl Deref for Daemon {
        type Target = Child;
        fn deref(&self) -> &Child {
            &self.0
        }
    }

    impl DerefMut for Daemon {
        fn deref_mut(&mut self) -> &mut Child {
            &mut self.0
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            let _gone = self.0.kill();
            let _gone = self.0.wait();
        }
    }

    fn id_of(pid: u32) -> ProcessId {
        let i = identify(pid).unwrap();
        let cgroup = i.cgroups.first().cloned().unwrap_or_default();
        ProcessId { pid, start: i.start, exe: i.exe, inode: i.inode, cgroup }
    }

    /// `sleep` under another name, as a stand-in for the daemon.
    fn daemon(dir: &tempfile::TempDir, name: &str, script: Option<&str>) -> Daemon {
        let exe = dir.path().join(name);
        let real = if script.is_some() { "/bin/bash" } else { "/bin/sleep" };
        fs::copy(real, &exe).unwrap();
        let mut command = Command::new(exe);
        match script {
            Some(script) => command.args(["-c", script]),
            None => command.arg("600"),
        };
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let begun = std::time::Instant::now();
        let child = loop {
            match command.spawn() {
                // Another test's child, forked while the copy was being written, still holds it open for writing.
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    assert!(begun.elapsed() < Duration::from_secs(5), "{e}");
                    std::thread::sleep(Duration::from_millis(10));
                }
                spawned => break spawned.unwrap(),
            }
        };
        std::thread::sleep(Duration::from_millis(100));
        Daemon(child)
    }

    fn is_gone(child: &mut Daemon) -> bool {
        child.try_wait().unwrap().is_some()
    }

    #[tokio::test]
    async fn a_daemon_is_stopped_by_sigterm_and_seen_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = daemon(&dir, "tailscaled", None);
        let id = id_of(child.id());
        assert_eq!(look(&id).await.unwrap(), Seen::Process { alive: true });
        stop(&id, 2_000).await.unwrap();
        // Not reaped yet by us, its parent: a zombie counts as gone.
        assert_eq!(look(&id).await.unwrap(), Seen::Process { alive: false });
        assert!(is_gone(&mut child));
        stop(&id, 2_000).await.unwrap();
    }

    #[tokio::test]
    async fn a_daemon_that_ignores_sigterm_is_killed_after_the_grace() {
        let dir = tempfile::tempdir().unwrap();
        let mut child =
            daemon(&dir, "tailscaled", Some("trap '' TERM; while :; do sleep 0.05; done"));
        let before = Instant::now();
        stop(&id_of(child.id()), 300).await.unwrap();
        // Not before its grace is over; how long after is the machine's affair, as long as it is not for ever.
        assert!((300..20_000).contains(&u64::try_from(before.elapsed().as_millis()).unwrap()));
        assert!(is_gone(&mut child));
    }

    #[tokio::test]
    async fn a_stopped_daemon_may_still_clean_up_after_itself() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("cleaned");
        let script =
            format!("trap 'echo x >{}; exit 0' TERM; while :; do sleep 0.05; done", mark.display());
        let mut child = daemon(&dir, "tailscaled", Some(&script));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        stop(&id_of(child.id()), 3_000).await.unwrap();
        assert!(is_gone(&mut child));
        assert!(mark.exists());
    }

    #[tokio::test]
    async fn another_process_under_the_same_pid_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = daemon(&dir, "tailscaled", None);
        let mut id = id_of(child.id());
        id.start -= 1;
        assert_eq!(look(&id).await.unwrap(), Seen::Process { alive: false });
        stop(&id, 100).await.unwrap();
        assert!(!is_gone(&mut child));
        for spoil in [
            |id: &mut ProcessId| id.inode.push('1'),
            |id: &mut ProcessId| id.cgroup.push_str("/other"),
        ] {
            let mut id = id_of(child.id());
            spoil(&mut id);
            let e = stop(&id, 100).await.unwrap_err();
            assert!(e.why.contains("refused: it ") && !e.retryable, "{}", e.why);
        }
        assert!(!is_gone(&mut child));
    }

    #[tokio::test]
    async fn what_the_node_needs_is_never_stopped() {
        for pid in [1, std::process::id()] {
            let id = ProcessId { pid, ..id_of(std::process::id()) };
            let e = stop(&id, 100).await.unwrap_err();
            assert!(e.why.contains("refused: it is pid 1 or ourselves"), "{}", e.why);
        }
        let dir = tempfile::tempdir().unwrap();
        let mut child = daemon(&dir, "containerd-shim-runc-v2", None);
        let e = stop(&id_of(child.id()), 100).await.unwrap_err();
        assert!(e.why.contains("refused: the node needs containerd"), "{}", e.why);
        assert!(!is_gone(&mut child));
    }
}
