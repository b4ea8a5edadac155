//! Phase 8: the cluster as a whole: every node, every pod that is meant to run, each agent's own look at its routing, and whether what the
//! API server says of its node is so there.

use super::book::wall_ms;
use crate::alive;
use crate::cluster::Cluster;
use crate::cluster::verify::{self, Said};
use crate::config::verify::Verify;
use crate::obstacle::chain;
use crate::session::Session;
use crate::sight::Sight;
use crate::words;
use futures_util::future::join_all;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Pods that were moved take this long to run elsewhere.
const SETTLE: Duration = Duration::from_secs(90);
/// An API server that has not answered for so long shows nothing by being waited for: that it cannot be asked is the answer.
const SILENT: Duration = Duration::from_secs(20);
/// Between two looks.
const POLL: Duration = Duration::from_secs(2);

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Nothing is out of order.
    pub well: bool,
    /// In a sentence.
    pub words: String,
}

/// Looks until nothing is out of order, or the time is over; once, where nobody need be `patient`. `unwell_before` was not ready
/// before anything was done; the recovery began at `began_ms`, by the wall clock.
pub async fn settle(
    session: &Session,
    cluster: Option<&Cluster>,
    nodes: &[String],
    unwell_before: &[String],
    (began_ms, patient): (u64, bool),
) -> Result<Checked, String> {
    let wanted = session.config.as_ref().map(|c| c.verify.clone()).unwrap_or_default();
    let Some(cluster) = cluster else {
        return Err("the cluster cannot be verified: no API server could be asked".to_owned());
    };
    let (begun, mut silent) = (Instant::now(), None);
    loop {
        let mut checked = once(session, cluster, nodes, unwell_before, wanted.nodes).await;
        // Questions that are asked by pods of their own are asked when nothing else is out of order.
        if let Ok(c) = &mut checked
            && c.well
        {
            configured(session, cluster, &wanted, began_ms, c).await;
        }
        let over = match &checked {
            Ok(c) => {
                silent = None;
                c.well
            }
            Err(_) => silent.get_or_insert_with(Instant::now).elapsed() > SILENT,
        };
        if over || !patient || begun.elapsed() > SETTLE {
            return checked;
        }
        sleep(POLL).await;
    }
}

/// Workloads, logs, reach and remnants, as `[verify]` says; nodes and pods have been looked at, by what they were before.
async fn configured(
    session: &Session,
    cluster: &Cluster,
    wanted: &Verify,
    began_ms: u64,
    checked: &mut Checked,
) {
    let out = session.out;
    let mut say = |line: String| out.say(line);
    let since = Duration::from_millis(wall_ms().saturating_sub(began_ms));
    let checks = verify::look(cluster, wanted, Some(since), &mut say).await;
    for check in checks.into_iter().filter(|c| c.what != "nodes" && c.what != "pods") {
        let said = match check.said {
            Said::Good => "good",
            Said::Bad => "bad",
            Said::Unknown => "unknown",
        };
        checked.well &= check.said == Said::Good;
        checked.words = format!("{}; {}: {said}, {}", checked.words, check.what, check.detail);
    }
}

async fn once(
    session: &Session,
    cluster: &Cluster,
    agents: &[String],
    unwell_before: &[String],
    enough: Option<usize>,
) -> Result<Checked, String> {
    let nodes = cluster.nodes().await.map_err(|e| chain(&e))?;
    let names: Vec<String> = nodes.into_iter().filter_map(|n| n.metadata.name).collect();
    let sights = join_all(names.iter().map(|n| cluster.look(n)));
    let told = join_all(agents.iter().map(|n| async move {
        let agent = session.agent(n).await.map_err(|e| e.to_string())?;
        let (seen, lie) = tokio::join!(agent.diagnose(), alive::lie(cluster, &agent));
        let seen = seen.map_err(|e| chain(&e))?;
        Ok::<_, String>((seen.verdict, seen.guarded, lie?))
    }));
    let (sights, told) = tokio::join!(sights, told);
    let mut wrong = Vec::new();
    let sights: Vec<Sight> = sights.into_iter().collect::<Result<_, _>>().map_err(|e| chain(&e))?;
    let heard = |s: &Sight| s.ready == Some(true) && s.taints.is_empty();
    let ready = sights.iter().filter(|s| heard(s)).count();
    let pods: usize = sights.iter().map(|s| s.pods.len()).sum();
    // Fewer may be enough, where the configuration says so: who is not heard is then no fault of the cluster's.
    let enough = enough.is_some_and(|n| ready >= n);
    for (name, sight) in names.iter().zip(&sights).filter(|(_, s)| heard(s) || !enough) {
        wrong.extend(lacks(name, sight, unwell_before));
    }
    for (name, told) in agents.iter().zip(told) {
        match told {
            Ok((verdict, false, lie)) if words::is_fine(verdict) => {
                wrong.extend(lie.map(|lie| format!("{name}: {lie}")));
            }
            Ok((verdict, guarded, _)) => {
                let guard = if guarded { " behind our guard" } else { "" };
                wrong.push(format!("{name}: its agent says {}{guard}", verdict.word()));
            }
            Err(why) => wrong.push(format!("{name}: its agent cannot be asked: {why}")),
        }
    }
    let sum = format!("{ready} of {} nodes Ready, {pods} pods looked at", names.len());
    let words = if wrong.is_empty() { sum } else { format!("{sum}; {}", wrong.join("; ")) };
    Ok(Checked { well: wrong.is_empty(), words })
}

fn lacks(name: &str, sight: &Sight, unwell_before: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    if sight.ready != Some(true) || !sight.taints.is_empty() {
        wrong.push(format!("{name}: {}", sight.words()));
    }
    // What did not run before, by its kubelet's own word, is no damage of this incident.
    let broken = sight.pods.iter().filter(|p| !p.ready && !unwell_before.contains(&p.uid));
    wrong.extend(broken.map(|p| format!("{}: not ready", p.name)));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sight::PodSight;

    #[test]
    fn a_pod_that_did_not_run_before_is_no_damage_of_this_incident() {
        let pod = |uid: &str| PodSight {
            name: format!("apps/{uid}"),
            uid: uid.to_owned(),
            ready: false,
            ready_by_kubelet: false,
            started: None,
        };
        let sight =
            Sight { ready: Some(true), pods: vec![pod("web"), pod("loops")], ..Sight::default() };
        assert_eq!(lacks("styx", &sight, &["loops".to_owned()]), ["apps/web: not ready"]);
        let silent = Sight { ready: Some(false), ..Sight::default() };
        assert!(lacks("styx", &silent, &[])[0].starts_with("styx: NotReady"));
    }
}
