//! `lab`: raises the lab, looks into it, takes it down.
#![allow(clippy::print_stderr, reason = "errors go to stderr")]

mod verbs;

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use lifeline_lab::progress::Progress;
use lifeline_lab::{furniture, lab, names, node, parts, process, real, standin, topology};
use std::path::PathBuf;

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
    Up(verbs::up::Args),
    /// Tell the incident of 13 October as it happens, by hand and by operator, and compare
    Incident(verbs::incident::Args),
    /// Tell the whole recovery plan, by hand and by ctl recover, on the real cluster, and compare
    Recover(verbs::recover::Args),
    /// Run every test: the workspace's own, then the catalogue of faults on live nodes
    Test(verbs::test::Args),
    /// Measure what Lifeline reaches on live nodes, each figure beside a baseline of the same run
    Bench(verbs::bench::Args),
    /// Build what is released: static programs, the agent's Debian package, their checksums
    Release(verbs::release::Args),
    /// Take everything away, also what a killed lab left behind
    Down,
    /// Say what runs and how it is
    Status(verbs::status::Args),
    /// Run a command, or a shell, on a node or in gw, laptop, lan
    Shell(verbs::place::Shell),
    /// Make a fault of the catalogue on a node, or take it back
    Break(verbs::fault::Args),
    /// Look at a node with tools that are not ours; with --since, say what has changed
    Witness(verbs::witness::Args),
    /// Type the runbook's commands at a node's console
    ByHand { node: String },
    /// Apply the culprit of 13 October to the real cluster, or take it away
    Culprit(verbs::cluster::Culprit),
    /// Show what a node's units say, or the control server and tailscaled of the exit machine
    Logs(verbs::place::Logs),
    /// Dump what the kernel's own tools print of a node into a folder
    Capture(verbs::place::Capture),
    /// Run kubectl on the laptop
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build what the real gear is made of, and raise nothing
    Parts(verbs::cluster::Parts),
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
    Supervise {
        /// For one boot
        #[arg(long)]
        once: bool,
        node: String,
        root: PathBuf,
    },
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
    // Raises nothing, and what it builds is its caller's.
    if let Verb::Release(args) = &verb {
        return verbs::release::run(args, &progress);
    }
    if !rustix::process::geteuid().is_root() && parts::is_there("sudo") {
        return elevate(&verb, &progress);
    }
    match verb {
        Verb::Up(args) => verbs::up::run(args, &progress)?,
        Verb::Incident(args) => verbs::incident::run(&args, &progress)?,
        Verb::Recover(args) => verbs::recover::run(&args, &progress)?,
        Verb::Test(args) => return verbs::test::run(&args, &progress),
        Verb::Bench(args) => return verbs::bench::run(&args, &progress),
        Verb::Release(args) => return verbs::release::run(&args, &progress),
        Verb::Down => lab::down(&progress)?,
        Verb::Status(args) => return verbs::status::run(&args),
        Verb::Shell(args) => return verbs::place::shell(args),
        Verb::Break(args) => verbs::fault::run(&args, &progress)?,
        Verb::Witness(args) => return verbs::witness::run(&args),
        Verb::ByHand { node } => verbs::by_hand::run(&node, &progress)?,
        Verb::Culprit(args) => verbs::cluster::culprit(&args, &progress)?,
        Verb::Logs(args) => return verbs::place::logs(&args),
        Verb::Capture(args) => verbs::place::capture(&args, &progress)?,
        Verb::Kubectl { args } => return verbs::cluster::kubectl(&args),
        Verb::Parts(args) => verbs::cluster::parts(&args, &progress)?,
        Verb::PowerCycle { node } => verbs::place::power_cycle(&node, &progress)?,
        Verb::Furnish { real: true } => real::ground::lay()?,
        Verb::Furnish { real: false } => furniture::build()?,
        Verb::Standin => bail!("name the stand-in: lab standin PART"),
        Verb::Supervise { once, node, root } => {
            let machine = topology::machine(&node).with_context(|| format!("no node {node}"))?;
            if once {
                node::supervise(machine, &root)?;
            } else {
                node::keep(machine, &root)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs this program again as root. What is built is built before, so that root owns nothing in the checkout.
fn elevate(verb: &Verb, progress: &Progress) -> anyhow::Result<ExitCode> {
    let mut extra: &[&str] = &[];
    if let Verb::Up(args) = verb
        && !args.no_build
    {
        verbs::workspace::build(progress)?;
        extra = &["--no-build"];
    }
    progress.say("the lab makes namespaces and boots containers, which needs root: asking sudo");
    let keep = "--preserve-env=PATH,HOME,XDG_CACHE_HOME,CI,LIFELINE_LAB,TERM";
    let mut sudo = Command::new("sudo");
    sudo.arg(keep).arg("--").arg(process::own_program()?);
    // Before what the caller may have put behind `--`.
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    args.splice(1..1, extra.iter().map(OsString::from));
    let status = sudo.args(args).status().context("run sudo")?;
    Ok(verbs::code_of(status))
}
