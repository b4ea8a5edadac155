//! A node by both accounts, its agent's and the cluster's: as rows, as a document, and where the two disagree, in words.

use crate::agent::{Agent, verdict};
use crate::cluster::view::NodeView;
use crate::error::CommandError;
use crate::words;
use jiff::Timestamp;
use lifeline_core::diagnosis::Verdict;
use serde::Serialize;

/// What the cluster says of a node.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Cluster {
    /// It could not be asked, or has no such node.
    Not {
        /// Why there is nothing.
        error: String,
    },
    /// How it sees the node.
    Seen(Box<NodeView>),
}

/// One node of `-o json`; `error` instead of the agent's word when it could not be asked.
#[derive(Debug, Default, Serialize)]
pub struct NodeJson {
    /// Its name.
    pub node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    verdict: Option<&'static str>,
    summary: Option<String>,
    guarded: Option<bool>,
    incident: Option<String>,
    mode: Option<String>,
    baseline: Option<String>,
    version: Option<String>,
    boot_id: Option<String>,
    age_ms: Option<u64>,
    via: Option<String>,
    cluster: Option<Cluster>,
    disagreement: Option<String>,
    /// It may answer yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    not_waited_for: bool,
}

impl NodeJson {
    /// An agent's word, or why there is none; the cluster's, if it was to be asked.
    pub fn of(
        node: String,
        agent: Result<&Agent, &CommandError>,
        cluster: Option<Cluster>,
    ) -> Self {
        let not_waited_for = agent.is_err_and(CommandError::is_not_waited_for);
        // Who may answer yet contradicts nobody.
        let disagreement = match not_waited_for {
            true => None,
            false => disagreement(agent.ok(), cluster.as_ref()),
        };
        let of = Self { node, cluster, disagreement, not_waited_for, ..Self::default() };
        let agent = match agent {
            Ok(agent) => agent,
            Err(error) => return Self { error: Some(error.to_string()), ..of },
        };
        let s = agent.status.clone();
        Self {
            verdict: Some(verdict(s.verdict).word()),
            summary: Some(s.summary),
            guarded: Some(s.guarded),
            incident: (!s.incident.is_empty()).then_some(s.incident),
            mode: Some(s.mode),
            baseline: Some(s.baseline),
            version: Some(s.version),
            boot_id: Some(s.boot_id),
            age_ms: Some(s.age_ms),
            via: Some(agent.via.clone()),
            ..of
        }
    }

    /// The cluster says that it is not well: `Unknown` and `False` alike.
    pub fn is_lost(&self) -> bool {
        matches!(&self.cluster, Some(Cluster::Seen(v)) if v.ready != Some(true))
    }

    /// For people, where both accounts do not agree.
    pub fn disagrees(&self) -> Option<String> {
        self.disagreement.as_ref().map(|d| format!("{}: {d}", self.node))
    }
}

/// Columns of the agents' table.
pub const AGENTS: [&str; 7] = ["NODE", "VERDICT", "GUARD", "INCIDENT", "SEEN", "VIA", "SUMMARY"];
/// Columns of the cluster's.
pub const CLUSTER: [&str; 7] =
    ["NODE", "CLUSTER SAYS", "SINCE", "LEASE", "PODS", "TAINTS", "KUBELET"];

/// A row of the agents' table.
pub fn agent_row(node: &str, agent: Result<&Agent, &CommandError>) -> Vec<String> {
    let agent = match agent {
        Ok(agent) => agent,
        Err(why) => {
            let said = match why.is_not_waited_for() {
                true => "no answer yet",
                false => "its agent cannot be asked",
            };
            return [node, "?", "-", "-", "-", "-", said].map(Into::into).to_vec();
        }
    };
    let s = &agent.status;
    vec![
        agent.node.clone(),
        verdict(s.verdict).word().into(),
        if s.guarded { "stands".into() } else { "-".into() },
        if s.incident.is_empty() { "-".into() } else { s.incident.clone() },
        format!("{} ago", words::span_ms(s.age_ms)),
        agent.via.clone(),
        s.summary.clone(),
    ]
}

