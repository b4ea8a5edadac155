//! `ctl cleanup culprit`: workloads that can take a node's network apart, listed, quarantined and released.

use crate::ask;
use crate::cli::Global;
use crate::cluster::culprit::{self, Stopped, Suspect};
use crate::cluster::desk::Desk;
use crate::cluster::quiet;
use crate::error::{CommandError, Kind, Outcome};
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::{Out, Tone, columns};
use crate::words::count;
use serde::Serialize;

const HELP: &str = "Examples:
  ctl cleanup culprit                                 lists them, the likely ones first
  ctl cleanup culprit --stop tailscale-system/tailscale-worker
  ctl cleanup culprit --release tailscale-system/tailscale-worker

A DaemonSet is quarantined by a node selector that no node has, others are scaled to nothing: both are taken back by
--release. Pods of a node that is not heard are taken out of the API by force.

Exit codes: 0 listed or done, 1 failed, 2 usage, 3 not agreed to, or pods are left";

/// Arguments of `ctl cleanup culprit`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Quarantine this workload, and wait until its pods are gone
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "release")]
    stop: Option<String>,
    /// Take a quarantine back
    #[arg(long, value_name = "NAMESPACE/NAME")]
    release: Option<String>,
    /// Agree beforehand
    #[arg(long)]
    yes: bool,
}

/// `-o json`.
#[derive(Serialize)]
struct CulpritJson<'a> {
    suspects: Vec<SuspectJson<'a>>,
    stopped: Option<&'a Stopped>,
}

#[derive(Serialize)]
struct SuspectJson<'a> {
    workload: String,
    likely: bool,
    owner: Option<String>,
    #[serde(flatten)]
    all: &'a Suspect,
}

/// Runs `ctl cleanup culprit`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    let hint = match (&args.stop, &args.release) {
        (Some(named), _) => format!(
            "what was quarantined stays so; to go on, run it again; to take it back: ctl cleanup culprit --release {named}"
        ),
        (None, Some(_)) => "to go on, run it again".to_owned(),
        (None, None) => "nothing was done".to_owned(),
    };
    interruptible(work(args, global, out)).await.unwrap_or_else(|| {
        Err(CommandError::new(Kind::TimedOut, "clean up a culprit: interrupted").hinted(hint))
    })
}

async fn work(args: &Args, global: &Global, out: Out) -> Outcome {
    let desk = Desk::open(global, out).await?;
    let suspects = culprit::look(&desk.cluster).await?;
    let mut stopped = None;
    if let Some(named) = &args.stop {
        let suspect = find(&suspects, named)?;
        culprit::may_stop(suspect)?;
        let nodes = suspect.nodes().join(", ");
        let question = format!(
            "Quarantine {}, with {} on {nodes}?",
            suspect.words(),
            count(suspect.pods.len(), "pod")
        );
        if !ask::confirm(out, args.yes, &question).await? {
            out.say("Nothing was done.");
            return Ok(Exit::Unhealthy);
        }
        let mut journal = desk.journal(&subject(suspect), question)?;
        let done = culprit::stop(&desk.cluster, suspect, &mut journal, &mut desk.say()).await?;
        journal.close(format!("{} left", count(done.left.len(), "pod")))?;
        stopped = Some(done);
    } else if let Some(named) = &args.release {
        let suspect = find(&suspects, named)?;
        let mut journal = desk.journal(&subject(suspect), format!("release {named}"))?;
        quiet::release(&desk.cluster, &suspect.object, &mut journal, &mut desk.say()).await?;
        journal.close("released")?;
    } else {
        list(&suspects, out);
    }
    let list = suspects.iter().map(|s| SuspectJson {
        workload: s.words(),
        likely: s.likely(),
        owner: s.object.owner.as_ref().map(|o| o.words()),
        all: s,
    });
    out.json(&CulpritJson { suspects: list.collect(), stopped: stopped.as_ref() })?;
    Ok(stopped.map_or(Exit::Done, |done| tell(&done, out)))
}

fn subject(suspect: &Suspect) -> String {
    let space = suspect.object.namespace.as_deref().unwrap_or_default();
    format!("culprit-{space}-{}", suspect.object.name)
}

fn find<'s>(suspects: &'s [Suspect], named: &str) -> Result<&'s Suspect, CommandError> {
    let of = |s: &Suspect| {
        format!("{}/{}", s.object.namespace.as_deref().unwrap_or_default(), s.object.name)
    };
    suspects.iter().find(|s| of(s) == named).ok_or_else(|| {
        let names: Vec<String> = suspects.iter().map(of).collect();
        CommandError::usage(format!(
            "find culprit {named}: no workload of that name can change a node's network"
        ))
        .hinted(format!("nothing was done; there are: {}", names.join(", ")))
    })
}

fn list(suspects: &[Suspect], out: Out) {
    if suspects.is_empty() {
        out.print("no workload can change its nodes' network");
        return;
    }
    let rows: Vec<Vec<String>> = suspects
        .iter()
        .map(|s| {
            let likely = match (s.likely(), &s.vpn) {
                (true, Some(vpn)) => out.result.tone(Tone::Bad, format!("likely: {vpn}")),
                (false, Some(vpn)) => format!("{vpn}, in its own network"),
                _ => "can".to_owned(),
            };
            let owner = s.object.owner.as_ref().map_or_else(|| "-".to_owned(), |o| o.words());
            vec![s.words(), likely, s.may.join(", "), s.nodes().join(", "), owner]
        })
        .collect();
    out.print(columns(&["WORKLOAD", "CULPRIT", "MAY", "NODES", "OWNER"], &rows));
}

fn tell(done: &Stopped, out: Out) -> Exit {
    for pod in &done.unproven {
        let node = pod.node.as_deref().unwrap_or("?");
        out.say(format!("unproven: whether the processes of {} on {node} ended", pod.words()));
    }
    if done.left.is_empty() {
        out.print("quarantined; none of its pods is left");
        return Exit::Done;
    }
    let left: Vec<String> = done.left.iter().map(|p| p.words()).collect();
    out.print(format!("quarantined; still there: {}", left.join(", ")));
    Exit::Unhealthy
}
