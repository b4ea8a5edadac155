//! What the parts say: journals of the nodes' units, files of the exit machine.

use std::process::Command;

use super::tailnet;
use crate::error::{LabError, Result};
use crate::lab::Lab;

const UNITS: [&str; 6] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "k3s-agent",
    "lifeline-agent",
];

/// The command that shows them.
pub fn command(
    lab: &Lab,
    place: &str,
    unit: Option<&str>,
    lines: u32,
    follow: bool,
) -> Result<Command> {
    let lines = lines.to_string();
    if place == tailnet::EXIT.name {
        let files = ["control", "tailscaled"].map(tailnet::log);
        if let Some(missing) = files.iter().find(|f| !f.is_file()) {
            return Err(LabError::Missing {
                what: format!("there is no {}: the lab runs in the quick gear", missing.display()),
                hint: "cargo lab down, then cargo lab up --real".to_owned(),
            });
        }
        let mut tail = Command::new("tail");
        tail.args(["-n", &lines]).args(follow.then_some("-f")).args(files);
        return Ok(tail);
    }
    let mut argv = vec!["journalctl", "-b", "--no-pager", "-o", "short-precise", "-n", &lines];
    let units = unit.map_or_else(|| UNITS.to_vec(), |unit| vec![unit]);
    units.iter().for_each(|unit| argv.extend(["-u", unit]));
    if follow {
        argv.push("-f");
    }
    Ok(lab.node(place)?.command(&argv))
}
