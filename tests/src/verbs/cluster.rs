//! `cargo lab kubectl`, `culprit` and `parts`: what is done to the real cluster, and for it.

use std::process::ExitCode;

use lifeline_lab::lab::Lab;
use lifeline_lab::progress::Progress;
use lifeline_lab::real::{self, culprit::Variant};

use super::code_of;

/// Arguments of `culprit`.
#[derive(Debug, clap::Args)]
pub struct Culprit {
    #[command(flatten)]
    variant: Variant,
    /// Take it away: the workload first, then its namespace
    #[arg(long)]
    remove: bool,
}

/// Applies the culprit, or takes it away.
pub fn culprit(args: &Culprit, progress: &Progress) -> anyhow::Result<()> {
    Lab::open()?;
    if args.remove {
        real::culprit::remove()?;
        progress.say("the culprit is deleted; on a node that is cut off it lives until its kubelet hears of that");
    } else {
        real::culprit::apply(args.variant)?;
        progress.say("the culprit is applied");
    }
    Ok(())
}

/// Runs kubectl on the laptop.
pub fn kubectl(args: &[String]) -> anyhow::Result<ExitCode> {
    Lab::open()?;
    Ok(code_of(real::cluster::kubectl_here(args)?))
}

/// Arguments of `parts`.
#[derive(Debug, clap::Args)]
pub struct Parts {
    /// Install missing packages without asking
    #[arg(long, env = "CI", value_parser = clap::builder::FalseyValueParser::new())]
    yes: bool,
    /// Beside other work: roots first, then with the processor time that nobody else wants
    #[arg(long, hide = true)]
    ahead: bool,
}

/// Builds what the real gear is made of.
pub fn parts(args: &Parts, progress: &Progress) -> anyhow::Result<()> {
    Ok(real::ahead::build(args.yes, args.ahead, progress)?)
}
