//! T1 to T3: how long a capture cuts the node off, how long until it is clean, and what its kubelet missed meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use super::probe::{self, Probe};
use super::{Figure, Limit, Series, Wanted};
use crate::faults::{self, Site};
use crate::lab::Lab;
use crate::progress::Progress;
use crate::standin::{apiserver::lease, byhand};
use crate::trial::{Ground, NODE, is_ours};
use crate::witness;

/// How long probes go on after the capture, and after whatever was done about it.
const AFTERMATH: Duration = Duration::from_secs(2);
const LEASES: &str = "/var/lib/lifeline-lab/leases.jsonl";
/// The faults under which no lease may be missed (T3).
const LEASE_FAULTS: [&str; 8] = ["R1", "R2", "R4", "R8", "R9", "R11", "R12", "R13-main"];
/// What of Tailscale is seen on a node that is not clean, by other tools than ours.
const DIRT: &str = "pgrep -x tailscaled; ip rule | grep -w 52; ip -6 rule | grep -w 52; ip -o link show type tun; \
                    iptables-save 2>/dev/null | grep ts-; iptables-legacy-save 2>/dev/null | grep ts-";

/// T1: capture without warning until unmarked traffic has its path again, with the guard and by hand.
pub fn guarded(lab: &Lab, wanted: &Wanted, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let ground = Ground::new(lab, progress)?;
    let mut ours = Vec::new();
    for n in 0..wanted.runs {
        progress.pass(format!("T1: capture {} of {}", n + 1, wanted.runs));
        ground.prepare().map_err(|why| anyhow!(why))?;
        let probe = Probe::begin(&lab.node(NODE)?)?;
        probe.await_steady(Duration::from_millis(300), Duration::from_secs(10))?;
        strike(lab, "R1")?;
        thread::sleep(AFTERMATH);
        let sent = probe.end();
        anyhow::ensure!(sent.last().is_some_and(|s| s.answered), "the path did not come back");
        ours.push(milliseconds(probe::outage(&sent).unwrap_or_default()));
        restore(lab, "R1")?;
    }
    let hand = by_hand(lab, wanted.few(), progress)?;
    let figure = Figure {
        id: "T1",
        what: "capture without warning until unmarked traffic has its path again".to_owned(),
        target: "median ≤ 300 ms, p99 ≤ 1 s",
        met: None,
        ours: Series::new("guard", "ms", ours),
        baseline: Some(Series::new("the runbook's commands by a script", "ms", hand.outages)),
        note: String::new(),
    };
    Ok(vec![figure.within(&[Limit(0.5, 300.0), Limit(0.99, 1_000.0)])])
}

/// T2 and T3: the node heals itself.
pub fn healed(lab: &Lab, wanted: &Wanted, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let ground = Ground::new(lab, progress)?;
    let mut figures = Vec::new();
    if wanted.any(&["T2"]) {
        figures.push(clean(lab, &ground, wanted, progress)?);
    }
    if wanted.any(&["T3"]) {
        figures.push(leases(lab, &ground, progress)?);
    }
    Ok(figures)
}

fn clean(
    lab: &Lab,
    ground: &Ground<'_>,
    wanted: &Wanted,
    progress: &Progress,
) -> anyhow::Result<Figure> {
    let (mut ours, mut left) = (Vec::new(), 0);
    for n in 0..wanted.runs {
        progress.pass(format!("T2: capture {} of {}", n + 1, wanted.runs));
        fresh(lab, ground)?;
        let node = lab.node(NODE)?;
        let before = witness::look(&node)?;
        strike(lab, "R1")?;
        let begun = Instant::now();
        while !node.sh(DIRT)?.stdout.trim().is_empty() {
            anyhow::ensure!(begun.elapsed() < Duration::from_secs(60), "never clean");
            thread::sleep(Duration::from_millis(20));
        }
        ours.push(milliseconds(begun.elapsed()));
        ground.settled(Duration::from_secs(60)).map_err(|why| anyhow!(why))?;
        let now = witness::look(&node)?;
        left += witness::diff(&before, &now).iter().filter(|d| !is_ours(d)).count();
    }
    progress.say("T2: the same by hand, the agent taken away");
    let hand = by_hand(lab, wanted.few(), progress)?;
    let figure = Figure {
        id: "T2",
        what: "capture until nothing of the culprit is left, as other tools see it".to_owned(),
        target: "median ≤ 3 s",
        met: None,
        ours: Series::new("the agent by itself", "ms", ours),
        baseline: Some(Series::new("the runbook's commands by a script", "ms", hand.acting)),
        note: format!(
            "differences against before: {left} over all runs of the agent, {} after one by hand",
            hand.left
        ),
    };
    Ok(figure.within(&[Limit(0.5, 3_000.0)]))
}

