//! `lab`: raises the lab, looks into it, takes it down.
#![allow(clippy::print_stdout, reason = "results go to stdout")]
#![allow(clippy::print_stderr, reason = "errors go to stderr")]

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use lifeline_lab::faults::Site;
use lifeline_lab::lab::{self, Lab, Wish};
use lifeline_lab::progress::Progress;
use lifeline_lab::real::culprit::Variant;
use lifeline_lab::standin::byhand;
use lifeline_lab::state::Gear;
use lifeline_lab::{
    faults, furniture, incident, names, node, parts, real, standin, status, topology, trial,
    witness,
};

/// Real systemd nodes in network namespaces of their own, on this machine. Needs root.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Raise the lab: a gateway, three nodes, a laptop
    Up {
        /// Install missing packages without asking
        #[arg(long, env = "CI", value_parser = clap::builder::FalseyValueParser::new())]
        yes: bool,
        /// Trust that the workspace is built
        #[arg(long, hide = true)]
        no_build: bool,
        /// What agents may do by themselves
        #[arg(long, default_value = "observe", value_parser = ["observe", "guard"])]
        mode: String,
        /// A real cluster and the real tailscaled (the first time builds Kubernetes, a quarter of an hour)
        #[arg(long)]
        real: bool,
    },
    /// Tell the incident of 13 October as it happens, by hand and by operator, and compare
    Incident {
        /// Install missing packages without asking
        #[arg(long, env = "CI", value_parser = clap::builder::FalseyValueParser::new())]
        yes: bool,
        /// Leave the lab up afterwards
        #[arg(long)]
        keep: bool,
        /// Where the incident report is written
        #[arg(long, default_value = "incident-report.md")]
        report: PathBuf,
        /// On a real cluster, with the real tailscaled
        #[arg(long)]
        real: bool,
    },
    /// Run every test: the workspace's own, then the catalogue of faults on live nodes
    Test {
        /// Only live cases whose name contains one of these
        filters: Vec<String>,
        /// Install missing packages without asking
        #[arg(long, env = "CI", value_parser = clap::builder::FalseyValueParser::new())]
        yes: bool,
        /// Only the live cases
        #[arg(long)]
        live: bool,
        /// Name the live cases
        #[arg(long)]
        list: bool,
        /// Leave the lab up afterwards
        #[arg(long)]
        keep: bool,
    },
    /// Take everything away, also what a killed lab left behind
    Down,
    /// Say what runs and how it is
    Status {
        #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
        output: String,
    },
    /// Run a command, or a shell, on a node or in gw, laptop, lan
    Shell {
        place: String,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Make a fault of the catalogue on a node, or take it back
    Break {
        /// The node
        #[arg(required_unless_present = "list")]
        node: Option<String>,
        /// The fault
        #[arg(required_unless_present = "list")]
        fault: Option<String>,
        /// Only show what faults there are
        #[arg(long)]
        list: bool,
        /// Only what has to be so before the agent learns its baseline
        #[arg(long, conflicts_with = "strike")]
        ground: bool,
        /// Only the fault, on ground that is laid already
        #[arg(long)]
        strike: bool,
        /// Take it back
        #[arg(long, conflicts_with_all = ["ground", "strike"])]
        restore: bool,
    },
    /// Look at a node with tools that are not ours; with --since, say what has changed
    Witness {
        node: String,
        /// What an earlier look printed
        #[arg(long)]
        since: Option<PathBuf>,
    },
    /// Type the runbook's commands at a node's console
    ByHand { node: String },
    /// Apply the culprit of 13 October to the real cluster, or take it away
    Culprit {
        #[command(flatten)]
        variant: Variant,
        /// Take it away: the workload first, then its namespace
        #[arg(long)]
        remove: bool,
    },
    /// Show what a node's units say, or the control server and tailscaled of the exit machine
    Logs {
        /// A node, or `exit`
        place: String,
        /// A unit of the node; without one, those of the cluster and the agent
        unit: Option<String>,
        /// How many lines
        #[arg(short = 'n', long, default_value_t = 40)]
        lines: u32,
        /// Go on as they come
        #[arg(short, long)]
        follow: bool,
    },
    /// Run kubectl on the laptop
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Cut a node's power and boot it again
    PowerCycle { node: String },
    /// Run on a node by its own unit: build what k3s and flannel would have built
    #[command(hide = true)]
    Furnish {
        #[arg(long)]
        real: bool,
    },
    /// Be one of the programs that stand in for a part of the cluster
    #[command(hide = true)]
    Standin,
    /// Become the supervisor of a node's container
    #[command(hide = true)]
    Supervise { node: String, root: PathBuf },
}

