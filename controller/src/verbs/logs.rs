//! `ctl logs`: what a node's agent told its journal, and what it tells from now on.

use crate::agent::{Agent, AgentError};
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::{Format, Out, Tone};
use crate::session::Session;
use crate::words;
use clap::value_parser;
use lifeline_proto::v1 as wire;
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two questions while it is followed.
const PACE: Duration = Duration::from_secs(1);
/// An agent that is being restarted is there again within this.
const GONE: Duration = Duration::from_secs(120);

const HELP: &str = "Examples:
  ctl logs calypso                     the newest 200 lines
  ctl logs calypso --since 10m
  ctl logs calypso --follow            and what comes, until Ctrl-C
  ctl logs calypso -o jsonl | jq -r 'select(.priority <= 4).text'

Times are this machine's, with their offset; those of -o json are UTC. It names processes and addresses: a viewer does not see it.

Exit codes: 0 done, 1 the agent could not be asked or does not say, 2 usage";

/// Arguments of `ctl logs`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// Only what is not older
    #[arg(long, value_name = "SPAN", value_parser = words::span)]
    since: Option<Duration>,
    /// The newest so many lines
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u32).range(1..=2000))]
    lines: u32,
    /// Go on with what comes, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
}

/// `-o json`.
#[derive(Serialize)]
struct LogsJson {
    lines: Vec<LineJson>,
}

#[derive(Serialize)]
struct LineJson {
    time: String,
    /// As syslog counts: 3 and less is an error, 4 a warning.
    priority: u32,
    text: String,
}

/// Runs `ctl logs`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    let out = session.out;
    if args.follow && matches!(out.format, Format::Json | Format::Yaml) {
        return Err(CommandError::usage("follow a log as one document: it never ends")
            .hinted("one line for each: -o jsonl"));
    }
    session.may_act(&format!("read the log of {}", args.node))?;
    let agent = session.agent(&args.node).await?;
    let since_s = args.since.map_or(0, |s| s.as_secs().max(1));
    let first = wire::LogsRequest { since_s, cursor: String::new(), lines: args.lines };
    let page = agent.logs(first).await?;
    if page.cut {
        out.say(format!(
            "There may be more than these {}: --lines",
            words::count(page.lines.len(), "line")
        ));
    }
    show(out, &page)?;
    match args.follow {
        true => follow(args, session, agent, page.cursor).await,
        false => Ok(Exit::Done),
    }
}

/// Shows what comes, until Ctrl-C.
async fn follow(args: &Args, session: &Session, mut agent: Agent, mut cursor: String) -> Outcome {
    let out = session.out;
    let mut gone: Option<Instant> = None;
    loop {
        if interruptible(sleep(PACE)).await.is_none() {
            return Ok(Exit::Done);
        }
        let next = wire::LogsRequest { since_s: 0, cursor: cursor.clone(), lines: 2000 };
        match agent.logs(next).await {
            Ok(page) => {
                if gone.take().is_some() {
                    out.say("It answers again.");
                }
                if page.cut {
                    out.say("It tells more than can be followed: some lines are left out here.");
                }
                cursor.clone_from(&page.cursor);
                show(out, &page)?;
            }
            Err(why) if why.is_lost() => {
                let since = *gone.get_or_insert_with(|| {
                    out.say(format!("{why}; asking on"));
                    Instant::now()
                });
                again(session, args, since, why, &mut agent).await?;
            }
            Err(why) => return Err(why.into()),
        }
    }
}

/// Reaches the agent anew, unless it has been away for too long.
async fn again(
    session: &Session,
    args: &Args,
    since: Instant,
    why: AgentError,
    agent: &mut Agent,
) -> Result<(), CommandError> {
    if since.elapsed() > GONE {
        return Err(why.into());
    }
    if let Ok(there) = session.agent(&args.node).await {
        *agent = there;
    }
    Ok(())
}

fn show(out: Out, page: &wire::LogsReply) -> Result<(), CommandError> {
    let (lines, local): (Vec<_>, Vec<_>) =
        page.lines.iter().map(|l| (line(l), words::local_date(l.wall_ms))).unzip();
    if lines.is_empty() && out.format != Format::Json && out.format != Format::Yaml {
        return Ok(());
    }
    for (l, at) in lines.iter().zip(&local) {
        let tone = match l.priority {
            0..=3 => Some(Tone::Bad),
            4 => Some(Tone::Warn),
            _ => None,
        };
        let text = tone.map_or_else(|| l.text.clone(), |t| out.result.tone(t, &l.text));
        out.print(format!("{at}  {text}"));
    }
    out.json(&LogsJson { lines })
}

/// Its words are a stranger's to this terminal.
fn line(line: &wire::LogLine) -> LineJson {
    let text = line.text.chars().filter(|c| !c.is_control()).collect();
    LineJson { time: words::date(line.wall_ms), priority: line.priority, text }
}
