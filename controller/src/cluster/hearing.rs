//! Which nodes the control plane still hears from: on a node it does not hear, no pod can finish by itself.

use super::inventory::all;
use super::{Cluster, ClusterError};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a node is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hearing {
    /// Its lease is renewed.
    Heard,
    /// Its lease is stale: so says the control plane, by its own clock alone.
    Silent,
    /// There is no such node.
    Gone,
}

/// How every node is heard.
#[derive(Clone, Debug, Default)]
pub struct Hearings(BTreeMap<String, Hearing>);

impl Hearings {
    /// How the node is heard.
    pub fn of(&self, node: &str) -> Hearing {
        self.0.get(node).copied().unwrap_or(Hearing::Gone)
    }

    /// One node alone.
    #[cfg(test)]
    pub fn just(node: &str, hearing: Hearing) -> Self {
        Self(BTreeMap::from([(node.to_owned(), hearing)]))
    }
}

/// Asks for all nodes.
pub async fn look(cluster: &Cluster) -> Result<Hearings, ClusterError> {
    let nodes = all("its nodes", &cluster.wide::<Node>(), &ListParams::default()).await?;
    let named = nodes.iter().map(|n| (n.metadata.name.clone().unwrap_or_default(), hearing(n)));
    Ok(Hearings(named.collect()))
}

/// The node lifecycle controller turns Ready to Unknown when a lease has not been renewed for 50 s. `False` is the
/// kubelet's own word: it is alive.
pub fn hearing(node: &Node) -> Hearing {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let unknown = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "Unknown");
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let cut_off = taints.iter().any(|t| t.key == "node.kubernetes.io/unreachable");
    if unknown || cut_off { Hearing::Silent } else { Hearing::Heard }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_kubelet_that_says_not_ready_is_heard_and_one_that_says_nothing_is_not() {
        let node = |status: &str| -> Node {
            let ready = json!([{"type": "Ready", "status": status}]);
            serde_json::from_value(json!({"status": {"conditions": ready}})).unwrap()
        };
        let heard = ["True", "False", "Unknown"].map(|s| hearing(&node(s)));
        assert_eq!(heard, [Hearing::Heard, Hearing::Heard, Hearing::Silent]);
        assert_eq!(Hearings::default().of("styx"), Hearing::Gone);
    }
}
