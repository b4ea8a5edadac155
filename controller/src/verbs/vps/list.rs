//! `ctl vps list`: the account's machines, and which node is which.

use super::desk::Desk;
use crate::cli::Global;
use crate::error::Outcome;
use crate::exit::Exit;
use crate::out::{Out, columns};
use crate::provider::pick::pick;
use serde::Serialize;

const HELP: &str = "Examples:
  ctl vps list
  ctl vps list -o json | jq -r '.unmatched[].why'    nodes that no machine certainly is

Exit codes: 0 listed, 1 the provider could not be asked, 2 configuration";

/// Arguments of `ctl vps list`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {}

/// `-o json`.
#[derive(Serialize)]
struct ListJson {
    machines: Vec<MachineJson>,
    /// Nodes whose `[nodes.NAME.vps]` names no machine, with the reason.
    unmatched: Vec<UnmatchedJson>,
}

#[derive(Serialize)]
struct MachineJson {
    id: Option<u64>,
    hostname: Option<String>,
    ipv4: Vec<String>,
    state: Option<String>,
    locked: bool,
    plan: Option<String>,
    /// The node it certainly is.
    node: Option<String>,
}

#[derive(Serialize)]
struct UnmatchedJson {
    node: String,
    why: String,
}

/// Runs `ctl vps list`.
pub async fn run(_: &Args, global: &Global, out: Out) -> Outcome {
    let desk = Desk::open(global, out).await?;
    let machines = desk.api.machines().await?;
    let (mut nodes, mut unmatched) = (Vec::new(), Vec::new());
    for node in desk.config.nodes() {
        let Ok(wanted) = desk.config.vps(node) else { continue };
        match pick(node, wanted, &machines) {
            Ok((id, _)) => nodes.push((id, node.to_owned())),
            Err(why) => {
                unmatched.push(UnmatchedJson { node: node.to_owned(), why: why.to_string() });
            }
        }
    }
    let list: Vec<MachineJson> = machines
        .iter()
        .map(|m| MachineJson {
            id: m.id,
            hostname: m.hostname.clone(),
            ipv4: m.addresses().iter().map(ToString::to_string).collect(),
            state: m.state.clone(),
            locked: m.locked(),
            plan: m.plan.clone(),
            node: nodes.iter().find(|(id, _)| Some(*id) == m.id).map(|(_, n)| n.clone()),
        })
        .collect();
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|m| {
            let state =
                if m.locked { format!("{}, locked", dash(&m.state)) } else { dash(&m.state) };
            vec![
                dash(&m.node),
                m.id.map_or_else(|| "-".to_owned(), |i| i.to_string()),
                dash(&m.hostname),
                if m.ipv4.is_empty() { "-".to_owned() } else { m.ipv4.join(", ") },
                state,
                dash(&m.plan),
            ]
        })
        .collect();
    out.print(columns(&["NODE", "MACHINE", "HOST NAME", "IPV4", "STATE", "PLAN"], &rows));
    for u in &unmatched {
        out.say(&u.why);
    }
    out.json(&ListJson { machines: list, unmatched })?;
    Ok(Exit::Done)
}
