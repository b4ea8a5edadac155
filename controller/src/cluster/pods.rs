//! Pods, and how they are brought to their end: by their grace where a kubelet is heard, by force where none is.

use super::hearing::{Hearing, Hearings};
use super::inventory::all;
use super::journal::{Journal, Target};
use super::{AT_ONCE, Cluster, ClusterError, Failure, Say, remove};
use futures_util::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A kubelet that is heard gets so many seconds, whatever the pod asks for.
pub const GRACE: u32 = 60;
/// And a kubelet so much more to tell of it.
const REAPED: Duration = Duration::from_secs(10);

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFact {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: another may come to bear its name.
    pub uid: String,
    /// The node it is bound to.
    pub node: Option<String>,
    /// The uid of its controller.
    pub controller: Option<String>,
    /// The kind of its controller.
    pub controller_kind: Option<String>,
    /// It is to be gone, and has been given so many seconds.
    pub deleting: Option<i64>,
    /// Seconds it asks for.
    pub grace: i64,
    /// Who must agree before it goes.
    pub finalizers: Vec<String>,
    /// Succeeded or failed: nothing of it runs.
    pub finished: bool,
    /// Its Ready condition.
    pub ready: bool,
    /// Only a file on its node is behind it.
    pub mirror: bool,
    /// It has a volume that ends with it.
    pub scratch: bool,
    /// Its labels.
    pub labels: std::collections::BTreeMap<String, String>,
}

impl PodFact {
    /// `namespace/name`.
    pub fn words(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// For the journal.
    pub fn target(&self) -> Target {
        Target { name: format!("pod/{}", self.words()), uid: self.uid.clone() }
    }
}

impl From<Pod> for PodFact {
    fn from(pod: Pod) -> Self {
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let meta = pod.metadata;
        let refs = meta.owner_references.unwrap_or_default();
        let controller = refs.into_iter().find(|r| r.controller == Some(true));
        let notes = meta.annotations.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        Self {
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            node: spec.node_name.filter(|n| !n.is_empty()),
            controller_kind: controller.as_ref().map(|c| c.kind.clone()),
            controller: controller.map(|c| c.uid),
            deleting: meta
                .deletion_timestamp
                .map(|_| meta.deletion_grace_period_seconds.unwrap_or(0)),
            grace: spec.termination_grace_period_seconds.unwrap_or(30),
            finalizers: meta.finalizers.unwrap_or_default(),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            ready: conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
            mirror: notes.contains_key("kubernetes.io/config.mirror"),
            scratch: spec.volumes.iter().flatten().any(|v| v.empty_dir.is_some()),
            labels: meta.labels.unwrap_or_default(),
        }
    }
}

/// The pods of a namespace, or of all.
pub async fn of_namespace(
    cluster: &Cluster,
    namespace: Option<&str>,
) -> Result<Vec<PodFact>, ClusterError> {
    let what = namespace.map_or_else(|| "its pods".to_owned(), |n| format!("the pods of {n}"));
    let pods = all(&what, &cluster.api::<Pod>(namespace), &ListParams::default()).await?;
    Ok(pods.into_iter().map(Into::into).collect())
}

/// The pods of a node.
pub async fn of_node(cluster: &Cluster, node: &str) -> Result<Vec<PodFact>, ClusterError> {
    let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = all(&format!("the pods of {node}"), &cluster.api::<Pod>(None), &there).await?;
    Ok(pods.into_iter().map(Into::into).collect())
}

/// How a pod is brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Asked for already, and its kubelet has time left.
    Wait,
    /// Its kubelet is asked to end it.
    Ask,
    /// Taken out of the API: whatever may still run of it is not proven to have ended.
    Force,
}

