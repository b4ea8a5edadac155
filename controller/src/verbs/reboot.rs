//! `ctl reboot`: has the agent reboot its node, follows it into the next boot, and proves that it is well there.

use crate::ask;
use crate::climb::{Heal, Wish};
use crate::error::Outcome;
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::session::{self, Session};
use crate::verbs::heal;
use crate::words;
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "Examples:
  ctl reboot calypso
  ctl reboot calypso --yes --report out.md   for scripts

The node itself is asked, over its agent: pods are ended as the kubelet does it. It has a budget of its own (two in 24 hours
unless its agent.toml says otherwise), for operators too. A node whose agent cannot be reached is rebooted by its provider.

Exit codes:
  0  it is back, and healthy
  1  failed
  2  usage, or nobody to ask and no --yes
  3  not healthy afterwards, not rebooted, or not agreed to
  4  stuck: needs a human
  5  a time limit passed, or Ctrl-C";

/// Arguments of `ctl reboot`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// Agree beforehand
    #[arg(long)]
    yes: bool,
    /// How long the node must stay well afterwards, at most 10m
    #[arg(long, default_value = "30s", value_parser = heal::stability, value_name = "SPAN")]
    stability: Duration,
    /// How long to follow at most; the node goes on by itself
    #[arg(long, default_value = "15m", value_parser = words::span, value_name = "SPAN")]
    limit: Duration,
    /// Write the report as Markdown to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Runs `ctl reboot`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    session.may_act(&format!("reboot {}", args.node))?;
    let out = session.out;
    let seen = async { Ok(heal::before(&args.node, session).await) };
    let looked = async { tokio::try_join!(session.agent(&args.node), seen) };
    let Some(looked) = interruptible(looked).await else {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    };
    let (agent, seen) = looked?;
    let status = agent.status().await?;
    out.say(format!("{} is in boot {}: {}", agent.node, status.boot_id, status.summary));
    let question = format!("Reboot {}? Every pod on it is stopped.", agent.node);
    let asked = interruptible(ask::named(out, args.yes, &question, &agent.node)).await;
    if asked.transpose()? != Some(true) {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    }
    let stability_s = u32::try_from(args.stability.as_secs()).unwrap_or(600);
    let reply = agent.reboot(&session::request_id()?, stability_s).await?;
    out.say(format!("Incident {} is opened.", reply.incident));
    let wish = Wish {
        node: &args.node,
        yes: args.yes,
        from: None,
        up_to: None,
        stability: args.stability,
        limit: args.limit,
    };
    let mut conducted = Heal::new(session, wish, agent, seen);
    let done = interruptible(conducted.see_through(reply.incident)).await;
    let exit = match done {
        Some(Ok(exit)) => exit,
        Some(Err(error)) => return Err(heal::hinted(&conducted, error)),
        None => heal::interrupted(&conducted),
    };
    heal::tell(args.report.as_deref(), &conducted, exit)
}
