//! A neighbour that takes whatever it gets, within the bounds that a kubelet gives a pod: a fork bomb, and a hog of memory; and an agent
//! that may have hardly any memory itself. The operator is answered within a second all the same.
//!
//! The bounds are cgroups of the machine's own, below the lab's: nodes of the quick gear have no controllers. What was started is ended by
//! them, whatever it has become.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::ground::{NODE, told};
use super::storm::prompt;
use super::{Case, Ground, Verdict};
use crate::process::{self, Process};
use crate::sweep::remove_cgroup;
use crate::{names, node, real};

pub const CASES: &[Case] = &[
    Case { name: "A7_a_fork_bomb_within_a_pods_bounds_holds_no_operator_up", run: bomb },
    Case { name: "A7_a_hog_of_memory_within_a_pods_bounds_holds_no_operator_up", run: hog },
    Case { name: "A7_an_agent_with_hardly_any_memory_answers_and_heals", run: cramped },
];

/// A cgroup of each controller that is asked for; gone, with everybody in it, when it is dropped.
struct Bounds(Vec<PathBuf>);

impl Bounds {
    /// `controller`, then each file of version 1 and of version 2 with its value. A file that is not there is no bound, and the last of
    /// a controller has to be.
    fn new(name: &str, wanted: &[(&str, &str, &str, &str)]) -> std::result::Result<Self, String> {
        let v1 = real::cgroup::controllers();
        let mut bounds = Self(Vec::new());
        for (controller, file1, file2, value) in wanted {
            let is_it = |p: &&PathBuf| {
                let name = p.file_name().unwrap_or_default().to_string_lossy();
                name.split(',').any(|part| part == *controller)
            };
            let (top, file) = match (v1.iter().find(is_it), node::hierarchies().pop()) {
                (Some(top), _) => (top.clone(), *file1),
                (None, Some(top)) => (top, *file2),
                (None, None) => return Err("there are no cgroups".to_owned()),
            };
            let dir = top.join(names::cgroup()).join(name);
            real::cgroup::hand_down(&dir);
            fs::create_dir_all(&dir).map_err(|e| format!("make {}: {e}", dir.display()))?;
            if !bounds.0.contains(&dir) {
                bounds.0.push(dir.clone());
            }
            let path = dir.join(file);
            fs::write(&path, value).map_err(|e| format!("write {}: {e}", path.display()))?;
        }
        Ok(bounds)
    }

    fn take_in(&self, pid: i32) -> Verdict {
        self.0.iter().try_for_each(|dir| {
            let procs = dir.join("cgroup.procs");
            fs::write(&procs, pid.to_string()).map_err(|e| format!("{}: {e}", procs.display()))
        })
    }

    /// A number of the first controller's.
    fn read(&self, file: &str) -> std::result::Result<u64, String> {
        let path = self.0.first().map(|dir| dir.join(file)).unwrap_or_default();
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        // `pids.events` says "max 17".
        let last = text.split_whitespace().last().unwrap_or_default();
        last.parse().map_err(|e| format!("{}: {e}: {text:?}", path.display()))
    }

