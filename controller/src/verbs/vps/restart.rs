//! `ctl vps restart`: off and on again. What counts is the node's boot id, not that the provider says it is done.

use super::desk::Desk;
use super::proof::{self, Rest, Seen};
use super::work::Work;
use crate::ask;
use crate::cli::Global;
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::{Out, Tone};
use crate::proof::Proof;
use crate::provider::call::Call;
use crate::provider::diary::Wish;
use crate::provider::shape::{Action, Machine};
use crate::words;
use serde::Serialize;
use std::time::{Duration, Instant};

const HELP: &str = "Examples:
  ctl vps restart styx             shows the machine and asks
  ctl vps restart styx --yes       for scripts

The machine must have the host name and the IPv4 address of [nodes.NAME.vps], and must not carry the control plane. What
is sent is written down before it is sent; a time-out or an error that says nothing is looked up in the machine's
actions, and never sent again. Run it again after Ctrl-C or exit code 5: it goes on where it was.

Exit codes:
  0  restarted: the action is done, the boot id is another, and the node is well
  1  failed, refused, or \"done\" when it was not
  2  usage, nobody to ask and no --yes, or a machine that must not be touched
  3  not agreed to, or restarted and not well, or not to be proven
  4  stuck: needs a human
  5  a time limit passed, or Ctrl-C: run it again to go on";

/// Arguments of `ctl vps restart`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// Agree beforehand
    #[arg(long)]
    yes: bool,
    /// How long the provider may take, and the node to boot as long again
    #[arg(long, default_value = "5m", value_parser = words::span, value_name = "SPAN")]
    limit: Duration,
}

/// `-o json`.
#[derive(Serialize)]
struct RestartJson<'a> {
    node: &'a str,
    /// `restarted`, `not-well`, `not-restarted`, `not-proven`, `not-seen`
    ending: &'static str,
    machine: &'a Machine,
    action: &'a Action,
    boot_before: Option<String>,
    boot_after: Option<String>,
    /// Who spoke of the other boot.
    told_by: Option<&'static str>,
    verdict: Option<&'static str>,
    cluster: Option<&'a Proof>,
    seconds: f64,
}

/// Restarts a node's machine, or goes on with a restart that was cut off, until another boot was seen. Everything was agreed to.
pub async fn off_and_on(desk: &Desk, node: &str, limit: Duration) -> Result<String, CommandError> {
    let mut work = Work::prepare(desk, node, Wish::Restart).await?;
    let before = work.before();
    work.carry(&Call::Restart(work.found.id), limit).await?;
    desk.out.say(format!("{node}: the provider says that it is done. Waiting for another boot …"));
    let was = before.as_deref().unwrap_or("?");
    match proof::another(desk, node, before.as_deref(), limit).await {
        Seen::Changed { boot, by } => {
            work.booted(&boot, by)?;
            work.close("restarted")?;
            Ok(boot)
        }
        Seen::Same => {
            work.close("not-restarted")?;
            Err(CommandError::failed(format!(
                "restart {node}: the provider says it is done, and the node is still in boot {was}: it was not restarted"
            )))
        }
        Seen::Unproven { boot } => {
            work.close("not-proven")?;
            Err(CommandError::failed(format!(
                "restart {node}: it is in boot {boot}, and the boot before was not known: that cannot be proven"
            )))
        }
        Seen::Nothing => Err(CommandError::new(
            crate::error::Kind::TimedOut,
            format!(
                "restart {node}: the provider says it is done, and for {} s nobody has heard of another boot than {was}",
                limit.as_secs()
            ),
        )),
    }
}

