//! `ctl pki`: the cluster's certificate authority, and certificates for agents, operators and viewers.

use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::out::Out;
use crate::pki::card::{Card, moment};
use crate::pki::issue::{self, Days, Written};
use crate::pki::subject::Role;
use clap::{Subcommand, value_parser};
use serde::Serialize;
use std::net::IpAddr;
use std::path::PathBuf;

const EXAMPLES: &str = "Examples:
  ctl pki init --cluster lab --dir pki
  ctl pki agent calypso --address 192.168.2.80 --dir pki --out calypso     then copy calypso/* to /etc/lifeline on the node
  ctl pki operator alice --role operator --days 7 --dir pki --out ~/.config/lifeline
  ctl pki show calypso/agent.crt

Keep ca.key off the nodes and off everybody's laptop but yours: who has it can become an operator.";

/// Arguments of `ctl pki`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Create a cluster's certificate authority: ca.crt and ca.key
    Init {
        /// The cluster's name
        #[arg(long)]
        cluster: String,
        /// Where to put it
        #[arg(long)]
        dir: PathBuf,
        /// How long it is valid
        #[arg(long, default_value_t = 3650, value_parser = value_parser!(u16).range(1..=7300))]
        days: u16,
    },
    /// Issue an agent's certificate: agent.crt, agent.key and ca.crt
    Agent {
        /// The node's name in Kubernetes
        node: String,
        /// An address it is reached at; may be repeated
        #[arg(long = "address", required = true)]
        addresses: Vec<IpAddr>,
        /// Where the authority is
        #[arg(long)]
        dir: PathBuf,
        /// Where to put the files
        #[arg(long)]
        out: PathBuf,
        /// How long it is valid
        #[arg(long, default_value_t = 365, value_parser = value_parser!(u16).range(1..=3650))]
        days: u16,
    },
    /// Issue an operator's or a viewer's certificate: operator.crt, operator.key and ca.crt
    Operator {
        /// Whose: it stands in every journal
        name: String,
        /// What they may do: a viewer looks, an operator acts
        #[arg(long, value_enum)]
        role: Role,
        /// How long it is valid; 0 has expired when it is written, for drills
        #[arg(long, default_value_t = 7, value_parser = value_parser!(u16).range(..=3650))]
        days: u16,
        /// Where the authority is
        #[arg(long)]
        dir: PathBuf,
        /// Where to put the files
        #[arg(long)]
        out: PathBuf,
    },
    /// Show what a certificate says
    Show {
        /// A PEM file
        file: PathBuf,
    },
}

/// `-o json` of `init`, `agent` and `operator`.
#[derive(Serialize)]
struct WrittenJson<'a> {
    certificate: String,
    key: String,
    #[serde(flatten)]
    card: CardJson<'a>,
}

/// `-o json` of `show`.
#[derive(Serialize)]
struct CardJson<'a> {
    /// `authority`, `agent`, `operator`, `viewer`, or `unknown`.
    kind: &'static str,
    cluster: Option<String>,
    name: Option<String>,
    valid_from: String,
    valid_until: String,
    expired: bool,
    #[serde(flatten)]
    card: &'a Card,
}

/// Runs `ctl pki`.
pub fn run(args: &Args, out: Out) -> Outcome {
    match &args.what {
        What::Init { cluster, dir, days } => written(&issue::init(cluster, dir, Days(*days))?, out),
        What::Agent { node, addresses, dir, out: to, days } => {
            written(&issue::agent(node, addresses, dir, to, Days(*days))?, out)
        }
        What::Operator { name, role, days, dir, out: to } => {
            written(&issue::operator(name, *role, dir, to, Days(*days))?, out)
        }
        What::Show { file } => {
            let card = Card::from_file(file)?;
            out.print(table(&card));
            out.json(&json(&card))?;
            Ok(Exit::Done)
        }
    }
}

fn written(files: &Written, out: Out) -> Outcome {
    let (cert, key) = (files.cert.display().to_string(), files.key.display().to_string());
    out.print(format!("{}\ncertificate  {cert}\nkey          {key}", table(&files.card)));
    out.json(&WrittenJson { certificate: cert, key, card: json(&files.card) })?;
    Ok::<_, CommandError>(Exit::Done)
}

fn json(card: &Card) -> CardJson<'_> {
    let whose = card.whose();
    CardJson {
        kind: match (&whose, card.authority()) {
            (Some(s), _) => s.role.word(),
            (None, Some(_)) => "authority",
            (None, None) => "unknown",
        },
        cluster: whose
            .as_ref()
            .map(|s| s.cluster.clone())
            .or_else(|| card.authority().map(Into::into)),
        name: whose.map(|s| s.name),
        valid_from: moment(card.from_s),
        valid_until: moment(card.until_s),
        expired: card.until_s < jiff::Timestamp::now().as_second(),
        card,
    }
}

fn table(card: &Card) -> String {
    let view = json(card);
    let who = match (&view.name, &view.cluster) {
        (Some(name), Some(cluster)) => format!("{} {name} of cluster {cluster}", view.kind),
        (None, Some(cluster)) => format!("authority of cluster {cluster}"),
        _ => format!("none of Lifeline's ({})", card.subject),
    };
    let may = match (card.ca, card.server, card.client) {
        (true, ..) => "sign certificates",
        (_, true, true) => "serve and call",
        (_, true, false) => "serve",
        (_, false, true) => "call",
        (_, false, false) => "neither serve nor call",
    };
    let names = card.dns.iter().cloned().chain(card.addresses.iter().map(ToString::to_string));
    let names = names.chain(card.uris.iter().cloned()).collect::<Vec<_>>().join(", ");
    let expired = if view.expired { "  EXPIRED" } else { "" };
    format!(
        "whose        {who}\nmay          {may}\nnames        {names}\nvalid        {} to {}{expired}\nserial       {}\nissuer       {}",
        view.valid_from, view.valid_until, card.serial, card.issuer
    )
}
