//! `ctl baseline`: what a node looks like when it is well; shown, accepted as it is now, or forgotten.

use crate::ask;
use crate::error::Outcome;
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::columns;
use crate::session::Session;
use crate::words::local_date;
use clap::Subcommand;
use lifeline_core::baseline::{Baseline, Provenance, Role};
use lifeline_proto::v1::baseline_request::Verb;
use serde::Serialize;

const HELP: &str = "Examples:
  ctl baseline show calypso
  ctl baseline accept calypso       a change that is meant so: a new gateway, a deliberate VPN
  ctl baseline reset calypso        forget it; until a new one is learnt the agent only guards

Exit codes: 0 done, 1 failed, 2 usage, or nobody to ask and no --yes, 3 not agreed to";

const SHOW: &str = "Examples:
  ctl baseline show calypso
  ctl baseline show calypso -o json | jq -r '.differences[]'

Exit codes: 0 shown, 1 failed, 2 usage";

const ACCEPT: &str = "Examples:
  ctl baseline accept calypso
  ctl baseline accept calypso --yes     for scripts

Exit codes: 0 done, 1 failed, 2 usage, or nobody to ask and no --yes, 3 not agreed to";

const RESET: &str = "Examples:
  ctl baseline reset calypso
  ctl baseline reset calypso --yes      for scripts

Exit codes: 0 done, 1 failed, 2 usage, or nobody to ask and no --yes, 3 not agreed to";

/// Arguments of `ctl baseline`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show it, and what differs from it now
    #[command(after_help = SHOW)]
    Show {
        /// The node
        node: String,
    },
    /// Take the node as it is now for healthy
    #[command(after_help = ACCEPT)]
    Accept {
        /// The node
        node: String,
        /// Agree beforehand
        #[arg(long)]
        yes: bool,
    },
    /// Forget it; the agent learns a new one when all is well
    #[command(after_help = RESET)]
    Reset {
        /// The node
        node: String,
        /// Agree beforehand
        #[arg(long)]
        yes: bool,
    },
}

/// `-o json`.
#[derive(Serialize)]
struct BaselineJson<'a> {
    node: &'a str,
    /// As the agent wrote it: `lifeline_core::baseline::Baseline`.
    baseline: &'a Baseline,
    /// What differs between it and the node now.
    differences: &'a [String],
}

/// Runs `ctl baseline`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    let (node, verb, question) = match &args.what {
        What::Show { node } => (node, Verb::Show, None),
        What::Accept { node, yes } => {
            (node, Verb::Accept, Some((*yes, "Take the node as it is now for healthy?")))
        }
        What::Reset { node, yes } => (node, Verb::Reset, Some((*yes, "Forget this baseline?"))),
    };
    let out = session.out;
    if question.is_some() {
        session.may_act(&format!("change the baseline of {node}"))?;
    }
    let agent = session.agent(node).await?;
    if let Some((yes, question)) = question {
        let now = agent.baseline(Verb::Show).await?;
        let baseline: Baseline = agent.read("show its baseline", &now.baseline)?;
        out.say(table(&agent.node, &baseline, &now.differences));
        out.say("");
        let agreed = interruptible(ask::confirm(out, yes, question)).await.transpose()?;
        if agreed != Some(true) {
            out.say("Nothing was done.");
            return Ok(Exit::Unhealthy);
        }
    }
    let reply = agent.baseline(verb).await?;
    let baseline: Baseline = agent.read("show its baseline", &reply.baseline)?;
    out.print(table(&agent.node, &baseline, &reply.differences));
    out.json(&BaselineJson {
        node: &agent.node,
        baseline: &baseline,
        differences: &reply.differences,
    })?;
    Ok(Exit::Done)
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Api => "api",
        Role::Gateway => "gateway",
        Role::Lan => "lan",
        Role::Node => "node",
        Role::OwnPods => "own-pods",
        Role::RemotePods => "remote-pods",
        Role::Services => "services",
    }
}

fn table(node: &str, b: &Baseline, differences: &[String]) -> String {
    let from = match b.provenance {
        Provenance::Derived => "derived from its files: it permits guards only",
        Provenance::Learned => "learnt while all was well",
        Provenance::Accepted => "accepted by an operator",
    };
    let rows: Vec<Vec<String>> = b
        .expected
        .iter()
        .map(|e| {
            let (dev, via, table) = match &e.path {
                Some(p) => (
                    p.dev.clone(),
                    p.via.map_or_else(|| "-".into(), |v| v.to_string()),
                    p.table.to_string(),
                ),
                None => ("none".into(), "-".into(), "-".into()),
            };
            vec![role(e.role).into(), e.prefix.to_string(), dev, via, table]
        })
        .collect();
    let mut text = format!(
        "{node}: generation {}, {from}, taken {}\n",
        b.generation,
        local_date(b.taken.wall_ms)
    );
    if !rows.is_empty() {
        text = format!(
            "{text}\n{}\n",
            columns(&["CRITICAL", "DESTINATION", "DEVICE", "GATEWAY", "TABLE"], &rows)
        );
    }
    match differences {
        [] => format!("{text}\nNothing differs from it now."),
        some => format!("{text}\nWhat differs now:\n  {}", some.join("\n  ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeline_core::baseline::{Expected, Path};

    #[test]
    fn a_baseline_shows_where_critical_traffic_belongs() {
        let api = "203.0.113.10".parse().unwrap();
        let b = Baseline {
            generation: 3,
            provenance: Provenance::Learned,
            expected: vec![Expected {
                role: Role::Api,
                prefix: "203.0.113.10/32".parse().unwrap(),
                ask: api,
                path: Some(Path {
                    dev: "eth0".into(),
                    via: Some("192.168.2.1".parse().unwrap()),
                    table: 254,
                }),
            }],
            ..Baseline::default()
        };
        assert_eq!(
            table("calypso", &b, &["rule 5270 lookup 52 is new".into()]),
            format!(
                "calypso: generation 3, learnt while all was well, taken {}

CRITICAL  DESTINATION   DEVICE  GATEWAY      TABLE
api       203.0.113.10  eth0    192.168.2.1  254

What differs now:
  rule 5270 lookup 52 is new",
                local_date(0)
            )
        );
    }
}
