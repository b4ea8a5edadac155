//! `ctl status`: each node by two accounts, its agent's last look and the cluster's own view.
//!
//! Both are asked at the same time. Whatever the API server does, the agents' part neither waits for it nor fails by it: an incident is
//! when it is missing.

use crate::agent::{Agent, verdict};
use crate::cluster;
use crate::cluster::view::{self, Renewals, View};
use crate::config::Config;
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::found;
use crate::interrupt::interruptible;
use crate::obstacle::chain;
use crate::out::{Format, Tone, columns};
use crate::session::{Asked, Session};
use crate::status_view::{AGENTS, CLUSTER, Cluster, NO_SUCH, NodeJson, agent_row, cluster_row};
use crate::words;
use jiff::Timestamp;
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// An agent looks every few seconds: asking more often shows nothing more.
const SHORTEST: Duration = Duration::from_secs(1);
/// The cluster's answer, all in all.
const LIMIT: Duration = Duration::from_secs(3);
/// For so long both accounts wait to be shown together.
const TOGETHER: Duration = Duration::from_millis(300);
/// The agents' table is there by then, whatever the cluster does.
const WHOLE: Duration = Duration::from_millis(900);
/// A table of several nodes waits for so long; who shows one node, or writes for machines, waits for all there is to know.
const SEVERAL: Duration = Duration::from_millis(800);

const HELP: &str = "Examples:
  ctl status                  every node of ctl.toml, and the workers its kubeconfig knows
  ctl status calypso styx
  ctl status --watch 10s
  ctl status --no-cluster     the agents alone
  ctl status --wait 10s       also for those that answer late
  ctl status -o json | jq -r '.nodes[] | select(.verdict != \"Healthy\").node'
  ctl status --watch -o jsonl | jq -r 'select(.disagreement).disagreement'

With a kubeconfig in ctl.toml the cluster is asked beside the agents, for 3 s at most: Ready and
since when, the lease and whether it is renewed, taints, pods that are not ready, the kubelet's
version. Where the two accounts do not agree, that is said. When the cluster cannot be asked, what
ctl.toml names is shown with a note; that alone changes no exit code.

A table of several nodes waits 800 ms for their agents: whose answer has not come by then is shown
as \"no answer yet\", which is not \"out of reach\". One node, and -o json, jsonl and yaml, are waited
for to the end, unless --wait says otherwise.

Fields of -o json, which stay; of each in nodes[]:
  node, verdict, summary, guarded, incident, mode, baseline, version, boot_id, age_ms, via
  error         why its agent could not be asked; all of the above but node is null then
  cluster       null when it is not asked, {error} when it could not be, else ready, reason, since,
                lease {renewed, age_s, renewing}, taints, cordoned, pods {all, unready}, kubelet,
                boot, gaps (what could not be listed, and is null)
  disagreement  null, or in words
  not_waited_for  true, and only there, where --wait ended before its agent answered
-o jsonl writes a line a node.

Exit codes:
  0  every node shown is healthy by its agent, and Ready where the cluster says anything of it
  1  an agent could not be asked
  2  usage; no node is named, and the cluster could not be asked for any
  3  a node is not healthy, or the cluster says NotReady
  5  an agent was not waited for any longer (1 counts before 5, and 5 before 3)";

/// Arguments of `ctl status`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Nodes [default: all]
    nodes: Vec<String>,
    /// Ask again and again, until Ctrl-C
    #[arg(long, value_name = "SPAN", num_args = 0..=1, default_missing_value = "5s", value_parser = words::span)]
    watch: Option<Duration>,
    /// Ask the agents alone
    #[arg(long)]
    no_cluster: bool,
    /// How long to wait for agents [default: 800ms for a table of several nodes, else to the end]
    #[arg(long, value_name = "SPAN", value_parser = words::wait)]
    wait: Option<Duration>,
}

/// `-o json`.
#[derive(Serialize)]
struct StatusJson {
    nodes: Vec<NodeJson>,
}

