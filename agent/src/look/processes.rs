//! Processes that matter: tunnel daemons, whoever holds a tun device open, and Kubernetes' own.
//!
//! Arguments are read for where a daemon keeps its socket and state, and are not kept: they may hold secrets.

use super::Seen;
use lifeline_core::observation::{Netns, Process, Sense};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};

/// Daemons that make tunnels, by command name (which the kernel cuts at 15 bytes).
const TUNNELS: [&str; 20] = [
    "tailscaled",
    "wireguard-go",
    "boringtun-cli",
    "boringtun",
    "openvpn",
    "openvpn3-servic",
    "mullvad-daemon",
    "nym-vpnd",
    "nordvpnd",
    "netbird",
    "netclient",
    "zerotier-one",
    "nebula",
    "warp-svc",
    "sing-box",
    "xray",
    "charon",
    "charon-systemd",
    "openconnect",
    "tincd",
];
/// Kubernetes' own.
const KUBERNETES: [&str; 6] =
    ["k3s-agent", "k3s-server", "k3s", "kubelet", "kube-proxy", "containerd"];
/// A process with more open files than this is not searched for tun devices to the end.
const MOST_FILES: usize = 4_096;

/// Reads the process table. `tuns` are the tun devices there are: their owners are searched for, and when each is known to be
/// held by a tunnel daemon nobody else's open files are looked through.
pub(super) fn read(proc: &Path, tuns: &[String]) -> Seen<Vec<Process>> {
    let mut system = match System::new() {
        Ok(system) => system,
        Err(e) => return Seen::nothing(Sense::Processes, format!("read the process table: {e}")),
    };
    // Tasks are threads, which this crate lists as processes unless told not to.
    let kind = ProcessRefreshKind::nothing().without_tasks().with_exe(UpdateKind::Always);
    if system.refresh_processes_specifics(ProcessesToUpdate::All, true, kind) == 0 {
        return Seen::nothing(Sense::Processes, "read the process table: it is empty");
    }
    let host = netns_of(proc, 1);
    let processes = system.processes().values().filter(|p| p.thread_kind().is_none());
    let (mut known, mut others) = (Vec::new(), Vec::new());
    for process in processes {
        let pids = if matters(proc, process) { &mut known } else { &mut others };
        pids.push(process.pid().as_u32());
    }
    known.sort_unstable();
    others.sort_unstable();
    let look = |pid: u32| inspect(proc, pid, host.as_deref());
    let mut found: Vec<Process> = known.into_iter().filter_map(look).collect();
    let held = |found: &[Process], t: &String| {
        found.iter().any(|p| p.netns == Netns::Host && p.tuns.contains(t))
    };
    if !tuns.iter().all(|t| held(&found, t)) {
        let owner = |pid: &u32| !self::tuns(&proc.join(pid.to_string())).is_empty();
        found.extend(others.into_iter().filter(owner).filter_map(look));
        found.sort_by_key(|p| p.pid);
    }
    Seen::whole(found)
}

/// One process as it is now; `None` when it is gone, or was replaced by another of the same pid while we read.
pub fn identify(proc: &Path, pid: u32) -> Option<Process> {
    inspect(proc, pid, netns_of(proc, 1).as_deref())
}

/// Is it one of those we know by name?
fn matters(proc: &Path, process: &sysinfo::Process) -> bool {
    // Kernel threads have no executable; neither has a zombie, and it holds nothing any more.
    let Some(exe) = process.exe() else { return false };
    let comm = process.name().to_string_lossy();
    let args = || arguments(&proc.join(process.pid().to_string()));
    is_tunnel(&comm, exe) || is_kubernetes(&comm, exe, args)
}

