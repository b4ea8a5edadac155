//! The command line: global options here, each verb's own arguments in its own file.

use crate::exit;
use crate::out::Format;
use crate::verbs;
use clap::{CommandFactory, FromArgMatches};
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Version and build.
pub const VERSION: &str = env!("LIFELINE_VERSION");
/// kubectl runs a program of this name as `kubectl lifeline`.
const PLUGIN: &str = "kubectl-lifeline";

const EXAMPLES: &str = "Examples:
  ctl status                       every node of ctl.toml, and the workers its kubeconfig knows
  ctl diagnose calypso             what is wrong with it, and how that is known
  ctl heal calypso                 shows the plan, asks, heals, proves it
  ctl heal calypso --yes --up-to clean --report incident.md
  ctl --socket /run/lifeline/agent.sock heal calypso     on the node itself, as root";

/// Brings Kubernetes nodes back.
#[derive(Debug, Parser)]
#[command(name = "ctl", version = VERSION, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub struct Cli {
    /// Options of every verb
    #[command(flatten)]
    pub global: Global,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

impl Cli {
    /// Reads what was typed.
    pub fn read(words: impl Iterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<_> = words.collect();
        let command = command(words.first().is_some_and(is_plugin));
        Self::from_arg_matches(&command.try_get_matches_from(words)?)
    }
}

/// The whole command line, under the name by which it was called.
pub fn command(plugin: bool) -> clap::Command {
    let command = Cli::command();
    match plugin {
        true => command.name(PLUGIN).bin_name("kubectl lifeline"),
        false => command,
    }
}

/// Was it called by kubectl, which finds its plugins by their file names?
fn is_plugin(program: &OsString) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == PLUGIN)
}

/// Options of every verb.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {
    /// Configuration file [default: ~/.config/lifeline/ctl.toml]
    #[arg(
        long,
        global = true,
        env = "LIFELINE_CONFIG",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
    /// Reach the agent of this machine over its unix socket instead of the network; root only
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// How results are written; progress goes to stderr either way
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show each node by two accounts, its agent's and the cluster's
    Status(verbs::status::Args),
    /// Look afresh and show what is wrong, and how that is known
    Diagnose(verbs::diagnose::Args),
    /// Show what a heal would do, rung by rung
    Plan(verbs::plan::Args),
    /// Bring a node back: show the plan, ask, act rung by rung, prove it
    Heal(verbs::heal::Args),
    /// Follow an incident to its end
    Watch(verbs::watch::Args),
    /// Keep what a reset did, which is undone otherwise
    Confirm(verbs::confirm::Args),
    /// Reboot a node through its agent, and prove that it is back
    Reboot(verbs::reboot::Args),
    /// Undo a finished run, or stop and undo the incident under way
    Undo(verbs::undo::Args),
    /// Tell an incident as Markdown, from its journals
    Report(verbs::report::Args),
    /// List a node's past incidents
    History(verbs::history::Args),
    /// Show what a node's agent told its journal, and follow it
    Logs(verbs::logs::Args),
    /// Show, accept or forget what a node looks like when it is well
    Baseline(verbs::baseline::Args),
    /// Bring a whole cluster back: the runbook, from looking to the report
    Recover(verbs::recover::Args),
    /// Look at the nodes' machines at the provider, restart, rescue or rebuild them
    Vps(verbs::vps::Args),
    /// Remove a stuck namespace, what is left of one, or a workload that must stop
    Cleanup(verbs::cleanup::Args),
    /// Place no more pods on a node
    Cordon(verbs::cordon::Args),
    /// Place pods on a node again
    Uncordon(verbs::uncordon::Args),
    /// Evict a node's pods, as their disruption budgets allow
    Drain(verbs::drain::Args),
    /// Take a node out of the cluster; put back what it was when it returns
    Delete(verbs::delete::Args),
    /// Prove that nodes, pods and workloads are well, and nothing of a culprit is left
    Verify(verbs::verify::Args),
    /// Print the roles the cluster's verbs need, and say what of it you may do
    Rights(verbs::rights::Args),
    /// Look whether everything is there that a recovery will need
    Check(verbs::check::Args),
    /// Prove on a live node that a capture is seen and met, harmlessly, and how fast
    Drill(verbs::drill::Args),
    /// Put the agent on a node over SSH, or a newer one in its place
    Install(verbs::install::Args),
    /// Take the agent and all it made away from a node
    Uninstall(verbs::uninstall::Args),
    /// Find the workloads that could cut a node off again, and the nodes without an agent
    Audit(verbs::audit::Args),
    /// List the faults Lifeline knows
    Faults(verbs::faults::Args),
    /// Make, show, renew and revoke certificates
    Pki(verbs::pki::Args),
    /// Write what a shell needs to complete ctl's words
    Completions(verbs::completions::Args),
    /// Write the manual, a page for each verb
    Man(verbs::man::Args),
}
