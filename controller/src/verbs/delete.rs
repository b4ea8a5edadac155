//! `ctl delete`: a node out of the cluster, what it was kept; `--restore` makes it that again when it has come back.

use crate::ask;
use crate::cli::Global;
use crate::cluster::delete::{self, Deleted, Plan};
use crate::cluster::desk::Desk;
use crate::cluster::hearing::Hearing;
use crate::cluster::kinds::Kinds;
use crate::cluster::node::Lack;
use crate::cluster::rights;
use crate::error::{CommandError, Kind, Outcome};
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::Out;
use crate::words::{self, count};
use serde::Serialize;
use std::time::Duration;

const HELP: &str = "Examples:
  ctl delete styx                          has the name typed
  ctl delete styx --confirm styx           for scripts
  ctl delete styx --machine-wiped          k3s: the next machine of that name comes with another password
  ctl delete styx --restore                waits until it registers again; puts labels, taints and cordon back

A node whose kubelet is heard does not come back before its k3s-agent is restarted. --machine-wiped is refused then: the
order is machine off, node deleted, password deleted, machine made anew.

Exit codes:
  0  deleted and its pods gone, or restored
  1  failed
  2  usage, the control plane, or the last Ready node pods can be placed on
  3  not agreed to, or restored and the pods' addresses are others now
  5  a time limit passed; run it again to go on";

/// Arguments of `ctl delete`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// The node's name once more, for scripts
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
    /// Delete the password k3s keeps of it, too
    #[arg(long, conflicts_with = "restore")]
    machine_wiped: bool,
    /// Put back what it was, when it registers again
    #[arg(long)]
    restore: bool,
    /// How long its pods may take to go, or it to come back
    #[arg(long, default_value = "2m", value_parser = words::span, value_name = "SPAN")]
    limit: Duration,
}

/// `-o json`.
#[derive(Serialize)]
struct DeleteJson<'a> {
    plan: &'a Plan,
    deleted: &'a Deleted,
}

/// Runs `ctl delete`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    let desk = Desk::open(global, out).await?;
    let node = args.node.as_str();
    rights::must(&desk.cluster, "delete", &Kinds::default()).await?;
    if args.restore {
        return restore(&desk, node, args.limit).await;
    }
    let (plan, begun) = delete::again(&desk.cluster, &desk.config.cluster, node).await?;
    if begun {
        out.say(format!("{node} is deleted already, and that has not ended: going on with it."));
    } else {
        show(&plan, out);
        let typed = ask::typed(out, args.confirm.as_deref(), node);
        if interruptible(typed).await.transpose()? != Some(true) {
            out.say("Nothing was done.");
            return Ok(Exit::Unhealthy);
        }
    }
    let mut journal = desk.journal(&format!("node-{node}"), format!("delete {node}"))?;
    let mut say = desk.say();
    let how = (args.machine_wiped, args.limit);
    let working = delete::act(&desk.cluster, &plan, how, &mut journal, &mut say);
    let Some(deleted) = interruptible(working).await else {
        let error = CommandError::new(
            Kind::TimedOut,
            format!("delete {node}: interrupted; the node may be deleted already"),
        );
        let wiped = if args.machine_wiped { " --machine-wiped" } else { "" };
        return Err(journal
            .last()
            .into_iter()
            .fold(error, CommandError::hinted)
            .hinted(format!("go on: ctl delete {node} --confirm {node}{wiped}"))
            .hinted(format!("what it was is written down in {}", journal.path().display())));
    };
    let deleted = deleted?;
    out.json(&DeleteJson { plan: &plan, deleted: &deleted })?;
    // What is not at its end is gone on with by the same command.
    if deleted.pods_left == 0 {
        journal.close("deleted")?;
    }
    tell(node, &deleted, out)
}

fn show(plan: &Plan, out: Out) {
    let node = &plan.node;
    out.say(format!(
        "{}: {}, {} on it, {} of its own, {}",
        node.name,
        if node.ready { "Ready" } else { "not Ready" },
        count(plan.pods.len(), "pod"),
        count(node.labels.len(), "label"),
        count(node.taints.len(), "taint")
    ));
    out.say(format!(
        "pods can still be placed on: {}",
        match plan.others.as_slice() {
            [] => "no node".to_owned(),
            others => others.join(", "),
        }
    ));
    if node.hearing == Hearing::Heard {
        out.say("Its kubelet is heard: it comes back only when its agent is restarted, without labels, taints and cordon.");
    }
    if let Some(secret) = &plan.password {
        out.say(format!(
            "k3s keeps its password in secret {}: it stays unless --machine-wiped",
            secret.name
        ));
    }
}

fn tell(node: &str, deleted: &Deleted, out: Out) -> Outcome {
    if deleted.pods_left > 0 {
        let left = count(deleted.pods_left, "pod");
        return Err(CommandError::new(
            Kind::TimedOut,
            format!("delete {node}: the node is deleted, and {left} of it are still in the API"),
        )
        .hinted(
            "the control plane lets go of them within a minute or two: kubectl get pods -A -o wide",
        )
        .hinted(format!("go on: ctl delete {node} --confirm {node}")));
    }
    out.print(format!("{node}: deleted, none of its pods is left"));
    out.say(format!("when it is back: ctl delete {node} --restore"));
    Ok(Exit::Done)
}

async fn restore(desk: &Desk, node: &str, limit: Duration) -> Outcome {
    let mut journal = desk.journal(&format!("node-{node}"), format!("restore {node}"))?;
    let mut say = desk.say();
    let working = delete::restore(&desk.cluster, node, limit, &mut journal, &mut say);
    let Some(lack) = interruptible(working).await else {
        desk.out.say(format!("Go on: ctl delete {node} --restore"));
        return Ok(Exit::TimedOut);
    };
    let lack: Lack = lack?;
    journal.close("restored")?;
    desk.out.json(&lack)?;
    if let Some((was, is)) = &lack.pod_cidrs {
        desk.out.print(format!(
            "{node}: restored; its pods' addresses were from {} and are from {}: accept that in its agent's baseline, too: ctl baseline accept {node}",
            was.join(", "),
            is.join(", ")
        ));
        return Ok(Exit::Unhealthy);
    }
    desk.out.print(format!("{node}: it is what it was"));
    Ok(Exit::Done)
}
