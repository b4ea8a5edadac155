//! A node as an object: what it must be again after it has been deleted, and whether pods may be placed on it.

use super::hearing::{Hearing, hearing};
use super::journal::{Event, Journal, Target};
use super::{Cluster, ClusterError, Failure, Refusal, Say, ask, merge};
use crate::member::Member;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::ListParams;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// Put on by the control plane for as long as a condition lasts; `unschedulable` follows the field.
const CONDITIONS: &str = "node.kubernetes.io/";

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeFact {
    /// Its name.
    pub name: String,
    /// Its uid: a node that registers again has another.
    pub uid: String,
    /// The boot its kubelet last spoke of.
    pub boot: Option<String>,
    /// Its Ready condition is True.
    pub ready: bool,
    /// How the control plane hears it.
    pub hearing: Hearing,
    /// No pods are placed on it.
    pub cordoned: bool,
    /// It carries the API server or etcd.
    pub control_plane: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints, those of its conditions too.
    pub taints: Vec<Taint>,
    /// Where its pods' addresses are from.
    pub pod_cidrs: Vec<String>,
}

impl From<Node> for NodeFact {
    fn from(node: Node) -> Self {
        let hearing = hearing(&node);
        let member = Member::from(node.clone());
        let spec = node.spec.unwrap_or_default();
        let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
        Self {
            name: member.name,
            uid: node.metadata.uid.unwrap_or_default(),
            boot: member.boot,
            ready: conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
            hearing,
            cordoned: spec.unschedulable == Some(true),
            control_plane: member.control_plane,
            labels: node.metadata.labels.unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            pod_cidrs: spec.pod_cidrs.unwrap_or_default(),
        }
    }
}

impl NodeFact {
    /// For the journal.
    pub fn target(&self) -> Target {
        Target { name: format!("node/{}", self.name), uid: self.uid.clone() }
    }
}

/// Every node.
pub async fn all(cluster: &Cluster) -> Result<Vec<NodeFact>, ClusterError> {
    Ok(cluster.nodes().await?.into_iter().map(Into::into).collect())
}

/// Is there a node of that name?
pub async fn is_there(cluster: &Cluster, name: &str) -> Result<bool, ClusterError> {
    let nodes = cluster.wide::<Node>();
    Ok(ask(format!("node {name}"), nodes.get_metadata_opt(name)).await?.is_some())
}

/// Looks at a node; one that does not exist is refused, and what was meant is guessed.
pub async fn look(cluster: &Cluster, name: &str) -> Result<NodeFact, Failure> {
    let nodes = cluster.wide::<Node>();
    if let Some(node) = ask(format!("node {name}"), nodes.get_opt(name)).await? {
        return Ok(node.into());
    }
    let every = ListParams::default();
    let there = ask("its nodes", nodes.list_metadata(&every)).await?;
    let names: Vec<String> = there.items.into_iter().filter_map(|n| n.metadata.name).collect();
    let hint = match crate::suggest::nearest(name, names.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("there are {}", names.join(", ")),
    };
    Err(Refusal::new(format!("find node {name}"), "the cluster has none of that name", hint).into())
}