/// How many leases are missed while the node heals itself of each fault, and without anybody.
fn leases(lab: &Lab, ground: &Ground<'_>, progress: &Progress) -> anyhow::Result<Figure> {
    const WATCH: Duration = Duration::from_secs(25);
    let (mut ours, mut sick) = (Vec::new(), Vec::new());
    for id in LEASE_FAULTS {
        progress.pass(format!("T3: {id}"));
        fresh(lab, ground)?;
        let missed = lease_watch(lab, id, WATCH)?;
        if missed > 0.0 {
            sick.push(id);
        }
        ours.push(missed);
        restore(lab, id)?;
    }
    ground.prepare().map_err(|why| anyhow!(why))?;
    let node = lab.node(NODE)?;
    away(lab)?;
    // The control plane gives up 40 to 50 s after the last renewal.
    let without = lease_watch(lab, "R1", Duration::from_secs(60))?;
    restore(lab, "R1")?;
    node.sh("systemctl start lifeline-agent")?.success()?;
    Ok(Figure {
        id: "T3",
        what: format!("kubelet leases missed under self-heal: {}", LEASE_FAULTS.join(", ")),
        target: "0",
        met: Some(sick.is_empty()),
        ours: Series::new("the agent by itself", "leases", ours),
        baseline: Some(Series::new("nobody, for a minute", "leases", vec![without])),
        note: if sick.is_empty() {
            String::new()
        } else {
            format!("missed under {}", sick.join(", "))
        },
    })
}

fn lease_watch(lab: &Lab, fault: &str, watch: Duration) -> anyhow::Result<f64> {
    let begun = lease::boottime();
    strike(lab, fault)?;
    thread::sleep(watch);
    let entries = lease::parse(&lab.node("tethys")?.read(LEASES)?);
    let missed = lease::missed(&entries, NODE, begun, lease::boottime());
    Ok(u32::try_from(missed).map_or(f64::MAX, f64::from))
}

/// What typing the runbook came to.
struct ByHand {
    /// From the capture until the path was back.
    outages: Vec<f64>,
    /// From the first command to the last.
    acting: Vec<f64>,
    /// Differences against before, after the last time.
    left: usize,
}

fn by_hand(lab: &Lab, runs: u32, progress: &Progress) -> anyhow::Result<ByHand> {
    let mut all = ByHand { outages: Vec::new(), acting: Vec::new(), left: 0 };
    for n in 0..runs {
        progress.pass(format!("by hand, {} of {runs}", n + 1));
        away(lab)?;
        let node = lab.node(NODE)?;
        let before = witness::look(&node)?;
        let probe = Probe::begin(&node)?;
        probe.await_steady(Duration::from_millis(300), Duration::from_secs(30))?;
        strike(lab, "R1")?;
        let begun = Instant::now();
        byhand::type_all(&node, |_| ())?;
        all.acting.push(milliseconds(begun.elapsed()));
        thread::sleep(AFTERMATH);
        let outage = probe::outage(&probe.end()).context("nothing was captured")?;
        all.outages.push(milliseconds(outage));
        all.left = witness::diff(&before, &witness::look(&node)?).len();
        // What the runbook leaves behind would spoil the next sample.
        lab.power_cycle(NODE, progress)?;
    }
    Ok(all)
}

/// A healthy node whose agent has spent nothing: the same fault twenty times in a row is met as often as is allowed, and no more.
fn fresh(lab: &Lab, ground: &Ground<'_>) -> anyhow::Result<()> {
    const FORGET: &str =
        "rm -f /var/lib/lifeline/budget/attempts.json; systemctl restart lifeline-agent";
    ground.prepare().map_err(|why| anyhow!(why))?;
    lab.node(NODE)?.sh(FORGET)?.success()?;
    ground.settled(Duration::from_secs(40)).map_err(|why| anyhow!(why))
}

/// Takes the agent and what it put there away until the next boot.
pub(super) fn away(lab: &Lab) -> anyhow::Result<()> {
    let script = "systemctl stop lifeline-agent && lifeline-agent cleanup";
    lab.node(NODE)?.sh(script)?.success().context("take the agent away")?;
    Ok(())
}

/// Makes a fault without the three seconds of warning that the real incident gives.
fn strike(lab: &Lab, id: &str) -> anyhow::Result<()> {
    let fault = faults::find(id)?;
    let mut site = Site::of(lab, NODE)?;
    site.netmap_delay = 0.0;
    if let Some(lay) = fault.ground {
        lay(&site)?;
    }
    (fault.strike)(&site).with_context(|| format!("make {id}"))
}

pub(super) fn restore(lab: &Lab, id: &str) -> anyhow::Result<()> {
    (faults::find(id)?.restore)(&Site::of(lab, NODE)?).with_context(|| format!("take {id} back"))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
