//! `cargo lab test`.

#![allow(clippy::print_stdout, reason = "results go to stdout")]

use std::process::ExitCode;

use lifeline_lab::progress::Progress;
use lifeline_lab::state::Gear;
use lifeline_lab::trial;

use super::{raised, workspace};

/// Arguments of `test`.
#[derive(Debug, clap::Args)]
pub struct Args {
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
}

/// Runs the workspace's tests and the live cases.
pub fn run(args: &Args, progress: &Progress) -> anyhow::Result<ExitCode> {
    if args.list {
        trial::all().iter().for_each(|case| println!("{}", case.name));
        return Ok(ExitCode::SUCCESS);
    }
    if !args.live {
        workspace::test(progress)?;
    }
    workspace::build(progress)?;
    let summary = raised(args.yes, args.keep, Gear::Quick, progress, |lab| {
        Ok(trial::run(lab, &args.filters, progress)?)
    })?;
    Ok(told(&summary))
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
