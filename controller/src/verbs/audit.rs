//! `ctl audit`: which workloads could cut a node off again, what lies in wait, and which nodes nobody guards; and the admission
//! policy that refuses the first.

use crate::audit::risk::{self, Grade, Risk};
use crate::audit::{self, Seen, Unread, Workload, policy};
use crate::cli::Global;
use crate::config::Config;
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::member::Member;
use crate::out::{Out, Paint, Tone};
use crate::session::Session;
use k8s_openapi::api::core::v1::Node;
use serde::Serialize;
use std::path::PathBuf;

const HELP: &str = "Examples:
  ctl audit
  ctl audit --kubeconfig ~/.kube/config -o json | jq '.workloads[] | select(.grade == \"critical\")'
  ctl audit --policy > policy.yaml && kubectl apply -f policy.yaml
  ctl audit --policy --allow calico-system | kubectl apply -f -

It only reads. Workloads are looked at as they are described, in whatever way they came: DaemonSets, Deployments, StatefulSets,
ReplicaSets, ReplicationControllers, Jobs, CronJobs and pods.

Exit codes: 0 nothing that must be looked at, 1 something could not be read, 3 something was found";

/// Arguments of `ctl audit`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// How to ask the API server [default: ctl.toml's, KUBECONFIG, ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Print an admission policy that refuses such workloads, as YAML; asks nobody
    #[arg(long)]
    policy: bool,
    /// A namespace the policy lets through besides kube-system; may be repeated
    #[arg(long, value_name = "NAMESPACE", requires = "policy")]
    allow: Vec<String>,
}

/// `-o json`.
#[derive(Serialize)]
struct AuditJson {
    /// The worst first.
    workloads: Vec<WorkloadJson>,
    /// Objects of namespaces that do not exist.
    orphans: Vec<OrphanJson>,
    /// Workers whose agent does not answer, or that have none.
    unguarded: Vec<NodeJson>,
    /// Does the policy of --policy stand? `null` when that could not be read.
    policy: Option<bool>,
    unread: Vec<Unread>,
}

#[derive(Serialize)]
struct WorkloadJson {
    kind: &'static str,
    namespace: String,
    name: String,
    #[serde(flatten)]
    risk: Risk,
}

#[derive(Serialize)]
struct OrphanJson {
    kind: &'static str,
    namespace: String,
    name: String,
    grade: Grade,
}

#[derive(Serialize)]
struct NodeJson {
    node: String,
    why: String,
}

/// Runs `ctl audit`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    if args.policy {
        out.document(&policy::render(&args.allow)?);
        return Ok(Exit::Done);
    }
    let config = Config::load_if_there(global.config.as_deref())?;
    let cluster = audit::open(args.kubeconfig.as_deref(), config.as_ref()).await.map_err(|e| {
        CommandError::failed(e)
            .hinted("name a kubeconfig that may list workloads: --kubeconfig FILE")
    })?;
    let mut seen = audit::look(&cluster).await;
    let unguarded = match cluster.nodes().await {
        Ok(nodes) => unguarded(&nodes, global, out).await,
        Err(why) => {
            seen.unread.push(Unread { what: "Node", why: crate::obstacle::chain(&why) });
            Vec::new()
        }
    };
    let found = judge(seen, unguarded);
    out.print(render(&found, out.result));
    out.json(&found)?;
    if !found.unread.is_empty() {
        return Ok(Exit::Failed);
    }
    let bad = found.workloads.iter().any(|w| w.risk.grade == Grade::Critical)
        || !found.orphans.is_empty()
        || !found.unguarded.is_empty();
    Ok(if bad { Exit::Unhealthy } else { Exit::Done })
}

/// Asks the agent of each worker. The control plane has none: what it needs is its own machine's care.
async fn unguarded(objects: &[Node], global: &Global, out: Out) -> Vec<NodeJson> {
    let members = objects.iter().cloned().map(Member::from);
    let workers: Vec<_> = members.filter(|m| !m.control_plane).map(|m| m.name).collect();
    let session = match Session::open(global, out) {
        Ok(session) => session,
        Err(why) => {
            let why = format!("its agent cannot be asked: {why}");
            return workers.into_iter().map(|node| NodeJson { node, why: why.clone() }).collect();
        }
    };
    let known = |node: &String| session.config.as_ref().is_none_or(|c| c.addresses(node).is_ok());
    let (known, strange): (Vec<_>, Vec<_>) = workers.into_iter().partition(known);
    // Whom ctl.toml does not name is asked where the cluster says it is.
    let found = session.unnamed(objects);
    let nowhere = strange.into_iter().filter(|node| !found.contains_key(node));
    let nowhere: Vec<_> = nowhere
        .map(|node| NodeJson {
            why: format!(
                "neither ctl.toml nor the cluster has an address of it; if it has no agent: ctl install {node} --ssh root@ADDRESS"
            ),
            node,
        })
        .collect();
    let (known, found) = tokio::join!(session.each(&known), session.each_at(found, None));
    let silent = known.into_iter().chain(found).filter_map(|(node, answer)| {
        answer.err().map(|why| NodeJson { node, why: why.to_string() })
    });
    let mut all: Vec<_> = silent.chain(nowhere).collect();
    all.sort_by(|a, b| a.node.cmp(&b.node));
    all
}

