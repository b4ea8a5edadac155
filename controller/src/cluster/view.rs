//! The cluster's own view of its nodes, all at once: three lists beside each other, and what could not be listed is said.
//!
//! A lease's age compares the node's clock with this machine's, so it is told as an age and believed as a renewal only within the
//! lease's own duration, or when it was seen to change between two looks.

use super::inventory::all;
use super::{Cluster, ClusterError};
use crate::obstacle::chain;
use crate::sight::{PodSight, Sight};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What a kubelet asks for when its lease does not say.
const DURATION_S: i32 = 40;
/// The pods of so many nodes are asked for by node; of more, all there are.
const FEW: usize = 8;

/// Every node, as the API server has it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By name.
    pub nodes: BTreeMap<String, NodeView>,
    /// The objects themselves.
    pub objects: Vec<Node>,
}

/// A node, as the API server has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeView {
    /// The Ready condition's status, `null` when it has none.
    pub ready: Option<bool>,
    /// Its reason.
    pub reason: Option<String>,
    /// Since when it is so.
    pub since: Option<Timestamp>,
    /// Its lease; `null` when it has none, or none could be listed.
    pub lease: Option<LeaseView>,
    /// Taints, `KEY:EFFECT`, those of its conditions too.
    pub taints: Vec<String>,
    /// No pods are placed on it.
    pub cordoned: bool,
    /// Its pods; `null` when they could not be listed.
    pub pods: Option<PodsView>,
    /// The kubelet's version.
    pub kubelet: Option<String>,
    /// The boot its kubelet last spoke of.
    pub boot: Option<String>,
    /// What could not be seen, and why.
    pub gaps: Vec<String>,
}

/// A node's lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseView {
    /// The last renewal, as the node's clock wrote it.
    pub renewed: String,
    /// How old it is by this machine's clock, in seconds; below zero where the node's clock is ahead.
    pub age_s: i64,
    /// It is being renewed: younger than its own duration, or seen to change.
    pub renewing: bool,
}

/// Pods that are meant to run on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PodsView {
    /// How many there are.
    pub all: usize,
    /// Those that are not ready, `NAMESPACE/NAME`.
    pub unready: Vec<String>,
}

impl NodeView {
    /// `Ready`, `NotReady (NodeStatusUnknown)`.
    pub fn word(&self) -> String {
        match (self.ready, &self.reason) {
            (Some(true), _) => "Ready".to_owned(),
            (Some(false), Some(reason)) => format!("NotReady ({reason})"),
            (Some(false), None) => "NotReady".to_owned(),
            (None, _) => "no Ready condition".to_owned(),
        }
    }
}

/// Lists nodes, leases and pods. Without nodes there is no view; without the others it has gaps.
pub async fn look(cluster: &Cluster, named: &[String]) -> Result<View, ClusterError> {
    let select = match named.len() {
        1..=FEW => named.iter().map(|n| format!("spec.nodeName={n}")).collect(),
        _ => vec!["status.phase!=Succeeded,status.phase!=Failed".to_owned()],
    };
    let pods = cluster.api::<Pod>(None);
    let leases = cluster.api::<Lease>(Some("kube-node-lease"));
    let every = ListParams::default();
    let of = select.into_iter().map(|fields| {
        let (pods, select) = (pods.clone(), ListParams::default().fields(&fields));
        async move { all("the nodes' pods", &pods, &select).await }
    });
    let (nodes, leases, pods) =
        tokio::join!(cluster.nodes(), all("the nodes' leases", &leases, &every), try_join_all(of));
    let said = |e: ClusterError| chain(&e);
    let pods = pods.map(|lists| lists.into_iter().flatten().collect());
    Ok(View::of(nodes?, leases.map_err(said), pods.map_err(said), Timestamp::now()))
}

