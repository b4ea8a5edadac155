//! Is the cluster well: nodes, pods, the workloads that matter, what they should have logged, what they can reach, and
//! whether anything of the culprit is left. What could not be seen is unknown, and unknown is not well.

mod probe;
mod remnants;

use super::hearing::Hearing;
use super::inventory::all;
use super::node::{self, NodeFact};
use super::pods::PodFact;
use super::{AT_ONCE, Cluster, ClusterError, Say, ask};
use crate::config::verify::{Log, Verify, Workload};
use crate::obstacle::chain;
use crate::words::count;
use futures_util::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// As it must be.
    Good,
    /// Not as it must be.
    Bad,
    /// It could not be seen.
    Unknown,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was asked.
    pub what: String,
    /// The answer.
    pub said: Said,
    /// More of it.
    pub detail: String,
}

impl Check {
    /// A check that came out.
    pub fn new(what: impl Into<String>, said: Said, detail: impl Into<String>) -> Self {
        Self { what: what.into(), said, detail: detail.into() }
    }

    fn unseen(what: impl Into<String>, error: &ClusterError) -> Self {
        Self::new(what, Said::Unknown, chain(error))
    }
}

/// Makes every check; one that cannot be made is unknown, and the others are made all the same. What stands in a log from before
/// `since` proves nothing of what came after it.
pub async fn look(
    cluster: &Cluster,
    wanted: &Verify,
    since: Option<Duration>,
    say: &mut Say<'_>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    let nodes = node::all(cluster).await;
    match &nodes {
        Ok(nodes) => checks.push(ready(nodes, wanted.nodes)),
        Err(e) => checks.push(Check::unseen("nodes", e)),
    }
    let nodes = nodes.unwrap_or_default();
    match all("its pods", &cluster.api::<Pod>(None), &ListParams::default()).await {
        Ok(pods) => {
            checks.push(running(&pods, &nodes));
            checks.extend(wanted.workloads.iter().map(|w| workload(&pods, &nodes, w)));
        }
        Err(e) => checks.push(Check::unseen("pods", &e)),
    }
    for log in &wanted.logs {
        checks.push(logged(cluster, log, since).await);
    }
    let from: Vec<&NodeFact> = nodes.iter().filter(|n| n.ready).collect();
    // Made before they are awaited: a future that keeps the closure cannot be moved between threads.
    let mut asked = Vec::new();
    for reach in &wanted.reach {
        say(format!("asking for {} from {}", reach.url, count(from.len(), "node")));
        asked.extend(from.iter().map(|n| probe::ask_from(cluster, &n.name, reach).boxed()));
    }
    checks.extend(stream::iter(asked).buffered(AT_ONCE).collect::<Vec<_>>().await);
    for name in &wanted.remnants {
        checks.push(remnants::look(cluster, name).await);
    }
    checks
}

/// Objects of namespaces that are gone: who makes a namespace of that name again wakes them.
pub async fn orphans(cluster: &Cluster) -> Check {
    let what = "objects without their namespace";
    let found = match super::orphans::look(cluster).await {
        Ok(found) => found,
        Err(e) => return Check::unseen(what, &e),
    };
    let unseen = found.unknown.len();
    match found.spaces.is_empty() {
        true if unseen == 0 => Check::new(what, Said::Good, "none"),
        true => Check::new(
            what,
            Said::Unknown,
            format!("none seen, but {} could not be listed", count(unseen, "kind")),
        ),
        false => {
            let of = |(space, objects): (&String, &Vec<_>)| {
                format!("{} of namespace {space}", count(objects.len(), "object"))
            };
            let told: Vec<String> = found.spaces.iter().map(of).collect();
            Check::new(what, Said::Bad, format!("{}: ctl cleanup orphans", told.join(", ")))
        }
    }
}

fn ready(nodes: &[NodeFact], wanted: Option<usize>) -> Check {
    let good = nodes.iter().filter(|n| n.ready && n.hearing == Hearing::Heard).count();
    let lacking: Vec<&str> = nodes
        .iter()
        .filter(|n| !n.ready || n.hearing != Hearing::Heard)
        .map(|n| n.name.as_str())
        .collect();
    let well = good > 0 && good >= wanted.unwrap_or(nodes.len());
    let mut detail = format!("{good} of {} Ready", nodes.len());
    if !lacking.is_empty() {
        detail = format!("{detail}; not Ready: {}", lacking.join(", "));
    }
    Check::new("nodes", if well { Said::Good } else { Said::Bad }, detail)
}

/// A pod of a node that is not heard may say what it likes.
fn heard(pod: &Pod, nodes: &[NodeFact]) -> bool {
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    nodes.iter().any(|n| n.name == node && n.hearing == Hearing::Heard)
}

fn running(pods: &[Pod], nodes: &[NodeFact]) -> Check {
    let mut bad = Vec::new();
    for pod in pods {
        let fact = PodFact::from(pod.clone());
        if let Some(why) = trouble(pod, nodes) {
            bad.push(format!("{} ({why})", fact.words()));
        }
    }
    match bad.as_slice() {
        [] => Check::new(
            "pods",
            Said::Good,
            format!("{} run or have succeeded", count(pods.len(), "pod")),
        ),
        _ => {
            let few: Vec<&str> = bad.iter().take(5).map(String::as_str).collect();
            let told = format!("{} of {}: {}", bad.len(), count(pods.len(), "pod"), few.join(", "));
            Check::new("pods", Said::Bad, told)
        }
    }
}