/// A row of the cluster's table.
pub fn cluster_row(node: &str, cluster: &Cluster, now: Timestamp) -> Vec<String> {
    let Cluster::Seen(view) = cluster else {
        return [node, "no node of that name", "-", "-", "-", "-", "-"].map(Into::into).to_vec();
    };
    let ago = |at: Timestamp| {
        words::span_ms(u64::try_from(now.as_millisecond() - at.as_millisecond()).unwrap_or(0))
    };
    let unseen = |gap: bool| if gap { "?".to_owned() } else { "-".to_owned() };
    let gap = !view.gaps.is_empty();
    let cordon = view.cordoned.then(|| "cordoned".to_owned());
    // Said by the cordon already.
    let taints = view.taints.iter().filter(|t| !t.starts_with("node.kubernetes.io/unschedulable"));
    let taints: Vec<String> = cordon.into_iter().chain(taints.cloned()).collect();
    vec![
        node.to_owned(),
        view.word(),
        view.since.map_or_else(|| "?".to_owned(), ago),
        view.lease.as_ref().map_or_else(|| unseen(gap), |l| lease(l.age_s, l.renewing)),
        match &view.pods {
            None => unseen(gap),
            Some(pods) if pods.all == 0 => "none".to_owned(),
            Some(pods) if pods.unready.is_empty() => format!("{} ready", pods.all),
            Some(pods) => format!("{} of {} not ready", pods.unready.len(), pods.all),
        },
        if taints.is_empty() { "-".to_owned() } else { taints.join(", ") },
        view.kubelet.clone().unwrap_or_else(|| "?".to_owned()),
    ]
}

fn lease(age_s: i64, renewing: bool) -> String {
    let old = match u64::try_from(age_s) {
        Ok(s) => format!("{} old", words::span_ms(s.saturating_mul(1_000))),
        Err(_) => "from a clock ahead".to_owned(),
    };
    format!("{}, {old}", if renewing { "renewed" } else { "NOT renewed" })
}

/// Where the two accounts do not agree, what that means, and what to try.
pub fn disagreement(agent: Option<&Agent>, cluster: Option<&Cluster>) -> Option<String> {
    let view = match cluster? {
        Cluster::Seen(view) => view,
        // Who could not be asked contradicts nobody; who has no such node does.
        Cluster::Not { error } if error == NO_SUCH => {
            return agent.map(|_| format!("its agent answers, and the cluster has {NO_SUCH}"));
        }
        Cluster::Not { .. } => return None,
    };
    let renewing = view.lease.as_ref().map(|l| l.renewing);
    let stale = || match &view.lease {
        Some(l) => format!("its lease is {} s old", l.age_s),
        None => "nothing is known of its lease".to_owned(),
    };
    let Some(agent) = agent else {
        return (view.ready == Some(true) && renewing == Some(true)).then(|| {
            "its agent cannot be asked, and its kubelet is heard: the node lives; is an agent there, and its port open?"
                .to_owned()
        });
    };
    let status = &agent.status;
    let said = verdict(status.verdict);
    let both = format!("its agent says {}, the cluster says {}", said.word(), view.word());
    if !status.boot_id.is_empty() && view.boot.as_ref().is_some_and(|b| *b != status.boot_id) {
        return Some(format!(
            "{both}, of another boot than the agent's: what the cluster shows is from before the node was started"
        ));
    }
    match (words::is_fine(said), view.ready, renewing) {
        (true, Some(true), Some(false)) => Some(format!(
            "{both}, but {}: Ready outlasts a kubelet that has fallen silent",
            stale()
        )),
        (true, Some(false), Some(true)) => Some(format!(
            "{both}, and its lease is renewed: the kubelet is heard, and says itself why it is not ready"
        )),
        (true, Some(false), _) => Some(format!(
            "{both}, and {}: the kubelet is not heard, or the agent's look is from before that: ctl diagnose {}",
            stale(),
            agent.node
        )),
        (false, Some(true), Some(true)) => Some(match status.guarded {
            true => format!(
                "{both}: the guard keeps the kubelet's path open; contained is not recovered: ctl heal {}",
                agent.node
            ),
            false => format!(
                "{both}, and its lease is renewed: what the agent sees has not reached the kubelet yet: ctl diagnose {}",
                agent.node
            ),
        }),
        (false, Some(true), _) if said != Verdict::Unknown => Some(format!(
            "{both}, and {}: Ready outlasts the loss by up to a minute; believe the agent",
            stale()
        )),
        _ => None,
    }
}

