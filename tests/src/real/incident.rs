//! The incident of 13 October on the real cluster: the DaemonSet is applied, and the rest happens by itself.
//!
//! The acts are as in the quick gear, with the cluster's view beside the node's. Whoever acts begins when the control plane says
//! NotReady: that is what somebody saw on that day. In the third act it never says so.

use std::path::{Path as File, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::captor::Captor;
use super::culprit::{self, Variant};
use super::judge::{CAPTURE, CAPTURES, KEPT, KUBE, LOST, MORNING, NONE, OWN, PODS, READY, REPORT};
use super::view::{View, Way};
use super::{cluster, faults, itself, judge};
use crate::bench::probe::{Probe, Sent};
use crate::incident::{self, Act, NODE, path::Path};
use crate::lab::Lab;
use crate::progress::Progress;
use crate::standin::byhand;
use crate::{topology, witness};

/// The other worker, which the culprit takes at the same time.
pub(crate) const OTHER: &str = "styx";
/// A pod's start, three seconds of the culprit's own, rules, and its route another three seconds later.
pub(crate) const CAPTURE_LIMIT: Duration = Duration::from_secs(60);
/// The grace period is 50 s.
pub(crate) const NOT_READY_LIMIT: Duration = Duration::from_secs(90);
pub(crate) const BACK_LIMIT: Duration = Duration::from_secs(240);
/// Long enough for a lease on its beat and for the ways to be asked again.
pub(crate) const AFTERMATH: Duration = Duration::from_secs(15);
pub(crate) const REST_LIMIT: Duration = Duration::from_secs(180);
/// Somebody at a keyboard gives up after this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Step 1 of the recovery plan, as it stands there but for the kubeconfig's place.
pub(crate) const STEP_ONE: [&str; 3] = [
    "kubectl -n tailscale-system delete pod --all --force --grace-period=0",
    "kubectl delete namespace tailscale-system --force --grace-period=0 --timeout=10s",
    "kubectl get namespace tailscale-system -o json | jq '.spec.finalizers = []' | \
     kubectl replace --raw /api/v1/namespaces/tailscale-system/finalize -f -",
];

/// Tells the story three times and measures each act; in the third nobody does anything for as long as `alone` says.
pub fn tell(
    lab: &Lab,
    report: &File,
    alone: Duration,
    progress: &Progress,
) -> anyhow::Result<Vec<Act>> {
    progress.say("── by hand: the recovery plan, typed by a script ──");
    let hand = act(lab, "by hand", progress, by_hand)?;
    let orphans = orphans()?;
    if !orphans.is_empty() {
        progress.say(format!("left in etcd, in a namespace that is no more: {orphans}"));
    }
    clear(lab, progress)?;
    progress.say("── by operator: ctl heal ──");
    let report = place(report)?;
    let operator =
        act(lab, "by operator", progress, |lab, progress| by_operator(lab, &report, progress))?;
    progress.say(format!("the incident report: {}", report.display()));
    clear(lab, progress)?;
    let itself = tell_itself(lab, &report, alone, progress)?;
    Ok(vec![hand, operator, itself])
}

/// The third act alone.
pub fn tell_itself(
    lab: &Lab,
    report: &File,
    alone: Duration,
    progress: &Progress,
) -> anyhow::Result<Act> {
    progress.say("── by itself: both agents in heal mode, and nobody at all ──");
    itself::act(lab, &place(report)?, alone, progress)
}

fn place(report: &File) -> anyhow::Result<PathBuf> {
    std::path::absolute(report).context("find the report's place")
}

fn act(
    lab: &Lab,
    name: &'static str,
    progress: &Progress,
    recover: impl FnOnce(&Lab, &Progress) -> anyhow::Result<usize>,
) -> anyhow::Result<Act> {
    culprit::purge()?;
    cluster::await_rest(REST_LIMIT, progress)?;
    incident::healthy(lab, NODE, progress)?;
    let node = lab.node(NODE)?;
    let before = incident::snapshot(&node)?;
    let view = View::of(NODE);
    let path = Path::watch(&node)?;
    let (probe, captor) = (Probe::begin(&node)?, Captor::watch(NODE)?);
    view.during(&node, progress, || {
        progress.say("healthy: both workers are Ready, every pod runs");
        thread::sleep(Duration::from_secs(3));
        let begun = Instant::now();
        culprit::apply(Variant::default())?;
        progress.say("somebody applies the DaemonSet tailscale-system/tailscale-worker");
        let broken = path.await_state(false, CAPTURE_LIMIT).context("wait for the capture")?;
        progress.say(format!(
            "captured {:.1} s later: nothing from {NODE} reaches the API server any more",
            (broken - begun).as_secs_f64()
        ));
        let noticed = view.await_ready(false, NOT_READY_LIMIT)?;
        progress.say(format!(
            "{NODE} is NotReady {:.1} s after the capture: somebody notices, and acts",
            (noticed - broken).as_secs_f64()
        ));
        let acted = Instant::now();
        let typed = recover(lab, progress)?;
        let restored = path.await_state(true, BACK_LIMIT).context("wait for the path")?;
        let ready = view.await_ready(true, BACK_LIMIT)?;
        progress.say(format!(
            "the API server answered again {:.1} s, {NODE} was Ready {:.1} s after the first command",
            restored.saturating_duration_since(acted).as_secs_f64(),
            ready.saturating_duration_since(acted).as_secs_f64()
        ));
        thread::sleep(AFTERMATH);
        let left = witness::diff(&before, &incident::snapshot(&node)?);
        incident::tell_left(name, &left, progress);
        let rows = Rows {
            begun,
            captures: captor.times(),
            sent: probe.end(),
            ready: Some(ready.saturating_duration_since(acted)),
            // Those of the culprit are gone with it, or are orphans that nobody makes ready.
            pods: view.pods_not_ready(None),
            own: 0,
            report: NONE.to_owned(),
            left: &left,
            morning: NONE.to_owned(),
        };
        let cluster = rows.cells(&view);
        Ok(Act {
            name,
            outage: restored.saturating_duration_since(broken),
            acting: Some(restored.saturating_duration_since(acted)),
            missed: view.missed(broken),
            // Waited for above; seen before the capture it would not be the capture's doing.
            not_ready: noticed >= broken,
            typed,
            left,
            cluster,
        })
    })
}

/// What of an act goes into the table beside what every gear has.
pub(super) struct Rows<'a> {
    pub begun: Instant,
    /// When the exit node took the default route.
    pub captures: Vec<Instant>,
    pub sent: Vec<Sent>,
    pub ready: Option<Duration>,
    pub pods: usize,
    pub own: usize,
    pub report: String,
    pub left: &'a [witness::Difference],
    pub morning: String,
}