/// Runs `ctl vps restart`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    let begun = Instant::now();
    let prepared = async { Desk::open(global, out).await?.with_eyes(global).await };
    let Some(desk) = interruptible(prepared).await else { return Ok(nothing(out)) };
    let desk = desk?;
    let node = args.node.as_str();
    let Some(work) = interruptible(Work::prepare(&desk, node, Wish::Restart)).await else {
        return Ok(nothing(out));
    };
    let mut work = work?;
    out.say(format!("{node} is machine {}; {}.", work.found.machine.words(), work.boots.words()));
    if work.pending.is_none() {
        out.say("It is stopped fully and started: every pod on it ends, and what was not written to its disk is lost.");
        let agreed =
            interruptible(ask::confirm(out, args.yes, &format!("Restart {node}'s machine?"))).await;
        if agreed.transpose()? != Some(true) {
            return Ok(nothing(out));
        }
    }
    let before = work.before();
    let action = work.carry_out(&Call::Restart(work.found.id), args.limit).await?;
    out.say("The provider says that it is done. Waiting until the node speaks of another boot …");
    let Some(seen) =
        interruptible(proof::another(&desk, node, before.as_deref(), args.limit)).await
    else {
        return Err(work.interrupted());
    };
    let mut told = Told { before, boot: None, by: None, rest: Rest::default() };
    let (ending, exit) = match &seen {
        Seen::Changed { boot, by } => {
            work.booted(boot, by)?;
            out.say(format!("Boot {boot}, says {by}. Waiting until it is well …"));
            (told.boot, told.by) = (Some(boot.clone()), Some(*by));
            let boots = (told.before.clone().unwrap_or_default(), boot.clone());
            let resting = proof::rest(&desk, node, work.sight.take(), boots);
            let Some(rest) = interruptible(resting).await else {
                return Err(work.interrupted());
            };
            told.rest = rest;
            match told.rest.well() {
                true => ("restarted", Exit::Done),
                false => ("not-well", Exit::Unhealthy),
            }
        }
        Seen::Same => {
            told.boot.clone_from(&told.before);
            ("not-restarted", Exit::Failed)
        }
        Seen::Unproven { boot } => {
            told.boot = Some(boot.clone());
            ("not-proven", Exit::Unhealthy)
        }
        Seen::Nothing => ("not-seen", Exit::TimedOut),
    };
    if exit != Exit::TimedOut {
        work.close(ending)?;
    }
    out.json(&RestartJson {
        node,
        ending,
        machine: &work.found.machine,
        action: &action,
        boot_before: told.before.clone(),
        boot_after: told.boot.clone(),
        told_by: told.by,
        verdict: told.rest.verdict.map(lifeline_core::diagnosis::Verdict::word),
        cluster: told.rest.cluster.as_ref(),
        seconds: begun.elapsed().as_secs_f64(),
    })?;
    tell(node, ending, exit, &told, args.limit, out)
}

struct Told {
    before: Option<String>,
    boot: Option<String>,
    by: Option<&'static str>,
    rest: Rest,
}

fn tell(node: &str, ending: &str, exit: Exit, told: &Told, limit: Duration, out: Out) -> Outcome {
    let (was, is) = (told.before.as_deref().unwrap_or("?"), told.boot.as_deref().unwrap_or("?"));
    match ending {
        "restarted" => {
            let well = out.result.tone(Tone::Good, "restarted, and well");
            out.print(format!("{node}: {well}\n  boot {is}, before it was {was}"));
        }
        "not-well" => {
            let lacks = told.rest.lacks().unwrap_or_else(|| "nobody says why".to_owned());
            out.print(format!("{node}: restarted, and not well: {lacks}\n  boot {is}, before it was {was}"));
        }
        "not-proven" => out.print(format!(
            "{node}: the provider says it was restarted; that cannot be proven, because its boot was not known before\n  boot {is}"
        )),
        "not-restarted" => {
            return Err(CommandError::failed(format!(
                "restart {node}: the provider says it is done, and the node is still in boot {was}: it was not restarted"
            ))
            .hinted("use hPanel's console, or try again: ctl vps restart NODE"));
        }
        _ => {
            return Err(CommandError::new(
                crate::error::Kind::TimedOut,
                format!("restart {node}: the provider says it is done, and for {} s nobody has heard of another boot than {was}", limit.as_secs()),
            )
            .hinted(format!("look at its console in hPanel; this goes on waiting, and sends nothing: ctl vps restart {node}")));
        }
    }
    Ok(exit)
}

fn nothing(out: Out) -> Exit {
    out.say("Nothing was done.");
    Exit::Unhealthy
}
