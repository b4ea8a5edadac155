//! `ctl vps show`: a node's machine, and what was done to it.

use super::desk::Desk;
use crate::cli::Global;
use crate::error::Outcome;
use crate::exit::Exit;
use crate::out::{Out, columns};
use crate::provider::diary::Diary;
use crate::provider::shape::{Action, Machine};
use serde::Serialize;

const HELP: &str = "Examples:
  ctl vps show styx
  ctl vps show styx -o json | jq '.actions[0]'        what was done to it last

Exit codes: 0 shown, 1 the provider could not be asked, or the machine is not certain, 2 configuration";

/// Arguments of `ctl vps show`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
}

/// `-o json`.
#[derive(Serialize)]
struct ShowJson<'a> {
    node: &'a str,
    machine: &'a Machine,
    /// Newest first, at most ten.
    actions: &'a [Action],
    /// A wish of ours that has not come to its end.
    pending: Option<&'static str>,
}

/// Runs `ctl vps show`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    let desk = Desk::open(global, out).await?;
    let found = desk.find(&args.node).await?;
    let mut actions = desk.api.actions(found.id, u64::MAX).await?;
    actions.truncate(10);
    let pending = Diary::peek(&desk.config.cluster, &args.node)?.filter(|p| p.sent);
    let m = &found.machine;
    let installed = m.template.as_ref().and_then(|t| t.name.as_deref()).unwrap_or("-");
    out.print(format!(
        "{} is machine {}\n  installed: {installed}\n  plan: {}\n  locked: {}",
        args.node,
        m.words(),
        m.plan.as_deref().unwrap_or("-"),
        if m.locked() { "yes, something is being done to it" } else { "no" }
    ));
    if let Some(p) = &pending {
        out.print(format!("  not at its end: ctl vps {} {}", p.wish.verb(), args.node));
    }
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let row = |a: &Action| {
        let id = a.id.map_or_else(|| "-".to_owned(), |i| i.to_string());
        vec![id, dash(&a.name), dash(&a.state), dash(&a.created_at)]
    };
    let rows: Vec<_> = actions.iter().map(row).collect();
    out.print(format!("\n{}", columns(&["ACTION", "NAME", "STATE", "SINCE"], &rows)));
    out.json(&ShowJson {
        node: &args.node,
        machine: m,
        actions: &actions,
        pending: pending.map(|p| p.wish.verb()),
    })?;
    Ok(Exit::Done)
}
