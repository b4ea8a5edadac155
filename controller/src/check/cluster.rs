//! The cluster: an API server that answers, workers that can be found, and the rights that a recovery needs.

use super::{Group, Mark};
use crate::cluster::{Cluster, ClusterError, kinds, rights};
use crate::config::Config;
use crate::found;
use crate::member::Member;
use crate::obstacle::chain;

/// Of what is not allowed so many are named.
const NAMED: usize = 5;

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
    let asked = async {
        let cluster = Cluster::open(path, config.context.as_deref()).await?;
        let nodes = cluster.nodes().await?;
        Ok::<_, ClusterError>((cluster, nodes))
    };
    let (cluster, nodes) = match asked.await {
        Ok(both) => both,
        Err(why) => {
            group.mark(Some(false), chain(&why), "try the same: kubectl get nodes");
            return group.marks;
        }
    };
    let said =
        format!("the API server of {} answers, and knows {} nodes", path.display(), nodes.len());
    group.mark(Some(true), said, "");
    // Whoever has an address is asked with the other nodes; where none is known, nobody could ask.
    let found = found::workers(&nodes);
    for member in nodes.into_iter().map(Member::from).filter(|m| !m.control_plane) {
        if config.addresses(&member.name).is_err() && !found.contains_key(&member.name) {
            group.mark(
                Some(false),
                format!(
                    "worker {} has no address, neither in {} nor in the cluster",
                    member.name,
                    config.path.display()
                ),
                format!("ctl install {} --ssh root@ADDRESS", member.name),
            );
        }
    }
    if let Err(why) = allowed(&mut group, &cluster).await {
        let said = format!("what your user may do could not be asked: {}", chain(&why));
        group.mark(Some(false), said, "try the same: ctl rights");
    }
    group.marks
}

/// What `ctl rights` says, a line a verb.
async fn allowed(group: &mut Group<'_>, cluster: &Cluster) -> Result<(), ClusterError> {
    let kinds = kinds::look(cluster).await?;
    for verb in rights::VERBS {
        let lacking = rights::lacking(cluster, &rights::of(verb, &kinds)).await?;
        let named: Vec<&str> = lacking.iter().take(NAMED).map(String::as_str).collect();
        let more = match lacking.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        match named.is_empty() {
            true => group.mark(Some(true), format!("your user may do all that {verb} needs"), ""),
            false => group.mark(
                Some(false),
                format!("for {verb} your user may not: {}{more}", named.join(", ")),
                format!("the role it needs: ctl rights {verb}"),
            ),
        }
    }
    Ok(())
}