fn inspect(proc: &Path, pid: u32, host: Option<&str>) -> Option<Process> {
    let dir = proc.join(pid.to_string());
    let stat = Stat::read(&dir)?;
    let exe = fs::read_link(dir.join("exe")).ok()?;
    let inode = fs::metadata(dir.join("exe")).map(|m| format!("{}:{}", m.dev(), m.ino()));
    let (socket, statedir) = if named(&stat.comm, &exe, "tailscaled") {
        tailscale_places(&arguments(&dir))
    } else {
        (None, None)
    };
    let process = Process {
        pid,
        ppid: stat.ppid,
        start: stat.start,
        exe: exe.to_string_lossy().into_owned(),
        inode: inode.unwrap_or_default(),
        comm: stat.comm.clone(),
        netns: match (netns_of(proc, pid), host) {
            (Some(own), Some(host)) if own == host => Netns::Host,
            (Some(_), Some(_)) => Netns::Other,
            _ => Netns::Unknown,
        },
        cgroup: fs::read_to_string(dir.join("cgroup")).map(|t| cgroup(&t)).unwrap_or_default(),
        tuns: tuns(&dir),
        socket,
        statedir,
        supervisor: None,
    };
    // The pid may have been given to another meanwhile; then what we read is of two processes.
    (Stat::read(&dir)?.start == stat.start).then_some(process)
}

/// What we take from `/proc/PID/stat`.
struct Stat {
    comm: String,
    ppid: u32,
    start: u64,
}

impl Stat {
    fn read(dir: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(dir.join("stat")).ok()?)
    }

    /// The command name stands in brackets and may hold any byte, brackets and spaces too: the last bracket ends it.
    fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let comm = before.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = after.split_whitespace().collect();
        // Field 3 (state) is the first here.
        Some(Self {
            comm,
            ppid: fields.get(1)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }
}

