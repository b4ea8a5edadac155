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

/// Why nothing that is done to the node mends it, by its agent's fresh look; `None` when that is not so, or it cannot be asked.
pub async fn upstream(session: &Session, missed: &Missed, node: &str) -> Option<String> {
    let agent = missed.agent(session, node).await.ok()?;
    let seen = agent.diagnose().await.ok()?;
    (seen.verdict == Verdict::Upstream).then(|| said(&seen.summary))
}

fn said(summary: &str) -> String {
    format!("its agent says Upstream: {summary}")
}

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
            Verdict::Upstream => Some(said(&seen.summary)),
            Verdict::Healthy | Verdict::Moved => {
                let agent = format!("its agent says {}", seen.verdict.word());
                match cluster {
                    Some(cluster) => match hears(cluster, node).await {
                        Heard::Yes => Some(format!("{agent}, and the API server hears it")),
                        Heard::No => None,
                        Heard::Unknown(why) => Some(format!("{agent}, and nobody else can say ({why})")),
                    },
                    None => Some(format!("{agent}, and no API server could be asked")),
                }
            }
            Verdict::Captured
            | Verdict::Lost
            | Verdict::Filtered
            | Verdict::KubeletStuck
            | Verdict::Unknown => None,
        };
    }
    match hears(cluster?, node).await {
        Heard::Yes => {
            let how = format!("ctl install {node}, or look there: ssh, its console");
            Some(format!(
                "its agent cannot be asked, and the API server hears it: Ready, its lease renewed just now ({how})"
            ))
        }
        Heard::No | Heard::Unknown(_) => None,
    }
}

/// Whether the API server hears a node.
enum Heard {
    Yes,
    No,
    Unknown(String),
}

async fn hears(cluster: &Cluster, node: &str) -> Heard {
    let seen = match cluster.look(node).await {
        Ok(seen) => seen,
        Err(why) => return Heard::Unknown(chain(&why)),
    };
    if seen.ready != Some(true) || !seen.taints.is_empty() {
        return Heard::No;
    }
    let begun = Instant::now();
    while begun.elapsed() < RENEWED {
        sleep(POLL).await;
        match cluster.renewed(node).await {
            Ok(now) if now != seen.renewed => return Heard::Yes,
            Ok(_) | Err(_) => {}
        }
    }
    Heard::No
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
