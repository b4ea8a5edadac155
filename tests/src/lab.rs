//! The lab as a whole: raised, found again, and taken down.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::error::{Doing, LabError, Result};
use crate::node::{self, Node};
use crate::pki::Authority;
use crate::progress::Progress;
use crate::run::{self, Output};
use crate::space::Space;
use crate::state::{Gear, Lock, Phase, State};
use crate::sweep::{self, Leftovers};
use crate::topology::{self, GATEWAY, Kind, Machine};
use crate::{agent, disk, names, parts, process, real, root, ssh};

/// `ctl heal` watches a node for half a minute after it is well again.
const CTL_LIMIT: Duration = Duration::from_secs(180);

/// What `up` is asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    pub yes: bool,
    pub mode: String,
    pub gear: Gear,
}

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    pub state: State,
}

impl Lab {
    /// The lab that `up` has raised on this machine.
    pub fn open() -> Result<Self> {
        match State::read()? {
            Some(state) if state.phase == Phase::Up => Ok(Self { state }),
            Some(_) => Err(missing("the lab was not brought up to the end")),
            None => Err(missing("there is no lab on this machine")),
        }
    }

    /// Raises the lab, or finds it up already. What an interrupted one left behind is removed first.
    pub fn up(wish: &Wish, progress: &Progress) -> Result<Self> {
        parts::check_machine()?;
        let _lock = Lock::take("cargo lab up")?;
        let binaries = binaries()?;
        let build = build_of(&binaries)?;
        if let Some(lab) = Self::running()? {
            return lab.again(wish, &build, progress);
        }
        let left = Leftovers::find()?;
        if !left.is_empty() {
            progress.say(format!("an earlier lab was cut off; removing {}", left.told()));
            sweep::sweep()?;
        }
        parts::ensure(progress, wish.yes)?;
        let root = root::ensure(wish.gear, progress)?;
        let programs = match wish.gear {
            Gear::Quick => None,
            Gear::Real => Some(real::parts::ensure(progress, wish.yes)?),
        };
        let mut state = State {
            phase: Phase::Rising,
            mode: wish.mode.clone(),
            gear: wish.gear,
            root,
            build,
            agent: false,
        };
        state.write()?;
        write_disks(&binaries, &mut state, progress)?;
        if let Some(programs) = &programs {
            real::disk::write_common(programs, &state.root)?;
        }
        build_wires(progress)?;
        boot(&state.root, progress)?;
        if wish.gear == Gear::Real {
            real::tailnet::raise(progress)?;
            real::cluster::settle(progress)?;
        }
        state.phase = Phase::Up;
        state.write()?;
        Ok(Self { state })
    }

    /// A complete lab, or nothing: half a lab is a leftover.
    fn running() -> Result<Option<Self>> {
        // A state that cannot be read belongs to no lab of ours any more, and the sweep removes it.
        let Ok(Some(state)) = State::read() else { return Ok(None) };
        let whole = state.phase == Phase::Up && sweep::all_nodes_alive();
        Ok(whole.then_some(Self { state }))
    }

    fn again(self, wish: &Wish, build: &str, progress: &Progress) -> Result<Self> {
        if self.state.gear != wish.gear {
            return Err(LabError::Refused(format!(
                "the lab that is up runs in the {:?} gear, not in the {:?} one\n  try: cargo lab down, then up again",
                self.state.gear, wish.gear
            )));
        }
        if self.state.mode != wish.mode {
            return Err(LabError::Refused(format!(
                "the lab is up in mode {}, not {}\n  try: cargo lab down, then up again",
                self.state.mode, wish.mode
            )));
        }
        if self.state.build == build {
            progress.say("the lab is already up");
        } else {
            progress.say("the lab is already up, but its nodes run an older build: `cargo lab down` and `up` bring them the new one");
        }
        Ok(self)
    }

    pub fn node(&self, name: &str) -> Result<Node> {
        match topology::machine(name).filter(|m| m.is_node()) {
            Some(machine) => Node::find(machine),
            None => Err(LabError::Refused(format!(
                "there is no node {name}; there are: {}",
                node_names()
            ))),
        }
    }

    /// A bare namespace: `gw`, `laptop` or `lan`.
    pub fn space(&self, name: &str) -> Result<Space> {
        let beyond = self.state.gear == Gear::Real && name == real::tailnet::EXIT.name;
        let bystander = topology::machine(name).is_some_and(|m| !m.is_node()) || beyond;
        if bystander || name == GATEWAY {
            return Ok(Space { name: name.to_owned() });
        }
        Err(LabError::Refused(format!(
            "there is no namespace {name}; there are: {GATEWAY}, laptop, lan"
        )))
    }

    /// Runs the operator's command on the laptop beyond the gateway.
    pub fn ctl<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output> {
        self.ctl_from("laptop", args)
    }

    pub fn ctl_from<S: AsRef<OsStr>>(&self, space: &str, args: &[S]) -> Result<Output> {
        run::run(&mut self.ctl_command(space, args)?, CTL_LIMIT, None)
    }

    /// The same, for a caller that wants to follow it as it runs.
    pub fn ctl_command<S: AsRef<OsStr>>(
        &self,
        space: &str,
        args: &[S],
    ) -> Result<std::process::Command> {
        let mut argv = vec![OsString::from("ctl")];
        argv.extend(args.iter().map(|a| a.as_ref().to_owned()));
        Ok(self.space(space)?.command(&argv))
    }

