//! `cargo lab break`.

#![allow(clippy::print_stdout, reason = "the list is the result")]

use anyhow::Context;
use lifeline_lab::faults::{self, Site};
use lifeline_lab::lab::Lab;
use lifeline_lab::progress::Progress;

/// Arguments of `break`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node
    #[arg(required_unless_present = "list")]
    node: Option<String>,
    /// The fault
    #[arg(required_unless_present = "list")]
    fault: Option<String>,
    /// Only show what faults there are
    #[arg(long)]
    list: bool,
    /// Only what has to be so before the agent learns its baseline
    #[arg(long, conflicts_with = "strike")]
    ground: bool,
    /// Only the fault, on ground that is laid already
    #[arg(long)]
    strike: bool,
    /// Take it back
    #[arg(long, conflicts_with_all = ["ground", "strike"])]
    restore: bool,
}

/// Makes a fault, or takes it back.
pub fn run(args: &Args, progress: &Progress) -> anyhow::Result<()> {
    if args.list {
        print!("{}", faults::told());
        return Ok(());
    }
    let node = args.node.as_deref().unwrap_or_default();
    let fault = faults::find(args.fault.as_deref().unwrap_or_default())?;
    let site = Site::of(&Lab::open()?, node)?;
    if args.restore {
        (fault.restore)(&site).with_context(|| format!("take {} back on {node}", fault.id))?;
        progress.say(format!("{node}: {} taken back", fault.id));
        return Ok(());
    }
    if let Some(lay) = fault.ground.filter(|_| !args.strike) {
        lay(&site).with_context(|| format!("lay the ground for {} on {node}", fault.id))?;
    }
    if !args.ground {
        (fault.strike)(&site).with_context(|| format!("make {} on {node}", fault.id))?;
    }
    progress.say(format!("{node}: {} ({}); deserves: {}", fault.id, fault.title, fault.verdict));
    Ok(())
}
