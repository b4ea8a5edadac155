//! `cargo lab bench`.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use lifeline_lab::beside::Share;
use lifeline_lab::progress::Progress;
use lifeline_lab::{bench, process};
use std::path::PathBuf;

use super::{code_of, readme, workspace};

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    wanted: bench::Wanted,
    /// Install missing packages without asking
    #[arg(long, env = "CI", value_parser = clap::builder::FalseyValueParser::new())]
    yes: bool,
    /// Measure this very build, also when it is one for debugging
    #[arg(long, hide = true)]
    as_built: bool,
    /// Put the table into the README too, between its markers
    #[arg(long)]
    readme: bool,
    /// Only this share of what is counted, such as 2/3
    #[arg(long, hide = true, requires = "summary")]
    share: Option<Share>,
    /// Where to write what came of it
    #[arg(long, hide = true, requires = "share")]
    summary: Option<PathBuf>,
}

/// Measures the release build, which is what is installed, and prints the table. A share of what is counted and not timed is
/// counted with the build that is asked.
pub fn run(args: &Args, progress: &Progress) -> anyhow::Result<ExitCode> {
    if let (Some(share), Some(path)) = (args.share, &args.summary) {
        let tally = bench::share(&args.wanted, share, args.yes, progress)?;
        let text = serde_json::to_string(&tally).context("write the summary")?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if cfg!(debug_assertions) && !args.as_built {
        return released(progress);
    }
    let record = bench::measure(&args.wanted, args.yes, progress)?;
    print!("{}", record.told());
    if args.readme {
        readme::put("bench", &record.told())?;
    }
    ensure!(record.failed.is_empty(), "not measured: {}", record.failed.join("; "));
    Ok(ExitCode::SUCCESS)
}

/// Runs the same again, built for release.
fn released(progress: &Progress) -> anyhow::Result<ExitCode> {
    workspace::build_as(true, progress)?;
    let me = process::own_program()?;
    let target = me.ancestors().nth(2).context("find the target folder")?;
    let released = target.join("release/lab");
    let status = Command::new(&released).args(std::env::args_os().skip(1)).status();
    Ok(code_of(status.with_context(|| format!("run {}", released.display()))?))
}
