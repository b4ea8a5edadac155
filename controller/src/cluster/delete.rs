//! Taking a node out of the cluster: what it was is written down first, and put back when it registers again.
//!
//! k3s keeps a hash of each node's password in a Secret. A machine that keeps its disk knows its password, and the Secret
//! must stay; a machine that is wiped does not, and then the Secret goes too, after the node and while the machine is off:
//! a kubelet that still ran would have it made again with the old password.

use super::hearing::Hearing;
use super::journal::{self, Event, Journal, Target};
use super::node::{self, Lack, NodeFact};
use super::pods::{self, PodFact};
use super::{Cluster, ClusterError, Failure, Refusal, Say, ask, remove};
use k8s_openapi::api::core::v1::{Node, Secret};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// What a deleted node was, in its journal.
const WAS: &str = "node before its deletion";
/// What is done to it there.
const DELETE: &str = "delete";
const LOOK: Duration = Duration::from_secs(1);

/// What a deletion would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The node.
    pub node: NodeFact,
    /// Its pods; the control plane lets go of them a minute after the node is gone.
    pub pods: Vec<PodFact>,
    /// Other nodes that pods can be placed on.
    pub others: Vec<String>,
    /// The Secret with its password, if it is known to be there.
    pub password: Option<Target>,
}

/// Looks at what a deletion would do, and refuses it where it must not be done.
pub async fn look(cluster: &Cluster, name: &str) -> Result<Plan, Failure> {
    let node = node::look(cluster, name).await?;
    let all = node::all(cluster).await?;
    let others = check(&node, &all)?;
    let pods = pods::of_node(cluster, name).await?;
    Ok(Plan { node, pods, others, password: password(cluster, name).await })
}

/// The same; or, where the node is gone because of a deletion that was cut off, what is left of that.
pub async fn again(cluster: &Cluster, known: &str, name: &str) -> Result<(Plan, bool), Failure> {
    let why = match look(cluster, name).await {
        Err(Failure::Refused(why)) => why,
        other => return Ok((other?, false)),
    };
    let open = journal::unfinished(known, &format!("node-{name}"))?;
    match begun(&open) {
        Some(node) if !node::is_there(cluster, name).await? => {
            // Nobody of that name is there: whatever is still said to be on it was on this one.
            let pods = pods::of_node(cluster, name).await?;
            let password = password(cluster, name).await;
            Ok((Plan { node, pods, others: Vec::new(), password }, true))
        }
        _ => Err(why.into()),
    }
}

fn begun(open: &[Event]) -> Option<NodeFact> {
    let was = open.iter().rev().find_map(|event| match event {
        Event::Before { what, state } if what == WAS => {
            serde_json::from_value::<NodeFact>(state.clone()).ok()
        }
        _ => None,
    })?;
    let ours = |e: &Event| matches!(e, Event::Intent { act, targets } if act == DELETE && targets.contains(&was.target()));
    open.iter().any(ours).then_some(was)
}

fn check(node: &NodeFact, all: &[NodeFact]) -> Result<Vec<String>, Refusal> {
    let what = format!("delete node {}", node.name);
    if node.control_plane {
        let hint = "nothing was done; a server is removed by hand, by somebody who looks at etcd";
        return Err(Refusal::new(what, "it carries the control plane", hint));
    }
    let others = all.iter().filter(|n| n.uid != node.uid && n.ready && !n.cordoned);
    let others: Vec<String> = others.map(|n| n.name.clone()).collect();
    if others.is_empty() && node.ready {
        let hint =
            "nothing was done; bring another node back first: ctl heal NODE, ctl uncordon NODE";
        return Err(Refusal::new(
            what,
            "it is the last Ready node that pods can be placed on",
            hint,
        ));
    }
    Ok(others)
}

/// Its metadata alone; who may not ask for it does without.
pub async fn password(cluster: &Cluster, name: &str) -> Option<Target> {
    let secret = format!("{}.node-password.k3s", name.to_ascii_lowercase());
    let secrets = cluster.api::<Secret>(Some("kube-system"));
    let found = ask("its password's metadata", secrets.get_metadata_opt(&secret)).await.ok()??;
    Some(Target { name: secret, uid: found.metadata.uid.unwrap_or_default() })
}

/// What became of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Deleted {
    /// Pods that are still there.
    pub pods_left: usize,
    /// The password's Secret was deleted.
    pub password_gone: bool,
    /// Its kubelet was heard: it comes back when its agent is restarted.
    pub returns: bool,
}

