//! Nodes that ctl.toml does not name, as the API server knows them: name and InternalIP of each worker. ctl.toml's own word counts first,
//! and where it names every node that was asked for, the API server is not asked: in an incident it may be what is down.

use crate::cluster::Cluster;
use crate::config::{Config, PORT};
use crate::member::Member;
use crate::obstacle::chain;
use k8s_openapi::api::core::v1::Node;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::sync::OnceCell;

/// A list of nodes is a small answer; whoever waits for it waits to see his own nodes.
const LIMIT: Duration = Duration::from_secs(3);

/// Each worker's addresses, `address:port`.
pub type Nodes = BTreeMap<String, Vec<String>>;

/// What the API server said, once it was asked.
#[derive(Debug, Default)]
pub struct Found(OnceCell<Result<Nodes, String>>);

impl Found {
    /// Asks, the first time. Without a kubeconfig in ctl.toml there is nobody to ask: another one may be another cluster's.
    pub async fn nodes(&self, config: &Config) -> Result<&Nodes, &str> {
        let asked = self.0.get_or_init(|| async {
            let Some(path) = &config.kubeconfig else { return Ok(Nodes::new()) };
            let listing =
                async { Cluster::open(path, config.context.as_deref()).await?.nodes().await };
            match tokio::time::timeout(LIMIT, listing).await {
                Ok(Ok(nodes)) => Ok(workers(&nodes)),
                Ok(Err(why)) => Err(chain(&why)),
                Err(_) => Err(format!(
                    "list the nodes of {}: no answer within {} s",
                    path.display(),
                    LIMIT.as_secs()
                )),
            }
        });
        asked.await.as_ref().map_err(String::as_str)
    }

    /// Why the list of nodes may lack some: the API server was asked, and did not say.
    pub fn trouble(&self) -> Option<&str> {
        self.0.get()?.as_ref().err().map(String::as_str)
    }
}

/// The workers among these nodes.
pub fn workers(nodes: &[Node]) -> Nodes {
    nodes.iter().cloned().filter_map(worker).collect()
}

/// Agents run on workers; who wants one elsewhere names it in ctl.toml.
fn worker(node: Node) -> Option<(String, Vec<String>)> {
    let inner = |a: &&k8s_openapi::api::core::v1::NodeAddress| a.type_ == "InternalIP";
    let all = node.status.as_ref().and_then(|s| s.addresses.as_ref());
    let addresses: Vec<String> = all
        .into_iter()
        .flatten()
        .filter(inner)
        .filter_map(|a| a.address.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, PORT).to_string())
        .collect();
    let member = Member::from(node);
    (!member.control_plane && !addresses.is_empty()).then_some((member.name, addresses))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(labels: &serde_json::Value, addresses: &serde_json::Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "styx", "labels": labels}, "status": {"addresses": addresses}
        }))
        .unwrap()
    }

    #[test]
    fn a_worker_is_reached_at_its_inner_addresses_and_a_control_plane_is_not_looked_for() {
        let both = json!([{"type": "Hostname", "address": "styx"}, {"type": "ExternalIP", "address": "198.51.100.9"},
            {"type": "InternalIP", "address": "192.0.2.20"}, {"type": "InternalIP", "address": "2001:db8::20"}]);
        let (name, at) = worker(node(&json!({}), &both)).unwrap();
        assert_eq!((name.as_str(), at.len()), ("styx", 2));
        assert_eq!(at, ["192.0.2.20:7443", "[2001:db8::20]:7443"]);
        assert!(
            worker(node(&json!({"node-role.kubernetes.io/control-plane": "true"}), &both))
                .is_none()
        );
        assert!(worker(node(&json!({}), &json!([]))).is_none());
    }
}
