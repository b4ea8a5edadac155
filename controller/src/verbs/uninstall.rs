//! `ctl uninstall`: takes the agent and everything it has made away from a node, and looks that nothing is left.

use crate::ask;
use crate::cli::Global;
use crate::config::Config;
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::install;
use crate::out::Out;
use crate::session::Session;
use crate::verbs::install::Shell;
use serde::Serialize;

const HELP: &str = "Examples:
  ctl uninstall calypso --ssh root@192.168.2.80
  ctl uninstall calypso --ssh root@192.168.2.80 --yes --discard

Rules and routes of ours go first, then program, unit, message texts, configuration, key, journals and evidence. The node's own
journal keeps what was said there, and ctl.toml its entry.

Exit codes: 0 nothing is left, 1 failed, 2 usage, 4 something is left";

/// Arguments of `ctl uninstall`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    #[command(flatten)]
    shell: Shell,
    /// Lose what is in quarantine, too: directories of a culprit that `ctl undo` could still bring back
    #[arg(long)]
    discard: bool,
    /// Agree beforehand
    #[arg(long)]
    yes: bool,
}

/// `-o json`.
#[derive(Serialize)]
struct UninstallJson<'a> {
    node: &'a str,
    /// `uninstalled`, `stuck` (something is left) or `cancelled`.
    ending: &'static str,
    /// Nothing, or what is left; `null` when nothing was done.
    left: Option<&'a [String]>,
}

/// It was not agreed to.
fn declined(node: &str, out: Out) -> Outcome {
    out.say("Nothing was done.");
    out.json(&UninstallJson { node, ending: "cancelled", left: None })?;
    Ok(Exit::Done)
}

/// Runs `ctl uninstall`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    let place = Config::place(global.config.as_deref())?;
    let Some(ssh) = args.shell.open(&args.node, &place, out).await? else {
        return declined(&args.node, out);
    };
    let facts = install::survey(&ssh).await?;
    if facts.get("user") != "0" {
        return Err(CommandError::failed(format!(
            "uninstall from {}: {} is not root there",
            args.node, ssh.target
        ))
        .hinted("use --ssh root@HOST, or let that user sudo without a password"));
    }
    // An agent that cannot be asked is no reason to keep it.
    if let Ok(session) = Session::open(global, out)
        && let Ok(agent) = session.agent(&args.node).await
        && !agent.status.incident.is_empty()
    {
        return Err(CommandError::failed(format!(
            "uninstall from {}: incident {} is under way",
            args.node, agent.status.incident
        ))
        .hinted(format!("wait for its end (ctl watch {0}), or stop it: ctl undo {0}", args.node)));
    }
    let kept: u32 = facts.get("kept").parse().unwrap_or(0);
    if kept > 0 && !args.discard {
        return Err(CommandError::failed(format!(
            "uninstall from {}: {kept} entries are in quarantine there and would be lost",
            args.node
        ))
        .hinted("bring them back with ctl undo, or lose them with --discard"));
    }
    let there =
        if facts.installed() { facts.get("agent") } else { "nothing of Lifeline's is there" };
    out.say(format!("{} ({}): {there}", args.node, ssh.target));
    let question =
        format!("Take Lifeline away from {}, with its journals and its baseline?", args.node);
    if !ask::confirm(out, args.yes, &question).await? {
        return declined(&args.node, out);
    }
    let left = install::remove(&ssh).await?;
    let ending = if left.is_empty() { "uninstalled" } else { "stuck" };
    out.json(&UninstallJson { node: &args.node, ending, left: Some(&left) })?;
    if left.is_empty() {
        out.print(format!("nothing of Lifeline is left on {}", args.node));
        return Ok(Exit::Done);
    }
    out.print(format!("left on {}:\n  {}", args.node, left.join("\n  ")));
    Ok(Exit::Stuck)
}
