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

/// What speaks for leaving a node's machine alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spare {
    /// It is not what is wrong: it is left alone.
    Yes(String),
    /// Somebody there answers, and does not know: it may be restarted by who has been told so.
    Told(String),
    /// Nothing.
    No,
}

/// Whether the node's machine is what is wrong, by whoever can be asked.
pub async fn machine(
    session: &Session,
    missed: &Missed,
    cluster: Option<&Cluster>,
    node: &str,
) -> Spare {
    let Ok(agent) = missed.agent(session, node).await else {
        return match hears(cluster, node).await {
            Heard::Yes => Spare::Yes(format!(
                "its agent cannot be asked, and the API server hears it: Ready, its lease renewed just now (ctl install {node}, or look there: ssh, its console)"
            )),
            Heard::No | Heard::Unknown(_) => Spare::No,
        };
    };
    let seen = match agent.diagnose().await {
        Ok(seen) => seen,
        // The machine runs, and more is not known: its agent may be all that is wrong.
        Err(why) => {
            let why = format!("its agent answers, and cannot look: {}", chain(&why));
            return match hears(cluster, node).await {
                Heard::Yes => Spare::Yes(format!("{why}; and the API server hears it")),
                Heard::No | Heard::Unknown(_) => Spare::Told(why),
            };
        }
    };
    let agent = format!("its agent says {}", seen.verdict.word());
    match seen.verdict {
        // Upstream of it no restart mends anything.
        Verdict::Upstream => Spare::Yes(said(&seen.summary)),
        Verdict::Healthy | Verdict::Moved => match hears(cluster, node).await {
            Heard::Yes => Spare::Yes(format!("{agent}, and the API server hears it")),
            Heard::Unknown(why) => Spare::Yes(format!("{agent}, and nobody else can say ({why})")),
            Heard::No => Spare::No,
        },
        // Captured, lost or stuck is its own.
        Verdict::Captured
        | Verdict::Lost
        | Verdict::Filtered
        | Verdict::KubeletStuck
        | Verdict::Unknown => Spare::No,
    }
}

/// Whether the API server hears a node.
enum Heard {
    Yes,
    No,
    Unknown(String),
}

async fn hears(cluster: Option<&Cluster>, node: &str) -> Heard {
    let Some(cluster) = cluster else {
        return Heard::Unknown("no API server could be asked".to_owned());
    };
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
