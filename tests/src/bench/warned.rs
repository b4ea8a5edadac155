//! T0: probes lost when the exit node comes as it does in the field, its rules three seconds before the route that captures.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::capture::{away, restore};
use super::probe::{Probe, Sent};
use super::{Figure, Limit, Series, Wanted};
use crate::faults::{self, Site};
use crate::lab::Lab;
use crate::progress::Progress;
use crate::trial::{Ground, NODE};

/// How long probes go on after the capture.
const AFTERMATH: Duration = Duration::from_secs(2);
/// The same where nobody does anything, for whom it goes on for ever.
const FOR_EVER: Duration = Duration::from_secs(10);

/// T0, in the gear of stand-ins.
pub fn measure(lab: &Lab, wanted: &Wanted, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let ground = Ground::new(lab, progress)?;
    let (mut lost, mut sent) = (Vec::new(), 0);
    for n in 0..wanted.runs {
        progress.pass(format!("T0: exit node {} of {}", n + 1, wanted.runs));
        ground.prepare().map_err(|why| anyhow!(why))?;
        let (all, _) = probed(lab, AFTERMATH)?;
        sent += all.len();
        lost.push(all.iter().filter(|s| !s.answered).count() as f64);
        restore(lab, "R1")?;
    }
    let mut without = Vec::new();
    for n in 0..wanted.few() {
        progress.pass(format!("T0: without the agent, {} of {}", n + 1, wanted.few()));
        ground.prepare().map_err(|why| anyhow!(why))?;
        away(lab)?;
        let (all, captured) = probed(lab, FOR_EVER)?;
        let after: Vec<&Sent> = all.iter().filter(|s| s.at > captured).collect();
        without.push(after.iter().filter(|s| !s.answered).count() as f64);
        restore(lab, "R1")?;
        lab.node(NODE)?.sh("systemctl start lifeline-agent")?.success()?;
    }
    let figure = Figure {
        id: "T0",
        what: "probes of the API server lost while an exit node comes with its three seconds of warning (tailscaled by a stand-in)".to_owned(),
        target: "0",
        met: None,
        ours: Series::new("guard", "probes", lost),
        baseline: Some(Series::new("without the agent, in the 10 s after the capture", "probes", without)),
        note: format!(
            "{sent} probes, one every 10 ms; the same with the real tailscaled and DaemonSet is told by `cargo lab incident --real`"
        ),
    };
    Ok(vec![figure.within(&[Limit(1.0, 0.0)])])
}

/// All probes around an exit node's coming, and when its route stood.
fn probed(lab: &Lab, aftermath: Duration) -> anyhow::Result<(Vec<Sent>, Instant)> {
    let probe = Probe::begin(&lab.node(NODE)?)?;
    probe.await_steady(Duration::from_millis(300), Duration::from_secs(10))?;
    (faults::find("R1")?.strike)(&Site::of(lab, NODE)?)?;
    let captured = Instant::now();
    thread::sleep(aftermath);
    Ok((probe.end(), captured))
}
