//! What a recovery began with: which cluster, how its nodes were, and what was agreed to. Written once, never changed.

use super::op::Taint;
use crate::cluster::culprit::Suspect;
use crate::sight::Sight;
use lifeline_core::diagnosis::Verdict;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The beginning of a recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Names it, and its directory.
    pub id: String,
    /// Cluster, as the configuration calls it.
    pub cluster: String,
    /// Context of the kubeconfig, if one was named.
    pub context: Option<String>,
    /// UID of the namespace `kube-system`: the cluster itself. `None` when the API server could not be asked.
    pub uid: Option<String>,
    /// Who asked.
    pub by: String,
    /// Wall clock.
    pub wall_ms: u64,
    /// The namespace that is cleaned up, if one is.
    pub namespace: Option<String>,
    /// Nodes that are looked after.
    pub nodes: Vec<NodeWas>,
    /// Where the report goes.
    pub report: Option<String>,
    /// What could not be seen, and why.
    pub gaps: Vec<String>,
    /// How the API server saw each node that was not well, just before anything was done. Who goes on with what was cut off judges by
    /// this: what he sees himself is from the middle of it.
    #[serde(default)]
    pub before: BTreeMap<String, Sight>,
    /// Workloads that could have done it: a known VPN in its nodes' own network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspects: Vec<Named>,
    /// It is one node's heal by other means than its agent, and no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub heal: bool,
}

/// A workload that could have done it, as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// `tailscale-system/tailscale-worker (DaemonSet)`.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// What it may do, and of which VPN it is.
    pub may: Vec<String>,
    /// Nodes it has pods on.
    pub nodes: Vec<String>,
    /// Who puts it back, if its marks tell.
    pub owner: Option<String>,
}

impl From<&Suspect> for Named {
    fn from(s: &Suspect) -> Self {
        Self {
            workload: s.words(),
            namespace: s.object.namespace.clone().unwrap_or_default(),
            may: s.vpn.iter().chain(&s.may).cloned().collect(),
            nodes: s.nodes().into_iter().map(ToOwned::to_owned).collect(),
            owner: s.object.owner.as_ref().map(crate::cluster::owner::Owner::words),
        }
    }
}

impl Named {
    /// For people.
    pub fn words(&self) -> String {
        let owner = self.owner.as_ref().map_or(String::new(), |o| format!("; it belongs to {o}"));
        let nodes = match self.nodes.is_empty() {
            true => "no pods".to_owned(),
            false => format!("pods on {}", self.nodes.join(", ")),
        };
        format!("{}: {}; {nodes}{owner}", self.workload, self.may.join(", "))
    }
}

/// Why a node is looked after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Its name was typed.
    #[serde(rename = "typed")]
    Typed,
    /// The configuration names it.
    #[default]
    #[serde(rename = "ctl.toml")]
    File,
    /// The cluster knows it as a worker, and the configuration does not.
    #[serde(rename = "cluster")]
    Cluster,
}

impl Origin {
    /// For people, after the name.
    pub fn words(self) -> &'static str {
        match self {
            Self::Typed => "named",
            Self::File => "from ctl.toml",
            Self::Cluster => "found in the cluster",
        }
    }
}

/// A node, as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeWas {
    /// Its name.
    pub name: String,
    /// Why it is looked after.
    #[serde(default)]
    pub from: Origin,
    /// What its agent said; `None` when it could not be asked.
    pub verdict: Option<String>,
    /// Why its agent could not be asked.
    pub unreached: Option<String>,
    /// Ready, by the API server.
    pub ready: Option<bool>,
    /// Its boot, by whoever knew.
    pub boot: Option<String>,
    /// Its object, as the API server had it; `None` when that could not be asked.
    pub object: Option<NodeObject>,
}

/// What of a node's object is lost when the node is deleted, or changed on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeObject {
    /// Its uid.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints, without those the control plane puts on silent nodes.
    pub taints: Vec<Taint>,
    /// Not to be scheduled onto.
    pub cordoned: bool,
    /// Its range of pod addresses.
    pub pod_cidr: Option<String>,
    /// It carries the control plane.
    pub control_plane: bool,
}

impl Opened {
    /// The node, when it is one node's heal.
    pub fn heal_of(&self) -> Option<&str> {
        self.nodes.first().map(|n| n.name.as_str()).filter(|_| self.heal)
    }

    /// Whether every node was well when it began.
    pub fn is_well(&self) -> bool {
        self.nodes.iter().all(NodeWas::is_well)
    }
}

impl NodeWas {
    /// A worker that nobody named, without an agent, and Ready: it may never have had one, and nobody is drawn in by a list.
    pub fn left_alone(&self) -> bool {
        self.from == Origin::Cluster && self.verdict.is_none() && self.ready == Some(true)
    }

    /// Does it need anything, as far as was seen? Not being able to ask is no proof of health.
    pub fn is_well(&self) -> bool {
        if self.left_alone() {
            return true;
        }
        let agent = self.verdict.as_deref().map(|v| v == "Healthy" || v == "Moved");
        agent.unwrap_or(false) && self.ready.unwrap_or(true)
    }

    /// What is wrong is none of its own, by its agent's word.
    pub fn says_upstream(&self) -> bool {
        self.verdict.as_deref() == Some(Verdict::Upstream.word())
    }

    /// For people.
    pub fn words(&self) -> String {
        let agent = match (&self.verdict, &self.unreached) {
            (Some(v), _) => format!("its agent says {v}"),
            (None, Some(why)) => format!("its agent cannot be asked ({})", first(why)),
            (None, None) => "no agent is configured".to_owned(),
        };
        let ready = match self.ready {
            Some(true) => "the API server says Ready",
            Some(false) => "the API server says NotReady",
            None => "the API server could not be asked",
        };
        let left = if self.left_alone() { ", and it is left alone" } else { "" };
        format!("{agent}; {ready}{left}")
    }
}

/// The first path's reason: the others stand in the notes.
fn first(why: &str) -> String {
    let mut lines = why.lines().map(str::trim).filter(|l| !l.is_empty());
    let head = lines.next().unwrap_or_default();
    lines
        .next()
        .map_or_else(|| head.to_owned(), |l| l.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_nobody_named_is_looked_after_when_it_is_lost_and_not_for_want_of_an_agent() {
        let of = |from, ready| NodeWas {
            from,
            ready,
            unreached: Some("reach styx: no path".to_owned()),
            ..NodeWas::default()
        };
        assert!(of(Origin::Cluster, Some(true)).is_well());
        assert!(of(Origin::Cluster, Some(true)).words().ends_with("and it is left alone"));
        for lost in [of(Origin::Cluster, Some(false)), of(Origin::Cluster, None)] {
            assert!(!lost.is_well(), "{lost:?}");
        }
        assert!(
            !of(Origin::File, Some(true)).is_well() && !of(Origin::Typed, Some(true)).is_well()
        );
    }
}
