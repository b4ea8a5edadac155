//! `cargo lab shell`, `logs`, `capture` and `power-cycle`: what is done to one place.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use lifeline_lab::lab::Lab;
use lifeline_lab::progress::Progress;
use lifeline_lab::real;

use super::code_of;

/// Arguments of `shell`.
#[derive(Debug, clap::Args)]
pub struct Shell {
    place: String,
    #[arg(last = true)]
    command: Vec<String>,
}

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub struct Logs {
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
}

/// Arguments of `capture`.
#[derive(Debug, clap::Args)]
pub struct Capture {
    node: String,
    /// The folder into which its dumps go
    into: PathBuf,
}

/// Dumps what the kernel's tools print of a node.
pub fn capture(args: &Capture, progress: &Progress) -> anyhow::Result<()> {
    real::capture::take(&Lab::open()?.node(&args.node)?, &args.into)?;
    progress.say(format!("{}: dumped into {}", args.node, args.into.display()));
    Ok(())
}

/// Runs a command, or a shell.
pub fn shell(args: Shell) -> anyhow::Result<ExitCode> {
    let (lab, place) = (Lab::open()?, &args.place);
    let argv = if args.command.is_empty() { vec!["/bin/bash".to_owned()] } else { args.command };
    let mut child = match lab.space(place) {
        Ok(space) => space.command(&argv),
        Err(_) => lab.node(place)?.command(&argv),
    };
    let status = child.status().with_context(|| format!("run a command on {place}"))?;
    Ok(code_of(status))
}

/// Shows logs.
pub fn logs(args: &Logs) -> anyhow::Result<ExitCode> {
    let (unit, lab) = (args.unit.as_deref(), Lab::open()?);
    let mut logs = real::logs::command(&lab, &args.place, unit, args.lines, args.follow)?;
    Ok(code_of(logs.status().context("show logs")?))
}

/// Cuts a node's power and boots it again.
pub fn power_cycle(node: &str, progress: &Progress) -> anyhow::Result<()> {
    Lab::open()?.power_cycle(node, progress)?;
    Ok(())
}