fn main() -> ExitCode {
    let done = match standin::part(std::env::args_os()) {
        Some(part) => standin::run(part).map(|()| ExitCode::SUCCESS),
        None => run(Cli::parse().verb),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    names::choose_by_environment()?;
    let progress = Progress::new();
    if !rustix::process::geteuid().is_root() && parts::is_there("sudo") {
        return elevate(&verb, &progress);
    }
    match verb {
        Verb::Up { yes, no_build, mode, real } => {
            if !no_build {
                build(&progress)?;
            }
            let gear = if real { Gear::Real } else { Gear::Quick };
            Lab::up(&Wish { yes, mode, gear }, &progress)?;
            progress.say("the lab is up; try: cargo lab shell calypso");
        }
        Verb::Incident { yes, keep, report, real } => {
            build(&progress)?;
            let gear = if real { Gear::Real } else { Gear::Quick };
            let acts = raised(yes, keep, gear, &progress, |lab| match gear {
                Gear::Quick => incident::tell(lab, &report, &progress),
                Gear::Real => real::incident::tell(lab, &report, &progress),
            })?;
            print!("{}", incident::table(&acts));
        }
        Verb::Test { list: true, .. } => {
            trial::all().iter().for_each(|case| println!("{}", case.name));
        }
        Verb::Test { filters, yes, live, keep, .. } => {
            if !live {
                test_workspace(&progress)?;
            }
            build(&progress)?;
            let summary = raised(yes, keep, Gear::Quick, &progress, |lab| {
                Ok(trial::run(lab, &filters, &progress)?)
            })?;
            return Ok(told(&summary));
        }
        Verb::Down => lab::down(&progress)?,
        Verb::Status { output } => return status_of(&output),
        Verb::Shell { place, command } => return shell(&place, command),
        Verb::Break { list: true, .. } => print!("{}", faults::told()),
        Verb::Break { node, fault, ground, strike, restore, .. } => {
            let (node, fault) = (node.unwrap_or_default(), fault.unwrap_or_default());
            break_node(&node, &fault, ground, strike, restore, &progress)?;
        }
        Verb::Witness { node, since } => return witness(&node, since),
        Verb::ByHand { node } => {
            byhand::type_all(&Lab::open()?.node(&node)?, |typed| {
                let end =
                    if typed.given_up { "^C".to_owned() } else { format!("{:?}", typed.code) };
                progress.say(format!(
                    "{:5.1}s {end:<8} # {}",
                    typed.took.as_secs_f64(),
                    typed.line
                ));
            })?;
        }
        Verb::Culprit { variant, remove } => {
            Lab::open()?;
            if remove {
                real::culprit::remove()?;
                progress.say("the culprit is deleted; on a node that is cut off it lives until its kubelet hears of that");
            } else {
                real::culprit::apply(variant)?;
                progress.say("the culprit is applied");
            }
        }
        Verb::Logs { place, unit, lines, follow } => {
            let mut logs =
                real::logs::command(&Lab::open()?, &place, unit.as_deref(), lines, follow)?;
            return Ok(code_of(logs.status().context("show logs")?));
        }
        Verb::Kubectl { args } => {
            Lab::open()?;
            return Ok(code_of(real::cluster::kubectl_here(&args)?));
        }
        Verb::PowerCycle { node } => {
            Lab::open()?.power_cycle(&node, &progress)?;
        }
        Verb::Furnish { real: true } => real::ground::lay()?,
        Verb::Furnish { real: false } => furniture::build()?,
        Verb::Standin => bail!("name the stand-in: lab standin PART"),
        Verb::Supervise { node, root } => {
            let machine = topology::machine(&node).with_context(|| format!("no node {node}"))?;
            node::supervise(machine, &root)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Does `work` in a lab that is up; one that was not is taken down afterwards, whatever came of the work.
fn raised<T>(
    yes: bool,
    keep: bool,
    gear: Gear,
    progress: &Progress,
    work: impl FnOnce(&Lab) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let was_up = Lab::open().is_ok();
    let lab = Lab::up(&Wish { yes, mode: "observe".to_owned(), gear }, progress)?;
    let done = work(&lab);
    if !was_up && !keep {
        lab::down(progress)?;
    }
    done
}

/// The tests of the workspace, by cargo's own runner and with its own summary lines. A round that fails is tried once
/// more, aloud: some of these tests have the kernel's and systemd's own timing in them.
fn test_workspace(progress: &Progress) -> anyhow::Result<()> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let round = || {
        let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
        cargo.args([
            "test",
            "--workspace",
            "--locked",
            "--no-fail-fast",
            "--manifest-path",
            manifest,
        ]);
        cargo.status().context("run cargo test")
    };
    progress.say("the workspace's own tests");
    if round()?.success() {
        return Ok(());
    }
    progress.say("the workspace's own tests failed; once more");
    let status = round()?;
    if !status.success() {
        bail!("the workspace's own tests failed twice ({status})");
    }
    Ok(())
}

/// The summary, its count alone on the last line.
fn told(summary: &trial::Summary) -> ExitCode {
    for (name, why) in &summary.failed {
        println!("\n{name}:\n{why}");
    }
    if summary.left_out > 0 {
        println!("{} live cases were left out by the filter", summary.left_out);
    }
    if summary.again > 0 {
        println!("{} live cases were tried twice", summary.again);
    }
    println!("{} passed, {} failed", summary.passed, summary.failed.len());
    if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs this program again as root. What is built is built before, so that root owns nothing in the checkout.
fn elevate(verb: &Verb, progress: &Progress) -> anyhow::Result<ExitCode> {
    let mut extra: &[&str] = &[];
    if let Verb::Up { no_build: false, .. } = verb {
        build(progress)?;
        extra = &["--no-build"];
    }
    progress.say("the lab makes namespaces and boots containers, which needs root: asking sudo");
    let keep = "--preserve-env=PATH,HOME,XDG_CACHE_HOME,CI,LIFELINE_LAB,TERM";
    let mut sudo = Command::new("sudo");
    sudo.arg(keep).arg("--").arg(std::env::current_exe()?);
    // Before what the caller may have put behind `--`.
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    args.splice(1..1, extra.iter().map(OsString::from));
    let status = sudo.args(args).status().context("run sudo")?;
    Ok(code_of(status))
}

fn code_of(status: ExitStatus) -> ExitCode {
    ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1))
}

/// Builds the workspace, so that nothing the lab starts is stale: `cargo run` built only this program.
fn build(progress: &Progress) -> anyhow::Result<()> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo.args(["build", "--workspace", "--locked", "--manifest-path", manifest]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let mut child =
        cargo.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("run cargo build")?;
    // Cargo repeats the warnings of every earlier build; here they only matter when there is an error among them.
    let mut said = Vec::new();
    let mut spoken = Instant::now();
    for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let line = line.context("listen to cargo build")?;
        if let Some(what) = line.trim_start().strip_prefix("Compiling ") {
            progress.pass(format!("building {what}"));
            if !progress.is_live() && spoken.elapsed() > Duration::from_secs(10) {
                progress.say(format!("building {what}"));
                spoken = Instant::now();
            }
        }
        said.push(line);
    }
    let status = child.wait().context("wait for cargo build")?;
    if !status.success() {
        eprintln!("{}", said.join("\n"));
        bail!("the workspace does not build ({status})");
    }
    progress.say("workspace built");
    Ok(())
}

fn break_node(
    node: &str,
    fault: &str,
    ground: bool,
    strike: bool,
    restore: bool,
    progress: &Progress,
) -> anyhow::Result<()> {
    let fault = faults::find(fault)?;
    let site = Site::of(&Lab::open()?, node)?;
    if restore {
        (fault.restore)(&site).with_context(|| format!("take {} back on {node}", fault.id))?;
        progress.say(format!("{node}: {} taken back", fault.id));
        return Ok(());
    }
    if let Some(lay) = fault.ground.filter(|_| !strike) {
        lay(&site).with_context(|| format!("lay the ground for {} on {node}", fault.id))?;
    }
    if !ground {
        (fault.strike)(&site).with_context(|| format!("make {} on {node}", fault.id))?;
    }
    progress.say(format!("{node}: {} ({}); deserves: {}", fault.id, fault.title, fault.verdict));
    Ok(())
}

fn witness(node: &str, since: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let now = witness::look(&Lab::open()?.node(node)?)?;
    let Some(path) = since else {
        println!("{}", serde_json::to_string_pretty(&now)?);
        return Ok(ExitCode::SUCCESS);
    };
    let before =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let before =
        serde_json::from_str(&before).with_context(|| format!("understand {}", path.display()))?;
    let differences = witness::diff(&before, &now);
    for difference in &differences {
        println!("{difference}");
    }
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn shell(place: &str, command: Vec<String>) -> anyhow::Result<ExitCode> {
    let lab = Lab::open()?;
    let argv = if command.is_empty() { vec!["/bin/bash".to_owned()] } else { command };
    let mut child = match lab.space(place) {
        Ok(space) => space.command(&argv),
        Err(_) => lab.node(place)?.command(&argv),
    };
    let status = child.status().with_context(|| format!("run a command on {place}"))?;
    Ok(code_of(status))
}

fn status_of(output: &str) -> anyhow::Result<ExitCode> {
    let status = status::Status::look()?;
    if output == "json" {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", status.told());
    }
    Ok(if status.up { ExitCode::SUCCESS } else { ExitCode::from(3) })
}
