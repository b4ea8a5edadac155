//! A node as the API server shows it at one moment, and its pods; reading alone, nothing is asked here.
//!
//! Three of these facts lie when taken alone: Ready stays True for as long as the node monitor waits, a lease's age compares
//! two clocks, and the control plane marks every pod of a silent node not ready whatever runs there. So each is kept with what
//! tells the lie: the heartbeat behind Ready, the boot it speaks of, the kubelet's own last word on each pod's containers.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Deserialize, Serialize};

/// Put on a node by the control plane while it hears nothing from it, or hears that it is not ready.
const SILENT: [&str; 2] = ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"];

/// A node, as seen once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// The Ready condition's status, `None` when there is none.
    pub ready: Option<bool>,
    /// Its reason.
    pub reason: Option<String>,
    /// When the kubelet last said it, by the node's clock, to the second.
    pub heartbeat: Option<Timestamp>,
    /// The lease's last renewal, as the node's clock wrote it.
    pub renewed: Option<String>,
    /// The boot the kubelet speaks of.
    pub boot_id: Option<String>,
    /// Taints of a node that is not heard.
    pub taints: Vec<String>,
    /// Pods that are meant to run there.
    pub pods: Vec<PodSight>,
}

/// A pod that is neither finished nor being deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSight {
    /// `namespace/name`.
    pub name: String,
    /// Its uid: another pod may come to bear its name.
    pub uid: String,
    /// Its Ready condition.
    pub ready: bool,
    /// Every container was ready when the kubelet last spoke of it.
    pub ready_by_kubelet: bool,
    /// When the first of its running containers was started, by the node's clock.
    pub started: Option<Timestamp>,
}

impl Sight {
    /// Puts together what was answered.
    pub fn of(node: Node, lease: Option<Lease>, pods: Vec<Pod>) -> Self {
        let status = node.status.unwrap_or_default();
        let mut conditions = status.conditions.unwrap_or_default();
        conditions.retain(|c| c.type_ == "Ready");
        let ready = conditions.into_iter().next();
        let taints = node.spec.and_then(|s| s.taints).unwrap_or_default();
        Self {
            ready: ready.as_ref().map(|c| c.status == "True"),
            heartbeat: ready.as_ref().and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0),
            reason: ready.and_then(|c| c.reason),
            renewed: lease.and_then(renewed),
            boot_id: status.node_info.map(|i| i.boot_id).filter(|id| !id.is_empty()),
            taints: taints
                .into_iter()
                .filter(|t| SILENT.contains(&t.key.as_str()))
                .map(|t| format!("{}:{}", t.key, t.effect))
                .collect(),
            pods: pods.into_iter().filter_map(pod).collect(),
        }
    }

    /// For people: `Ready`, `NotReady (NodeStatusUnknown)`.
    pub fn words(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or("no reason");
        let renewed = self.renewed.as_deref().unwrap_or("never");
        let ready = match self.ready {
            Some(true) => "Ready".to_owned(),
            Some(false) => format!("NotReady ({reason})"),
            None => "without a Ready condition".to_owned(),
        };
        let waiting = self.pods.iter().filter(|p| !p.ready).count();
        let pods = match (self.pods.len(), waiting) {
            (0, _) => "no pods".to_owned(),
            (all, 0) => format!("{all} pods ready"),
            (all, waiting) => format!("{waiting} of {all} pods not ready"),
        };
        let taint = if self.taints.is_empty() { "" } else { ", tainted as out of reach" };
        format!("{ready}, lease renewed {renewed}, {pods}{taint}")
    }

    /// Nothing in it is out of order.
    pub fn well(&self) -> bool {
        self.ready == Some(true) && self.taints.is_empty() && self.pods.iter().all(|p| p.ready)
    }
}

/// A lease's last renewal, as the node's clock wrote it.
pub fn renewed(lease: Lease) -> Option<String> {
    let at = serde_json::to_value(lease.spec?.renew_time?).ok()?;
    at.as_str().map(Into::into)
}

fn pod(pod: Pod) -> Option<PodSight> {
    let status = pod.status.unwrap_or_default();
    let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if finished || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let containers = status.container_statuses.unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let started = containers.iter().filter_map(|c| c.state.as_ref()?.running.as_ref());
    let space = pod.metadata.namespace.unwrap_or_default();
    Some(PodSight {
        name: format!("{space}/{}", pod.metadata.name.unwrap_or_default()),
        uid: pod.metadata.uid.unwrap_or_default(),
        ready: conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
        ready_by_kubelet: !containers.is_empty() && containers.iter().all(|c| c.ready),
        started: started.filter_map(|r| r.started_at.as_ref()).map(|t| t.0).min(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn node(ready: &str, taint: &str) -> Node {
        read(
            json!({"metadata": {"name": "calypso"}, "spec": {"taints": [{"key": taint, "effect": "NoExecute"}]},
            "status": {"nodeInfo": {"bootID": "b"},
                "conditions": [{"type": "DiskPressure", "status": "False"},
                    {"type": "Ready", "status": ready, "reason": "R", "lastHeartbeatTime": "2025-10-13T12:00:00Z"}]}}),
        )
    }

    fn pod(name: &str, status: &Value) -> Pod {
        read(
            json!({"metadata": {"name": name, "namespace": "apps", "uid": name}, "status": status}),
        )
    }

    #[test]
    fn only_the_taints_of_a_node_that_is_not_heard_count() {
        let own = Sight::of(node("True", "nvidia.com/gpu"), None, vec![]);
        assert!(own.taints.is_empty() && own.well(), "{own:?}");
        let silent = Sight::of(node("Unknown", "node.kubernetes.io/unreachable"), None, vec![]);
        assert_eq!(silent.taints, ["node.kubernetes.io/unreachable:NoExecute"]);
        assert_eq!(
            silent.words(),
            "NotReady (R), lease renewed never, no pods, tainted as out of reach"
        );
    }

    #[test]
    fn a_pod_of_a_silent_node_keeps_the_kubelets_last_word() {
        let marked = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [{"name": "a", "ready": true, "restartCount": 0, "image": "", "imageID": "",
                "state": {"running": {"startedAt": "2025-10-13T11:00:00Z"}}}]});
        let done = json!({"phase": "Succeeded"});
        let seen = Sight::of(node("True", "x"), None, vec![pod("web", &marked), pod("job", &done)]);
        let [web] = &seen.pods[..] else { panic!("{seen:?}") };
        assert!(!web.ready && web.ready_by_kubelet && web.started.is_some(), "{web:?}");
        assert_eq!((web.name.as_str(), seen.well()), ("apps/web", false));
    }
}
