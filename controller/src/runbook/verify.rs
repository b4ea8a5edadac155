//! Phase 4: a node is well again when its agent says so without our guard, and the API server saw it come back.

use crate::cluster::Cluster;
use crate::obstacle::chain;
use crate::proof::{self, Act, Limits};
use crate::session::Session;
use crate::words;
use lifeline_core::diagnosis::{Health, Verdict};
use lifeline_core::engine::Judgement;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Until an agent that can be reached says healthy, and its guard is gone.
const SETTLE: Duration = Duration::from_secs(60);

/// What the agent says, after it has had time to come to rest, and whether it needed that time; the text says why it could not
/// be asked.
async fn agent(
    session: &Session,
    node: &str,
    settle: Duration,
) -> (Result<(Verdict, bool, String), String>, bool) {
    let begun = Instant::now();
    let mut waited = false;
    loop {
        let seen = match session.agent(node).await {
            Ok(agent) => match agent.diagnose().await {
                Ok(d) => Ok((d.verdict, d.guarded, agent.status.boot_id)),
                Err(e) => Err(chain(&e)),
            },
            Err(e) => Err(e.to_string()),
        };
        let fine = matches!(&seen, Ok((v, guarded, _)) if words::is_fine(*v) && !guarded);
        if fine || begun.elapsed() > settle {
            return (seen, waited);
        }
        waited = true;
        sleep(Duration::from_secs(2)).await;
    }
}

/// The boot that the kubelet speaks of, where no agent can be asked. After a power cycle the node's object is the old boot's until the
/// kubelet speaks again, and looks as well as it did then.
async fn said_boot(
    cluster: &Cluster,
    node: &str,
    was: &str,
    booted: bool,
    settle: Duration,
) -> String {
    let begun = Instant::now();
    loop {
        let said = cluster.look(node).await.ok().and_then(|sight| sight.boot_id);
        match said {
            Some(boot) if !booted || boot != was => return boot,
            _ if begun.elapsed() > settle => return "another than before".to_owned(),
            _ => sleep(Duration::from_secs(1)).await,
        }
    }
}

/// Is the node well? `before` says what may be believed of the API server's view.
pub async fn node(
    session: &Session,
    cluster: Option<&Cluster>,
    node: &str,
    mut act: Act,
    booted: bool,
) -> Judgement {
    let settle = if booted { SETTLE * 3 } else { SETTLE };
    let (told, waited) = agent(session, node, settle).await;
    if waited {
        // Something went on at the node until now, if only its guard went: what was seen before that is from before.
        act.renewals = Default::default();
    }
    if let Ok((_, _, boot)) = &told {
        act.boots.1.clone_from(boot);
    }
    let proof = match cluster {
        Some(cluster) => {
            if act.boots.1.is_empty() {
                act.boots.1 = said_boot(cluster, node, &act.boots.0, booted, settle).await;
            }
            let limits = match booted {
                true => Limits { lease: settle, ready: settle, pods: settle, ..Limits::default() },
                false => Limits::default(),
            };
            Some(proof::prove(|| cluster.look(node), &act, limits).await)
        }
        None => None,
    };
    let says = match &told {
        Ok((v, true, _)) => format!("its agent says {} behind our guard", v.word()),
        Ok((v, false, _)) => format!("its agent says {}", v.word()),
        Err(why) => format!("its agent cannot be asked: {why}"),
    };
    let saw = proof
        .as_ref()
        .map_or_else(|| "the API server could not be asked".to_owned(), proof::Proof::words);
    let agent = told.as_ref().ok().map(|(v, guarded, _)| words::is_fine(*v) && !guarded);
    let health = match (agent, proof.as_ref().map(|p| p.proven)) {
        (Some(false), _) | (_, Some(false)) => Health::Unwell,
        (None, None) => Health::Unknown,
        _ => Health::Well,
    };
    let findings = if health == Health::Well { Vec::new() } else { vec![node.to_owned()] };
    Judgement { health, findings, summary: format!("{node}: {says}; {saw}") }
}