/// How this pod is brought to its end, when it has been waited for so long. No clock but our own is asked: the deadline in
/// a pod's metadata is the API server's.
pub fn way(pod: &PodFact, hearings: &Hearings, waited: Duration) -> Way {
    // Nothing of it runs, or nobody has begun it: the server lets it go at once.
    let Some(node) = pod.node.as_deref().filter(|_| !pod.finished) else { return Way::Force };
    if hearings.of(node) != Hearing::Heard {
        return Way::Force;
    }
    match pod.deleting {
        None => Way::Ask,
        Some(_) if waited > Duration::from_secs(u64::from(GRACE)) + REAPED => Way::Force,
        // An hour of grace is shortened; the server takes a shorter one and leaves a longer.
        Some(grace) if grace > i64::from(GRACE) => Way::Ask,
        Some(_) => Way::Wait,
    }
}

/// Brings pods to their end, many at once; each by its uid, so that one that has been made anew meanwhile is left alone.
/// Gives those that were taken out of the API by force.
pub async fn end(
    cluster: &Cluster,
    pods: &[PodFact],
    (hearings, waited): (&Hearings, Duration),
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<Vec<PodFact>, Failure> {
    let mut forced = Vec::new();
    for (want, act) in [(Way::Ask, "ask the kubelet to end"), (Way::Force, "force-delete")] {
        let ours: Vec<&PodFact> =
            pods.iter().filter(|p| way(p, hearings, waited) == want).collect();
        if ours.is_empty() {
            continue;
        }
        journal.intent(act, ours.iter().map(|p| p.target()).collect())?;
        say(format!("{act} {}", crate::words::count(ours.len(), "pod")));
        let calls: Vec<_> = ours.iter().map(|pod| delete(cluster, pod, want).boxed()).collect();
        let done: Vec<_> = stream::iter(calls).buffer_unordered(AT_ONCE).collect().await;
        let failed: Vec<ClusterError> = done.into_iter().filter_map(Result::err).collect();
        journal.seen(format!("{act}: {} of {} taken", ours.len() - failed.len(), ours.len()))?;
        if let Some(first) = failed.into_iter().next() {
            return Err(first.into());
        }
        if want == Way::Force {
            let ran = ours.into_iter().filter(|p| p.node.is_some() && !p.finished);
            forced.extend(ran.cloned());
        }
    }
    Ok(forced)
}

/// Adds pods that are not in the list yet.
pub fn add(list: &mut Vec<PodFact>, more: Vec<PodFact>) {
    for pod in more {
        if !list.iter().any(|p| p.uid == pod.uid) {
            list.push(pod);
        }
    }
}

async fn delete(cluster: &Cluster, pod: &PodFact, way: Way) -> Result<(), ClusterError> {
    let grace = match way {
        Way::Force => 0,
        Way::Ask | Way::Wait => u32::try_from(pod.grace).unwrap_or(GRACE).clamp(1, GRACE),
    };
    let api = cluster.api::<Pod>(Some(&pod.namespace));
    let what = format!("the end of pod {}", pod.words());
    remove(what, &api, (&pod.name, &pod.uid), Some(grace)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(node: Option<&str>, deleting: Option<i64>) -> PodFact {
        let when = deleting.map(|_| "2025-10-13T12:00:00Z");
        let pod = json!({"metadata": {"name": "p", "namespace": "a", "uid": "u", "deletionTimestamp": when,
                "deletionGracePeriodSeconds": deleting},
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running"}});
        serde_json::from_value::<Pod>(pod).unwrap().into()
    }

    #[test]
    fn a_kubelet_that_is_heard_gets_its_time_and_no_more() {
        let here: Hearings = Hearings::just("calypso", Hearing::Heard);
        let after =
            |s, deleting| way(&pod(Some("calypso"), deleting), &here, Duration::from_secs(s));
        assert_eq!(after(0, None), Way::Ask);
        assert_eq!(after(9, Some(30)), Way::Wait);
        assert_eq!(after(9, Some(3600)), Way::Ask);
        assert_eq!(after(71, Some(60)), Way::Force);
    }

    #[test]
    fn a_pod_of_a_silent_node_or_of_none_is_forced() {
        let silent = Hearings::just("styx", Hearing::Silent);
        let at_once = |node| way(&pod(node, None), &silent, Duration::ZERO);
        let nodes = [Some("styx"), Some("was-deleted"), None];
        assert_eq!(nodes.map(at_once), [Way::Force; 3]);
    }
}
