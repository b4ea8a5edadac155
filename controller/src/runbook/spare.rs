//! What speaks for leaving a machine alone, looked at just before the resorts that reach for the whole of it: a restart ends every
//! pod, and a node that is taken out of its cluster loses them, so what is wrong must be wrong with this node.

use super::missed::Missed;
use crate::cluster::{Cluster, node};
use crate::obstacle::chain;
use crate::session::Session;
use lifeline_core::diagnosis::Verdict;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// A kubelet renews its lease every 10 s; a renewal that is seen to happen is no stale word of the control plane's.
const RENEWED: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_secs(1);

/// Why the node's machine is not what is wrong; `None` when nothing speaks for it.
pub async fn machine(
    session: &Session,
    missed: &Missed,
    cluster: Option<&Cluster>,
    node: &str,
) -> Option<String> {
    if let Ok(agent) = missed.agent(session, node).await {
        let seen = agent.diagnose().await.ok()?;
        // Captured, lost or stuck is its own; upstream of it no restart mends anything.
        return match seen.verdict {
            Verdict::Upstream => Some(format!("its agent says Upstream: {}", seen.summary)),
            Verdict::Healthy
            | Verdict::Captured
            | Verdict::Moved
            | Verdict::Lost
            | Verdict::Filtered
            | Verdict::KubeletStuck
            | Verdict::Unknown => None,
        };
    }
    let cluster = cluster?;
    let seen = cluster.look(node).await.ok()?;
    if seen.ready != Some(true) || !seen.taints.is_empty() {
        return None;
    }
    let begun = Instant::now();
    while begun.elapsed() < RENEWED {
        sleep(POLL).await;
        match cluster.renewed(node).await {
            Ok(now) if now != seen.renewed => {
                let how = format!("ctl install {node}, or look there: ssh, its console");
                return Some(format!(
                    "its agent cannot be asked, and the API server hears it: Ready, its lease renewed just now ({how})"
                ));
            }
            Ok(_) | Err(_) => {}
        }
    }
    None
}

/// Why the node is to stay in its cluster; `None` when it may be taken out of it.
pub async fn member(cluster: Option<&Cluster>, name: &str) -> Option<String> {
    let Some(cluster) = cluster else { return Some("no API server could be asked".to_owned()) };
    match node::look(cluster, name).await {
        Err(why) => Some(chain(&why)),
        Ok(node) if node.control_plane => Some("it carries the control plane".to_owned()),
        Ok(node) if node.ready => {
            Some("the API server says Ready: its pods may run there".to_owned())
        }
        Ok(_) => None,
    }
}
