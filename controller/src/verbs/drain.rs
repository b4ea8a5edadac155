//! `ctl drain`: a node's pods elsewhere, as their disruption budgets allow; everything against it is said before it begins.

use crate::ask;
use crate::cli::Global;
use crate::cluster::desk::Desk;
use crate::cluster::drain::{self, Allow, Drained, Plan};
use crate::cluster::hearing::Hearing;
use crate::cluster::kinds::Kinds;
use crate::cluster::rights;
use crate::error::{CommandError, Kind, Outcome};
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::{Out, Tone};
use crate::words::{self, count};
use serde::Serialize;
use std::time::Duration;

const HELP: &str = "Examples:
  ctl drain calypso --plan                 what would go, what stays, what its budgets say
  ctl drain calypso                        shows that, asks, cordons, evicts
  ctl drain calypso --yes --delete-emptydir-data --limit 10m

DaemonSets' pods and static pods stay. On a node that is not heard pods are evicted and not waited for: only its kubelet
could say that they ended. Run it again to go on; the node stays cordoned until: ctl uncordon NODE

Exit codes:
  0  drained
  1  failed, or pods that cannot be evicted
  2  usage, or pods that need --force or --delete-emptydir-data: the node was not touched
  3  not agreed to
  5  the time is over or Ctrl-C: the node stays cordoned; run it again to go on";

/// Arguments of `ctl drain`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// Show what would be done; touch nothing
    #[arg(long)]
    plan: bool,
    /// Agree beforehand
    #[arg(long)]
    yes: bool,
    /// Lose what pods keep in emptyDir volumes
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Lose pods that nothing makes anew
    #[arg(long)]
    force: bool,
    /// How long it may take
    #[arg(long, default_value = "5m", value_parser = words::span, value_name = "SPAN")]
    limit: Duration,
}

/// `-o json`.
#[derive(Serialize)]
struct DrainJson<'a> {
    plan: &'a Plan,
    /// `null` when only the plan was asked for.
    drained: Option<&'a Drained>,
}

/// Runs `ctl drain`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    let allow = Allow { scratch: args.delete_emptydir_data, bare: args.force };
    let desk = Desk::open(global, out).await?;
    rights::must(&desk.cluster, "drain", &Kinds::default()).await?;
    let plan = drain::look(&desk.cluster, &args.node, allow).await?;
    show(&plan, out);
    if args.plan {
        out.json(&DrainJson { plan: &plan, drained: None })?;
        return Ok(Exit::Done);
    }
    if !plan.needs.is_empty() {
        let mut flags: Vec<&str> = Vec::new();
        for (_, why) in &plan.needs {
            let flag = why.rsplit(' ').next().unwrap_or_default();
            if !flags.contains(&flag) {
                flags.push(flag);
            }
        }
        return Err(CommandError::usage(format!(
            "drain {}: {} would be lost or cut short",
            args.node,
            count(plan.needs.len(), "pod")
        ))
        .hinted(format!(
            "the node was not touched; if that is agreed to, add {}",
            flags.join(" ")
        )));
    }
    let question = format!("Cordon {} and evict {}?", args.node, count(plan.evict.len(), "pod"));
    let agreed = interruptible(ask::confirm(out, args.yes, &question)).await.transpose()?;
    if agreed != Some(true) {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    }
    let mut journal =
        desk.journal(&format!("node-{}", args.node), format!("drain {}", args.node))?;
    let mut say = desk.say();
    let working = drain::act(&desk.cluster, &plan, args.limit, &mut journal, &mut say);
    let Some(drained) = interruptible(working).await else {
        let error = CommandError::new(
            Kind::TimedOut,
            format!(
                "drain {}: interrupted; it stays cordoned, evicted pods go on ending",
                args.node
            ),
        );
        let lines = journal.last();
        return Err(lines.into_iter().fold(error, CommandError::hinted).hinted(again(&args.node)));
    };
    let drained = drained?;
    out.json(&DrainJson { plan: &plan, drained: Some(&drained) })?;
    let told = tell(&plan, &drained, out);
    if told.is_ok() {
        journal.close("drained")?;
    }
    told
}

fn show(plan: &Plan, out: Out) {
    for (pod, why) in &plan.stay {
        out.say(format!("stays: {pod} ({why})"));
    }
    for (pod, why) in &plan.needs {
        out.say(format!("needs a word: {pod} ({why})"));
    }
    for budget in &plan.budgets {
        match &budget.trouble {
            Some(why) => out.say(format!("budget {}: {why}", budget.name)),
            None => out.say(format!(
                "budget {} lets all {} go",
                budget.name,
                count(budget.counted.len(), "pod")
            )),
        }
    }
    if plan.node.hearing != Hearing::Heard {
        out.say(format!("{} is not heard: pods are evicted and not waited for", plan.node.name));
    }
    out.say(format!("{} to be evicted from {}", count(plan.evict.len(), "pod"), plan.node.name));
}

fn tell(plan: &Plan, drained: &Drained, out: Out) -> Outcome {
    let node = &plan.node.name;
    for (pod, why) in drained.failed.iter().chain(&drained.refused) {
        out.say(format!("{pod}: {why}"));
    }
    if let Some((pod, why)) = drained.failed.first() {
        let all = count(drained.failed.len(), "pod");
        return Err(CommandError::failed(format!(
            "drain {node}: {all} cannot be evicted: {pod}: {why}"
        ))
        .hinted(format!("it stays cordoned; {}", again(node))));
    }
    if !drained.refused.is_empty() || (!drained.ending.is_empty() && !drained.unproven) {
        let (refused, ending) = (drained.refused.len(), drained.ending.len());
        let dead = plan.budgets.iter().filter_map(|b| b.trouble.as_ref().map(|t| (b, t)));
        let why: Vec<String> = dead.map(|(b, t)| format!("; budget {}: {t}", b.name)).collect();
        return Err(CommandError::new(
            Kind::TimedOut,
            format!("drain {node}: the time is over: {refused} not let go by a budget, {ending} still ending{}", why.concat()),
        )
        .hinted(format!("it stays cordoned; {}", again(node))));
    }
    let word = out.result.tone(Tone::Good, "drained");
    let seconds = drained.seconds;
    match drained.ending.len() {
        0 => out.print(format!("{node}: {word}, {} gone in {seconds:.1} s", count(drained.gone, "pod"))),
        n => out.print(format!(
            "{node}: {word}, {} evicted; whether their processes ended is not proven: the node is not heard",
            count(n, "pod")
        )),
    }
    Ok(Exit::Done)
}

fn again(node: &str) -> String {
    format!("go on: ctl drain {node}; take it back: ctl uncordon {node}")
}