/// What goes from one round to the next.
struct Rounds<'a> {
    session: &'a Session,
    /// Those that were named, or all that ctl.toml names.
    known: Vec<String>,
    /// Nodes were named: nobody else is asked.
    closed: bool,
    /// How long agents are waited for, if that was said.
    wait: Option<Duration>,
    /// The configuration whose cluster is asked.
    config: Option<&'a Config>,
    cluster: Option<cluster::Cluster>,
    renewals: Renewals,
}

/// Runs `ctl status`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    let closed = !args.nodes.is_empty();
    let config = session.config.as_ref().filter(|c| !args.no_cluster && c.kubeconfig.is_some());
    let known = match closed {
        true => session.nodes(&args.nodes).await?,
        false => session.configured(),
    };
    if known.is_empty() && config.is_none() {
        return Err(session.nobody(None));
    }
    let renewals = Renewals::default();
    let mut rounds =
        Rounds { session, known, closed, wait: args.wait, config, cluster: None, renewals };
    let Some(span) = args.watch else { return rounds.once().await };
    let mut last = Exit::Done;
    loop {
        session.out.afresh();
        match interruptible(rounds.once()).await {
            Some(exit) => last = exit?,
            None => return Ok(last),
        }
        if interruptible(sleep(span.max(SHORTEST))).await.is_none() {
            return Ok(last);
        }
    }
}

impl Rounds<'_> {
    /// Asks everybody once, and shows what came: the agents at once when the cluster is late.
    async fn once(&mut self) -> Outcome {
        let (session, out, begun) = (self.session, self.session.out, Instant::now());
        let (known, closed) = (self.known.clone(), self.closed);
        let own = session.each_within(&known, self.limit(known.len()));
        let theirs = async {
            let seen = self.view().await;
            let more = match &seen {
                Some(Ok(view)) if !closed => session.unnamed(&view.objects),
                _ => found::Nodes::new(),
            };
            let limit = self.limit(known.len() + more.len());
            (seen, session.each_at(more, limit).await)
        };
        tokio::pin!(own, theirs);
        let mut rest = None;
        let mut asked = loop {
            tokio::select! {
                own = &mut own => break own,
                theirs = &mut theirs, if rest.is_none() => rest = Some(theirs),
            }
        };
        let mut shown = 0;
        if rest.is_none() && !known.is_empty() {
            // Agents that were late have had the cluster's answer waited for beside them.
            let left = TOGETHER.min(WHOLE.saturating_sub(begun.elapsed()));
            rest = timeout(left, &mut theirs).await.ok();
        }
        let (seen, more) = match rest {
            Some(rest) => rest,
            None => {
                agents(session, &asked);
                shown = asked.len();
                theirs.await
            }
        };
        let seen = seen.map(|s| s.map_err(|why| format!("the cluster could not be asked: {why}")));
        if let (true, Some(Err(why))) = (known.is_empty(), &seen) {
            return Err(session.nobody(Some(why)));
        }
        if shown == 0 && !more.is_empty() {
            asked.extend(more);
            asked.sort_by(|a, b| a.0.cmp(&b.0));
        } else {
            asked.extend(more);
        }
        if asked.is_empty() {
            return Err(session.nobody(None));
        }
        agents(session, asked.get(shown..).unwrap_or_default());
        let exit = told(session, &asked, seen.as_ref())?;
        if let Some(Err(why)) = &seen {
            out.say(format!("{why}. Shown is what ctl.toml names, by its agents alone."));
        }
        Ok(exit)
    }

    /// How long so many nodes are waited for; as long as each may take when there is no such limit.
    fn limit(&self, nodes: usize) -> Option<Duration> {
        let several = nodes > 1 && self.session.out.format == Format::Table;
        self.wait.or_else(|| several.then_some(SEVERAL))
    }

    /// The cluster's view, or why there is none; `None` when nobody is to be asked.
    async fn view(&mut self) -> Option<Result<View, String>> {
        let config = self.config?;
        let (path, context) = (config.kubeconfig.clone()?, config.context.clone());
        let (cluster, named) =
            (self.cluster.take(), if self.closed { self.known.clone() } else { Vec::new() });
        // By itself: a program that hands out tokens may hold its thread up for longer than any limit.
        let looking = tokio::spawn(async move {
            let cluster = match cluster {
                Some(cluster) => cluster,
                None => cluster::Cluster::open(&path, context.as_deref()).await?,
            };
            let seen = view::look(&cluster, &named).await?;
            Ok::<_, cluster::ClusterError>((cluster, seen))
        });
        Some(match timeout(LIMIT, looking).await {
            Ok(Ok(Ok((cluster, mut seen)))) => {
                self.cluster = Some(cluster);
                self.renewals.seen(&mut seen, Instant::now());
                Ok(seen)
            }
            Ok(Ok(Err(why))) => Err(chain(&why)),
            Ok(Err(why)) => Err(chain(&why)),
            Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
        })
    }
}