/// Whether pods may be placed on a node, as wanted; tells whether that changed anything.
pub async fn cordon(
    cluster: &Cluster,
    node: &NodeFact,
    cordoned: bool,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<bool, Failure> {
    let word = if cordoned { "cordon" } else { "uncordon" };
    if node.cordoned == cordoned {
        say(format!("{} is {word}ed already", node.name));
        return Ok(false);
    }
    journal.note(Event::Before { what: "node".to_owned(), state: json!(node) })?;
    journal.intent(word, vec![node.target()])?;
    // A uid in a patch is a precondition: a node that has registered again meanwhile is another one.
    let patch = json!({"metadata": {"uid": node.uid}, "spec": {"unschedulable": cordoned}});
    let nodes = cluster.wide::<Node>();
    let changed = merge(format!("{word} node {}", node.name), &nodes, &node.name, &patch).await?;
    let now = NodeFact::from(changed);
    journal.seen(format!("cordoned: {}", now.cordoned))?;
    say(format!("{} is {word}ed", node.name));
    Ok(true)
}

/// Says of a node that it is certainly off: its pods are let go of at once, and their volumes with them. Kubernetes' own word for it.
const OFF: (&str, &str, &str) = ("node.kubernetes.io/out-of-service", "nodeshutdown", "NoExecute");

impl NodeFact {
    /// It is said to be off.
    pub fn out_of_service(&self) -> bool {
        self.taints.iter().any(|t| t.key == OFF.0)
    }
}

/// Whether a node is said to be off, as wanted. On a machine that runs this would have a volume written to from two sides: who calls
/// this knows that it does not.
pub async fn service(
    cluster: &Cluster,
    node: &NodeFact,
    off: bool,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<(), Failure> {
    let nodes = cluster.wide::<Node>();
    let object = ask(format!("node {}", node.name), nodes.get(&node.name)).await?;
    let version = object.metadata.resource_version.clone();
    let is = NodeFact::from(object);
    if is.uid != node.uid || is.out_of_service() == off {
        return Ok(());
    }
    let word = if off { "take out of service" } else { "put back into service" };
    journal.note(Event::Before { what: "node".to_owned(), state: json!(is) })?;
    journal.intent(word, vec![is.target()])?;
    let mut taints = is.taints.clone();
    taints.retain(|t| t.key != OFF.0);
    let (key, value, effect) = OFF;
    taints.extend(off.then(|| Taint {
        key: key.to_owned(),
        value: Some(value.to_owned()),
        effect: effect.to_owned(),
        ..Taint::default()
    }));
    // A list is replaced as a whole: whoever changed it meanwhile is not overwritten.
    let patch = json!({"metadata": {"uid": is.uid, "resourceVersion": version}, "spec": {"taints": taints}});
    merge(format!("{word}: node {}", node.name), &nodes, &node.name, &patch).await?;
    journal.seen(format!("out of service: {off}"))?;
    say(format!("{} is {}", node.name, if off { "out of service" } else { "in service again" }));
    Ok(())
}

/// What a node that registered again lacks of what it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lack {
    /// Labels it had, and has no more.
    pub labels: BTreeMap<String, String>,
    /// Taints it had that no condition put on it.
    pub taints: Vec<Taint>,
    /// It was cordoned.
    pub cordon: bool,
    /// Its pods' addresses are from elsewhere now: agents' baselines and guards must learn of it.
    pub pod_cidrs: Option<(Vec<String>, Vec<String>)>,
}

impl Lack {
    /// Compares.
    pub fn between(was: &NodeFact, is: &NodeFact) -> Self {
        let missing = |(key, _): &(&String, &String)| !is.labels.contains_key(*key);
        let labels = was.labels.iter().filter(missing);
        let lost = |t: &&Taint| {
            let same = |o: &Taint| o.key == t.key && o.effect == t.effect;
            !t.key.starts_with(CONDITIONS) && !is.taints.iter().any(same)
        };
        let moved = !was.pod_cidrs.is_empty() && was.pod_cidrs != is.pod_cidrs;
        Self {
            labels: labels.map(|(k, v)| (k.clone(), v.clone())).collect(),
            taints: was.taints.iter().filter(lost).cloned().collect(),
            cordon: was.cordoned && !is.cordoned,
            pod_cidrs: moved.then(|| (was.pod_cidrs.clone(), is.pod_cidrs.clone())),
        }
    }

    /// Nothing has to be put back.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.taints.is_empty() && !self.cordon
    }
}

/// Puts back what a node lacks; what it has of its own now is left alone.
pub async fn restore(
    cluster: &Cluster,
    was: &NodeFact,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<Lack, Failure> {
    let nodes = cluster.wide::<Node>();
    let node = ask(format!("node {}", was.name), nodes.get(&was.name)).await?;
    let version = node.metadata.resource_version.clone();
    let is = NodeFact::from(node);
    let lack = Lack::between(was, &is);
    if lack.is_empty() {
        say(format!("{} has the labels, taints and cordon it had", was.name));
        return Ok(lack);
    }
    journal.intent("restore labels, taints and cordon", vec![is.target()])?;
    let mut taints = is.taints.clone();
    taints.extend(lack.taints.iter().cloned());
    let mut patch = json!({"metadata": {"uid": is.uid, "resourceVersion": version, "labels": lack.labels},
        "spec": {"taints": taints}});
    if lack.cordon {
        patch["spec"]["unschedulable"] = json!(true);
    }
    merge(format!("the restoration of node {}", was.name), &nodes, &was.name, &patch).await?;
    let told = format!(
        "{}: put back {}, {}{}",
        was.name,
        crate::words::count(lack.labels.len(), "label"),
        crate::words::count(lack.taints.len(), "taint"),
        if lack.cordon { ", and the cordon" } else { "" }
    );
    journal.seen(told.clone())?;
    say(told);
    Ok(lack)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(spec: &serde_json::Value, labels: &serde_json::Value) -> NodeFact {
        let node =
            json!({"metadata": {"name": "calypso", "uid": "u", "labels": labels}, "spec": spec});
        serde_json::from_value::<Node>(node).unwrap().into()
    }

    #[test]
    fn a_node_lacks_what_it_had_and_not_what_a_condition_put_on_it() {
        let was = fact(
            &json!({"unschedulable": true, "podCIDRs": ["10.42.1.0/24"], "taints": [
                {"key": "gpu", "effect": "NoSchedule"},
                {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}),
            &json!({"gpu": "yes", "kubernetes.io/hostname": "calypso", "kubernetes.io/arch": "amd64"}),
        );
        let is = fact(
            &json!({"podCIDRs": ["10.42.7.0/24"]}),
            &json!({"kubernetes.io/hostname": "calypso", "kubernetes.io/arch": "arm64"}),
        );
        let lack = Lack::between(&was, &is);
        assert_eq!(lack.labels, BTreeMap::from([("gpu".to_owned(), "yes".to_owned())]));
        assert_eq!(lack.taints.iter().map(|t| t.key.as_str()).collect::<Vec<_>>(), ["gpu"]);
        assert!(lack.cordon);
        assert_eq!(lack.pod_cidrs.unwrap().1, ["10.42.7.0/24"]);
        assert!(Lack::between(&was, &was).is_empty());
    }
}
