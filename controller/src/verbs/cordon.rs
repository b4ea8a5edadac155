//! `ctl cordon`: no more pods are placed on a node; those that are there stay.

use crate::cli::Global;
use crate::cluster::desk::Desk;
use crate::cluster::kinds::Kinds;
use crate::cluster::{node, rights};
use crate::error::{CommandError, Kind, Outcome};
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::Out;
use serde::Serialize;

const HELP: &str = "Examples:
  ctl cordon calypso

Can be taken back: ctl uncordon NODE. The node's labels, taints and cordon of before are kept in the journal.";

/// Arguments of `ctl cordon`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
}

/// `-o json`.
#[derive(Serialize)]
struct CordonJson<'a> {
    node: &'a str,
    uid: &'a str,
    cordoned: bool,
    changed: bool,
}

/// Runs `ctl cordon`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    set(&args.node, true, global, out).await
}

/// What cordon and uncordon share.
pub async fn set(name: &str, cordoned: bool, global: &Global, out: Out) -> Outcome {
    let word = if cordoned { "cordon" } else { "uncordon" };
    interruptible(change(name, cordoned, global, out)).await.unwrap_or_else(|| {
        let error = CommandError::new(Kind::TimedOut, format!("{word} {name}: interrupted"));
        Err(error
            .hinted(format!("it may have been sent; run it again to be sure: ctl {word} {name}")))
    })
}

async fn change(name: &str, cordoned: bool, global: &Global, out: Out) -> Outcome {
    let desk = Desk::open(global, out).await?;
    rights::must(&desk.cluster, "cordon", &Kinds::default()).await?;
    let node = node::look(&desk.cluster, name).await?;
    let word = if cordoned { "cordon" } else { "uncordon" };
    let mut journal = desk.journal(&format!("node-{name}"), format!("{word} {name}"))?;
    let changed =
        node::cordon(&desk.cluster, &node, cordoned, &mut journal, &mut desk.say()).await?;
    journal.close(format!("{word}ed"))?;
    out.json(&CordonJson { node: name, uid: &node.uid, cordoned, changed })?;
    Ok(Exit::Done)
}
