//! Emptying a node by evictions: everything that stands against it is said before anything is touched, and it ends.

use super::budget::{self, Budget};
use super::hearing::Hearing;
use super::journal::Journal;
use super::node::{self, NodeFact};
use super::pods::{self, PodFact};
use super::{AT_ONCE, Cluster, ClusterError, Failure, Refusal, Say, ask};
use crate::words::count;
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};
use kube::api::{ObjectMeta, PostParams};
use kube::core::Status;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// After a budget has refused.
const REFUSED: Duration = Duration::from_secs(5);
/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(500);

/// What may be lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allow {
    /// What pods keep in volumes that end with them.
    pub scratch: bool,
    /// Pods that nothing makes anew.
    pub bare: bool,
}

/// What a drain would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The node.
    pub node: NodeFact,
    /// Pods to be evicted.
    pub evict: Vec<PodFact>,
    /// Pods that stay, and why.
    pub stay: Vec<(String, String)>,
    /// Pods that are not evicted unless somebody says so, and how that is said.
    pub needs: Vec<(String, String)>,
    /// Budgets that speak of them.
    pub budgets: Vec<Budget>,
}

/// Looks at what a drain would do; changes nothing.
pub async fn look(cluster: &Cluster, name: &str, allow: Allow) -> Result<Plan, Failure> {
    let node = node::look(cluster, name).await?;
    let mut plan = sort(node, pods::of_node(cluster, name).await?, allow);
    plan.budgets = budget::look(cluster, &plan.evict, plan.node.hearing).await?;
    Ok(plan)
}

fn sort(node: NodeFact, pods: Vec<PodFact>, allow: Allow) -> Plan {
    let mut plan =
        Plan { node, evict: Vec::new(), stay: Vec::new(), needs: Vec::new(), budgets: Vec::new() };
    for pod in pods {
        let name = pod.words();
        if pod.mirror {
            plan.stay.push((name, "only a file on the node is behind it".to_owned()));
        } else if pod.controller_kind.as_deref() == Some("DaemonSet") && !pod.finished {
            plan.stay.push((name, "its DaemonSet would make it anew at once".to_owned()));
        } else {
            let bare = pod.controller.is_none() && !pod.finished;
            // Each is said: who has agreed to the one has not agreed to the other.
            if bare && !allow.bare {
                plan.needs.push((name.clone(), "nothing makes it anew: --force".to_owned()));
            }
            if pod.scratch && !pod.finished && !allow.scratch {
                let why = "what it keeps in an emptyDir is lost: --delete-emptydir-data".to_owned();
                plan.needs.push((name, why));
            }
            plan.evict.push(pod);
        }
    }
    plan
}

/// What became of a drain.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Drained {
    /// Pods that are gone.
    pub gone: usize,
    /// Pods that were evicted, and whose kubelet has not said that they ended.
    pub ending: Vec<PodFact>,
    /// Pods a budget does not let go, in its words.
    pub refused: Vec<(String, String)>,
    /// Pods that could not be evicted at all.
    pub failed: Vec<(String, String)>,
    /// The node is not heard: nobody will say whether those that are ending have ended.
    pub unproven: bool,
    /// How long it took.
    pub seconds: f64,
}

