//! `cargo lab witness`.

#![allow(clippy::print_stdout, reason = "results go to stdout")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use lifeline_lab::lab::Lab;
use lifeline_lab::witness;

/// Arguments of `witness`.
#[derive(Debug, clap::Args)]
pub struct Args {
    node: String,
    /// What an earlier look printed
    #[arg(long)]
    since: Option<PathBuf>,
}

/// Looks, and compares with an earlier look.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let now = witness::look(&Lab::open()?.node(&args.node)?)?;
    let Some(path) = &args.since else {
        println!("{}", serde_json::to_string_pretty(&now)?);
        return Ok(ExitCode::SUCCESS);
    };
    let before =
        std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let before =
        serde_json::from_str(&before).with_context(|| format!("understand {}", path.display()))?;
    let differences = witness::diff(&before, &now);
    for difference in &differences {
        println!("{difference}");
    }
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}
