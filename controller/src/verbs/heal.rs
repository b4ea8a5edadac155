//! `ctl heal`: reaches the node, lets it climb ([`crate::climb`]), and tells how it went. A node whose agent cannot be reached is
//! brought back by other means ([`other`]), where there are any.

mod other;

use crate::cli::Global;
use crate::climb::{Heal, Wish};
use crate::cluster::Cluster;
use crate::consent::UpTo;
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::files::{self, Present};
use crate::heal_view::{self, Told};
use crate::interrupt::interruptible;
use crate::obstacle::chain;
use crate::proof::Proof;
use crate::session::Session;
use crate::sight::Sight;
use crate::words;
use std::path::{Path, PathBuf};
use std::time::Duration;

const HELP: &str = "Examples:
  ctl heal calypso                         shows the plan and asks
  ctl heal calypso --up-to clean           never restarts the kubelet
  ctl heal calypso --yes --report out.md   for scripts
  ctl heal calypso --up-to reset           and if all else fails, the aggressive flush
  ctl heal calypso --rung reset            that rung and no other
  ctl --socket /run/lifeline/agent.sock heal calypso     on the node itself, as root

The agent acts rung by rung, cheapest repair first, and looks again after each. What it did not expect when you agreed
is shown and asked anew. Rungs 5 (reset) and 6 (reboot) are never taken by default: they are named, and their name is typed.
A reset is undone unless `ctl confirm` comes in time.

Where neither the agent's own address nor SSH leads to it, what else there is, is offered in this
order, each with its reason and after a fresh look: its unit started over SSH, an agent lent to it
over SSH, a restart by its provider (by the node's name, typed), what to type at its console, and at
last cordon, drain and deletion. All of it is journalled. Beforehand: --yes, and --confirm \"NODE\",
\"cordon NODE\", \"drain NODE\" or \"delete NODE\" for what a yes alone does not cover.

Ctrl-C stops the watching, never the agent; run it again to go on.

Exit codes:
  0  healthy, without our guard
  1  failed
  2  usage, or nobody to ask and no --yes
  3  not healthy, rolled back, or not agreed to
  4  stuck: needs a human
  5  a time limit passed, or Ctrl-C: run it again to go on";

/// Arguments of `ctl heal`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// Agree beforehand to what is shown, as far as --up-to reaches
    #[arg(long)]
    yes: bool,
    /// The highest rung the agent may climb to [default: as far as the plan reaches]
    #[arg(long, value_enum, value_name = "RUNG")]
    up_to: Option<UpTo>,
    /// This rung and no other
    #[arg(long, value_enum, value_name = "RUNG", conflicts_with = "up_to")]
    rung: Option<UpTo>,
    /// How long the node must stay well at the end, at most 10m
    #[arg(long, default_value = "30s", value_parser = stability, value_name = "SPAN")]
    stability: Duration,
    /// How long to follow at most; the agent goes on by itself
    #[arg(long, default_value = "15m", value_parser = words::span, value_name = "SPAN")]
    limit: Duration,
    /// Write the report as Markdown to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Agree beforehand to one thing that cannot be undone, by the name that would be typed
    #[arg(long, value_name = "NAME")]
    confirm: Vec<String>,
}

/// A time the node must stay well.
pub fn stability(text: &str) -> Result<Duration, String> {
    words::span(text).and_then(|s| match s.as_secs() {
        0..=600 => Ok(s),
        _ => Err("it must be at most 10m".into()),
    })
}