    /// Starts a script on the node that is in these bounds from its first instruction.
    fn start(&self, g: &Ground<'_>, script: &str) -> std::result::Result<Child, String> {
        let join: String =
            self.0.iter().map(|d| format!("echo $$ > {}/cgroup.procs; ", d.display())).collect();
        let leader = g.node()?.leader().to_string();
        let enter = format!("{join}exec nsenter -t {leader} -a -- sh -c \"$1\"");
        let mut command = Command::new("sh");
        command.args(["-ec", &enter, "sh", script]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map_err(told)
    }

    /// Until nobody is left: who forks faster than we kill is let fork no more.
    fn empty(&self) {
        for dir in &self.0 {
            fs::write(dir.join("pids.max"), "0").ok();
        }
        let until = Instant::now() + Duration::from_secs(10);
        let all = || self.0.iter().flat_map(|dir| process::in_cgroup(dir)).collect::<Vec<_>>();
        while Instant::now() < until {
            let left: Vec<Process> = all().into_iter().filter_map(Process::of).collect();
            if left.is_empty() {
                return;
            }
            for process in left {
                process.signal(Signal::KILL).ok();
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Bounds {
    fn drop(&mut self) {
        self.empty();
        for dir in &self.0 {
            remove_cgroup(dir).ok();
        }
    }
}

/// Runs a script on the node again and again, because it may bring itself down, while the operator calls.
fn beside(
    g: &Ground<'_>,
    bounds: &Bounds,
    script: &str,
    proof: impl Fn() -> std::result::Result<bool, String>,
) -> Verdict {
    let mut child = bounds.start(g, script)?;
    let mut run = || -> Verdict {
        let until = Instant::now() + Duration::from_secs(20);
        while !proof()? {
            if Instant::now() > until {
                return Err("the bound was never reached: the case proves nothing".to_owned());
            }
            if child.try_wait().map_err(told)?.is_some() {
                child = bounds.start(g, script)?;
            }
            thread::sleep(Duration::from_millis(100));
        }
        for _ in 0..4 {
            if child.try_wait().map_err(told)?.is_some() {
                child = bounds.start(g, script)?;
            }
            prompt(g, 5)?;
        }
        Ok(())
    };
    let seen = run();
    bounds.empty();
    child.kill().ok();
    child.wait().map_err(told)?;
    seen
}

/// Every process starts others for as long as it may; of a pod that asks for nothing its kubelet asks the scheduler for two shares.
fn bomb(g: &Ground<'_>) -> Verdict {
    const BOMB: &str = "bomb() { while :; do bomb & done; }; bomb";
    let bounds = Bounds::new(
        "bomb",
        &[("pids", "pids.max", "pids.max", "300"), ("cpu", "cpu.shares", "cpu.weight", "2")],
    )?;
    beside(g, &bounds, BOMB, || Ok(bounds.read("pids.events")? > 100))?;
    drop(bounds);
    g.settled(Duration::from_secs(20))
}

/// It takes all that it is given, is killed for it, and comes back.
fn hog(g: &Ground<'_>) -> Verdict {
    const HOG: &str = "while :; do tail /dev/zero; done";
    let bounds = Bounds::new(
        "hog",
        &[
            ("memory", "memory.limit_in_bytes", "memory.max", "100000000"),
            ("cpu", "cpu.shares", "cpu.weight", "2"),
        ],
    )?;
    beside(g, &bounds, HOG, || {
        let peak = bounds.read("memory.max_usage_in_bytes");
        Ok(peak.or_else(|_| bounds.read("memory.peak"))? > 90_000_000)
    })?;
    drop(bounds);
    g.settled(Duration::from_secs(20))
}

/// The agent's process, as the machine counts.
fn agent(g: &Ground<'_>) -> std::result::Result<i32, String> {
    let of = |top: &Path| {
        let slice = top.join(names::cgroup()).join(NODE).join("payload/system.slice");
        process::in_cgroup(&slice.join("lifeline-agent.service"))
    };
    let all: Vec<i32> = node::hierarchies().iter().flat_map(|top| of(top)).collect();
    let own = |pid: &&i32| {
        process::arguments(**pid).first().is_some_and(|a| a.ends_with("lifeline-agent"))
    };
    let found = all.iter().find(own).copied();
    found.ok_or_else(|| format!("no agent of {} among {all:?}", g.node().map_or("?", |n| n.name())))
}

/// It may take so much more than it has, and its children with it: a sixteenth of what its unit allows.
fn cramped(g: &Ground<'_>) -> Verdict {
    const PID: &str = "systemctl show -p MainPID -p NRestarts --value lifeline-agent";
    let before = g.snapshot()?;
    let bounds =
        Bounds::new("cramped", &[("memory", "memory.limit_in_bytes", "memory.max", "32000000")])?;
    bounds.take_in(agent(g)?)?;
    let seen = (|| {
        let was = g.sh(PID)?;
        prompt(g, 10)?;
        g.make("R1")?;
        g.heal_well()?;
        prompt(g, 10)?;
        match g.sh(PID)? {
            now if now == was => Ok(()),
            now => Err(format!("it was started anew: {was:?} became {now:?}")),
        }
    })();
    // A new one is a child of systemd's, and nobody's bounds are its own.
    g.sh("systemctl restart lifeline-agent")?;
    drop(bounds);
    seen?;
    g.settled(Duration::from_secs(40))?;
    g.expect_same(&before)
}
