//! `cargo lab up`.

use lifeline_lab::lab::{Lab, Wish};
use lifeline_lab::progress::Progress;

use super::{gear, workspace};

/// Arguments of `up`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Install missing packages without asking
    #[arg(long, env = "CI", value_parser = clap::builder::FalseyValueParser::new())]
    yes: bool,
    /// Trust that the workspace is built
    #[arg(long, hide = true)]
    pub no_build: bool,
    /// What agents may do by themselves
    #[arg(long, default_value = "observe", value_parser = ["observe", "guard", "heal"])]
    mode: String,
    /// A real cluster and the real tailscaled (the first time builds Kubernetes, a quarter of an hour)
    #[arg(long)]
    real: bool,
}

/// Raises the lab.
pub fn run(args: Args, progress: &Progress) -> anyhow::Result<()> {
    if !args.no_build {
        workspace::build(progress)?;
    }
    Lab::up(&Wish { yes: args.yes, mode: args.mode, gear: gear(args.real) }, progress)?;
    progress.say("the lab is up; try: cargo lab shell calypso");
    Ok(())
}