/// Runs `ctl heal`.
pub async fn run(args: &Args, session: &Session, global: &Global) -> Outcome {
    session.may_act(&format!("heal {}", args.node))?;
    let out = session.out;
    if let Some(open) = other::unfinished(args, session) {
        return other::again(args, session, global, &open).await;
    }
    // An agent that cannot be reached is said at once, whatever the API server does.
    let seen = async { Ok(before(&args.node, session).await) };
    let looked = async { tokio::try_join!(session.agent(&args.node), seen) };
    let Some(looked) = interruptible(looked).await else {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    };
    let (agent, seen) = match looked {
        Err(error) if error.is_unreached() && global.socket.is_none() => {
            return other::begin(args, session, global, error).await;
        }
        looked => looked?,
    };
    let wish = Wish {
        node: &args.node,
        yes: args.yes,
        from: args.rung,
        up_to: args.up_to.or(args.rung),
        stability: args.stability,
        limit: args.limit,
    };
    let mut heal = Heal::new(session, wish, agent, seen);
    let climbed = interruptible(heal.climb()).await;
    let exit = match climbed {
        Some(Ok(exit)) => exit,
        Some(Err(error)) => return Err(hinted(&heal, error)),
        None => interrupted(&heal),
    };
    tell(args.report.as_deref(), &heal, exit)
}

/// How the API server sees the node beforehand.
pub async fn before(node: &str, session: &Session) -> Option<(Cluster, Option<Sight>)> {
    let config = session.config.as_ref()?;
    let cluster = match Cluster::open(config.kubeconfig.as_ref()?, config.context.as_deref()).await
    {
        Ok(cluster) => cluster,
        Err(e) => {
            session.out.say(format!("The API server is not asked: {}", chain(&e)));
            return None;
        }
    };
    match cluster.look(node).await {
        Ok(sight) => {
            session.out.say(format!("The API server sees {node} {}.", sight.words()));
            Some((cluster, Some(sight)))
        }
        Err(e) => {
            session.out.say(format!("The API server could not be asked: {}", chain(&e)));
            Some((cluster, None))
        }
    }
}

/// With what the operator can do while it goes on.
pub fn hinted(heal: &Heal<'_>, error: CommandError) -> CommandError {
    match &heal.running {
        Some(i) => error.hinted(format!(
            "the heal goes on at {0}; follow it: ctl watch {0} {i}",
            heal.agent.node
        )),
        None => error,
    }
}

/// Says how to go on after Ctrl-C.
pub fn interrupted(heal: &Heal<'_>) -> Exit {
    let (out, node) = (heal.session.out, &heal.agent.node);
    out.say("");
    match &heal.running {
        Some(i) => {
            out.say(format!("Stopped watching. The heal goes on at {node} by itself."));
            out.say(format!("  follow it:           ctl watch {node} {i}"));
            out.say(format!("  follow and prove it: ctl heal {node}"));
            out.say(format!("  stop and undo it:    ctl undo {node} {i}"));
            Exit::TimedOut
        }
        None if heal.records.is_empty() => {
            out.say("Nothing was done.");
            Exit::Unhealthy
        }
        None => {
            out.say(format!("Nothing goes on at {node}; it was not proven healthy. Run it again: ctl heal {node}"));
            Exit::TimedOut
        }
    }
}

/// Tells how it went, on paper too.
pub fn tell(report: Option<&Path>, heal: &Heal<'_>, exit: Exit) -> Outcome {
    let out = heal.session.out;
    let mut path = None;
    if let (Some(file), Some(_)) = (report, heal.records.last()) {
        let proof = heal.proof.as_ref().map(Proof::lines).unwrap_or_default();
        let pages = heal.records.iter().map(|r| r.markdown(&heal.agent.node, &proof));
        files::write(file, &pages.collect::<Vec<_>>().join("\n"), 0o644, Present::Replace)?;
        path = Some(file.display().to_string());
    }
    let told = Told {
        node: &heal.agent.node,
        via: &heal.agent.via,
        exit,
        verdict: heal.verdict,
        guarded: heal.guarded,
        records: &heal.records,
        proof: heal.proof.as_ref(),
        report: path,
        took: heal.started.elapsed(),
        other: None,
    };
    out.print(heal_view::summary(&told, out.result));
    out.json(&heal_view::json(&told))?;
    Ok(exit)
}