impl Rows<'_> {
    /// Label and cell, the same labels in each act.
    pub fn cells(self, view: &View) -> Vec<(&'static str, String)> {
        let seconds = |d: Duration| format!("{:.1}", d.as_secs_f64());
        let none = || NONE.to_owned();
        let count =
            |is: fn(&witness::Difference) -> bool| self.left.iter().filter(|d| is(d)).count();
        let first = self.captures.first().map(|at| at.saturating_duration_since(self.begun));
        let mut rows = vec![
            (CAPTURE, first.map_or_else(none, seconds)),
            (CAPTURES, self.captures.len().to_string()),
            (LOST, self.sent.iter().filter(|s| !s.answered).count().to_string()),
            (READY, self.ready.map_or_else(none, seconds)),
            (PODS, self.pods.to_string()),
        ];
        rows.extend(Way::ALL.map(|way| {
            let is = view.works(way).map_or("?", |is| if is { "works" } else { "dead" });
            (way.told(), is.to_owned())
        }));
        rows.push((OWN, self.own.to_string()));
        rows.push((REPORT, self.report));
        rows.push((KUBE, count(judge::is_rewritten).to_string()));
        rows.push((KEPT, count(faults::is_kept).to_string()));
        rows.push((MORNING, self.morning));
        rows
    }
}