fn trouble(pod: &Pod, nodes: &[NodeFact]) -> Option<String> {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_else(|| "no phase".to_owned());
    if phase == "Succeeded" {
        return None;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("Terminating".to_owned());
    }
    let all = status.container_statuses.unwrap_or_default();
    let waits = all.iter().filter_map(|c| c.state.as_ref()?.waiting.as_ref()?.reason.clone());
    if let Some(reason) = waits.into_iter().next() {
        return Some(reason);
    }
    if phase != "Running" {
        return Some(phase);
    }
    if !heard(pod, nodes) {
        return Some("its node is not heard".to_owned());
    }
    // Running is said of a pod whose containers have ended, too, for as long as they are to be started again.
    (!PodFact::from(pod.clone()).ready).then(|| "not ready".to_owned())
}

fn workload(pods: &[Pod], nodes: &[NodeFact], wanted: &Workload) -> Check {
    let what = format!("workload {}/{}", wanted.namespace, wanted.selector);
    let selected: Vec<&Pod> = pods
        .iter()
        .filter(|p| p.metadata.namespace.as_deref() == Some(&wanted.namespace))
        .filter(|p| selects(&wanted.selector, p))
        .collect();
    let good =
        selected.iter().filter(|p| heard(p, nodes) && PodFact::from((**p).clone()).ready).count();
    let said = if good >= wanted.ready { Said::Good } else { Said::Bad };
    Check::new(
        what,
        said,
        format!("{good} of {} ready, {} wanted", count(selected.len(), "pod"), wanted.ready),
    )
}

/// `key=value`, several by commas: what the seed's runbook selects by.
fn selects(selector: &str, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    selector.split(',').all(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        labels
            .and_then(|l| l.get(key.trim()))
            .is_some_and(|v| value.is_empty() || v == value.trim())
    })
}

async fn logged(cluster: &Cluster, log: &Log, since: Option<Duration>) -> Check {
    let what = format!("log of {}/{}", log.namespace, log.selector);
    let api = cluster.api::<Pod>(Some(&log.namespace));
    let chosen = ListParams::default().labels(&log.selector);
    let pods = match all("its pods", &api, &chosen).await {
        Ok(pods) => pods,
        Err(e) => return Check::unseen(what, &e),
    };
    let facts: Vec<PodFact> = pods.into_iter().map(Into::into).collect();
    let Some(pod) = facts.iter().find(|p| p.ready).or_else(|| facts.first()) else {
        return Check::new(what, Said::Bad, "it has no pod");
    };
    let how = |since: Option<Duration>| LogParams {
        tail_lines: Some(log.lines),
        // By the node's clock, which may not be the laptop's.
        since_seconds: since.map(|s| i64::try_from(s.as_secs()).unwrap_or(i64::MAX).max(1)),
        ..LogParams::default()
    };
    let read = |since| {
        let (about, how) = (format!("the log of {}", pod.words()), how(since));
        let (api, name) = (&api, &pod.name);
        async move { ask(about, api.logs(name, &how)).await }
    };
    let (text, before) = match read(since).await {
        Ok(text) if text.contains(&log.contains) => {
            let told = format!("{} says {:?}", pod.words(), log.contains);
            return Check::new(what, Said::Good, told);
        }
        Ok(text) if since.is_some() => (text, read(None).await.unwrap_or_default()),
        Ok(text) => (text, String::new()),
        // The way to it leads over the kubelet.
        Err(e) => return Check::unseen(what, &e),
    };
    let lines = text.lines().count();
    let detail = match before.contains(&log.contains) {
        true => format!(
            "{} said {:?} only before the recovery began, and {} since",
            pod.words(),
            log.contains,
            count(lines, "line")
        ),
        false => format!(
            "{} does not say {:?} in its last {} lines",
            pod.words(),
            log.contains,
            log.lines
        ),
    };
    Check::new(what, Said::Bad, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    fn node(name: &str, ready: &str) -> NodeFact {
        let node = json!({"metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        serde_json::from_value::<Node>(node).unwrap().into()
    }

    fn pod(node: &str, status: &serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "web", "namespace": "apps", "labels": {"app": "web"}},
            "spec": {"nodeName": node, "containers": []}, "status": status}),
        )
        .unwrap()
    }

    #[test]
    fn a_running_pod_of_a_silent_node_is_not_believed() {
        let nodes = [node("calypso", "True"), node("styx", "Unknown")];
        let runs = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let wanted = Workload { namespace: "apps".into(), selector: "app=web".into(), ready: 1 };
        let on = |n: &str| [pod(n, &runs)];
        assert_eq!(workload(&on("calypso"), &nodes, &wanted).said, Said::Good);
        assert_eq!(workload(&on("styx"), &nodes, &wanted).said, Said::Bad);
        assert!(running(&on("styx"), &nodes).detail.contains("its node is not heard"));
    }

    #[test]
    fn a_pod_that_crashes_is_bad_whatever_its_phase_says() {
        let crash = json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": false, "image": "",
            "imageID": "", "restartCount": 9, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
        let said = running(&[pod("calypso", &crash)], &[node("calypso", "True")]);
        assert!(said.said == Said::Bad && said.detail.contains("CrashLoopBackOff"), "{said:?}");
    }

    #[test]
    fn a_pod_that_runs_and_is_not_ready_is_bad() {
        let not_ready =
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]});
        let said = running(&[pod("calypso", &not_ready)], &[node("calypso", "True")]);
        assert!(said.said == Said::Bad && said.detail.contains("(not ready)"), "{said:?}");
    }

    #[test]
    fn two_of_three_nodes_are_enough_only_when_that_was_said() {
        let nodes = [node("a", "True"), node("b", "True"), node("c", "Unknown")];
        assert_eq!(ready(&nodes, Some(2)).said, Said::Good);
        assert_eq!(ready(&nodes, None).said, Said::Bad);
        assert_eq!(ready(&[], None).said, Said::Bad, "no node is not well");
    }
}
