//! The cluster: an API server that answers, and its workers known to us.

use super::{Group, Mark};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::member::Member;
use crate::obstacle::chain;

/// Looks. Without a kubeconfig heals work all the same; nobody but the agent says that they did.
pub async fn look(config: Option<&Config>) -> Vec<Mark> {
    let mut group = Group::new("cluster");
    let Some((config, path)) = config.and_then(|c| Some((c, c.kubeconfig.as_deref()?))) else {
        group.mark(
            None,
            "no kubeconfig is configured: the API server proves no heal",
            "name one in ctl.toml: kubeconfig = \"/home/you/.kube/config\"",
        );
        return group.marks;
    };
    let nodes = match Cluster::open(path, config.context.as_deref()).await {
        Ok(cluster) => cluster.nodes().await,
        Err(why) => Err(why),
    };
    match nodes {
        Ok(nodes) => {
            group.mark(
                Some(true),
                format!(
                    "the API server of {} answers, and knows {} nodes",
                    path.display(),
                    nodes.len()
                ),
                "",
            );
            for member in nodes.into_iter().map(Member::from).filter(|m| !m.control_plane) {
                if config.addresses(&member.name).is_err() {
                    group.mark(
                        Some(false),
                        format!("worker {} is not in {}", member.name, config.path.display()),
                        format!("ctl install {} --ssh root@ADDRESS", member.name),
                    );
                }
            }
        }
        Err(why) => group.mark(Some(false), chain(&why), "try the same: kubectl get nodes"),
    }
    group.marks
}