/// The plan's three steps: the namespace by force, styx by the provider's reboot, calypso at its console.
fn by_hand(lab: &Lab, progress: &Progress) -> anyhow::Result<usize> {
    let mut typed = 0;
    for line in STEP_ONE {
        laptop(lab, line, progress)?;
        typed += 1;
    }
    lab.power_cycle(OTHER, progress)?;
    progress.say(format!("    {OTHER} was rebooted through the provider's API"));
    typed += 1;
    let address = topology::machine(NODE).map(|m| m.v4().to_string()).unwrap_or_default();
    let ssh = ssh(lab, "lan", &address, "hostname")?;
    typed += 1;
    let word =
        if ssh { "gets through" } else { "does not get through: somebody walks to the console" };
    progress.say(format!("    ssh root@{address} {word}"));
    let lines = byhand::type_all(&lab.node(NODE)?, |typed| {
        let end = if typed.given_up { "^C" } else { "" };
        let took = typed.took.as_secs_f64();
        progress.say(format!("    {NODE}# {}  ({took:.1} s{end})", typed.line));
    })?;
    laptop(lab, "kubectl get nodes", progress)?;
    Ok(typed + lines.len() + 1)
}

/// Types a line on the laptop and tells what it came to.
pub(super) fn laptop(lab: &Lab, line: &str, progress: &Progress) -> anyhow::Result<()> {
    let out = lab.space("laptop")?.exec_within(&["bash", "-c", line], PATIENCE)?;
    let end = if out.timed_out { "^C" } else { "" };
    progress.say(format!("    laptop$ {line}  ({:.1} s{end})", out.took.as_secs_f64()));
    for said in out.stdout.lines().chain(out.stderr.lines()).take(6) {
        progress.say(format!("        {}", said.chars().take(160).collect::<String>()));
    }
    Ok(())
}

/// Whether a command by ssh gets through, from one of the lab's bare namespaces.
pub fn ssh(lab: &Lab, from: &str, address: &str, command: &str) -> anyhow::Result<bool> {
    let key = crate::ssh::key_path().display().to_string();
    let to = format!("root@{address}");
    let argv = [
        "ssh",
        "-i",
        &key,
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=5",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
        &to,
        command,
    ];
    Ok(lab.space(from)?.exec_within(&argv, Duration::from_secs(15))?.ok())
}

/// Each worker by one command; then the namespace, whose kubelets hear of it again; then each worker once more, for a daemon that is
/// killed with its container leaves its rules and chains behind.
fn by_operator(lab: &Lab, report: &File, progress: &Progress) -> anyhow::Result<usize> {
    let heal = |node: &str| -> anyhow::Result<()> {
        progress.say(format!("laptop$ ctl heal {node}"));
        let out = lab.ctl(&["heal", node, "--yes"])?;
        let said = if out.ok() { &out.stdout } else { &(out.stdout.clone() + &out.stderr) };
        said.lines().for_each(|line| progress.say(format!("    {line}")));
        Ok(())
    };
    let healed = incident::by_operator(lab, report, progress)?;
    heal(OTHER)?;
    laptop(lab, "kubectl delete namespace tailscale-system --timeout=25s", progress)?;
    heal(NODE)?;
    heal(OTHER)?;
    Ok(healed + 4)
}

/// Objects of the culprit that are in etcd without their namespace.
pub(crate) fn orphans() -> anyhow::Result<String> {
    if !culprit::is_free()? {
        return Ok(String::new());
    }
    let left =
        cluster::kubectl(&["get", "daemonsets,pods", "-n", "tailscale-system", "-o", "name"])?
            .success()?;
    Ok(left.stdout.split_whitespace().collect::<Vec<_>>().join(", "))
}

/// Back to the beginning: the culprit and its orphans out of etcd, both workers power-cycled.
pub(crate) fn clear(lab: &Lab, progress: &Progress) -> anyhow::Result<()> {
    progress.say("the culprit is taken out of etcd, both workers are power-cycled");
    culprit::remove()?;
    let pods = ["delete", "pods", "--all", "-n", "tailscale-system", "--force", "--grace-period=0"];
    cluster::kubectl(&pods)?;
    for node in [NODE, OTHER] {
        lab.power_cycle(node, progress)?;
    }
    Ok(culprit::await_free()?)
}