    /// Cuts a node's power and starts it again: its disk is as it was, its kernel state is gone.
    pub fn power_cycle(&self, name: &str, progress: &Progress) -> Result<Node> {
        let _lock = Lock::take("cargo lab power-cycle")?;
        let machine = node_of(name)?;
        cut(machine, progress)?;
        switch_on(machine, &self.state.root, progress)
    }

    /// Cuts a node's power, and leaves it off.
    pub fn power_off(&self, name: &str, progress: &Progress) -> Result<()> {
        let _lock = Lock::take("cutting a node's power")?;
        cut(node_of(name)?, progress)
    }

    /// Starts a node whose power was cut.
    pub fn power_on(&self, name: &str, progress: &Progress) -> Result<Node> {
        let _lock = Lock::take("starting a node")?;
        switch_on(node_of(name)?, &self.state.root, progress)
    }
}

fn node_of(name: &str) -> Result<&'static Machine> {
    topology::machine(name).filter(|m| m.is_node()).ok_or_else(|| {
        LabError::Refused(format!("there is no node {name}; there are: {}", node_names()))
    })
}

fn cut(machine: &Machine, progress: &Progress) -> Result<()> {
    node::kill(machine)?;
    for hierarchy in node::all_hierarchies() {
        sweep::remove_cgroup(&hierarchy.join(names::cgroup()).join(machine.name))?;
    }
    topology::unwire(machine)?;
    progress.say(format!("{}: no power", machine.name));
    Ok(())
}

fn switch_on(machine: &'static Machine, root: &Path, progress: &Progress) -> Result<Node> {
    topology::wire(machine)?;
    start(machine, root)?;
    let node = node::await_boot(machine)?;
    progress.say(format!("{}: booted", machine.name));
    Ok(node)
}

/// Takes everything away; what a lab that was killed left, too.
pub fn down(progress: &Progress) -> Result<()> {
    parts::check_machine()?;
    let _lock = Lock::take("cargo lab down")?;
    let found = sweep::sweep()?;
    if found.is_empty() {
        progress.say("there was no lab");
    } else {
        progress.say(format!("removed {}", found.told()));
    }
    Ok(())
}

fn missing(what: &str) -> LabError {
    LabError::Missing { what: what.to_owned(), hint: "cargo lab up".to_owned() }
}

fn node_names() -> String {
    topology::nodes().map(|m| m.name).collect::<Vec<_>>().join(", ")
}

fn write_disks(binaries: &Path, state: &mut State, progress: &Progress) -> Result<()> {
    let authority = Authority::new()?;
    disk::write_common(binaries, state.gear)?;
    ssh::allow(&disk::Layer::common())?;
    for machine in topology::nodes() {
        disk::write_own(machine, &authority, state.gear)?;
    }
    state.agent = agent::install(&state.mode, &authority, progress)?;
    state.write()?;
    progress.say("disks written");
    Ok(())
}

fn build_wires(progress: &Progress) -> Result<()> {
    topology::build_gateway()?;
    for machine in &topology::MACHINES {
        topology::wire(machine)?;
    }
    progress.say("network: gateway, laptop, lan and the wires of three nodes");
    Ok(())
}

/// Boots all nodes at once; every node that fails is named, not only the first.
fn boot(root: &Path, progress: &Progress) -> Result<()> {
    let machines: Vec<&'static Machine> = topology::nodes().collect();
    for machine in &machines {
        start(machine, root)?;
    }
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let booting: Vec<_> = machines
            .iter()
            .map(|machine| {
                scope.spawn(move || {
                    node::await_boot(machine)?;
                    let role = if machine.kind == Kind::Server { "API server" } else { "worker" };
                    progress.say(format!("{:<8} booted ({role}, {})", machine.name, machine.v4()));
                    Ok(())
                })
            })
            .collect();
        let panicked = || Err(LabError::Refused("a boot thread panicked".to_owned()));
        booting.into_iter().map(|t| t.join().unwrap_or_else(|_| panicked())).collect()
    });
    let failures: Vec<String> =
        results.into_iter().filter_map(|r| r.err()).map(|e| e.to_string()).collect();
    if failures.is_empty() {
        return Ok(());
    }
    Err(LabError::Refused(failures.join("\n")))
}

fn start(machine: &Machine, root: &Path) -> Result<()> {
    // The copy in the disks' folder: a rebuild in the middle must not pull the program away.
    node::start(machine, &disk::Layer::common().path("/usr/local/bin/lab"), root)
}

/// Where cargo has put the programs of the build we are a part of; a test binary lies one folder deeper.
fn binaries() -> Result<PathBuf> {
    let me = process::own_program()?;
    let near = me.ancestors().skip(1).take(2);
    let found = near.into_iter().find(|dir| disk::PROGRAMS.iter().all(|p| dir.join(p).is_file()));
    found.map(Path::to_owned).ok_or_else(|| LabError::Missing {
        what: format!("find {} beside {}", disk::PROGRAMS.join(", "), me.display()),
        hint: "cargo build --workspace".to_owned(),
    })
}

fn build_of(binaries: &Path) -> Result<String> {
    let mut told = Vec::new();
    for program in disk::PROGRAMS {
        let path = binaries.join(program);
        let doing = || format!("look at {}", path.display());
        let meta = fs::metadata(&path).doing(doing)?;
        let time = meta.modified().doing(doing)?;
        let time = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        told.push(format!("{program} {} {}", meta.len(), time.as_millis()));
    }
    Ok(told.join(", "))
}
