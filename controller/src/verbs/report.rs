//! `ctl report`: an incident told as Markdown, from its journals alone.

use crate::error::Outcome;
use crate::exit::Exit;
use crate::files::{self, Present};
use crate::follow::replay;
use crate::out::Format;
use crate::record::RunJson;
use crate::session::Session;
use serde::Serialize;
use std::path::PathBuf;

const HELP: &str = "Examples:
  ctl report calypso                       the newest incident, on the terminal
  ctl report calypso i-1 --out incident.md

The report names programs, rules and addresses of the node; keys and passwords are blanked out.

Exit codes: 0 told, 1 failed, 2 usage";

/// Arguments of `ctl report`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// The incident [default: the one under way, or the newest]
    #[arg(default_value = "", hide_default_value = true)]
    incident: String,
    /// Write it to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// `-o json`.
#[derive(Serialize)]
struct ReportJson<'a> {
    node: &'a str,
    incident: &'a str,
    /// `null` while it goes on.
    ending: Option<&'a str>,
    runs: Vec<RunJson>,
    markdown: &'a str,
    file: Option<String>,
}

/// Runs `ctl report`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    let agent = session.agent(&args.node).await?;
    let record = replay(&agent, &agent.incident(&args.incident).await?).await?;
    let text = record.markdown(&agent.node, &[]);
    let out = session.out;
    if record.strange > 0 {
        out.say(format!(
            "{} lines of a newer agent could not be read and are not in the report.",
            record.strange
        ));
    }
    if record.withheld > 0 {
        out.say("Viewers are told what happened, not the journals: what each step did is not in the report.");
    }
    if let Some(file) = &args.out {
        files::write(file, &text, 0o644, Present::Replace)?;
        out.print(file.display().to_string());
    } else if out.format == Format::Table {
        out.document(&text);
    }
    out.json(&ReportJson {
        node: &agent.node,
        incident: &record.incident,
        ending: record.ending(),
        runs: record.json(),
        markdown: &text,
        file: args.out.as_ref().map(|f| f.display().to_string()),
    })?;
    Ok(Exit::Done)
}
