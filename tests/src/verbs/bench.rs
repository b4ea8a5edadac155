//! `cargo lab bench`.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::process::{Command, ExitCode};

use anyhow::Context;
use lifeline_lab::progress::Progress;
use lifeline_lab::{bench, process};

use super::{code_of, workspace};

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    wanted: bench::Wanted,
    /// Install missing packages without asking
    #[arg(long, env = "CI", value_parser = clap::builder::FalseyValueParser::new())]
    yes: bool,
}

/// Measures the release build, which is what is installed, and prints the table.
pub fn run(args: &Args, progress: &Progress) -> anyhow::Result<ExitCode> {
    if cfg!(debug_assertions) {
        return released(progress);
    }
    print!("{}", bench::table(&bench::measure(&args.wanted, args.yes, progress)?));
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