/// Cordons the node and evicts its pods, until they are gone or the time is over. May be called again at any time.
pub async fn act(
    cluster: &Cluster,
    plan: &Plan,
    limit: Duration,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<Drained, Failure> {
    if let Some((pod, why)) = plan.needs.first() {
        let more = plan.needs.len() - 1;
        return Err(Refusal::new(
            format!("drain {}", plan.node.name),
            format!("{pod}: {why} ({more} more)"),
            "nothing was done, the node is not cordoned by this",
        )
        .into());
    }
    let begun = Instant::now();
    node::cordon(cluster, &plan.node, true, journal, say).await?;
    journal.intent("evict", plan.evict.iter().map(PodFact::target).collect())?;
    say(format!("evicting {}", count(plan.evict.len(), "pod")));
    let mut drained =
        Drained { unproven: plan.node.hearing != Hearing::Heard, ..Drained::default() };
    let mut waiting: Vec<PodFact> = plan.evict.clone();
    let mut told = Vec::new();
    let mut next = begun;
    loop {
        if Instant::now() >= next && !waiting.is_empty() {
            let asked = evict_all(cluster, std::mem::take(&mut waiting)).await?;
            drained.refused.clear();
            for (pod, answer) in asked {
                match answer {
                    Answer::Gone => drained.gone += 1,
                    Answer::Taken => drained.ending.push(pod),
                    Answer::Refused(why) => {
                        drained.refused.push((pod.words(), why));
                        waiting.push(pod);
                    }
                    Answer::Failed(why) => drained.failed.push((pod.words(), why)),
                }
            }
            if drained.refused != told && !drained.refused.is_empty() {
                let (pod, why) = &drained.refused[0];
                let all = count(drained.refused.len(), "pod");
                say(format!(
                    "{all} not let go yet, asked again every {} s: {pod}: {why}",
                    REFUSED.as_secs()
                ));
                told.clone_from(&drained.refused);
            }
            next = Instant::now() + REFUSED;
        }
        if !drained.unproven {
            let left = pods::of_node(cluster, &plan.node.name).await?;
            let before = drained.ending.len();
            drained.ending.retain(|p| left.iter().any(|l| l.uid == p.uid));
            drained.gone += before - drained.ending.len();
        }
        let ended = drained.ending.is_empty() || drained.unproven;
        if (waiting.is_empty() && ended) || begun.elapsed() >= limit {
            break;
        }
        let pause = if ended { next.saturating_duration_since(Instant::now()) } else { LOOK };
        sleep(pause.min(limit.saturating_sub(begun.elapsed()))).await;
    }
    drained.seconds = begun.elapsed().as_secs_f64();
    journal.seen(format!(
        "{} gone, {} ending, {} refused, {} failed",
        drained.gone,
        drained.ending.len(),
        drained.refused.len(),
        drained.failed.len()
    ))?;
    Ok(drained)
}

#[derive(Debug)]
enum Answer {
    Gone,
    Taken,
    Refused(String),
    Failed(String),
}

/// Asks for the eviction of each once, many at the same time.
async fn evict_all(
    cluster: &Cluster,
    pods: Vec<PodFact>,
) -> Result<Vec<(PodFact, Answer)>, ClusterError> {
    let calls = pods.into_iter().map(|pod| async move {
        let answer = evict(cluster, &pod).await;
        answer.map(|a| (pod, a))
    });
    let all: Vec<_> = stream::iter(calls).buffer_unordered(AT_ONCE).collect().await;
    all.into_iter().collect()
}

async fn evict(cluster: &Cluster, pod: &PodFact) -> Result<Answer, ClusterError> {
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions {
                uid: Some(pod.uid.clone()),
                ..Preconditions::default()
            }),
            ..DeleteOptions::default()
        }),
    };
    let api = cluster.once::<Pod>(&pod.namespace);
    let how = PostParams::default();
    let call = api.create_subresource::<_, Status>("eviction", &pod.name, &how, &eviction);
    match ask(format!("the eviction of {}", pod.words()), call).await {
        Ok(_) => Ok(Answer::Taken),
        // Another of its name has been made meanwhile: this one is gone.
        Err(e) if e.is_missing() || e.is_conflict() => Ok(Answer::Gone),
        Err(e) if e.code() == Some(429) => Ok(Answer::Refused(e.said())),
        // It goes with its namespace.
        Err(e) if e.code() == Some(403) && e.said().contains("terminated") => Ok(Answer::Taken),
        Err(e @ ClusterError::Late { .. }) => Ok(Answer::Refused(e.to_string())),
        Err(e) if e.code().is_some() => Ok(Answer::Failed(e.said())),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    fn pod(meta: &serde_json::Value, volumes: &serde_json::Value) -> PodFact {
        let mut pod = json!({"metadata": meta, "spec": {"containers": [], "volumes": volumes}});
        pod["metadata"]["namespace"] = json!("a");
        serde_json::from_value::<Pod>(pod).unwrap().into()
    }

    fn owner(kind: &str) -> serde_json::Value {
        json!([{"apiVersion": "v1", "kind": kind, "name": "o", "uid": "o", "controller": true}])
    }

    #[test]
    fn every_pod_that_needs_a_word_is_named_before_anything_is_touched() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "calypso"}})).unwrap();
        let scratch = json!([{"name": "v", "emptyDir": {}}]);
        let pods = vec![
            pod(
                &json!({"name": "mirror", "annotations": {"kubernetes.io/config.mirror": "x"}}),
                &json!([]),
            ),
            pod(&json!({"name": "set", "ownerReferences": owner("DaemonSet")}), &scratch),
            pod(&json!({"name": "web", "ownerReferences": owner("ReplicaSet")}), &json!([])),
            pod(&json!({"name": "cache", "ownerReferences": owner("ReplicaSet")}), &scratch),
            pod(&json!({"name": "bare"}), &scratch),
        ];
        let names =
            |list: &[(String, String)]| list.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
        let plan = sort(node.clone().into(), pods.clone(), Allow::default());
        assert_eq!(names(&plan.stay), ["a/mirror", "a/set"]);
        assert_eq!(names(&plan.needs), ["a/cache", "a/bare", "a/bare"]);
        assert_eq!(plan.evict.len(), 3);
        let allowed = sort(node.into(), pods, Allow { scratch: true, bare: true });
        assert!(allowed.needs.is_empty());
    }
}