impl View {
    /// Puts together what was answered.
    fn of(
        objects: Vec<Node>,
        leases: Result<Vec<Lease>, String>,
        pods: Result<Vec<Pod>, String>,
        now: Timestamp,
    ) -> Self {
        let mut gaps = Vec::new();
        let mut missed = |why: String| gaps.push(why);
        let mut leases: Option<BTreeMap<String, Lease>> = leases
            .map_err(&mut missed)
            .ok()
            .map(|l| l.into_iter().filter_map(|l| Some((l.metadata.name.clone()?, l))).collect());
        let mut by_node: Option<BTreeMap<String, Vec<Pod>>> =
            pods.map_err(&mut missed).ok().map(|pods| {
                let mut by_node = BTreeMap::<_, Vec<Pod>>::new();
                for pod in pods {
                    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
                    by_node.entry(node.unwrap_or_default()).or_default().push(pod);
                }
                by_node
            });
        let nodes = objects.iter().filter_map(|node| {
            let name = node.metadata.name.clone()?;
            let lease = leases.as_mut().and_then(|l| l.remove(&name));
            let pods = by_node.as_mut().map(|p| p.remove(&name).unwrap_or_default());
            let mut view = NodeView::of(node, lease, pods, now);
            view.gaps.clone_from(&gaps);
            Some((name, view))
        });
        let nodes = nodes.collect();
        Self { nodes, objects }
    }
}

impl NodeView {
    fn of(node: &Node, lease: Option<Lease>, pods: Option<Vec<Pod>>, now: Timestamp) -> Self {
        let seen_pods = pods.is_some();
        let lease = lease.and_then(|l| lease_view(l, now));
        let sight = Sight::of(node.clone(), None, pods.unwrap_or_default());
        let status = node.status.as_ref();
        let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let ready = conditions.iter().find(|c| c.type_ == "Ready");
        let info = status.and_then(|s| s.node_info.as_ref());
        let spec = node.spec.as_ref();
        let taints = spec.and_then(|s| s.taints.as_deref()).unwrap_or_default();
        Self {
            ready: sight.ready,
            reason: sight.reason,
            since: ready.and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0),
            lease,
            taints: taints.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect(),
            cordoned: spec.and_then(|s| s.unschedulable) == Some(true),
            pods: seen_pods.then(|| PodsView::of(&sight.pods)),
            kubelet: info.map(|i| i.kubelet_version.clone()).filter(|v| !v.is_empty()),
            boot: sight.boot_id,
            gaps: Vec::new(),
        }
    }
}

impl PodsView {
    fn of(pods: &[PodSight]) -> Self {
        let unready = pods.iter().filter(|p| !p.ready).map(|p| p.name.clone());
        Self { all: pods.len(), unready: unready.collect() }
    }
}

fn lease_view(lease: Lease, now: Timestamp) -> Option<LeaseView> {
    let lasts = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds).unwrap_or(DURATION_S);
    let at = lease.spec.as_ref()?.renew_time.as_ref()?.0;
    let age_s = now.as_second() - at.as_second();
    let renewing = age_s < i64::from(lasts);
    Some(LeaseView { renewed: crate::sight::renewed(lease)?, age_s, renewing })
}

/// Renewals that were seen from one look to the next: where clocks differ, they alone count.
#[derive(Debug, Default)]
pub struct Renewals(BTreeMap<String, (String, Instant)>);

