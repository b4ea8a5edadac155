//! Phase 0: everything is looked at side by side, and what cannot be seen is said; nothing is touched.

use super::op::Taint;
use super::opened::{NodeObject, NodeWas, Origin};
use crate::agent::verdict;
use crate::cluster::Cluster;
use crate::error::CommandError;
use crate::member::Member;
use crate::obstacle::chain;
use crate::session::Session;
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Node;

/// Put on by the control plane; they go when the node is heard again, and are nobody's wish.
const SILENT: &str = "node.kubernetes.io/";

/// What was seen.
#[derive(Debug, Default)]
pub struct Looked {
    /// Every node that is looked after.
    pub nodes: Vec<NodeWas>,
    /// What could not be seen, and why.
    pub gaps: Vec<String>,
}

/// Looks at these nodes, or at all of the configuration and the workers that the cluster knows besides.
pub async fn look(
    session: &Session,
    cluster: Option<&Cluster>,
    named: &[String],
) -> Result<Looked, CommandError> {
    let names = session.nodes(named).await?;
    let agents = join_all(names.iter().map(|node| async move {
        let agent = session.agent(node).await?;
        // What it saw last may be a minute old; what decides is a fresh look.
        let word = match agent.diagnose().await {
            Ok(seen) => seen.verdict.word(),
            Err(_) => verdict(agent.status.verdict).word(),
        };
        Ok::<_, CommandError>((word, agent.status.boot_id))
    }));
    let objects = async {
        match cluster {
            Some(cluster) => Some(cluster.nodes().await),
            None => None,
        }
    };
    let (agents, objects) = tokio::join!(agents, objects);
    let mut looked = Looked::default();
    looked.gaps.extend(session.unlisted().map(|e| e.to_string()));
    let objects = match objects {
        Some(Ok(objects)) => Some(objects),
        Some(Err(e)) => {
            looked.gaps.push(format!("the cluster's nodes: {}", chain(&e)));
            None
        }
        None => {
            looked.gaps.push("the cluster's nodes: no API server could be asked".to_owned());
            None
        }
    };
    for (name, agent) in names.iter().zip(agents) {
        let from = match named.is_empty() {
            false => Origin::Typed,
            true if session.configured().contains(name) => Origin::File,
            true => Origin::Cluster,
        };
        let mut was = NodeWas { name: name.clone(), from, ..NodeWas::default() };
        match agent {
            Ok((word, boot)) => {
                was.verdict = Some(word.to_owned());
                was.boot = Some(boot).filter(|b| !b.is_empty());
            }
            Err(error) => was.unreached = Some(error.to_string()),
        }
        if let Some(objects) = &objects {
            let found = objects.iter().find(|o| o.metadata.name.as_deref() == Some(name));
            match found {
                Some(node) => of_object(&mut was, node),
                None => {
                    looked
                        .gaps
                        .push(format!("node {name}: the API server knows none of that name"));
                }
            }
        }
        looked.nodes.push(was);
    }
    Ok(looked)
}

/// One node whose agent could not be reached, as the API server has it; and what could not be seen.
pub async fn unreached(
    cluster: Option<&Cluster>,
    name: &str,
    why: String,
) -> (NodeWas, Vec<String>) {
    let mut was = NodeWas {
        name: name.to_owned(),
        from: Origin::Typed,
        unreached: Some(why),
        ..NodeWas::default()
    };
    let Some(cluster) = cluster else {
        return (was, vec!["the cluster's nodes: no API server could be asked".to_owned()]);
    };
    let gap = match cluster.nodes().await {
        Err(e) => Some(format!("the cluster's nodes: {}", chain(&e))),
        Ok(all) => match all.iter().find(|n| n.metadata.name.as_deref() == Some(name)) {
            Some(node) => {
                of_object(&mut was, node);
                None
            }
            None => Some(format!("node {name}: the API server knows none of that name")),
        },
    };
    (was, gap.into_iter().collect())
}

fn of_object(was: &mut NodeWas, node: &Node) {
    let member = Member::from(node.clone());
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready = conditions.and_then(|c| c.iter().find(|c| c.type_ == "Ready"));
    was.ready = ready.map(|c| c.status == "True");
    was.boot = was.boot.take().or(member.boot);
    let spec = node.spec.clone().unwrap_or_default();
    let taints = spec.taints.unwrap_or_default().into_iter();
    was.object = Some(NodeObject {
        uid: node.metadata.uid.clone().unwrap_or_default(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints: taints
            .filter(|t| !t.key.starts_with(SILENT))
            .map(|t| Taint { key: t.key, value: t.value.unwrap_or_default(), effect: t.effect })
            .collect(),
        cordoned: spec.unschedulable.unwrap_or(false),
        pod_cidr: spec.pod_cidr,
        control_plane: member.control_plane,
    });
}
