//! `ctl vps`: the nodes' machines at the provider: looked at, restarted, rescued, rebuilt; never bought, never cancelled.

pub mod desk;
mod list;
pub mod proof;
mod recreate;
mod rescue;
pub mod restart;
mod show;
mod work;

use crate::cli::Global;
use crate::error::Outcome;
use crate::out::Out;

const HELP: &str = "Examples:
  ctl vps list                 the account's machines, and which node is which
  ctl vps show styx            one machine, and what was done to it
  ctl vps restart styx         off and on again, proven by the node's boot id

Only machines are asked for that a node's [nodes.NAME.vps] names by host name and address. Machines are never bought
or cancelled from here; the program has no way of asking for it.";

/// Arguments of `ctl vps`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the account's machines, and which node is which
    List(list::Args),
    /// Show a node's machine, and what was done to it
    Show(show::Args),
    /// Stop a node's machine fully and start it; proven by its boot id
    Restart(restart::Args),
    /// Boot a node's machine into the provider's rescue system, or end that
    Rescue(rescue::Args),
    /// Wipe a node's machine and install it anew
    Recreate(recreate::Args),
}

/// Runs `ctl vps`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    match &args.verb {
        Verb::List(args) => list::run(args, global, out).await,
        Verb::Show(args) => show::run(args, global, out).await,
        Verb::Restart(args) => restart::run(args, global, out).await,
        Verb::Rescue(args) => rescue::run(args, global, out).await,
        Verb::Recreate(args) => recreate::run(args, global, out).await,
    }
}
