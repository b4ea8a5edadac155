//! `ctl pki renew`: the operator's own certificate on the laptop, and each agent's over the wire. An agent's key is made on its node and
//! never leaves it; the new certificate counts once the agent shows it.

use crate::ask;
use crate::cli::Global;
use crate::config::Config;
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::out::{Out, columns};
use crate::pki::Shelf;
use crate::pki::authority::{Ca, Passphrase};
use crate::pki::card::{Card, moment};
use crate::pki::issue::{self, Days};
use crate::pki::subject::Role;
use crate::session::Session;
use crate::words::local_date_s;
use clap::value_parser;
use futures_util::StreamExt;
use serde::Serialize;
use std::path::PathBuf;

/// So many agents are renewed at a time.
const AT_ONCE: usize = 16;

const HELP: &str = "Examples:
  ctl pki renew                      your certificate, and the one of each agent
  ctl pki renew --operator           yours alone; it may have expired
  ctl pki renew calypso styx --days 90
  ctl pki renew --within 30 --yes    what ends within 30 days, as a timer would do it
  ctl pki renew --passphrase op://Infrastructure/lifeline/passphrase

An agent's new key is made on its node. It takes a certificate only if that is its authority's, for that key, its name and now;
else the old one serves on. An agent whose certificate has expired is not reached any more: ctl pki agent, or ctl install.

Exit codes: 0 renewed, or nothing had to be, 1 one was not, 2 usage";

/// Arguments of `ctl pki renew`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Nodes [default: all, and yourself]
    nodes: Vec<String>,
    /// Your own certificate
    #[arg(long)]
    operator: bool,
    /// Only what ends within so many days
    #[arg(long, value_name = "DAYS", value_parser = value_parser!(u16).range(1..=3650))]
    within: Option<u16>,
    /// How long the new ones are valid [default: 7 for yours, 365 for agents]
    #[arg(long, value_parser = value_parser!(u16).range(1..=3650))]
    days: Option<u16>,
    /// Where the authority is [default: pki beside ctl.toml]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    passphrase: Passphrase,
    /// Agree beforehand
    #[arg(long)]
    yes: bool,
}

/// `-o json`.
#[derive(Serialize)]
struct RenewJson {
    renewed: Vec<Renewed>,
}

#[derive(Serialize)]
struct Renewed {
    whose: String,
    /// `renewed`, `kept` (it is valid for longer), or `failed`.
    ending: &'static str,
    valid_until: Option<String>,
    /// The same, for people.
    #[serde(skip)]
    until_s: Option<i64>,
    serial: Option<String>,
    error: Option<String>,
}

/// Runs `ctl pki renew`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    if global.socket.is_some() {
        return Err(CommandError::usage(
            "renew over a unix socket: the certificate is not shown there, and the authority is not there",
        )
        .hinted("renew from the laptop; on the node alone: lifeline-agent request-certificate"));
    }
    let config = Config::load(global.config.as_deref())?;
    let dir = args.dir.clone().unwrap_or_else(|| config.path.with_file_name("pki"));
    let cluster = issue::cluster_of(&dir)?;
    if cluster != config.cluster {
        return Err(CommandError::usage(format!(
            "renew with {}: it is the authority of cluster {cluster}, and {} is for {}",
            dir.display(),
            config.path.display(),
            config.cluster
        )));
    }
    let mine = args.nodes.is_empty() || args.operator;
    let agents = !args.nodes.is_empty() || !args.operator;
    let what = match (mine, agents, &*args.nodes.join(", ")) {
        (true, true, "") => "your certificate and that of each agent".to_owned(),
        (true, true, named) => format!("your certificate and that of {named}"),
        (_, false, _) => "your certificate".to_owned(),
        (false, true, named) => format!("the certificate of {named}"),
    };
    if !ask::confirm(out, args.yes, &format!("Renew {what}?")).await? {
        out.say("Nothing was done.");
        out.json(&RenewJson { renewed: Vec::new() })?;
        return Ok(Exit::Done);
    }
    let ca = Ca::open(&dir, &args.passphrase, out).await?;
    let mut done = Vec::new();
    // First: agents are asked with it.
    if mine {
        done.push(own(args, &config, &ca)?);
    }
    if agents {
        let session = Session::open(global, out)?;
        let nodes = session.nodes(&args.nodes).await?;
        if let Some(unlisted) = session.unlisted() {
            out.error(&unlisted);
        }
        session.may_act("renew an agent's certificate")?;
        let work = nodes.iter().map(|node| {
            let (session, ca) = (&session, &ca);
            async move {
                match agent(args, session, ca, node).await {
                    Ok(done) => (done, None),
                    Err(why) => (row(node, "failed", None, Some(&why)), Some(why)),
                }
            }
        });
        let work: Vec<_> = futures_util::stream::iter(work).buffered(AT_ONCE).collect().await;
        for (row, why) in work {
            done.push(row);
            if let Some(why) = why {
                out.error(&why);
            }
        }
    }
    let or = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "-".to_owned());
    let cells = |r: &Renewed| {
        let until = r.until_s.map_or_else(|| "-".to_owned(), local_date_s);
        vec![r.whose.clone(), r.ending.to_owned(), until, or(&r.serial)]
    };
    let rows: Vec<_> = done.iter().map(cells).collect();
    out.print(columns(&["WHOSE", "RESULT", "VALID UNTIL", "SERIAL"], &rows));
    let failed = done.iter().any(|r| r.ending == "failed");
    out.json(&RenewJson { renewed: done })?;
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

