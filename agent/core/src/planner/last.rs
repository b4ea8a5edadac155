//! The last two rungs on a node: they do not ask what the trouble is, so they are never taken without an operator who names
//! them, and never against a node whose trouble lies elsewhere.

use super::of_one_rung;
use crate::diagnosis::{Diagnosis, Verdict};
use crate::observation::{NfTable, Observation, Sense};
use crate::op::NodeOp;
use crate::plan::{NodePlan, OnUnhealthy, Rung, Step};
use crate::policy::Policy;
use crate::ruleset;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// By how much the timer outside the process is later than the plan's deadline: the engine undoes in order and says so; the
/// timer is for when there is no engine.
pub const MARGIN_MS: u64 = 15_000;

/// The key that stands for "an operator wants it" where there is no finding.
pub const ASKED: &str = "asked";

/// Tables the runbook flushes. `raw` and `security` hold no policy of a firewall's, and nothing of the cluster's.
pub const FLUSHED: [&str; 3] = ["filter", "nat", "mangle"];

/// Plans rung 5 or 6, or says why it is not to be had.
///
/// # Errors
/// Says why, for the operator who is offered it.
pub fn last_resort(
    seen: &Observation,
    policy: &Policy,
    diag: &Diagnosis,
    rung: Rung,
    incident: &str,
) -> Result<NodePlan, String> {
    match diag.verdict {
        Verdict::Captured | Verdict::Lost | Verdict::Filtered | Verdict::KubeletStuck => {}
        // A control plane that is down must never make a fleet of nodes flush or reboot itself.
        Verdict::Upstream => return Err("the trouble is not this node's".to_string()),
        Verdict::Unknown => return Err("what is wrong could not be judged".to_string()),
        Verdict::Healthy => return Err("the node is healthy".to_string()),
        Verdict::Moved => return Err("it differs from its baseline and works".to_string()),
    }
    let harm = diag.findings.iter().filter(|f| f.harm);
    let findings: Vec<String> = harm.map(crate::diagnosis::Finding::key).collect();
    if findings.is_empty() {
        return Err("nothing that was found does harm".to_string());
    }
    match rung {
        Rung::Reset => reset(seen, policy, findings, incident),
        Rung::Reboot => Ok(reboot(policy, findings, incident)),
        Rung::Guard | Rung::Quiet | Rung::Clean | Rung::Reconnect | Rung::Controller => {
            Err(format!("rung {} is none of the last", rung.number()))
        }
    }
}

/// The runbook's flush: the timer first, then the tables, filters before what translates, then the kubelet.
fn reset(
    seen: &Observation,
    policy: &Policy,
    findings: Vec<String>,
    incident: &str,
) -> Result<NodePlan, String> {
    let firewall = [Sense::Legacy4, Sense::Legacy6, Sense::Nft4, Sense::Nft6];
    if let Some(gap) = seen.gaps.iter().find(|g| firewall.contains(&g.what)) {
        return Err(format!("what cannot be read cannot be put back: {}", gap.why));
    }
    let rank = |t: &NfTable| FLUSHED.iter().position(|name| *name == t.name);
    let full = |t: &&NfTable| rank(t).is_some() && !ruleset::is_flushed(t);
    let mut tables: Vec<&NfTable> = seen.netfilter.iter().filter(full).collect();
    if tables.is_empty() {
        return Err("there is no netfilter rule to flush".to_string());
    }
    tables.sort_by_key(|t| rank(t));
    let mut ops = Vec::new();
    let after_ms = policy.confirm_ms.saturating_add(MARGIN_MS);
    ops.push((
        NodeOp::Armed { after_ms },
        "whoever cuts himself off by this cannot take it back".to_string(),
        false,
    ));
    for t in tables {
        let op = NodeOp::Flushed {
            backend: t.backend,
            family: t.family,
            table: t.name.clone(),
            dialect: t.dialect,
        };
        let drops = t.chains.iter().filter(|c| c.policy.as_deref().is_some_and(|p| p != "ACCEPT"));
        let drops: Vec<&str> = drops.map(|c| c.name.as_str()).collect();
        let closed = if drops.is_empty() {
            String::new()
        } else {
            format!("; {} would drop everything without its rules", drops.join(", "))
        };
        let because = format!("{} rules in {} chains{closed}", t.rules.len(), t.chains.len());
        ops.push((op, because, false));
    }
    ops.push((NodeOp::CacheFlushed, "learnt path MTUs go with the flush".to_string(), true));
    let unit = seen.units.iter().find(|u| u.name == policy.unit && u.load != "not-found");
    if unit.is_some_and(|u| u.load != "masked") {
        let because = "it writes the cluster's rules anew when it starts".to_string();
        ops.push((NodeOp::Restarted { unit: policy.unit.clone() }, because, false));
    }
    let first = findings.first().cloned().unwrap_or_default();
    let step = |(id, (op, because, optional))| Step {
        id,
        op,
        finding: first.clone(),
        because,
        on_unhealthy: OnUnhealthy::Undo,
        optional,
    };
    let steps = (0..).zip(ops).map(step).collect();
    Ok(of_one_rung(Rung::Reset, policy, incident, findings, steps))
}

/// The reboot, for these findings; [`ASKED`] when an operator simply wants one.
pub fn reboot(policy: &Policy, findings: Vec<String>, incident: &str) -> NodePlan {
    let step = Step {
        id: 0,
        op: NodeOp::Rebooted,
        finding: findings.first().cloned().unwrap_or_default(),
        because: "what only the kernel's memory holds is gone with it".to_string(),
        on_unhealthy: OnUnhealthy::Hold,
        optional: false,
    };
    of_one_rung(Rung::Reboot, policy, incident, findings, [step].into())
}
