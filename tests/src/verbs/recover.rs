//! `cargo lab recover`.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::path::PathBuf;

use anyhow::bail;
use lifeline_lab::progress::Progress;
use lifeline_lab::recover;
use lifeline_lab::state::Gear;

use super::{raised, readme, workspace};

/// Arguments of `recover`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Install missing packages without asking
    #[arg(long, env = "CI", value_parser = clap::builder::FalseyValueParser::new())]
    yes: bool,
    /// Leave the lab up afterwards
    #[arg(long)]
    keep: bool,
    /// Where the incident report is written
    #[arg(long, default_value = "recovery-report.md")]
    report: PathBuf,
    /// Put the table into the README too, between its markers
    #[arg(long)]
    readme: bool,
}

/// Tells it and prints the table.
pub fn run(args: &Args, progress: &Progress) -> anyhow::Result<()> {
    workspace::build(progress)?;
    let report = std::path::absolute(&args.report)?;
    let acts = raised(args.yes, args.keep, Gear::Real, progress, |lab| {
        recover::tell(lab, &report, progress)
    })?;
    print!("{}", recover::table(&acts));
    if let Err(wrong) = recover::judge(&acts) {
        bail!("it did not end as it must:\n{wrong}");
    }
    if args.readme {
        readme::put("recovered", &recover::markdown(&acts))?;
    }
    Ok(())
}
