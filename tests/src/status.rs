//! What runs in the lab and how it is, for a person or as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use crate::error::Result;
use crate::node::Node;
use crate::state::{Phase, State};
use crate::topology::{self, Machine};

#[derive(Debug, Serialize)]
pub struct Status {
    pub up: bool,
    pub mode: Option<String>,
    pub nodes: Vec<NodeStatus>,
}

#[derive(Debug, Serialize)]
pub struct NodeStatus {
    pub name: String,
    pub address: String,
    /// The host's pid of the node's pid 1.
    pub leader: Option<i32>,
    /// What systemd says, or why it could not be asked.
    pub system: String,
    pub units: Vec<UnitStatus>,
}

#[derive(Debug, Serialize)]
pub struct UnitStatus {
    pub name: String,
    pub active: String,
    pub sub: String,
}

impl Status {
    pub fn look() -> Result<Self> {
        let state = State::read()?;
        let nodes: Vec<NodeStatus> = match &state {
            Some(_) => topology::nodes().map(look_at).collect(),
            None => Vec::new(),
        };
        let complete = state.as_ref().is_some_and(|s| s.phase == Phase::Up);
        let up = complete && nodes.iter().all(|n| n.leader.is_some());
        Ok(Self { up, mode: state.map(|s| s.mode), nodes })
    }

    #[must_use]
    pub fn told(&self) -> String {
        let mut text = match (&self.mode, self.up) {
            (None, _) => return "no lab on this machine\n".to_owned(),
            (Some(mode), true) => format!("the lab is up, mode {mode}\n"),
            (Some(_), false) => "the lab is not whole\n".to_owned(),
        };
        for node in &self.nodes {
            let leader = node.leader.map_or_else(|| "-".to_owned(), |l| l.to_string());
            writeln!(text, "{:<9} {:<14} pid {leader:<8} {}", node.name, node.address, node.system)
                .ok();
            for unit in &node.units {
                writeln!(text, "  {:<34} {} ({})", unit.name, unit.active, unit.sub).ok();
            }
        }
        text
    }
}

fn look_at(machine: &'static Machine) -> NodeStatus {
    let mut status = NodeStatus {
        name: machine.name.to_owned(),
        address: machine.v4().to_string(),
        leader: None,
        system: "not running".to_owned(),
        units: Vec::new(),
    };
    let Ok(node) = Node::find(machine) else { return status };
    status.leader = Some(node.leader());
    let limit = Duration::from_secs(5);
    match node.exec_within(&["systemctl", "is-system-running"], limit) {
        Ok(out) if !out.stdout.trim().is_empty() => {
            out.stdout.trim().clone_into(&mut status.system);
        }
        Ok(out) => status.system = format!("cannot be asked: {}", out.stderr.trim()),
        Err(error) => status.system = format!("cannot be asked: {error}"),
    }
    status.units = units(&node, limit);
    status
}

/// The units that the lab has put there, and whatever has failed.
fn units(node: &Node, limit: Duration) -> Vec<UnitStatus> {
    let list = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=service"];
    let Ok(out) = node.exec_within(&list, limit) else { return Vec::new() };
    let ours = [
        "etcd",
        "k3s-agent",
        "kube-apiserver",
        "kube-apiserver-standin",
        "kube-controller-manager",
        "kube-scheduler",
        "lab-furniture",
        "lifeline-agent",
        "pod1",
        "ssh",
        "tailscaled",
    ];
    out.stdout
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, load, active, sub, ..] = words.as_slice() else { return None };
            let short = name.trim_end_matches(".service");
            // A unit that another one only mentions is listed as "not-found".
            let there = ours.contains(&short) && *load != "not-found";
            (there || *active == "failed").then(|| UnitStatus {
                name: short.to_owned(),
                active: (*active).to_owned(),
                sub: (*sub).to_owned(),
            })
        })
        .collect()
}