/// What is said of a node that the cluster does not have.
pub const NO_SUCH: &str = "no node of that name";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::view::LeaseView;

    fn seen(ready: bool, renewing: bool) -> Cluster {
        let lease =
            LeaseView { renewed: "x".into(), age_s: if renewing { 4 } else { 90 }, renewing };
        let reason = (!ready).then(|| "NodeStatusUnknown".to_owned());
        let boot = Some("b".to_owned());
        Cluster::Seen(Box::new(NodeView {
            ready: Some(ready),
            reason,
            lease: Some(lease),
            boot,
            ..NodeView::default()
        }))
    }

    fn agent(word: lifeline_proto::v1::Verdict, guarded: bool) -> Agent {
        Agent::said(
            "calypso",
            lifeline_proto::v1::StatusReply {
                verdict: word.into(),
                guarded,
                boot_id: "b".into(),
                ..Default::default()
            },
        )
    }

    fn between(agent: Option<&Agent>, cluster: &Cluster) -> String {
        disagreement(agent, Some(cluster)).unwrap_or_default()
    }

    #[tokio::test]
    async fn each_way_of_disagreeing_is_said_and_agreement_is_not() {
        use lifeline_proto::v1::Verdict as V;
        let (well, captured) = (agent(V::Healthy, false), agent(V::Captured, false));
        let all = [
            (Some(&well), seen(true, true), ""),
            (Some(&captured), seen(false, false), ""),
            (None, seen(false, false), ""),
            (
                Some(&well),
                seen(false, false),
                "its agent says Healthy, the cluster says NotReady (NodeStatusUnknown), and its lease is 90 s old",
            ),
            (Some(&well), seen(false, true), "says itself why it is not ready"),
            (Some(&well), seen(true, false), "Ready outlasts a kubelet that has fallen silent"),
            (Some(&captured), seen(true, true), "has not reached the kubelet yet"),
            (Some(&captured), seen(true, false), "believe the agent"),
            (None, seen(true, true), "the node lives"),
            (
                Some(&well),
                Cluster::Not { error: NO_SUCH.to_owned() },
                "the cluster has no node of that name",
            ),
            (Some(&well), Cluster::Not { error: "no answer".to_owned() }, ""),
        ];
        for (agent, cluster, said) in &all {
            let is = between(*agent, cluster);
            assert!(is.contains(said) && is.is_empty() == said.is_empty(), "{cluster:?}: {is:?}");
        }
        let guarded = between(Some(&agent(V::Captured, true)), &seen(true, true));
        assert!(guarded.contains("contained is not recovered"), "{guarded}");
    }

    #[tokio::test]
    async fn another_boot_is_said_before_anything_else() {
        let mut rebooted = agent(lifeline_proto::v1::Verdict::Healthy, false);
        rebooted.status.boot_id = "c".into();
        let said = between(Some(&rebooted), &seen(true, true));
        assert!(said.contains("of another boot"), "{said}");
    }

    #[test]
    fn a_row_tells_unlisted_from_none() {
        let now = "2025-10-13T12:00:00Z".parse().unwrap();
        let gap = NodeView { gaps: vec!["403".into()], ..NodeView::default() };
        let row = cluster_row("styx", &Cluster::Seen(Box::new(gap)), now);
        assert_eq!(row, ["styx", "no Ready condition", "?", "?", "?", "-", "?"]);
        let row = cluster_row("styx", &seen(false, false), now);
        assert_eq!(row[3], "NOT renewed, 1 min 30 s old");
    }
}
