//! `ctl pki status`: what expires when, and which agent does not know yet of a certificate that is denied elsewhere.

use crate::cli::Global;
use crate::config::Config;
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::out::{Out, Tone, columns};
use crate::pki::card::{Card, moment};
use crate::session::Session;
use crate::words::local_date_s;
use clap::value_parser;
use futures_util::StreamExt;
use serde::Serialize;
use std::collections::BTreeSet;

/// So many agents are looked at at a time.
const AT_ONCE: usize = 32;

const HELP: &str = "Examples:
  ctl pki status
  ctl pki status calypso --within 30
  ctl pki status -o json | jq -r '.certificates[] | select(.state != \"valid\") | .whose'

Warned of is what ends within 60 days (the authority), 14 days (an agent), 2 days (your own), or --within.

Exit codes: 0 all are valid for longer, 1 one could not be looked at, 2 usage, 3 one has expired or will soon";

/// Arguments of `ctl pki status`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Nodes [default: all]
    nodes: Vec<String>,
    /// Warn of what ends within so many days
    #[arg(long, value_name = "DAYS", value_parser = value_parser!(u16).range(..=3650))]
    within: Option<u16>,
}

/// `-o json`.
#[derive(Serialize)]
struct StatusJson {
    certificates: Vec<Row>,
    /// Serial numbers that an agent refuses, and agents that do not refuse them.
    denied: Vec<Denied>,
}

#[derive(Serialize)]
struct Row {
    whose: String,
    /// `valid`, `soon`, `expired`, `not-yet`, or `unknown`: it could not be looked at.
    state: &'static str,
    valid_until: Option<String>,
    until_s: Option<i64>,
    serial: Option<String>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Denied {
    serial: String,
    missing_at: Vec<String>,
}

/// Runs `ctl pki status`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    if global.socket.is_some() {
        return Err(CommandError::usage(
            "look at certificates over a unix socket: none is shown there",
        )
        .hinted("on the node: ctl pki show /etc/lifeline/agent.crt"));
    }
    let config = Config::load(global.config.as_deref())?;
    let tls = config.tls()?;
    let mut errors = Vec::new();
    let mut rows = Vec::new();
    let within = |usual| args.within.unwrap_or(usual);
    for (whose, path, days) in [("authority", &tls.ca, 60), ("you", &tls.cert, 2)] {
        let (card, why) = match Card::from_file(path) {
            Ok(card) => (Some(card), None),
            Err(why) => (None, Some(CommandError::from(why))),
        };
        let name = card.as_ref().and_then(Card::whose);
        let whose =
            name.map_or_else(|| whose.to_owned(), |s| format!("{} {}", s.role.word(), s.name));
        rows.push(row(whose, card, why, within(days), &mut errors));
    }
    let mut denied = Vec::new();
    match Session::open(global, out) {
        Ok(session) => {
            let nodes = session.nodes(&args.nodes).await?;
            let looks = nodes.iter().map(|node| {
                let session = &session;
                async move { (node, session.shown(node).await, session.agent(node).await) }
            });
            let looks: Vec<_> = futures_util::stream::iter(looks).buffered(AT_ONCE).collect().await;
            let mut lists = Vec::new();
            for (node, (card, why), agent) in looks {
                rows.push(row(format!("agent {node}"), card, why, within(14), &mut errors));
                // Why it cannot be asked is mostly what was said of its certificate.
                if let Ok(agent) = agent {
                    lists.push((node.clone(), agent.status.denied_serials));
                }
            }
            denied = compare(&lists);
            errors.extend(session.unlisted());
        }
        Err(why) => {
            out.say("No agent was asked:");
            errors.push(why);
        }
    }
    let head = ["WHOSE", "STATE", "VALID UNTIL", "SERIAL"];
    let cells: Vec<_> = rows.iter().map(|r| cells(r, out)).collect();
    out.print(columns(&head, &cells));
    for d in denied.iter().filter(|d| !d.missing_at.is_empty()) {
        let at = d.missing_at.join(" --node ");
        out.say(format!(
            "{} is denied elsewhere, and not here: ctl pki revoke {0} --node {at}",
            d.serial
        ));
    }
    let bad = rows.iter().any(|r| !matches!(r.state, "valid" | "unknown"));
    let partly = denied.iter().any(|d| !d.missing_at.is_empty());
    out.json(&StatusJson { certificates: rows, denied })?;
    let failed = !errors.is_empty();
    for why in errors {
        out.error(&why);
    }
    Ok(match (failed, bad || partly) {
        (true, _) => Exit::Failed,
        (false, true) => Exit::Unhealthy,
        (false, false) => Exit::Done,
    })
}

/// What is to be said of one certificate. One that has expired is no error of ours: it is what was asked for.
fn row(
    whose: String,
    card: Option<Card>,
    why: Option<CommandError>,
    days: u16,
    errors: &mut Vec<CommandError>,
) -> Row {
    let now = jiff::Timestamp::now().as_second();
    let state = card.as_ref().map(|c| match c.until_s - now {
        ..=0 => "expired",
        _ if c.from_s > now => "not-yet",
        left if left < i64::from(days) * 86_400 => "soon",
        _ => "valid",
    });
    let error = why.as_ref().map(ToString::to_string);
    let said = matches!(state, Some("expired" | "not-yet"));
    errors.extend(why.filter(|_| !said));
    let state = if error.is_some() && !said { "unknown" } else { state.unwrap_or("unknown") };
    Row {
        whose,
        state,
        valid_until: card.as_ref().map(|c| moment(c.until_s)),
        until_s: card.as_ref().map(|c| c.until_s),
        serial: card.map(|c| c.serial),
        error,
    }
}

fn cells(row: &Row, out: Out) -> Vec<String> {
    let tone = match row.state {
        "valid" => Tone::Good,
        "expired" | "not-yet" => Tone::Bad,
        _ => Tone::Warn,
    };
    let or = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "-".to_owned());
    let state = out.result.tone(tone, row.state);
    let until = row.until_s.map_or_else(|| "-".to_owned(), local_date_s);
    vec![row.whose.clone(), state, until, or(&row.serial)]
}

/// A denial that reached one agent and not another is half a denial.
fn compare(lists: &[(String, Vec<String>)]) -> Vec<Denied> {
    let all: BTreeSet<_> = lists.iter().flat_map(|(_, l)| l).collect();
    let missing = |serial: &String| {
        lists.iter().filter(|(_, l)| !l.contains(serial)).map(|(n, _)| n.clone()).collect()
    };
    all.into_iter().map(|s| Denied { serial: s.clone(), missing_at: missing(s) }).collect()
}