fn judge(seen: Seen, unguarded: Vec<NodeJson>) -> AuditJson {
    let orphan =
        |w: &Workload| seen.namespaces.as_ref().is_some_and(|all| !all.contains(&w.namespace));
    let mut orphans: Vec<_> = seen
        .workloads
        .iter()
        .filter(|w| orphan(w))
        .map(|w| OrphanJson {
            kind: w.kind,
            namespace: w.namespace.clone(),
            name: w.name.clone(),
            grade: risk::judge(&w.pod).map_or(Grade::Notice, |r| r.grade),
        })
        .collect();
    orphans.sort_by_key(|o| std::cmp::Reverse(o.grade));
    let mut workloads: Vec<_> = seen
        .workloads
        .iter()
        .filter(|w| !w.made)
        .filter_map(|w| {
            let risk = risk::judge(&w.pod)?;
            Some(WorkloadJson {
                kind: w.kind,
                namespace: w.namespace.clone(),
                name: w.name.clone(),
                risk,
            })
        })
        .collect();
    workloads.sort_by_key(|w| std::cmp::Reverse(w.risk.grade));
    AuditJson { workloads, orphans, unguarded, policy: seen.policy, unread: seen.unread }
}

fn grade(grade: Grade, paint: Paint) -> String {
    match grade {
        Grade::Critical => paint.tone(Tone::Bad, "critical"),
        Grade::Warning => paint.tone(Tone::Warn, "warning"),
        Grade::Notice => paint.tone(Tone::Dim, "notice"),
    }
}

fn render(found: &AuditJson, paint: Paint) -> String {
    let mut lines = vec![paint.tone(Tone::Strong, "WORKLOADS THAT COULD CUT A NODE OFF")];
    let none = |lines: &mut Vec<String>, empty: bool| {
        if empty {
            lines.push("  none".into());
        }
    };
    for w in &found.workloads {
        lines.push(format!(
            "  {}  {} {}/{}",
            grade(w.risk.grade, paint),
            w.kind,
            w.namespace,
            w.name
        ));
        lines.extend(w.risk.why.iter().map(|why| format!("      {why}")));
    }
    none(&mut lines, found.workloads.is_empty());
    lines
        .push(format!("\n{}", paint.tone(Tone::Strong, "OBJECTS OF NAMESPACES THAT DO NOT EXIST")));
    for o in &found.orphans {
        lines.push(format!(
            "  {}  {} {}/{}: it wakes when somebody makes a namespace of that name",
            grade(o.grade, paint),
            o.kind,
            o.namespace,
            o.name
        ));
    }
    none(&mut lines, found.orphans.is_empty());
    lines.push(format!("\n{}", paint.tone(Tone::Strong, "WORKERS WITHOUT AN AGENT THAT ANSWERS")));
    lines.extend(found.unguarded.iter().map(|n| format!("  {}: {}", n.node, n.why)));
    none(&mut lines, found.unguarded.is_empty());
    lines.push(format!("\n{}", paint.tone(Tone::Strong, "ADMISSION")));
    lines.push(match found.policy {
        Some(true) => format!("  the policy {} is bound: it refuses new ones", policy::NAME),
        Some(false) => format!(
            "  nothing refuses the next one; the policy {}: ctl audit --policy",
            policy::NAME
        ),
        None => "  whether a policy refuses the next one could not be read".into(),
    });
    if !found.unread.is_empty() {
        lines.push(format!(
            "\n{}",
            paint.tone(Tone::Bad, "COULD NOT BE READ (which is not \"nothing there\")")
        ));
        lines.extend(found.unread.iter().map(|u| format!("  {}: {}", u.what, u.why)));
    }
    lines.join("\n")
}
