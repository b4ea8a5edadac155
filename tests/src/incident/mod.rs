//! The incident of 13 October, told on the terminal as it happens: by hand, by operator, and by the agent itself.
//!
//! All acts break the same node in the same way and are measured by the same means: probes of the API server from the
//! node, unmarked, as the kubelet would; the API server's own log of leases; and what other tools than ours see
//! of the node before and after.

pub(crate) mod itself;
pub(crate) mod path;
mod table;

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::faults::{self, Site};
use crate::lab::Lab;
use crate::node::Node;
use crate::progress::Progress;
use crate::standin::apiserver::lease;
use crate::witness::{self, Difference, Snapshot};
use crate::{standin, topology};
use path::Path;
pub use table::{Act, table};

pub(crate) const NODE: &str = "calypso";
/// The exit-node route follows the rules by about three seconds, as in the real incident; much more is a capture that failed.
const CAPTURE_LIMIT: Duration = Duration::from_secs(20);
/// A healthy node renews its lease every ten seconds: both acts are watched this long after the path is back.
const AFTERMATH: Duration = Duration::from_secs(12);
/// Somebody has to notice before anybody acts; the same for both acts.
const NOTICE: Duration = Duration::from_secs(15);
const LOG: &str = "/var/lib/lifeline-lab/leases.jsonl";

/// Tells the story three times and measures each act.
pub fn tell(lab: &Lab, report: &std::path::Path, progress: &Progress) -> anyhow::Result<Vec<Act>> {
    progress.say("── by hand: the runbook's commands, typed by a script at the console ──");
    let hand = act(lab, "by hand", progress, by_hand)?;
    progress.say("power cycle, so that the second act begins like the first");
    lab.power_cycle(NODE, progress)?;
    progress.say("── by operator: ctl heal ──");
    let report = std::path::absolute(report).context("find the report's place")?;
    let operator =
        act(lab, "by operator", progress, |lab, progress| by_operator(lab, &report, progress))?;
    progress.say(format!("the incident report: {}", report.display()));
    progress.say("power cycle, so that the third act begins like the first");
    lab.power_cycle(NODE, progress)?;
    progress.say("── by itself: the agent in heal mode, and nobody at all ──");
    let itself = itself::act(lab, progress, || strike(lab))?;
    Ok(vec![hand, operator, itself])
}

fn strike(lab: &Lab) -> anyhow::Result<()> {
    (faults::find("R1-nft")?.strike)(&Site::of(lab, NODE)?).context("let the exit node arrive")
}

/// Break, let it be noticed, recover by `recover`, measure.
fn act(
    lab: &Lab,
    name: &'static str,
    progress: &Progress,
    recover: impl FnOnce(&Lab, &Progress) -> anyhow::Result<usize>,
) -> anyhow::Result<Act> {
    healthy(lab, NODE, progress)?;
    let node = lab.node(NODE)?;
    let before = snapshot(&node)?;
    let path = Path::watch(&node)?;
    let begun = lease::boottime();
    progress.say("healthy: the API server answers, the lease is renewed every 10 s");
    strike(lab)?;
    progress.say("the exit node arrives: tailscaled runs in the host's network namespace");
    let broken = path.await_state(false, CAPTURE_LIMIT).context("wait for the capture")?;
    progress.say("captured: nothing from the node reaches the API server any more");
    thread::sleep(NOTICE);
    progress.say(format!("{} s later somebody acts", NOTICE.as_secs()));
    let acted = Instant::now();
    let typed = recover(lab, progress)?;
    let restored =
        path.await_state(true, Duration::from_secs(120)).context("wait for the path to be back")?;
    progress.say(format!(
        "the API server answered again {:.1} s after the first command",
        (restored - acted).as_secs_f64()
    ));
    thread::sleep(AFTERMATH);
    let end = lease::boottime();
    let leases = lease::parse(&lab.node("tethys")?.read(LOG)?);
    let left = witness::diff(&before, &snapshot(&node)?);
    tell_left(name, &left, progress);
    Ok(Act {
        name,
        outage: restored.saturating_duration_since(broken),
        acting: Some(restored.saturating_duration_since(acted)),
        missed: lease::missed(&leases, NODE, begun, end),
        not_ready: was_not_ready(&leases, begun),
        typed,
        left,
        cluster: Vec::new(),
    })
}

/// Whether the control plane has called the node NotReady since then.
fn was_not_ready(leases: &[lease::Entry], since: Duration) -> bool {
    leases.iter().any(|e| {
        e.node == NODE
            && e.what == lease::What::NotReady
            && u128::from(e.boottime_ms) >= since.as_millis()
    })
}

pub(crate) fn tell_left(name: &str, left: &[Difference], progress: &Progress) {
    const MOST: usize = 40;
    if left.is_empty() {
        progress.say(format!("{name}: the node is as it was before, to the last rule"));
        return;
    }
    progress.say(format!("{name}: {} differences are left on the node", left.len()));
    for one in left.iter().take(MOST) {
        progress.say(format!("    {one}"));
    }
    if left.len() > MOST {
        progress.say(format!("    … and {} more", left.len() - MOST));
    }
}

pub(crate) fn snapshot(node: &Node) -> anyhow::Result<Snapshot> {
    witness::look(node).context("look at the node with other tools")
}

/// The agent says that all is well, and has learnt it.
pub(crate) fn healthy(lab: &Lab, node: &str, progress: &Progress) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let out = lab.ctl(&["status", node, "-o", "json"])?;
        let said = out.stdout.to_lowercase();
        if out.ok() && said.contains("healthy") && said.contains("learn") {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("{node} is not healthy before the incident: {}{}", out.stdout, out.stderr);
        }
        progress.pass("waiting for the node to be healthy and its baseline to be learnt");
        thread::sleep(Duration::from_millis(500));
    }
}

/// The seed's commands, one after the other, at the console: SSH does not get through.
fn by_hand(lab: &Lab, progress: &Progress) -> anyhow::Result<usize> {
    let address = topology::machine(NODE).map(|m| m.v4().to_string()).unwrap_or_default();
    let ping = lab.space("lan")?.exec(&["ping", "-c", "1", "-W", "1", &address])?;
    if !ping.ok() {
        progress.say(
            "a machine on the same LAN cannot even ping it: no ssh, somebody walks to the console",
        );
    }
    let typed = standin::byhand::type_all(&lab.node(NODE)?, |typed| {
        let end = if typed.given_up { "^C" } else { "" };
        progress.say(format!(
            "    calypso# {}  ({:.1} s{end})",
            typed.line,
            typed.took.as_secs_f64()
        ));
    })?;
    Ok(typed.len())
}

/// One command on the laptop beyond the gateway.
pub(crate) fn by_operator(
    lab: &Lab,
    report: &std::path::Path,
    progress: &Progress,
) -> anyhow::Result<usize> {
    let report = report.display().to_string();
    progress.say(format!("laptop$ ctl heal {NODE}"));
    let mut child = lab
        .ctl_command("laptop", &["heal", NODE, "--yes", "--report", &report])?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run ctl heal")?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(|| relay(out, progress));
        scope.spawn(|| relay(err, progress));
    });
    let status = child.wait().context("wait for ctl heal")?;
    if !status.success() {
        bail!("ctl heal ended with {status}");
    }
    Ok(1)
}

fn relay(from: Option<impl Read>, progress: &Progress) {
    for line in from.into_iter().flat_map(|f| BufReader::new(f).lines().map_while(Result::ok)) {
        progress.say(format!("    {line}"));
    }
}
