//! A node: systemd as pid 1 of a container, in a network namespace of the lab, on a disk that survives its reboot.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::error::{Doing, LabError, Result};
use crate::process::{self, Process};
use crate::run::{self, LIMIT, Output};
use crate::state::{self, Gear, State};
use crate::topology::{self, Machine};
use crate::{disk, names, real};

/// A node boots in about a second; one that needs longer than this has a unit that hangs.
const BOOT_LIMIT: Duration = Duration::from_secs(45);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A running node.
#[derive(Debug, Clone)]
pub struct Node {
    pub machine: &'static Machine,
    leader: Process,
}

impl Node {
    /// The node, if its container runs.
    pub fn find(machine: &'static Machine) -> Result<Self> {
        let dead = || LabError::Node {
            node: machine.name.to_owned(),
            trouble: "is not running".to_owned(),
        };
        let supervisor = state::supervisor(machine.name).ok_or_else(dead)?;
        let leader = leader_of(supervisor).ok_or_else(dead)?;
        Ok(Self { machine, leader })
    }

    #[must_use]
    pub fn name(&self) -> &'static str {
        self.machine.name
    }

    /// The host's pid of the node's pid 1.
    #[must_use]
    pub fn leader(&self) -> i32 {
        self.leader.pid
    }

    #[must_use]
    pub fn alive(&self) -> bool {
        self.leader.alive()
    }

    /// A command that will run on the node, in a cgroup of the node, with the node's environment and no other.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, argv: &[S]) -> Command {
        let mut command = Command::new("/bin/sh");
        command.env_clear().env("PATH", PATH).env("HOME", "/root").env("LANG", "C.UTF-8");
        command.env("SYSTEMD_PAGER", "").env("TERM", std::env::var("TERM").unwrap_or_default());
        // The cgroup is joined before entering: seen from within, a process outside the node's own tree is at `/../..`.
        let join = "until [ \"$1\" = : ]; do echo $$ > \"$1/cgroup.procs\"; shift; done; shift; exec \"$@\"";
        command.args(["-c", join, "sh"]).args(shell_cgroups(self.name())).arg(":");
        command.args(["nsenter", "-t", &self.leader.pid.to_string(), "-a", "--"]).args(argv);
        command
    }

    /// Runs a command on the node, bounded by thirty seconds.
    pub fn exec<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<Output> {
        self.exec_within(argv, LIMIT)
    }

    /// Runs a command on the node. `timeout` stands inside, because killing `nsenter` leaves its child alive.
    pub fn exec_within<S: AsRef<OsStr>>(&self, argv: &[S], limit: Duration) -> Result<Output> {
        let seconds = format!("{:.1}", limit.as_secs_f64());
        let mut all: Vec<&OsStr> =
            ["timeout", "-k", "1", &seconds].into_iter().map(OsStr::new).collect();
        all.extend(argv.iter().map(AsRef::as_ref));
        let mut out = run::run(&mut self.command(&all), limit + Duration::from_secs(3), None)?;
        out.doing = format!("{}: {}", self.name(), shown(argv));
        // 124 and 137 are `timeout`'s own; a command that says the same within its time is not meant.
        if matches!(out.code, Some(124 | 137)) && out.took >= limit {
            out.timed_out = true;
        }
        Ok(out)
    }

    pub fn sh(&self, script: &str) -> Result<Output> {
        self.exec(&["sh", "-c", script])
    }

    /// Starts a program as a transient service of its own and returns at once; `unit` names it for `systemctl`.
    pub fn spawn<S: AsRef<OsStr>>(&self, unit: &str, argv: &[S]) -> Result<Output> {
        let unit = format!("--unit={unit}");
        let mut all: Vec<&OsStr> =
            ["systemd-run", "-q", "--collect", &unit, "--"].into_iter().map(OsStr::new).collect();
        all.extend(argv.iter().map(AsRef::as_ref));
        self.exec(&all)?.success()
    }

    /// Where a file of the node is seen from the host. An absolute symlink on the way leads into the *host*: to read
    /// and write, use `read` and `write`.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.leader.pid);
        Path::new(&root).join(path.trim_start_matches('/'))
    }

    pub fn read(&self, path: &str) -> Result<String> {
        let mut text = String::new();
        let mut file = self.open(path, OFlags::RDONLY)?;
        file.read_to_string(&mut text).doing(|| format!("read {path} on {}", self.name()))?;
        Ok(text)
    }

    /// Writes a file on the node, with its folders.
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        if let Some(dir) = Path::new(path).parent() {
            self.exec(&[OsStr::new("mkdir"), OsStr::new("-p"), dir.as_os_str()])?.success()?;
        }
        let mut file = self.open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        file.write_all(bytes.as_ref()).doing(|| format!("write {path} on {}", self.name()))
    }

    fn open(&self, path: &str, flags: OFlags) -> Result<File> {
        let doing = || format!("open {path} on {}", self.name());
        let root = File::open(self.path("/")).doing(doing)?;
        // openat2 refuses a mode where nothing is created.
        let create = flags.contains(OFlags::CREATE);
        let mode = if create { Mode::from_raw_mode(0o644) } else { Mode::empty() };
        let flags = flags | OFlags::CLOEXEC;
        Ok(openat2(root, path, flags, mode, ResolveFlags::IN_ROOT).doing(doing)?.into())
    }
}

