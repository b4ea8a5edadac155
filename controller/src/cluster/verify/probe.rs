//! Asks for a Service by its name from a pod on a node: name resolution and the way to it in one question.
//!
//! The pod's image must be on the node already, nothing is pulled; its answer comes as its termination message, because its
//! log would come over the kubelet's port 10250, which may be what is broken.

use super::{Check, Said};
use crate::cluster::{Cluster, ClusterError, ask, remove};
use crate::config::verify::Reach;
use crate::obstacle::chain;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::PostParams;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// From its creation to its answer.
const LIMIT: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(500);

/// What the pod does: the shell of any small image, and whichever of the two it has.
const ASK: &str = r#"if command -v curl >/dev/null 2>&1; then
  said=$(curl -sS -o /dev/null --max-time 8 -f "$URL" 2>&1)
else
  said=$(wget -q -T 8 -O /dev/null "$URL" 2>&1)
fi
if [ $? = 0 ]; then printf reachable; else printf 'unreachable: %s' "$said"; fi > /dev/termination-log"#;

/// Asks from one node.
pub async fn ask_from(cluster: &Cluster, node: &str, reach: &Reach) -> Check {
    let what = format!("{} from {node}", reach.url);
    match from(cluster, node, reach).await {
        Ok(Ok(answer)) if answer == "reachable" => Check::new(what, Said::Good, answer),
        Ok(Ok(answer)) => Check::new(what, Said::Bad, answer),
        Ok(Err(why)) => Check::new(what, Said::Unknown, format!("could not be tested: {why}")),
        Err(e) => Check::new(what, Said::Unknown, format!("could not be tested: {}", chain(&e))),
    }
}

async fn from(
    cluster: &Cluster,
    node: &str,
    reach: &Reach,
) -> Result<Result<String, String>, ClusterError> {
    let there = ask(format!("node {node}"), cluster.wide::<Node>().get(node)).await?;
    if !has(&there, &reach.image) {
        return Ok(Err(format!("image {} is not on {node}, and nothing is pulled", reach.image)));
    }
    let pods = cluster.api::<Pod>(Some(&reach.namespace));
    let how = PostParams::default();
    let wanted = pod(node, reach);
    let made = ask("a pod that asks", pods.create(&how, &wanted)).await?;
    let name = made.metadata.name.unwrap_or_default();
    let uid = made.metadata.uid.unwrap_or_default();
    let answer = answer(cluster, reach, &name).await;
    // Whatever it said, it goes.
    remove("the end of the pod that asked", &pods, (&name, &uid), Some(0)).await?;
    answer
}

/// A kubelet tells an image by several names; the host in front may be left out in a manifest.
fn has(node: &Node, image: &str) -> bool {
    let images = node.status.as_ref().and_then(|s| s.images.as_deref()).unwrap_or_default();
    let mut names = images.iter().flat_map(|i| i.names.iter().flatten());
    names.any(|n| {
        n == image
            || n.strip_prefix("docker.io/")
                .is_some_and(|n| n == image || n == format!("library/{image}"))
    })
}

fn pod(node: &str, reach: &Reach) -> Pod {
    let pod = json!({
        "metadata": {"generateName": "lifeline-probe-", "labels": {"app.kubernetes.io/name": "lifeline-probe"}},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 30,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "ask",
                "image": reach.image,
                "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", ASK],
                "env": [{"name": "URL", "value": reach.url}],
                "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    serde_json::from_value(pod).unwrap_or_default()
}

async fn answer(
    cluster: &Cluster,
    reach: &Reach,
    name: &str,
) -> Result<Result<String, String>, ClusterError> {
    let begun = Instant::now();
    let mut waits = "no kubelet has begun it".to_owned();
    loop {
        let pods = cluster.api::<Pod>(Some(&reach.namespace));
        let now = ask(format!("pod {name}"), pods.get(name)).await?;
        let status = now.status.unwrap_or_default();
        let state = status.container_statuses.unwrap_or_default().pop().and_then(|c| c.state);
        let state = state.unwrap_or_default();
        if let Some(ended) = state.terminated {
            let said = ended.message.filter(|m| !m.is_empty());
            let why = format!("it ended with code {} and said nothing", ended.exit_code);
            return Ok(said.map(|m| m.trim().to_owned()).ok_or(why));
        }
        if let Some(waiting) = state.waiting {
            waits = [waiting.reason, waiting.message]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(": ");
            // These do not pass by waiting.
            if waits.starts_with("ErrImage")
                || waits.starts_with("Create")
                || waits.starts_with("InvalidImage")
            {
                return Ok(Err(waits));
            }
        }
        if begun.elapsed() > LIMIT {
            return Ok(Err(format!("no answer in {} s: {waits}", LIMIT.as_secs())));
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_pulls_nothing_and_passes_the_restricted_standard() {
        let reach = Reach {
            url: "http://web.apps.svc".into(),
            image: "lab/tools:1".into(),
            namespace: "default".into(),
        };
        let pod = serde_json::to_value(pod("calypso", &reach)).unwrap();
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Never");
        assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
        assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["spec"]["nodeName"], "calypso");
    }

    #[test]
    fn an_image_is_known_by_any_of_its_names() {
        let node: Node = serde_json::from_value(json!({"metadata": {}, "status": {"images": [
            {"names": ["docker.io/lab/tools@sha256:1", "docker.io/lab/tools:1"], "sizeBytes": 1}]}}))
        .unwrap();
        assert!(has(&node, "lab/tools:1") && has(&node, "docker.io/lab/tools:1"));
        assert!(!has(&node, "lab/tools:2"));
    }
}