impl Renewals {
    /// Takes a look's leases in, and corrects what their age alone says.
    pub fn seen(&mut self, view: &mut View, at: Instant) {
        for (name, node) in &mut view.nodes {
            let Some(lease) = &mut node.lease else { continue };
            match self.0.get(name) {
                Some((last, since)) if *last == lease.renewed => {
                    let still = at.saturating_duration_since(*since);
                    let lasts = u64::try_from(DURATION_S).unwrap_or_default();
                    lease.renewing &= still < Duration::from_secs(lasts);
                }
                before => {
                    lease.renewing |= before.is_some();
                    self.0.insert(name.clone(), (lease.renewed.clone(), at));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn node() -> Node {
        read(json!({"metadata": {"name": "calypso"},
            "spec": {"unschedulable": true, "taints": [{"key": "gpu", "effect": "NoSchedule"}]},
            "status": {"nodeInfo": {"bootID": "b", "kubeletVersion": "v1.34.2+k3s1"},
                "conditions": [{"type": "Ready", "status": "False", "reason": "KubeletNotReady",
                    "lastTransitionTime": "2025-10-13T11:00:00Z"}]}}))
    }

    fn lease(renewed: &str) -> Lease {
        read(json!({"metadata": {"name": "calypso"},
            "spec": {"renewTime": renewed, "leaseDurationSeconds": 40}}))
    }

    fn pod(name: &str, node: &str, ready: &str) -> Pod {
        read(
            json!({"metadata": {"name": name, "namespace": "apps"}, "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}}),
        )
    }

    const NOON: &str = "2025-10-13T12:00:00Z";

    fn view(leases: Result<Vec<Lease>, String>, pods: Result<Vec<Pod>, String>) -> View {
        View::of(vec![node()], leases, pods, NOON.parse().unwrap())
    }

    #[test]
    fn a_node_is_seen_with_its_own_lease_and_its_own_pods() {
        let pods = vec![
            pod("web", "calypso", "True"),
            pod("db", "calypso", "False"),
            pod("x", "styx", "False"),
        ];
        let seen = view(Ok(vec![lease("2025-10-13T11:59:51.000000Z")]), Ok(pods));
        let calypso = &seen.nodes["calypso"];
        assert_eq!(calypso.word(), "NotReady (KubeletNotReady)");
        assert_eq!(calypso.since.unwrap().to_string(), "2025-10-13T11:00:00Z");
        let held = calypso.lease.as_ref().unwrap();
        assert_eq!((held.age_s, held.renewing), (9, true));
        let pods = calypso.pods.as_ref().unwrap();
        assert_eq!((pods.all, pods.unready.as_slice()), (2, &["apps/db".to_owned()][..]));
        assert_eq!(
            (calypso.taints.as_slice(), calypso.cordoned),
            (&["gpu:NoSchedule".to_owned()][..], true)
        );
        assert_eq!(calypso.kubelet.as_deref(), Some("v1.34.2+k3s1"));
    }

    #[test]
    fn what_could_not_be_listed_is_unknown_and_not_empty() {
        let seen = view(Err("403 Forbidden".into()), Err("no answer".into()));
        let calypso = &seen.nodes["calypso"];
        assert_eq!((&calypso.lease, &calypso.pods), (&None, &None));
        assert_eq!(calypso.gaps, ["403 Forbidden", "no answer"]);
        // It was listed, and there is none: nothing is missing from the look.
        let none = view(Ok(vec![]), Ok(vec![]));
        assert_eq!(none.nodes["calypso"].pods, Some(PodsView::default()));
        assert!(none.nodes["calypso"].gaps.is_empty());
    }

    #[test]
    fn a_lease_that_changes_is_renewed_whatever_the_clocks_say_and_one_that_stands_still_is_not() {
        let old = "2025-10-13T11:50:00.000000Z";
        let ahead = "2025-10-13T13:00:00.000000Z";
        let of = |renewed: &str| view(Ok(vec![lease(renewed)]), Ok(vec![]));
        let told = |v: &View| v.nodes["calypso"].lease.as_ref().unwrap().renewing;
        let (mut renewals, begun) = (Renewals::default(), Instant::now());
        let mut first = of(old);
        renewals.seen(&mut first, begun);
        assert!(!told(&first), "ten minutes old, and never seen to change");
        let mut second = of("2025-10-13T11:50:10.000000Z");
        renewals.seen(&mut second, begun + Duration::from_secs(5));
        assert!(told(&second), "the node's clock is behind");
        let mut third = of(ahead);
        renewals.seen(&mut third, begun + Duration::from_secs(10));
        let mut fourth = of(ahead);
        renewals.seen(&mut fourth, begun + Duration::from_secs(60));
        assert!(told(&third) && !told(&fourth), "the node's clock is ahead, and it stands still");
    }
}