fn shown<S: AsRef<OsStr>>(argv: &[S]) -> String {
    argv.iter().map(|w| w.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Starts a node's container; `await_boot` says when it is there. `lab` is the binary that becomes the supervisor.
pub fn start(machine: &Machine, lab: &Path, root: &Path) -> Result<()> {
    let dir = state::node_dir(machine.name);
    fs::create_dir_all(&dir).doing(|| format!("make {}", dir.display()))?;
    let path = dir.join("console");
    let console = File::create(&path).doing(|| format!("make {}", path.display()))?;
    let again = console.try_clone().doing(|| format!("open {}", path.display()))?;
    // A session of its own: Ctrl-C at the terminal must not reach the nodes.
    let mut command = Command::new("setsid");
    command.arg("--fork").arg(lab).args(["supervise", machine.name]).arg(root);
    command.env(names::VARIABLE, names::chosen());
    command.stdin(Stdio::null()).stdout(console).stderr(again);
    let status = command.status().doing(|| format!("start node {}", machine.name))?;
    if status.success() {
        return Ok(());
    }
    Err(LabError::Node { node: machine.name.to_owned(), trouble: format!("setsid: {status}") })
}

/// What nspawn ends with when the node has asked for a reboot and a unit keeps it (`EXIT_FORCE_RESTART`).
const REBOOT: i32 = 133;

/// Boots the node, and again each time it reboots itself, as a machine would: with the network of a machine that has just been
/// switched on. A node that is switched off, or whose power is cut, stays off.
pub fn keep(machine: &Machine, root: &Path) -> Result<()> {
    let lab = process::own_program()?;
    loop {
        let mut command = Command::new(&lab);
        command.args(["supervise", "--once", machine.name]).arg(root);
        let doing = || format!("boot node {}", machine.name);
        let status = command.status().doing(doing)?;
        if status.code() != Some(REBOOT) {
            return Ok(());
        }
        // What is left of it is gone before the next begins.
        for hierarchy in all_hierarchies() {
            crate::sweep::remove_cgroup(&hierarchy.join(names::cgroup()).join(machine.name))?;
        }
        topology::unwire(machine)?;
        topology::wire(machine)?;
    }
}

/// Becomes the supervisor of a node's container. The disk is mounted in a mount namespace of this process alone, so
/// that it is gone when the node is, whatever ended it.
pub fn supervise(machine: &Machine, root: &Path) -> Result<()> {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    for cgroup in cgroups(machine.name) {
        fs::create_dir_all(&cgroup).doing(|| format!("make {}", cgroup.display()))?;
        real::cgroup::hand_down(&cgroup);
        let procs = cgroup.join("cgroup.procs");
        fs::write(&procs, pid.to_string()).doing(|| format!("write {}", procs.display()))?;
    }
    unshare(CloneFlags::CLONE_NEWNS).doing(|| "leave the host's mount namespace".to_owned())?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .doing(|| "make mounts private".to_owned())?;
    let gear = State::read()?.map(|s| s.gear).unwrap_or_default();
    if gear == Gear::Real {
        real::cgroup::join(machine.name)?;
    }
    let disk = disk::mount(machine.name, root)?;
    let file = state::node_dir(machine.name).join("supervisor.json");
    let me = Process::of(pid).and_then(|p| serde_json::to_string(&p).ok()).unwrap_or_default();
    fs::write(&file, me).doing(|| format!("write {}", file.display()))?;
    note_lock(machine, &disk)?;
    let mut command = nspawn(machine, &disk);
    if gear == Gear::Real {
        command.args(real::disk::binds(machine)?);
    }
    // What follows the options goes to the container's init.
    let error = command.arg("systemd.unit=multi-user.target").exec();
    Err(error).doing(|| "run systemd-nspawn".to_owned())
}

/// Notes the file by which nspawn keeps two containers off one disk: killed, it leaves that file behind.
fn note_lock(machine: &Machine, disk: &Path) -> Result<()> {
    let meta = fs::metadata(disk).doing(|| format!("look at {}", disk.display()))?;
    let lock = format!("/run/systemd/nspawn/locks/inode-{}:{}", meta.dev(), meta.ino());
    let file = state::node_dir(machine.name).join("locks");
    let mut noted = File::options()
        .append(true)
        .create(true)
        .open(&file)
        .doing(|| format!("open {}", file.display()))?;
    writeln!(noted, "{lock}").doing(|| format!("write {}", file.display()))
}

fn nspawn(machine: &Machine, disk: &Path) -> Command {
    let mut command = Command::new("systemd-nspawn");
    command.args(["-q", "--boot", "--register=no", "--keep-unit", "--resolv-conf=off"]);
    command.args(["--capability=all", "--link-journal=no", "--timezone=off"]);
    command.arg("--system-call-filter=@keyring bpf perf_event_open");
    command.arg("--bind=/dev/net/tun");
    command.arg(format!("--machine={}", names::namespace(machine.name)));
    command.arg(format!("--hostname={}", machine.name));
    command
        .arg(format!("--network-namespace-path={}", names::namespace_path(machine.name).display()));
    command.arg("-D").arg(disk);
    // /proc/sys/net is the namespace's own and must be writable; the rest of /proc/sys is the host's.
    command.env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network");
    command
}

/// Waits until systemd on the node has settled. A failed unit is named: a lab that is half there proves nothing.
pub fn await_boot(machine: &'static Machine) -> Result<Node> {
    let begun = Instant::now();
    let trouble = |t: String| LabError::Node { node: machine.name.to_owned(), trouble: t };
    let mut last = "no container".to_owned();
    while begun.elapsed() < BOOT_LIMIT {
        if let Ok(node) = Node::find(machine) {
            make_shell_cgroups(machine.name);
            let out =
                node.exec_within(&["systemctl", "is-system-running"], Duration::from_secs(5))?;
            out.stdout.trim().clone_into(&mut last);
            match last.as_str() {
                // A service that waits for its restart is neither failed nor a job: systemd calls that "running".
                "running" => match unsettled(&node, "activating")?.as_slice() {
                    [] => return Ok(node),
                    units => last = format!("waiting for {}", units.join(", ")),
                },
                "degraded" => return Err(trouble(failures(&node)?)),
                _ => {}
            }
        }
        thread::sleep(Duration::from_millis(40));
    }
    let console =
        fs::read_to_string(state::node_dir(machine.name).join("console")).unwrap_or_default();
    let tail: Vec<&str> = console.lines().rev().take(3).collect();
    let secs = BOOT_LIMIT.as_secs();
    Err(trouble(format!(
        "did not boot in {secs} s (systemd says {last:?}); console ends: {tail:?}"
    )))
}

fn unsettled(node: &Node, state: &str) -> Result<Vec<String>> {
    let state = format!("--state={state}");
    let list =
        ["systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=service", &state];
    let out = node.exec(&list)?.success()?;
    Ok(out.stdout.lines().filter_map(|l| l.split_whitespace().next().map(str::to_owned)).collect())
}

fn failures(node: &Node) -> Result<String> {
    let units = unsettled(node, "failed")?;
    let mut told = format!("these units failed: {}", units.join(", "));
    for unit in &units {
        let log =
            node.exec(&["journalctl", "-b", "-u", unit, "-n", "4", "-o", "cat", "--no-pager"])?;
        told.push_str(&format!("\n  {unit}: {}", log.stdout.trim().replace('\n', " | ")));
    }
    Ok(told)
}

/// Cuts a node's power: everything in its pid namespace dies with its first process.
pub fn kill(machine: &Machine) -> Result<()> {
    use rustix::process::Signal;
    let Some(supervisor) = state::supervisor(machine.name) else { return Ok(()) };
    for process in process::children(supervisor.pid).into_iter().chain([supervisor]) {
        process.signal(Signal::KILL).doing(|| format!("kill pid {}", process.pid))?;
    }
    let begun = Instant::now();
    while supervisor.alive() {
        if begun.elapsed() > Duration::from_secs(10) {
            let doing = format!("kill the container of {}", machine.name);
            return Err(LabError::TimedOut { doing, after: begun.elapsed() });
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn leader_of(supervisor: Process) -> Option<Process> {
    process::children(supervisor.pid).into_iter().find(|p| process::is_inner_init(p.pid))
}

/// Hierarchies in which a node gets a tree of its own: the one of systemd's name and the unified one, or the only one.
#[must_use]
pub fn hierarchies() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.procs").exists() {
        return vec![top.to_owned()];
    }
    ["systemd", "unified"].iter().map(|h| top.join(h)).filter(|p| p.is_dir()).collect()
}

/// Every hierarchy in which something of a node's may stand.
#[must_use]
pub fn all_hierarchies() -> Vec<PathBuf> {
    hierarchies().into_iter().chain(real::cgroup::controllers()).collect()
}

fn cgroups(name: &str) -> Vec<PathBuf> {
    hierarchies().into_iter().map(|h| h.join(names::cgroup()).join(name)).collect()
}

/// nspawn moves the container's systemd to `payload`; commands of ours stand beside its slices.
fn shell_cgroups(name: &str) -> Vec<PathBuf> {
    cgroups(name).into_iter().map(|c| c.join("payload/lab")).filter(|p| p.is_dir()).collect()
}

fn make_shell_cgroups(name: &str) {
    for cgroup in cgroups(name) {
        if cgroup.join("payload").is_dir() {
            fs::create_dir_all(cgroup.join("payload/lab")).ok();
        }
    }
}
