//! `ctl history`: a node's past incidents, newest first.

use crate::error::Outcome;
use crate::exit::Exit;
use crate::out::columns;
use crate::session::Session;
use crate::words::{date, local_date};
use serde::Serialize;

const HELP: &str = "Examples:
  ctl history calypso
  ctl history calypso --limit 5 -o json

Exit codes: 0 listed, 1 failed, 2 usage";

/// Arguments of `ctl history`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// How many at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

/// `-o json`.
#[derive(Serialize)]
struct HistoryJson {
    node: String,
    incidents: Vec<ItemJson>,
}

#[derive(Serialize)]
struct ItemJson {
    incident: String,
    /// UTC.
    opened: String,
    by: String,
    /// `null` while it goes on.
    ending: Option<String>,
    runs: Vec<String>,
    findings: Vec<String>,
}

/// Runs `ctl history`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    let agent = session.agent(&args.node).await?;
    let items = agent.history(args.limit).await?;
    let opened: Vec<_> = items.iter().map(|i| local_date(i.opened_wall_ms)).collect();
    let incidents: Vec<_> = items
        .into_iter()
        .map(|i| ItemJson {
            incident: i.incident,
            opened: date(i.opened_wall_ms),
            by: i.by,
            ending: (!i.ending.is_empty()).then_some(i.ending),
            runs: i.runs,
            findings: i.findings,
        })
        .collect();
    let row = |(i, opened): (&ItemJson, &String)| {
        let ending = i.ending.clone().unwrap_or_else(|| "under way".into());
        vec![
            i.incident.clone(),
            opened.clone(),
            i.by.clone(),
            ending,
            i.runs.join(" "),
            i.findings.join(" "),
        ]
    };
    session.out.print(match incidents.as_slice() {
        [] => format!("{} has had no incident", agent.node),
        some => columns(
            &["INCIDENT", "OPENED", "BY", "ENDING", "RUNS", "FOUND"],
            &some.iter().zip(&opened).map(row).collect::<Vec<_>>(),
        ),
    });
    session.out.json(&HistoryJson { node: agent.node, incidents })?;
    Ok(Exit::Done)
}
