//! T6 and T7: over the whole catalogue, what a heal changes that is neither the fault's nor its own.

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::capture::away;
use crate::beside::Share;
use crate::faults::{self, Fault};
use crate::lab::Lab;
use crate::progress::Progress;
use crate::standin::byhand;
use crate::trial::{Ground, NODE, is_ours, is_tailscales, strange};
use crate::witness::{self, Difference, Snapshot};

/// The heal of the node's own operator: some of the faults keep every other out.
const HEAL: [&str; 8] =
    ["ctl", "--socket", "/run/lifeline/agent.sock", "heal", NODE, "--yes", "--stability", "1s"];
const LIMIT: Duration = Duration::from_secs(100);
/// A restarted unit's children and the kernel's own timers need a moment.
const SETTLING: Duration = Duration::from_secs(8);
/// The runbook is typed on these: an exit node, its remnants, a tunnel of somebody's, a lost rule, other owners' chains.
const TYPED: [&str; 5] = ["R1", "R3", "R8", "R13-main", "N9"];

/// What came of one fault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    pub fault: String,
    pub near_miss: bool,
    /// What was changed and should not have been.
    pub changed: Vec<String>,
    /// Why nothing can be said.
    pub failed: Option<String>,
}

/// Heals every fault of this share, near misses included; only those without `faults`.
pub fn catalogue(ground: &Ground<'_>, faults: bool, share: Share, progress: &Progress) -> Vec<Row> {
    let all: Vec<Fault> = faults::all().into_iter().filter(|f| faults || f.near_miss).collect();
    let mine = all.iter().enumerate().filter(|(at, _)| share.has(*at));
    mine.map(|(at, fault)| {
        progress.pass(format!("T6, T7: {} ({} of {})", fault.id, at + 1, all.len()));
        row(fault, ground.prepare().and_then(|()| healed(ground, fault)), progress)
    })
    .collect()
}

fn row(fault: &Fault, seen: Result<Vec<Difference>, String>, progress: &Progress) -> Row {
    let (changed, failed) = match seen {
        Ok(all) => (all.iter().map(ToString::to_string).collect::<Vec<_>>(), None),
        Err(why) => (Vec::new(), Some(why)),
    };
    match &failed {
        Some(why) => progress.say(format!("{}: not measured: {why}", fault.id)),
        None => progress.say(format!("{}: {} foreign differences", fault.id, changed.len())),
    }
    changed.iter().for_each(|line| progress.say(format!("    {line}")));
    Row { fault: fault.id.to_owned(), near_miss: fault.near_miss, changed, failed }
}

fn healed(ground: &Ground<'_>, fault: &Fault) -> Result<Vec<Difference>, String> {
    let (healthy, sick) = struck(ground, fault)?;
    // Whatever it says of itself: what counts is what it has touched.
    let node = ground.node()?;
    let out = node.exec_within(&HEAL, LIMIT).map_err(|e| e.to_string())?;
    if out.timed_out {
        return Err(format!("ctl heal did not end within {LIMIT:?}"));
    }
    let until = Instant::now() + SETTLING;
    loop {
        let now = ground.snapshot()?;
        let mut changed = if fault.near_miss {
            witness::diff(&sick, &now)
        } else {
            strange(&healthy, &sick, &now)
        };
        changed.retain(|d| !(is_ours(d) || lives_again(fault) && is_tailscales(d)));
        if changed.is_empty() || Instant::now() > until {
            return Ok(changed);
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Somebody starts the culprit again, and in its next life it listens elsewhere and says so in its own chains.
fn lives_again(fault: &Fault) -> bool {
    fault.id == "R5" || fault.id.ends_with("-kept")
}

/// The node before the fault and with it.
fn struck(ground: &Ground<'_>, fault: &Fault) -> Result<(Snapshot, Snapshot), String> {
    ground.lay(fault.id)?;
    let healthy = ground.snapshot()?;
    ground.make(fault.id)?;
    Ok((healthy, ground.snapshot()?))
}

/// The same by the runbook, with the agent taken away.
pub fn by_hand(lab: &Lab, ground: &Ground<'_>, share: Share, progress: &Progress) -> Vec<Row> {
    let mine = TYPED.iter().enumerate().filter(|(at, _)| share.has(*at));
    mine.filter_map(|(_, id)| faults::find(id).ok())
        .map(|fault| {
            progress.pass(format!("T6: the runbook's commands on {}", fault.id));
            let seen = ground.prepare().and_then(|()| typed(lab, ground, &fault, progress));
            row(&fault, seen, progress)
        })
        .collect()
}

fn typed(
    lab: &Lab,
    ground: &Ground<'_>,
    fault: &Fault,
    progress: &Progress,
) -> Result<Vec<Difference>, String> {
    let told = |e: anyhow::Error| format!("{e:#}");
    away(lab).map_err(told)?;
    let (healthy, sick) = struck(ground, fault)?;
    let node = ground.node()?;
    byhand::type_all(&node, |_| ()).map_err(|e| e.to_string())?;
    thread::sleep(SETTLING);
    let changed = strange(&healthy, &sick, &ground.snapshot()?);
    lab.power_cycle(NODE, progress).map_err(|e| e.to_string())?;
    Ok(changed)
}