fn row(
    whose: &str,
    ending: &'static str,
    card: Option<&Card>,
    why: Option<&CommandError>,
) -> Renewed {
    Renewed {
        whose: whose.to_owned(),
        ending,
        valid_until: card.map(|c| moment(c.until_s)),
        until_s: card.map(|c| c.until_s),
        serial: card.map(|c| c.serial.clone()),
        error: why.map(ToString::to_string),
    }
}

/// Does it end so late that it is left alone?
fn lasts(args: &Args, card: &Card) -> bool {
    let left = card.until_s - jiff::Timestamp::now().as_second();
    args.within.is_some_and(|days| left > i64::from(days) * 86_400)
}

fn own(args: &Args, config: &Config, ca: &Ca) -> Result<Renewed, CommandError> {
    let tls = config.tls()?;
    let old = Card::from_file(&tls.cert)?;
    let me = old.whose().filter(|s| s.role != Role::Agent && s.cluster == config.cluster);
    let me = me.ok_or_else(|| {
        CommandError::usage(format!(
            "renew {}: it is no operator's and no viewer's certificate of cluster {}",
            tls.cert.display(),
            config.cluster
        ))
    })?;
    if lasts(args, &old) {
        return Ok(row(&me.name, "kept", Some(&old), None));
    }
    let shelf = Shelf { cert: tls.cert.clone(), key: tls.key.clone(), ca: tls.ca.clone() };
    let days = Days(args.days.unwrap_or(7));
    let new = issue::operator(&me.name, me.role, ca, &shelf, days)?;
    Ok(row(&me.name, "renewed", Some(&new.card), None))
}

async fn agent(
    args: &Args,
    session: &Session,
    ca: &Ca,
    node: &str,
) -> Result<Renewed, CommandError> {
    let (card, why) = session.shown(node).await;
    let old = match (card, why) {
        (Some(card), None) => card,
        (_, why) => {
            let none = || CommandError::failed(format!("renew {node}: it shows no certificate"));
            return Err(why.unwrap_or_else(none));
        }
    };
    if lasts(args, &old) {
        return Ok(row(node, "kept", Some(&old), None));
    }
    let agent = session.agent(node).await?;
    let request = agent.request_certificate().await?;
    // The names are those it had, which were believed a moment ago.
    let days = Days(args.days.unwrap_or(365));
    let signed = issue::signed(node, &old.addresses, ca, &request, days)?;
    agent.take_certificate(signed.cert).await?;
    let (new, why) = session.shown(node).await;
    match (new, why) {
        (Some(new), None) if new.serial != old.serial => Ok(row(node, "renewed", Some(&new), None)),
        (_, Some(why)) => Err(why),
        (_, None) => Err(CommandError::failed(format!(
            "renew {node}: its agent took the certificate, and still shows the old one"
        ))),
    }
}
