//! `ctl vps recreate`: wipes a machine and installs it anew. The last resort; its host name has to be typed.

use super::desk::Desk;
use super::rescue::password;
use super::work::Work;
use crate::ask;
use crate::cli::Global;
use crate::error::{CommandError, Kind, Outcome};
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::Out;
use crate::provider::call::{Call, Rebuild};
use crate::provider::diary::Wish;
use crate::provider::shape::{Action, Machine};
use crate::words;
use serde::Serialize;
use std::time::Duration;

const HELP: &str = "Examples:
  ctl vps recreate styx --template 1121 --script 309
  ctl vps recreate styx --template 1121 --confirm srv17923.hstgr.cloud     for scripts

Everything on the machine is lost, and so are its snapshots. --yes does not suffice: its host name has to be typed, or
given with --confirm. The node has to join anew afterwards: k3s keeps the old one's password in the Secret
kube-system/NODE.node-password.k3s, so ctl delete NODE --machine-wiped first, or the new one is refused.

Exit codes: 0 done, 1 failed or refused, 2 usage, or nobody to ask, 3 not agreed to, 4 stuck, 5 a time limit passed: run it again to go on";

/// Arguments of `ctl vps recreate`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// Number of the system that is installed (hPanel lists them)
    #[arg(long, value_name = "ID")]
    template: u64,
    /// Number of the script that is run afterwards
    #[arg(long, value_name = "ID")]
    script: Option<u64>,
    /// Where root's password is: op://…, env:NAME or file:PATH
    #[arg(long, value_name = "REFERENCE")]
    password: Option<String>,
    /// The machine's host name, typed beforehand
    #[arg(long, value_name = "HOST NAME")]
    confirm: Option<String>,
    /// How long the provider may take
    #[arg(long, default_value = "20m", value_parser = words::span, value_name = "SPAN")]
    limit: Duration,
}

/// `-o json`.
#[derive(Serialize)]
struct RecreateJson<'a> {
    node: &'a str,
    machine: &'a Machine,
    action: &'a Action,
    boot_before: Option<String>,
}

/// Runs `ctl vps recreate`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    let password = match &args.password {
        Some(reference) => Some(password(reference).await?),
        None => None,
    };
    let desk = Desk::open(global, out).await?.with_eyes(global).await?;
    let node = args.node.as_str();
    let mut work = Work::prepare(&desk, node, Wish::Recreate).await?;
    let machine = work.found.machine.clone();
    let hostname = machine.hostname.clone().unwrap_or_default();
    out.say(format!("{node} is machine {}; {}.", machine.words(), work.boots.words()));
    if work.pending.is_none() {
        out.say("It is wiped: everything on its disk is lost, and so are its snapshots. This cannot be undone.");
        let agreed = interruptible(ask::typed(out, args.confirm.as_deref(), &hostname)).await;
        if agreed.transpose()? != Some(true) {
            out.say("Nothing was done.");
            return Ok(Exit::Unhealthy);
        }
    }
    let before = work.before();
    let rebuild = Rebuild { template: args.template, script: args.script, password };
    let action = work.carry_out(&Call::Recreate(work.found.id, rebuild), args.limit).await?;
    let now = desk.api.machine(work.found.id).await?;
    if now.state() != "running" {
        return Err(CommandError::new(
            Kind::TimedOut,
            format!(
                "recreate {node}: the provider says it is done, and its machine is {}",
                now.state()
            ),
        )
        .hinted(format!("look again: ctl vps show {node}")));
    }
    work.close("done")?;
    out.print(format!(
        "{node}: its machine is installed anew and {}\n  it is no node yet: ctl delete {node} --machine-wiped (in a recovery: ctl recover --resume --machine-wiped {node}), let it join (its name must be {node}), then: ctl delete {node} --restore, ctl status {node}",
        now.state()
    ));
    out.json(&RecreateJson { node, machine: &now, action: &action, boot_before: before })?;
    Ok(Exit::Done)
}
