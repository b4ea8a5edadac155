//! `ctl pki revoke`: agents refuse a certificate from now on, in open connections too, and remember it.

use crate::ask;
use crate::cli::Global;
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::out::{Out, columns};
use crate::pki::card::Card;
use crate::pki::subject::Role;
use crate::session::Session;
use futures_util::StreamExt;
use serde::Serialize;
use std::path::Path;

/// So many agents are told at a time.
const AT_ONCE: usize = 64;

const HELP: &str = "Examples:
  ctl pki revoke lost-laptop/operator.crt           a certificate's file, at every node
  ctl pki revoke 2b:26:7f:2f --yes                  a serial number, as ctl pki show prints it
  ctl pki revoke 2b:26:7f:2f --node calypso         where the first time did not lead

Each agent writes it down before it answers, and journals who asked. A denial is not taken back: issue a new certificate.

Exit codes: 0 every agent refuses it, 1 one could not be told, 2 usage";

/// Arguments of `ctl pki revoke`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Serial numbers, or files of certificates
    #[arg(required = true, value_name = "SERIAL|FILE")]
    what: Vec<String>,
    /// A node whose agent is told; may be repeated [default: all]
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<String>,
    /// Agree beforehand
    #[arg(long)]
    yes: bool,
}

/// `-o json`.
#[derive(Serialize)]
struct RevokeJson {
    serials: Vec<String>,
    nodes: Vec<NodeJson>,
}

#[derive(Serialize)]
struct NodeJson {
    node: String,
    denied: bool,
    error: Option<String>,
}

/// Runs `ctl pki revoke`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    let serials = args.what.iter().map(|w| serial(w)).collect::<Result<Vec<_>, _>>()?;
    let session = Session::open(global, out)?;
    session.may_act("revoke a certificate")?;
    let own = session.config.as_ref().and_then(|c| Card::from_file(&c.tls().ok()?.cert).ok());
    if let Some(own) = own.filter(|_| global.socket.is_none())
        && serials.iter().any(|s| bare(s) == bare(&own.serial))
    {
        return Err(CommandError::usage(format!(
            "revoke {}: it is the certificate you act with, and you would shut yourself out",
            own.serial
        ))
        .hinted("issue yourself another one first: ctl pki renew --operator"));
    }
    let nodes = session.nodes(&args.nodes).await?;
    // A certificate that is welcome at a node nobody thought of is not revoked.
    if let Some(unlisted) = session.unlisted() {
        return Err(unlisted.hinted("nothing was done; say which nodes: --node NAME"));
    }
    let at = match &nodes[..] {
        [one] if !one.is_empty() => one.clone(),
        [_] => "this node".to_owned(),
        all => format!("{} nodes", all.len()),
    };
    let question = format!("Have {} refused at {at} for good?", serials.join(", "));
    if !ask::confirm(out, args.yes, &question).await? {
        out.say("Nothing was done.");
        let why = || Some("it was not agreed to".to_owned());
        let kept = |node: String| NodeJson { node, denied: false, error: why() };
        out.json(&RevokeJson { serials, nodes: nodes.into_iter().map(kept).collect() })?;
        return Ok(Exit::Done);
    }
    let told = nodes.iter().map(|node| {
        let (session, serials) = (&session, serials.clone());
        async move {
            let agent = session.agent(node).await?;
            let all = agent.deny(serials.clone()).await?;
            let missing = serials.iter().find(|s| !all.iter().any(|a| bare(a) == bare(s)));
            match missing {
                Some(s) => Err(CommandError::failed(format!(
                    "revoke {s} at {}: it says yes and does not list it",
                    agent.node
                ))),
                None => Ok(agent.node),
            }
        }
    });
    let told: Vec<_> = futures_util::stream::iter(told).buffered(AT_ONCE).collect().await;
    let (mut rows, mut list, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (node, told) in nodes.iter().zip(told) {
        match told {
            Ok(node) => {
                rows.push(vec![node.clone(), "refuses it from now on".to_owned()]);
                list.push(NodeJson { node, denied: true, error: None });
            }
            Err(why) => {
                rows.push(vec![node.clone(), "could not be told".to_owned()]);
                let error = Some(why.to_string());
                list.push(NodeJson { node: node.clone(), denied: false, error });
                errors.push(why);
            }
        }
    }
    out.print(columns(&["NODE", "RESULT"], &rows));
    let left: Vec<_> = list.iter().filter(|n| !n.denied).map(|n| n.node.clone()).collect();
    out.json(&RevokeJson { serials: serials.clone(), nodes: list })?;
    for why in &errors {
        out.error(why);
    }
    if left.is_empty() {
        return Ok(Exit::Done);
    }
    let (serials, left) = (serials.join(" "), left.join(" --node "));
    out.say(format!(
        "There it is still welcome; again later: ctl pki revoke {serials} --node {left}"
    ));
    Ok(Exit::Failed)
}

/// A number as it is, or the one in a file. An agent's own certificate is refused by nobody who calls it: that is said.
fn serial(what: &str) -> Result<String, CommandError> {
    if Path::new(what).exists() {
        let card = Card::from_file(Path::new(what))?;
        return match card.whose() {
            Some(s) if s.role != Role::Agent => Ok(card.serial),
            _ => Err(CommandError::usage(format!(
                "revoke {what}: it is no operator's and no viewer's certificate, and agents refuse only who calls them"
            ))
            .hinted("a node's stolen key: ctl uninstall and ctl install it anew; a stolen authority: begin a new one")),
        };
    }
    let digits = bare(what);
    if digits.is_empty() || digits.len() > 40 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(CommandError::usage(format!(
            "revoke {what}: it is no file that is there, and no serial number such as 1a:2b"
        ))
        .hinted("ctl pki show FILE says a certificate's serial number"));
    }
    Ok(what.to_owned())
}

/// However it is written.
fn bare(serial: &str) -> String {
    let digits: String = serial.chars().filter(|c| *c != ':').collect();
    digits.trim_start_matches("0x").trim_start_matches('0').to_ascii_lowercase()
}
