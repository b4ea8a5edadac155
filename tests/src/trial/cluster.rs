//! What concerns more than a node, tried on the real cluster: `ctl recover`, and what it leaves in etcd and on nodes.

use std::time::{Duration, Instant};

use super::ground::{NODE, told};
use super::{Case, Ground, Verdict};
use crate::real::cluster::{is_ready, kubectl};
use crate::real::culprit;
use crate::real::incident::OTHER;
use crate::recover::{self, cut, desk::Desk};
use crate::run::Output;

pub const LONG: &[Case] = &[Case {
    name: "real_recover_killed_at_every_step_boundary_ends_the_same_and_does_each_thing_once",
    run: killed_everywhere,
}];

/// The grace period is 50 s, and the capture comes some seconds after the DaemonSet.
const LOST: Duration = Duration::from_secs(120);

fn ready(node: &str) -> std::result::Result<bool, String> {
    let out = kubectl(&["get", "node", node, "-o", "json"]).and_then(Output::success);
    Ok(is_ready(&out.and_then(Output::json).map_err(told)?))
}

/// Both workers are NotReady by the control plane's word.
fn both_lost(g: &Ground<'_>) -> Verdict {
    recover::strike(g.lab, g.progress).map_err(told)?;
    let until = Instant::now() + LOST;
    while ready(NODE)? || ready(OTHER)? {
        if Instant::now() > until {
            return Err("the workers do not become NotReady".to_owned());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

fn killed_everywhere(g: &Ground<'_>) -> Verdict {
    let desk = Desk::lay(g.progress).and_then(Desk::with_record).map_err(told)?;
    both_lost(g)?;
    let cut = cut::at_every_boundary(g.lab, &desk, g.progress).map_err(|e| format!("{e:#}"))?;
    if cut.code != Some(0) {
        return Err(format!("it ended with {:?} after {:?}", cut.code, cut.boundaries));
    }
    // Fewer would mean that the kills came too late to mean anything.
    if cut.boundaries.len() < 20 {
        return Err(format!("only {} boundaries were tried", cut.boundaries.len()));
    }
    recover::Record::of(&desk).map_err(told)?.once()?;
    if !culprit::is_free().map_err(told)? {
        return Err("the namespace is not gone".to_owned());
    }
    for node in [NODE, OTHER] {
        if !ready(node)? {
            return Err(format!("{node} is not Ready"));
        }
    }
    let infected = recover::wakes(g.lab, g.progress).map_err(told)?;
    if infected.is_empty() { Ok(()) } else { Err(format!("infected again: {infected:?}")) }
}