/// The agents' table.
fn agents(session: &Session, asked: &[(String, Result<Agent, CommandError>)]) {
    if !asked.is_empty() {
        let rows: Vec<_> = asked.iter().map(|(n, a)| agent_row(n, a.as_ref())).collect();
        session.out.print(columns(&AGENTS, &rows));
    }
}

/// The cluster's table, where both disagree, the document, and what could not be asked.
fn told(session: &Session, asked: &Asked, seen: Option<&Result<View, String>>) -> Outcome {
    let out = session.out;
    let (mut exit, mut list, mut rows) = (Exit::Done, Vec::new(), Vec::new());
    for (name, answer) in asked {
        let name = answer.as_ref().map_or(name, |a| &a.node);
        let cluster = seen.map(|seen| match seen {
            Ok(view) => match view.nodes.get(name) {
                Some(node) => Cluster::Seen(Box::new(node.clone())),
                None => Cluster::Not { error: NO_SUCH.to_owned() },
            },
            Err(error) => Cluster::Not { error: error.clone() },
        });
        if let (Some(cluster), Some(Ok(_))) = (&cluster, seen) {
            rows.push(cluster_row(name, cluster, Timestamp::now()));
        }
        let node = NodeJson::of(name.clone(), answer.as_ref(), cluster);
        let well = |a: &Agent| words::is_fine(verdict(a.status.verdict)) && !node.is_lost();
        exit = match answer {
            Err(late) if late.is_not_waited_for() && exit != Exit::Failed => Exit::TimedOut,
            Err(_) => Exit::Failed,
            Ok(agent) if !well(agent) && exit == Exit::Done => Exit::Unhealthy,
            Ok(_) => exit,
        };
        list.push(node);
    }
    if !rows.is_empty() {
        out.print(format!("\n{}", columns(&CLUSTER, &rows)));
    }
    let gaps = seen.and_then(|s| s.as_ref().ok()).and_then(|v| v.nodes.values().next());
    gaps.iter().flat_map(|n| &n.gaps).for_each(|g| out.say(format!("Not seen: {g}")));
    let apart: Vec<_> = list.iter().filter_map(NodeJson::disagrees).collect();
    if !apart.is_empty() {
        out.print(format!("\n{}", apart.join("\n")));
    }
    out.json(&StatusJson { nodes: list })?;
    let errors = || asked.iter().filter_map(|(n, a)| Some((n, a.as_ref().err()?)));
    errors().filter(|(_, e)| !e.is_not_waited_for()).for_each(|(_, e)| out.error(e));
    let late: Vec<_> =
        errors().filter(|(_, e)| e.is_not_waited_for()).map(|(n, _)| n.as_str()).collect();
    if !late.is_empty() {
        let hint = out.progress.tone(Tone::Warn, "Hint:");
        out.say(format!("No answer yet, and not waited for any longer: {}", late.join(", ")));
        out.say(format!("{hint} wait longer: --wait 10s"));
    }
    Ok(exit)
}
