//! `ctl watch`: an incident's lines from the first on, and on to its end.

use crate::error::Outcome;
use crate::exit::Exit;
use crate::follow::{Stopped, follow};
use crate::interrupt::interruptible;
use crate::out::{Format, Paint, Tone};
use crate::record::{Line, Record, RunJson};
use crate::session::Session;
use crate::words;
use serde::Serialize;
use std::time::Duration;

const HELP: &str = "Examples:
  ctl watch calypso              the incident under way, or the newest
  ctl watch calypso i-20251013-1

Ctrl-C stops the watching, never the agent.

Exit codes: 0 recovered, 1 failed, 2 usage, 3 not healthy or rolled back, 4 stuck, 5 stopped watching before its end";

/// Arguments of `ctl watch`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// The incident [default: the one under way, or the newest]
    #[arg(default_value = "", hide_default_value = true)]
    incident: String,
    /// How long to watch at most
    #[arg(long, default_value = "1h", value_parser = words::span, value_name = "SPAN")]
    limit: Duration,
}

/// `-o json`: one document at the end.
#[derive(Serialize)]
struct WatchJson<'a> {
    node: &'a str,
    incident: &'a str,
    /// `null` when it was still under way.
    ending: Option<&'a str>,
    text: Option<&'a str>,
    runs: Vec<RunJson>,
    lines: Vec<Line>,
}

/// Runs `ctl watch`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    let mut agent = session.agent(&args.node).await?;
    let mut record = Record::new(&agent.incident(&args.incident).await?);
    let mut lines = Vec::new();
    let out = session.out;
    let live = |line: &Line| {
        // For people the lines *are* the result.
        if out.format == Format::Table {
            out.print(show(line, out.result));
        }
        lines.push(line.clone());
    };
    let watching = follow(session, &mut agent, &mut record, args.limit, live);
    let ended = match interruptible(watching).await {
        Some(stopped) => stopped? == Stopped::Ended,
        None => false,
    };
    out.json(&WatchJson {
        node: &agent.node,
        incident: &record.incident,
        ending: record.ending(),
        text: record.end.as_ref().map(|e| e.text.as_str()),
        runs: record.json(),
        lines,
    })?;
    if !ended {
        out.say(
            format!("it goes on at {}; watch again: ctl watch {0} {}", agent.node, args.incident)
                .trim_end(),
        );
        return Ok(Exit::TimedOut);
    }
    Ok(exit(record.ending()))
}

/// The exit code of an incident's ending.
pub fn exit(ending: Option<&str>) -> Exit {
    match ending {
        Some("recovered") => Exit::Done,
        Some("stuck") => Exit::Stuck,
        Some(_) => Exit::Unhealthy,
        None => Exit::TimedOut,
    }
}

/// A line with its clock and its part.
pub fn show(line: &Line, paint: Paint) -> String {
    format!(
        "{}  {:<9}  {}",
        paint.tone(Tone::Dim, words::local_clock(line.wall_ms)),
        line.part,
        line.text
    )
}
