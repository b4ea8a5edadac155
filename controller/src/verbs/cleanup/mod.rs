//! `ctl cleanup`: a namespace that does not go, what is left of one that is gone, and a workload that must stop.

mod culprit;
mod namespace;
mod orphans;
mod show;

use crate::cli::Global;
use crate::error::Outcome;
use crate::out::Out;

const HELP: &str = "Examples:
  ctl cleanup culprit                          workloads that can take a node's network apart
  ctl cleanup culprit --stop vpn/tailscale     quarantines one; can be taken back
  ctl cleanup namespace tailscale-system       shows what is lost, has the name typed, cleans, proves it
  ctl cleanup orphans                          objects of namespaces that no longer exist";

/// Arguments of `ctl cleanup`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Remove a namespace and everything in it, and prove that it is gone
    Namespace(namespace::Args),
    /// List objects of namespaces that no longer exist
    Orphans(orphans::Args),
    /// List workloads that can take a node's network apart; stop one, or release it
    Culprit(culprit::Args),
}

/// Runs `ctl cleanup`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    match &args.verb {
        Verb::Namespace(args) => namespace::run(args, global, out).await,
        Verb::Orphans(args) => orphans::run(args, global, out).await,
        Verb::Culprit(args) => culprit::run(args, global, out).await,
    }
}
