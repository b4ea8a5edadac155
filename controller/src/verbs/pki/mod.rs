//! `ctl pki`: the cluster's certificate authority, and certificates for agents, operators and viewers: made, shown, renewed, revoked.

mod renew;
mod revoke;
mod status;

use crate::cli::Global;
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::out::Out;
use crate::pki::Shelf;
use crate::pki::authority::{Ca, Passphrase};
use crate::pki::card::{Card, moment};
use crate::pki::issue::{self, Days, Written};
use crate::pki::subject::Role;
use crate::words::local_date_s;
use clap::{Subcommand, value_parser};
use serde::Serialize;
use std::net::IpAddr;
use std::path::PathBuf;

const EXAMPLES: &str = "Examples:
  ctl pki init --cluster lab --dir pki --encrypt
  ctl pki agent calypso --address 192.168.2.80 --dir pki --out calypso     then copy calypso/* to /etc/lifeline on the node
  ctl pki operator alice --role operator --days 7 --dir pki --out ~/.config/lifeline
  ctl pki show calypso/agent.crt
  ctl pki status                           what expires when: the authority, your certificate, each agent's
  ctl pki renew                            your certificate and each agent's; keys are made where they are used
  ctl pki revoke lost-laptop/operator.crt  no agent serves it any more, in open connections either

Keep ca.key off the nodes and off everybody's laptop but yours: who has it can become an operator. --encrypt keeps it under a
passphrase; a key that is there already: openssl pkcs8 -topk8 -scrypt -in ca.key -out new.key, then chmod 600 and mv.";

const INIT: &str = "Examples:
  ctl pki init --cluster prod --dir ~/.config/lifeline/pki
  ctl pki init --cluster prod --dir pki --encrypt                             the passphrase is asked for
  ctl pki init --cluster prod --dir pki --encrypt --passphrase file:secret    of mode 0600

Files that are there already are left as they are, and that is an error.

Exit codes: 0 written, 1 failed, 2 usage";

const AGENT: &str = "Examples:
  ctl pki agent calypso --address 192.168.2.80 --dir pki --out calypso
  ctl pki agent styx --address 203.0.113.20 --address 2001:db8::20 --days 90 --dir pki --out styx

For a node that is set up by hand: its files go to /etc/lifeline there. ctl install has the key made on the node instead.

Exit codes: 0 written, 1 failed, 2 usage";

const OPERATOR: &str = "Examples:
  ctl pki operator alice --role operator --dir pki --out ~/.config/lifeline
  ctl pki operator bob --role viewer --days 30 --dir pki --out bob

Exit codes: 0 written, 1 failed, 2 usage";

const SHOW: &str = "Examples:
  ctl pki show ~/.config/lifeline/operator.crt
  ctl pki show calypso/agent.crt -o json | jq -r .serial

Exit codes: 0 shown, 1 it is no certificate, or cannot be read";

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
    #[command(after_help = INIT)]
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
        /// Encrypt the key with a passphrase, which every signature asks for
        #[arg(long)]
        encrypt: bool,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Issue an agent's certificate: agent.crt, agent.key and ca.crt
    #[command(after_help = AGENT)]
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
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Issue an operator's or a viewer's certificate: operator.crt, operator.key and ca.crt
    #[command(after_help = OPERATOR)]
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
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Say what expires when: the authority, your certificate, and the one each agent shows
    Status(status::Args),
    /// Renew your certificate and agents', before they expire
    Renew(renew::Args),
    /// Have agents refuse a certificate from now on
    Revoke(revoke::Args),
    /// Show what a certificate says
    #[command(after_help = SHOW)]
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
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    match &args.what {
        What::Init { cluster, dir, days, encrypt, passphrase } => {
            if passphrase.is_given() && !encrypt {
                return Err(CommandError::usage("use --passphrase without --encrypt")
                    .hinted("nothing was written"));
            }
            let passphrase = match encrypt {
                true => Some(passphrase.choose(out).await?),
                false => None,
            };
            written(&issue::init(cluster, dir, Days(*days), passphrase.as_ref())?, out)
        }
        What::Agent { node, addresses, dir, out: to, days, passphrase } => {
            let ca = Ca::open(dir, passphrase, out).await?;
            written(&issue::agent(node, addresses, &ca, to, Days(*days))?, out)
        }
        What::Operator { name, role, days, dir, out: to, passphrase } => {
            let ca = Ca::open(dir, passphrase, out).await?;
            let shelf = Shelf::in_dir(to, "operator");
            written(&issue::operator(name, *role, &ca, &shelf, Days(*days))?, out)
        }
        What::Status(args) => status::run(args, global, out).await,
        What::Renew(args) => renew::run(args, global, out).await,
        What::Revoke(args) => revoke::run(args, global, out).await,
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
        local_date_s(card.from_s),
        local_date_s(card.until_s),
        card.serial,
        card.issuer
    )
}
