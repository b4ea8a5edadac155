//! `ctl uncordon`: pods may be placed on a node again.

use crate::cli::Global;
use crate::error::Outcome;
use crate::out::Out;
use crate::verbs::cordon;

const HELP: &str = "Examples:
  ctl uncordon calypso

Prove first that the node is well: ctl status NODE, ctl verify.";

/// Arguments of `ctl uncordon`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
}

/// Runs `ctl uncordon`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    cordon::set(&args.node, false, global, out).await
}
