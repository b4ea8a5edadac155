//! A node as a member of its cluster: its boot, its addresses, and whether it carries the control plane.

use k8s_openapi::api::core::v1::Node;
use std::net::IpAddr;

/// Labels by which k3s, kubeadm and older releases mark who runs the API server or etcd.
const CONTROL_PLANE: [&str; 3] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/etcd",
];

/// A member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// The boot its kubelet last spoke of.
    pub boot: Option<String>,
    /// Does it carry the control plane?
    pub control_plane: bool,
    /// Its addresses, inner and outer.
    pub addresses: Vec<IpAddr>,
}

impl From<Node> for Member {
    fn from(node: Node) -> Self {
        let labels = node.metadata.labels.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let addresses = status.addresses.unwrap_or_default();
        Self {
            name: node.metadata.name.unwrap_or_default(),
            boot: status.node_info.map(|i| i.boot_id).filter(|b| !b.is_empty()),
            control_plane: CONTROL_PLANE.iter().any(|l| labels.contains_key(*l)),
            addresses: addresses.iter().filter_map(|a| a.address.parse().ok()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_carries_the_control_plane_is_told_by_any_of_three_labels() {
        for label in CONTROL_PLANE {
            let node: Node = serde_json::from_value(serde_json::json!({
                "metadata": {"name": "tethys", "labels": {label: "true"}},
                "status": {"addresses": [{"type": "Hostname", "address": "tethys"}, {"type": "ExternalIP", "address": "203.0.113.10"}]}
            }))
            .unwrap();
            let member = Member::from(node);
            assert!(member.control_plane && member.boot.is_none());
            assert_eq!(member.addresses, ["203.0.113.10".parse::<IpAddr>().unwrap()]);
        }
    }
}
