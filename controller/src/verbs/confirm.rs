//! `ctl confirm`: keeps what a reset did, which is undone otherwise. It goes the way an operator goes: who has cut himself off
//! cannot confirm.

use crate::error::Outcome;
use crate::exit::Exit;
use crate::session::Session;
use serde::Serialize;

const HELP: &str = "Examples:
  ctl confirm calypso calypso-7.1-reset

A reset (rung 5) is undone by the node itself unless it is confirmed in time; `ctl heal` and `ctl watch` show the run's name.
What is confirmed stays until it is undone: ctl undo NODE RUN

Exit codes: 0 confirmed, 1 failed or too late, 2 usage";

/// Arguments of `ctl confirm`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// The run
    run: String,
}

/// `-o json`.
#[derive(Serialize)]
struct ConfirmJson<'a> {
    node: &'a str,
    run: &'a str,
    confirmed: bool,
}

/// Runs `ctl confirm`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    session.may_act(&format!("confirm {} on {}", args.run, args.node))?;
    let agent = session.agent(&args.node).await?;
    agent.confirm(&args.run).await?;
    session
        .out
        .print(format!("run {} of {} is confirmed: what it did stays", args.run, agent.node));
    session.out.json(&ConfirmJson { node: &agent.node, run: &args.run, confirmed: true })?;
    Ok(Exit::Done)
}
