//! `ctl status`: each node in a line, from its agent's last look.

use crate::agent::{Agent, verdict};
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::columns;
use crate::session::Session;
use crate::words;
use serde::Serialize;
use std::time::Duration;
use tokio::time::sleep;

/// An agent looks every few seconds: asking more often shows nothing more.
const SHORTEST: Duration = Duration::from_secs(1);

const HELP: &str = "Examples:
  ctl status                  every node of ctl.toml, and the workers its kubeconfig knows
  ctl status calypso styx
  ctl status --watch 10s
  ctl status -o json | jq -r '.nodes[] | select(.verdict != \"Healthy\").node'

Exit codes: 0 all healthy, 1 an agent or the cluster's list of nodes could not be asked, 3 a node is not healthy";

/// Arguments of `ctl status`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Nodes [default: all]
    nodes: Vec<String>,
    /// Ask again and again, until Ctrl-C
    #[arg(long, value_name = "SPAN", num_args = 0..=1, default_missing_value = "5s", value_parser = words::span)]
    watch: Option<Duration>,
}

/// `-o json`.
#[derive(Serialize)]
struct StatusJson {
    nodes: Vec<NodeJson>,
}

/// One node; `error` instead of the rest when it could not be asked.
#[derive(Default, Serialize)]
struct NodeJson {
    node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    verdict: Option<&'static str>,
    summary: Option<String>,
    guarded: Option<bool>,
    incident: Option<String>,
    mode: Option<String>,
    baseline: Option<String>,
    version: Option<String>,
    boot_id: Option<String>,
    age_ms: Option<u64>,
    via: Option<String>,
}

/// Runs `ctl status`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    let nodes = session.nodes(&args.nodes).await?;
    let Some(span) = args.watch else { return once(&nodes, session).await };
    let mut last = Exit::Done;
    loop {
        session.out.afresh();
        match interruptible(once(&nodes, session)).await {
            Some(exit) => last = exit?,
            None => return Ok(last),
        }
        if interruptible(sleep(span.max(SHORTEST))).await.is_none() {
            return Ok(last);
        }
    }
}

/// Asks every node once.
async fn once(nodes: &[String], session: &Session) -> Outcome {
    let asked = session.each(nodes).await;
    let mut exit = Exit::Done;
    let (mut rows, mut list) = (Vec::new(), Vec::new());
    let mut errors = Vec::new();
    for (node, answer) in asked {
        match answer {
            Ok(agent) => {
                if !words::is_fine(verdict(agent.status.verdict)) && exit == Exit::Done {
                    exit = Exit::Unhealthy;
                }
                rows.push(row(&agent));
                list.push(json(&agent));
            }
            Err(error) => {
                exit = Exit::Failed;
                let cells = [&*node, "?", "-", "-", "-", "-", "its agent cannot be asked"];
                rows.push(cells.map(Into::into).to_vec());
                list.push(NodeJson { node, error: Some(error.to_string()), ..NodeJson::default() });
                errors.push(error);
            }
        }
    }
    let head = ["NODE", "VERDICT", "GUARD", "INCIDENT", "SEEN", "VIA", "SUMMARY"];
    session.out.print(columns(&head, &rows));
    session.out.json(&StatusJson { nodes: list })?;
    // All that is shown may not be all there is.
    if let Some(unlisted) = session.unlisted() {
        exit = Exit::Failed;
        errors.push(unlisted);
    }
    for error in &errors {
        session.out.error(error);
    }
    Ok::<_, CommandError>(exit)
}

fn row(agent: &Agent) -> Vec<String> {
    let s = &agent.status;
    vec![
        agent.node.clone(),
        verdict(s.verdict).word().into(),
        if s.guarded { "stands".into() } else { "-".into() },
        if s.incident.is_empty() { "-".into() } else { s.incident.clone() },
        format!("{} ago", words::span_ms(s.age_ms)),
        agent.via.clone(),
        s.summary.clone(),
    ]
}

fn json(agent: &Agent) -> NodeJson {
    let s = agent.status.clone();
    NodeJson {
        node: agent.node.clone(),
        error: None,
        verdict: Some(verdict(s.verdict).word()),
        summary: Some(s.summary),
        guarded: Some(s.guarded),
        incident: (!s.incident.is_empty()).then_some(s.incident),
        mode: Some(s.mode),
        baseline: Some(s.baseline),
        version: Some(s.version),
        boot_id: Some(s.boot_id),
        age_ms: Some(s.age_ms),
        via: Some(agent.via.clone()),
    }
}
