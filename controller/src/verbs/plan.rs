//! `ctl plan`: what a heal would do, rung by rung; touches nothing.

use crate::error::Outcome;
use crate::exit::Exit;
use crate::plan_view;
use crate::session::Session;

const HELP: &str = "Examples:
  ctl plan calypso
  ctl plan calypso -o json | jq '.rungs[].steps[].what'

Nothing on the node is touched. Rungs after the first are a forecast: each is planned anew when it is needed.

Exit codes: 0 shown, 1 failed, 2 usage";

/// Arguments of `ctl plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
}

/// Runs `ctl plan`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    let agent = session.agent(&args.node).await?;
    let plan = agent.plan().await?;
    session.out.print(plan_view::render(&agent.node, &plan, None, session.out.result));
    session.out.json(&plan_view::json(&plan))?;
    Ok(Exit::Done)
}
