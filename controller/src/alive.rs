//! What the API server says of a node, held against what the node's own agent sees there.
//!
//! After a power cycle the API server goes on saying what was true before: the node Ready, its pods Running, for as long as no kubelet
//! says otherwise, and for up to 115 s where the kubelet itself was misled. Nothing in its own words tells that; the boot that the agent
//! runs in does, and processes that are not there.

use crate::agent::Agent;
use crate::cluster::inventory::all;
use crate::cluster::{Cluster, node};
use crate::obstacle::chain;
use crate::words::count;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use std::collections::BTreeMap;

/// An agent is asked for so many at once.
const AT_ONCE: usize = 500;
/// So many are named.
const FEW: usize = 5;

/// What the API server says of the agent's node and is not so; `None` when nothing is. The error says why that could not be told.
pub async fn lie(cluster: &Cluster, agent: &Agent) -> Result<Option<String>, String> {
    let name = &agent.node;
    let seen = node::look(cluster, name).await.map_err(|e| chain(&e))?;
    let here = &agent.status.boot_id;
    if let Some(said) = seen.boot.filter(|said| said != here) {
        return Ok(Some(format!(
            "the API server speaks of boot {said}, and its agent runs in {here}: what is said of it is from before"
        )));
    }
    let mut silent = claimed(cluster, name).await?;
    let uids: Vec<String> = silent.keys().cloned().collect();
    for some in uids.chunks(AT_ONCE) {
        for alive in agent.pods(some.to_vec()).await.map_err(|e| chain(&e))? {
            silent.remove(&alive);
        }
    }
    if !silent.is_empty() {
        // One that ended between the two looks was no lie.
        let now = claimed(cluster, name).await?;
        silent.retain(|uid, _| now.contains_key(uid));
    }
    Ok((!silent.is_empty()).then(|| told(&silent)))
}

fn told(silent: &BTreeMap<String, String>) -> String {
    let few: Vec<&str> = silent.values().take(FEW).map(String::as_str).collect();
    let more = silent.len() - few.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let what = count(silent.len(), "pod");
    format!(
        "{what} Running by the API server's word, and no process there: {}{more}",
        few.join(", ")
    )
}

/// Pods that run there by the API server's word, by uid.
async fn claimed(cluster: &Cluster, node: &str) -> Result<BTreeMap<String, String>, String> {
    let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = all(&format!("the pods of {node}"), &cluster.api::<Pod>(None), &there).await;
    Ok(pods.map_err(|e| chain(&e))?.into_iter().filter_map(runs).collect())
}

/// Uid and name of a pod whose processes its node must have. A mirror's are another uid's, and those of a runtime of its own may be in a
/// machine of their own.
fn runs(pod: Pod) -> Option<(String, String)> {
    let meta = pod.metadata;
    let mirror = meta.annotations.unwrap_or_default().contains_key("kubernetes.io/config.mirror");
    let apart = pod.spec.is_some_and(|s| s.runtime_class_name.is_some());
    let phase = pod.status.and_then(|s| s.phase);
    let meant = phase.as_deref() == Some("Running") && meta.deletion_timestamp.is_none();
    if !meant || mirror || apart {
        return None;
    }
    Some((meta.uid?, format!("{}/{}", meta.namespace.unwrap_or_default(), meta.name?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(more: &Value) -> Option<(String, String)> {
        let mut pod = json!({"metadata": {"name": "web", "namespace": "apps", "uid": "u"},
            "spec": {"containers": []}, "status": {"phase": "Running"}});
        for (part, fields) in more.as_object().unwrap() {
            let into = pod[part].as_object_mut().unwrap();
            into.extend(fields.as_object().unwrap().clone());
        }
        runs(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn only_a_pod_that_runs_by_its_status_and_on_the_node_itself_must_have_processes() {
        assert_eq!(pod(&json!({})), Some(("u".to_owned(), "apps/web".to_owned())));
        for other in [
            json!({"status": {"phase": "Pending"}}),
            json!({"status": {"phase": "Succeeded"}}),
            json!({"metadata": {"deletionTimestamp": "2025-10-13T12:00:00Z"}}),
            json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}),
            json!({"spec": {"runtimeClassName": "kata"}}),
        ] {
            assert_eq!(pod(&other), None, "{other}");
        }
    }

    #[test]
    fn a_few_are_named_and_the_rest_are_counted() {
        let of = |n: u32| (0..n).map(|i| (format!("u{i}"), format!("apps/p{i}"))).collect();
        assert!(told(&of(1)).starts_with("1 pod Running"), "{}", told(&of(1)));
        assert!(told(&of(7)).ends_with("apps/p4 and 2 more"), "{}", told(&of(7)));
    }
}