fn netns_of(proc: &Path, pid: u32) -> Option<String> {
    let link = fs::read_link(proc.join(pid.to_string()).join("ns/net")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

fn arguments(dir: &Path) -> Vec<String> {
    let bytes = fs::read(dir.join("cmdline")).unwrap_or_default();
    bytes.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect()
}

fn named(comm: &str, exe: &Path, name: &str) -> bool {
    comm == name
        || exe
            .file_name()
            .is_some_and(|f| f.to_string_lossy().trim_end_matches(" (deleted)") == name)
}

fn is_tunnel(comm: &str, exe: &Path) -> bool {
    TUNNELS.iter().any(|n| named(comm, exe, n))
}

/// Multi-call binaries (`kube kubelet`, `hyperkube kube-proxy`) name the part they play in their first argument.
fn is_kubernetes(comm: &str, exe: &Path, args: impl Fn() -> Vec<String>) -> bool {
    let part = |a: &String| a == "kubelet" || a == "kube-proxy";
    KUBERNETES.iter().any(|n| named(comm, exe, n))
        || (comm.contains("kube") && args().get(1).is_some_and(part))
}

/// The unified hierarchy's path, or on a hybrid host, where that one is empty, systemd's own.
fn cgroup(text: &str) -> String {
    let path = |prefix: &str| text.lines().find_map(|l| l.strip_prefix(prefix));
    let named = text.lines().find_map(|l| l.split_once(":name=systemd:").map(|(_, path)| path));
    match (path("0::"), named) {
        (Some(path), _) if path != "/" => path.to_owned(),
        (_, Some(path)) => path.to_owned(),
        (Some(path), None) => path.to_owned(),
        (None, None) => String::new(),
    }
}

/// The tun devices it holds open.
fn tuns(dir: &Path) -> Vec<String> {
    let Ok(files) = fs::read_dir(dir.join("fd")) else { return Vec::new() };
    let mut tuns: Vec<String> = files
        .flatten()
        .take(MOST_FILES)
        .filter(|f| fs::read_link(f.path()).is_ok_and(|t| t.ends_with("net/tun")))
        .filter_map(|f| {
            let info = fs::read_to_string(dir.join("fdinfo").join(f.file_name())).ok()?;
            info.lines().find_map(|l| l.strip_prefix("iff:")).map(|n| n.trim().to_owned())
        })
        .filter(|name| !name.is_empty())
        .collect();
    tuns.sort();
    tuns.dedup();
    tuns
}

/// tailscaled's socket and state directory, from its arguments or its defaults (field guide A9).
fn tailscale_places(args: &[String]) -> (Option<String>, Option<String>) {
    let value = |flag: &str| {
        args.iter().enumerate().find_map(|(i, a)| {
            let bare = a.trim_start_matches('-');
            if bare.len() == a.len() {
                return None;
            }
            match bare.split_once('=') {
                Some((name, value)) => (name == flag).then(|| value.to_owned()),
                None => (bare == flag).then(|| args.get(i + 1).cloned()).flatten(),
            }
        })
    };
    let socket = value("socket").unwrap_or_else(|| "/var/run/tailscale/tailscaled.sock".to_owned());
    let statedir = value("statedir").or_else(|| match value("state") {
        // `mem:` and `kube:NAME` are no paths.
        Some(state) if state.starts_with('/') => {
            PathBuf::from(state).parent().map(|p| p.to_string_lossy().into_owned())
        }
        Some(_) => None,
        None => Some("/var/lib/tailscale".to_owned()),
    });
    (Some(socket), statedir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_brackets_does_not_shift_the_fields() {
        let s =
            Stat::parse("42 (a) b (c) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0")
                .unwrap();
        assert_eq!((s.comm.as_str(), s.ppid, s.start), ("a) b (c", 7, 12345));
        assert!(Stat::parse("42 (x").is_none());
    }

    #[test]
    fn the_control_group_is_the_one_that_says_something() {
        assert_eq!(cgroup("0::/system.slice/a.service\n"), "/system.slice/a.service");
        assert_eq!(cgroup("5:memory:/x\n1:name=systemd:/kubepods/pod1\n0::/\n"), "/kubepods/pod1");
        assert_eq!(cgroup("0::/\n"), "/");
        assert_eq!(cgroup(""), "");
    }

    #[test]
    fn a_tailscaled_keeps_its_socket_where_it_was_told() {
        let places =
            |line: &str| tailscale_places(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(
            places("/opt/bin/tailscaled --state=mem: --statedir=/run/ts --socket=/run/ts/sock"),
            (some("/run/ts/sock"), some("/run/ts"))
        );
        assert_eq!(
            places("tailscaled -socket /tmp/x.sock --state /data/tailscaled.state"),
            (some("/tmp/x.sock"), some("/data"))
        );
        assert_eq!(
            places("tailscaled --state=kube:secret"),
            (some("/var/run/tailscale/tailscaled.sock"), None)
        );
        assert_eq!(
            places("tailscaled --port 41641"),
            (some("/var/run/tailscale/tailscaled.sock"), some("/var/lib/tailscale"))
        );
    }

    #[test]
    fn whoever_holds_a_tun_device_open_is_known_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = |fd: &str, target: &str, info: &str| {
            for sub in ["fd", "fdinfo"] {
                fs::create_dir_all(dir.path().join(sub)).unwrap();
            }
            std::os::unix::fs::symlink(target, dir.path().join("fd").join(fd)).unwrap();
            fs::write(dir.path().join("fdinfo").join(fd), info).unwrap();
        };
        file("3", "/dev/net/tun", "pos:\t0\nflags:\t02004002\nmnt_id:\t30\niff:\ttailscale0\n");
        file("4", "/dev/net/tun", "pos:\t0\nflags:\t02004002\nmnt_id:\t30\n");
        file("5", "socket:[7]", "iff:\twrong\n");
        file("6", "/dev/net/tun", "iff:\ttailscale0\n");
        assert_eq!(tuns(dir.path()), ["tailscale0"]);
        assert!(tuns(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn a_shell_that_becomes_a_daemon_is_known_by_the_daemons_name() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = dir.path().join("tailscaled");
        std::os::unix::fs::symlink("/bin/sleep", &daemon).unwrap();
        let script = format!("read go; exec {} 60", daemon.display());
        let mut shell = std::process::Command::new("sh")
            .args(["-c", &script])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = shell.id();
        let seen = || read(Path::new("/proc"), &[]).found.into_iter().find(|p| p.pid == pid);
        assert_eq!(seen(), None);
        std::io::Write::write_all(shell.stdin.as_mut().unwrap(), b"go\n").unwrap();
        let mut found = None;
        for _ in 0..200 {
            found = seen();
            if found.is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert_eq!(found.unwrap().comm, "tailscaled");
    }

    #[test]
    fn this_very_process_is_identified_and_a_pid_that_is_not_there_is_not() {
        let own = identify(Path::new("/proc"), std::process::id()).unwrap();
        assert_eq!(own.exe, std::env::current_exe().unwrap().to_string_lossy());
        assert!(own.start > 0 && own.inode.contains(':'));
        assert_eq!(identify(Path::new("/proc"), 0), None);
        let seen = read(Path::new("/proc"), &["no-such-tun0".to_owned()]);
        assert!(seen.gaps.is_empty() && !seen.found.iter().any(|p| p.pid == own.pid));
    }
}