/// Writes down what the node is, deletes it, and waits until its pods are gone.
pub async fn act(
    cluster: &Cluster,
    plan: &Plan,
    (wiped, limit): (bool, Duration),
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<Deleted, Failure> {
    let node = &plan.node;
    if wiped && node.hearing == Hearing::Heard {
        return Err(Refusal::new(
            format!("forget the password of {}", node.name),
            "its kubelet is heard: it would have the Secret made again with the password it knows",
            "stop the machine first (ctl vps show NODE), and wait until the node is NotReady",
        )
        .into());
    }
    journal.note(Event::Before { what: WAS.to_owned(), state: json!(node) })?;
    journal.intent(DELETE, vec![node.target()])?;
    let nodes = cluster.wide::<Node>();
    remove(format!("the end of node {}", node.name), &nodes, (&node.name, &node.uid), None).await?;
    say(format!("node {} is deleted; what it was is written down", node.name));
    let mut done = Deleted { returns: node.hearing == Hearing::Heard, ..Deleted::default() };
    let begun = Instant::now();
    loop {
        let left = pods::of_node(cluster, &node.name).await?;
        // A node that registers again may have pods of its own.
        let ours = left.iter().filter(|l| plan.pods.iter().any(|p| p.uid == l.uid && !p.mirror));
        done.pods_left = ours.count();
        if done.pods_left == 0 || begun.elapsed() >= limit {
            break;
        }
        sleep(LOOK).await;
    }
    journal.seen(format!("{} left", crate::words::count(done.pods_left, "pod")))?;
    let kept = if wiped { password(cluster, &node.name).await } else { None };
    if wiped && kept.is_none() {
        say(format!(
            "no password of {} is seen: k3s deletes it by itself, or you may not see it (ctl rights --break-glass)",
            node.name
        ));
    }
    if let Some(secret) = kept {
        let secrets = cluster.api::<Secret>(Some("kube-system"));
        journal.intent("delete secret", vec![secret.clone()])?;
        remove("the end of its password", &secrets, (&secret.name, &secret.uid), None).await?;
        say(format!(
            "secret {} is deleted: the wiped machine may come with another password",
            secret.name
        ));
        done.password_gone = true;
    }
    Ok(done)
}

/// Waits until a node of that name registers again, and makes it what it was.
pub async fn restore(
    cluster: &Cluster,
    name: &str,
    limit: Duration,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<Lack, Failure> {
    let Some(was) = journal.before::<NodeFact>(WAS) else {
        return Err(Refusal::new(
            format!("restore node {name}"),
            "its journal on this machine tells of no deletion",
            "labels, taints and cordon have to be put back by hand, or from the machine the deletion was done on",
        )
        .into());
    };
    let begun = Instant::now();
    say(format!("waiting for {name} to register again, {} s at most", limit.as_secs()));
    loop {
        let nodes = cluster.wide::<Node>();
        match ask(format!("node {name}"), nodes.get_opt(name)).await? {
            Some(node) if node.metadata.uid.as_deref() != Some(&was.uid) => break,
            _ if begun.elapsed() >= limit => {
                let what = format!("node {name} to register again");
                return Err(ClusterError::Late { what, limit }.into());
            }
            _ => sleep(LOOK).await,
        }
    }
    node::restore(cluster, &was, journal, say).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: &str, labels: &serde_json::Value) -> NodeFact {
        let node = json!({"metadata": {"name": name, "uid": name, "labels": labels},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        serde_json::from_value::<Node>(node).unwrap().into()
    }

    #[test]
    fn a_deletion_is_gone_on_with_when_it_had_begun_and_not_ended() {
        let was = node("styx", "Unknown", &json!({"gpu": "yes"}));
        let before = Event::Before { what: WAS.to_owned(), state: json!(was) };
        let intent = |target| Event::Intent { act: DELETE.to_owned(), targets: vec![target] };
        let other = Target { name: "node/styx".to_owned(), uid: "another".to_owned() };
        assert_eq!(begun(&[before.clone(), intent(was.target())]), Some(was.clone()));
        assert_eq!(begun(&[before.clone(), intent(other)]), None);
        assert_eq!(
            (begun(&[before]), begun(&[intent(was.target())]), begun(&[])),
            (None, None, None)
        );
    }

    #[test]
    fn the_control_plane_and_the_last_node_pods_can_be_placed_on_are_refused() {
        let server =
            node("tethys", "True", &json!({"node-role.kubernetes.io/control-plane": "true"}));
        let dead = node("styx", "Unknown", &json!({}));
        let last = node("calypso", "True", &json!({}));
        let all = [server.clone(), dead.clone(), last.clone()];
        assert!(check(&server, &all).unwrap_err().why.contains("control plane"));
        assert_eq!(check(&dead, &all).unwrap(), ["tethys", "calypso"]);
        let without = [dead.clone(), last.clone()];
        assert!(check(&last, &without).unwrap_err().why.contains("last Ready"));
        assert_eq!(check(&dead, &without).unwrap(), ["calypso"]);
    }
}
