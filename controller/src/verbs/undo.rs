//! `ctl undo`: puts back what a run changed, newest step first; what somebody changed since is theirs and stays.

use crate::agent::Agent;
use crate::ask;
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::follow::{Stopped, follow, replay};
use crate::interrupt::interruptible;
use crate::record::Record;
use crate::session::{self, Session};
use crate::verbs::watch;
use lifeline_core::report::Run;
use serde::Serialize;
use std::time::Duration;

const HELP: &str = "Examples:
  ctl history calypso            names the runs
  ctl undo calypso r-2
  ctl undo calypso i-1           the incident under way: stops it after the present step and undoes what can be undone

Shows what would be put back, and asks.

Exit codes: 0 undone, 1 failed, 2 usage, or nobody to ask and no --yes, 3 not agreed to, 4 stuck: needs a human,
5 a time limit passed, or Ctrl-C";

/// Stopping an incident: the present step is finished, the others are undone.
const LIMIT: Duration = Duration::from_secs(300);

/// Arguments of `ctl undo`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// The run, or the incident under way
    run: String,
    /// Agree beforehand
    #[arg(long)]
    yes: bool,
}

/// `-o json`.
#[derive(Serialize)]
struct UndoJson<'a> {
    node: &'a str,
    run: &'a str,
    ending: Option<&'a str>,
    lines: Vec<String>,
}

/// Runs `ctl undo`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    session.may_act(&format!("undo {} on {}", args.run, args.node))?;
    let mut agent = session.agent(&args.node).await?;
    let under_way = agent.status().await?.incident;
    if under_way == args.run && !under_way.is_empty() {
        return stop(args, session, &mut agent).await;
    }
    let out = session.out;
    let record = incident_of(&agent, &args.run).await?;
    let borrowed = record.borrowed();
    let Some(run) = borrowed.iter().find(|r| r.id == args.run) else {
        return Err(CommandError::failed(format!(
            "find run {} of {}: its journal tells nothing",
            args.run, agent.node
        )));
    };
    out.say(preview(&agent.node, run));
    let Some(agreed) =
        interruptible(ask::confirm(out, args.yes, "Undo this?")).await.transpose()?
    else {
        out.say("\nNothing was done.");
        return Ok(Exit::Unhealthy);
    };
    if !agreed {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    }
    let reply = agent.undo(&args.run, &session::request_id()?).await?;
    let ending = Some(reply.ending.as_str()).filter(|e| !e.is_empty());
    let text = reply.lines.iter().map(|l| format!("\n  {l}")).collect::<String>();
    out.print(format!("run {} of {}: {}{text}", args.run, agent.node, ending.unwrap_or("done")));
    out.json(&UndoJson { node: &agent.node, run: &args.run, ending, lines: reply.lines.clone() })?;
    Ok(exit(ending))
}

/// What is put back is the wish here: rolled back is done.
fn exit(ending: Option<&str>) -> Exit {
    match ending {
        Some("stuck") => Exit::Stuck,
        Some("unwell") => Exit::Unhealthy,
        _ => Exit::Done,
    }
}

async fn incident_of(agent: &Agent, run: &str) -> Result<Record, CommandError> {
    let items = agent.history(1000).await?;
    match items.iter().find(|i| i.runs.iter().any(|r| r == run)) {
        Some(item) => replay(agent, &item.incident).await,
        None => {
            let error = CommandError::usage(format!(
                "find run {run} of {}: it has none of that name",
                agent.node
            ));
            Err(match items.iter().find(|i| i.incident == run) {
                Some(i) => error.hinted(format!(
                    "{run} is an incident that has ended; its runs: {}",
                    i.runs.join(", ")
                )),
                None => error.hinted(format!("ctl history {} names them", agent.node)),
            })
        }
    }
}

/// What undoing would do, newest step first.
fn preview(node: &str, run: &Run<'_>) -> String {
    let mut text = format!("Undoing run {} on {node}, newest step first:", run.id);
    for s in run.steps().iter().rev() {
        let line = match (s.stands(), s.irreversible) {
            (true, Some(why)) => format!("stays:    {} ({why})", s.op),
            (true, None) => format!("put back: {}", s.op),
            (false, _) => format!("nothing:  {} (it changed nothing, or was undone)", s.op),
        };
        text = format!("{text}\n  {line}");
    }
    text
}

async fn stop(args: &Args, session: &Session, agent: &mut Agent) -> Outcome {
    let out = session.out;
    out.say(format!("Incident {} is under way at {}: it would stop after its present step and undo what can be undone.", args.run, agent.node));
    let asked =
        interruptible(ask::confirm(out, args.yes, "Stop and undo it?")).await.transpose()?;
    if asked != Some(true) {
        out.say("Nothing was done; it goes on.");
        return Ok(Exit::Unhealthy);
    }
    agent.cancel(&args.run).await?;
    let mut record = Record::new(&args.run);
    let following =
        follow(session, agent, &mut record, LIMIT, |line| out.say(watch::show(line, out.progress)));
    let ended = match interruptible(following).await {
        Some(stopped) => stopped? == Stopped::Ended,
        None => false,
    };
    let ending = record.ending();
    out.print(format!(
        "incident {} of {}: {}",
        args.run,
        agent.node,
        ending.unwrap_or("under way")
    ));
    out.json(&UndoJson { node: &agent.node, run: &args.run, ending, lines: Vec::new() })?;
    Ok(if ended { exit(ending) } else { Exit::TimedOut })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolled_back_is_what_was_asked_for() {
        assert_eq!(exit(Some("rolled-back")), Exit::Done);
        assert_eq!(exit(Some("cancelled")), Exit::Done);
        assert_eq!(exit(Some("stuck")), Exit::Stuck);
    }
}
