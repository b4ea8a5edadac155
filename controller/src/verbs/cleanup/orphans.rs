//! `ctl cleanup orphans`: objects of namespaces that no longer exist, which wake with the next namespace of that name.

use super::show;
use crate::cli::Global;
use crate::cluster::desk::Desk;
use crate::cluster::orphans;
use crate::error::Outcome;
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::Out;

const HELP: &str = "Examples:
  ctl cleanup orphans
  ctl cleanup orphans -o json | jq -r '.spaces | keys[]'

Each is removed by: ctl cleanup namespace NAME

Exit codes: 0 none, 1 could not be asked, 3 there are some, or some kinds could not be listed";

/// Arguments of `ctl cleanup orphans`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {}

/// Runs `ctl cleanup orphans`.
pub async fn run(_: &Args, global: &Global, out: Out) -> Outcome {
    let desk = Desk::open(global, out).await?;
    let Some(found) = interruptible(orphans::look(&desk.cluster)).await else {
        out.say("Nothing was done.");
        return Ok(Exit::TimedOut);
    };
    let found = found?;
    for (space, objects) in &found.spaces {
        out.print(format!("{space} does not exist, and there are:"));
        for (word, number) in show::kinds(objects) {
            out.print(format!("  {number:>5}  {word}"));
        }
    }
    for what in &found.unknown {
        out.say(format!("could not be listed: {} ({})", what.what, what.why));
    }
    if found.spaces.is_empty() {
        out.print("no object was found in a namespace that does not exist");
    }
    out.json(&found)?;
    Ok(match found.spaces.is_empty() && found.unknown.is_empty() {
        true => Exit::Done,
        false => Exit::Unhealthy,
    })
}
