//! `cargo lab incident`.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use lifeline_lab::progress::Progress;
use lifeline_lab::state::Gear;
use lifeline_lab::{incident, real};

use super::{gear, raised, workspace};

/// Arguments of `incident`.
#[derive(Debug, clap::Args)]
pub struct Args {
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
    /// On a real cluster, for how many seconds nobody does anything in the third act
    #[arg(long, default_value_t = 300, requires = "real", value_parser = clap::value_parser!(u64).range(60..=3600))]
    alone: u64,
    /// On a real cluster, only the third act, in which nobody does anything
    #[arg(long, requires = "real")]
    by_itself: bool,
}

/// Tells it and prints the table.
pub fn run(args: &Args, progress: &Progress) -> anyhow::Result<()> {
    workspace::build(progress)?;
    let gear = gear(args.real);
    let acts = raised(args.yes, args.keep, gear, progress, |lab| match gear {
        Gear::Quick => incident::tell(lab, &args.report, progress),
        Gear::Real => {
            let alone = Duration::from_secs(args.alone);
            if args.by_itself {
                let act = real::incident::tell_itself(lab, &args.report, alone, progress)?;
                return Ok(vec![act]);
            }
            real::incident::tell(lab, &args.report, alone, progress)
        }
    })?;
    print!("{}", incident::table(&acts));
    let judged = match (gear, acts.as_slice()) {
        (Gear::Quick, _) => Ok(()),
        (Gear::Real, [itself]) => real::judge::judge_itself(itself),
        (Gear::Real, acts) => real::judge::judge(acts),
    };
    if let Err(wrong) = judged {
        bail!("it did not end as it must:\n{wrong}");
    }
    Ok(())
}
