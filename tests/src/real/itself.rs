//! The act in which nobody does anything: the agents of both workers are in mode `heal`, and the DaemonSet is applied to both.
//!
//! It insists: its kubelet looks whether the exit node is in use, and starts the container again when it is not. So the culprit comes
//! back for as long as the act lasts. In the morning somebody reads the report and does what it says.

use std::collections::BTreeSet;
use std::path::Path as File;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::captor::Captor;
use super::culprit::{self, Variant};
use super::incident::{OTHER, REST_LIMIT, Rows, laptop};
use super::view::View;
use super::{cluster, faults, judge};
use crate::bench::probe::{self, Probe, Sent};
use crate::faults::wait_for;
use crate::incident::itself::{incidents, set_mode};
use crate::incident::{self, Act, NODE};
use crate::lab::Lab;
use crate::node::Node;
use crate::progress::Progress;
use crate::witness::{self, Snapshot};

const BOTH: [&str; 2] = [NODE, OTHER];
/// What the agent learns of a DaemonSet's pod and what it advises.
const ADVICE: &str = "kubectl -n tailscale-system delete daemonset tailscale-worker";
/// What the report must say: who keeps the culprit, in which pod it ran, what it was, and what was done to it.
const TOLD: [&str; 5] = [
    "of DaemonSet tailscale-worker",
    "pod tailscale-system/tailscale-worker-",
    "tailscaled (pid ",
    "to drop its exit node",
    ADVICE,
];
/// Between two questions to the agents.
const EVERY: Duration = Duration::from_secs(2);
/// An incident ends half a minute after the node is well.
const END: Duration = Duration::from_secs(100);

/// What each side has seen when the time is over.
struct Seen {
    begun: Instant,
    captures: Vec<Instant>,
    sent: Vec<Sent>,
    /// The agents' own incidents of each node, the first first.
    own: [Vec<String>; 2],
}

/// The act: both agents are put into mode `heal`, and back, whatever comes of it.
pub(super) fn act(
    lab: &Lab,
    report: &File,
    alone: Duration,
    progress: &Progress,
) -> anyhow::Result<Act> {
    let set = |mode: &str| BOTH.iter().try_for_each(|node| set_mode(lab, node, mode));
    for node in BOTH {
        // The operator's heals of the act before are on the same account.
        let fresh = "rm -f /var/lib/lifeline/budget/attempts.json";
        lab.node(node)?.sh(fresh)?.success()?;
    }
    set("heal")?;
    let done = cluster::await_rest(REST_LIMIT, progress)
        .map_err(anyhow::Error::from)
        .and_then(|()| BOTH.iter().try_for_each(|node| incident::healthy(lab, node, progress)))
        .and_then(|()| watched(lab, report, alone, progress));
    let back = set(&lab.state.mode);
    let act = done?;
    back.map(|()| act)
}

fn watched(lab: &Lab, report: &File, alone: Duration, progress: &Progress) -> anyhow::Result<Act> {
    let nodes = [lab.node(NODE)?, lab.node(OTHER)?];
    let views = BOTH.map(View::of);
    let before = incident::snapshot(&nodes[0])?;
    views[0].during(&nodes[0], progress, || {
        views[1].during(&nodes[1], progress, || {
            let seen = stand_by(lab, &nodes, alone, progress)?;
            let missed = views.iter().map(|v| v.missed(seen.begun)).sum();
            let not_ready = views.iter().any(|v| v.left_ready(seen.begun));
            let left = judge::readable(witness::diff(&before, &incident::snapshot(&nodes[0])?));
            incident::tell_left("by itself, while the culprit lives", &left, progress);
            let told = told(lab, report, &seen.own[0], progress)?;
            let own = seen.own.iter().map(Vec::len).sum();
            let outage = probe::outage(&seen.sent).unwrap_or_default();
            let rows = Rows {
                begun: seen.begun,
                captures: seen.captures,
                sent: seen.sent,
                ready: None,
                pods: views[0].pods_not_ready(Some(culprit::SPACE)),
                own,
                report: told,
                left: &left,
                morning: String::new(),
            };
            // As it is before anybody does anything.
            let mut cluster = rows.cells(&views[0]);
            let after = morning(lab, &nodes, &before, progress)?;
            cluster.retain(|(what, _)| *what != judge::MORNING);
            cluster.push((judge::MORNING, after.to_string()));
            Ok(Act {
                name: "by itself",
                outage,
                acting: None,
                missed,
                not_ready,
                typed: 0,
                left,
                cluster,
            })
        })
    })
}

/// Applies the DaemonSet and does nothing.
fn stand_by(
    lab: &Lab,
    nodes: &[Node; 2],
    alone: Duration,
    progress: &Progress,
) -> anyhow::Result<Seen> {
    let mut probes = Vec::new();
    for node in nodes {
        let probe = Probe::begin(node)?;
        probe.await_steady(Duration::from_secs(1), Duration::from_secs(20))?;
        probes.push(probe);
    }
    let captor = Captor::watch(NODE)?;
    let known = [ids(lab, NODE)?, ids(lab, OTHER)?].map(BTreeSet::from_iter);
    let begun = Instant::now();
    culprit::apply(Variant { insists: true, ..Variant::default() })?;
    progress.say(format!(
        "somebody applies the DaemonSet tailscale-system/tailscale-worker; nobody does anything for {} s",
        alone.as_secs()
    ));
    follow(lab, begun + alone, progress)?;
    let captures = captor.times();
    let sent: Vec<Vec<Sent>> = probes.into_iter().map(Probe::end).collect();
    for (node, sent) in nodes.iter().zip(&sent) {
        tell_losses(node, sent, begun, progress)?;
    }
    let sent: Vec<Sent> = sent.into_iter().flatten().collect();
    let lost = sent.iter().filter(|s| !s.answered).count();
    progress.say(format!(
        "{} s are over; of {} probes from both workers {lost} were lost, and the exit node took the default route of {NODE} {} times",
        alone.as_secs(),
        sent.len(),
        captures.len()
    ));
    let mut own = [Vec::new(), Vec::new()];
    for ((node, known), own) in BOTH.iter().zip(&known).zip(&mut own) {
        own.extend(ids(lab, node)?.into_iter().rev().filter(|id: &String| !known.contains(id)));
        progress.say(format!("the agent of {node} opened by itself: {}", own.join(", ")));
    }
    Ok(Seen { begun, captures, sent, own })
}

/// What was lost and when, beside what the node's agent says of its guard in that time.
fn tell_losses(
    node: &Node,
    sent: &[Sent],
    begun: Instant,
    progress: &Progress,
) -> anyhow::Result<()> {
    let losses = probe::losses(sent, begun);
    if losses.is_empty() {
        return Ok(());
    }
    let name = node.name();
    losses.iter().for_each(|loss| progress.say(format!("    {name}: {loss}")));
    let since = begun.elapsed().as_secs() + 1;
    let guard = format!(
        "journalctl -u lifeline-agent -o short-precise --no-pager --since '{since} s ago' | grep guard"
    );
    let said = node.sh(&guard)?;
    let began = jiff::Timestamp::now() - begun.elapsed();
    progress.say(format!("    {name}: the seconds count from {began}; its agent said meanwhile:"));
    said.stdout.lines().for_each(|line| progress.say(format!("        {line}")));
    Ok(())
}

/// The agent's own incidents, the latest first.
fn ids(lab: &Lab, node: &str) -> anyhow::Result<Vec<String>> {
    let all = incidents(lab, node)?;
    let own = all.iter().filter(|i| i["by"] == "lifeline-agent");
    Ok(own.filter_map(|i| i["incident"].as_str().map(str::to_owned)).collect())
}

/// Tells what the agents say, each time it is something else, until the time is over.
fn follow(lab: &Lab, until: Instant, progress: &Progress) -> anyhow::Result<()> {
    let mut last = [String::new(), String::new()];
    while Instant::now() < until {
        for (node, last) in BOTH.iter().zip(&mut last) {
            let words = words(&lab.ctl(&["status", node, "-o", "json"])?.stdout);
            // A pid or a minute less is nothing new.
            let plain = |s: &str| s.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
            if plain(&words) != plain(last) {
                progress.say(format!("    {node}: {words}"));
                *last = words;
            }
        }
        thread::sleep(EVERY.min(until.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

fn words(status: &str) -> String {
    let all: Value = serde_json::from_str(status).unwrap_or_default();
    let one = &all["nodes"][0];
    let word = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let guarded = if one["guarded"] == true { ", guarded" } else { "" };
    let incident = one["incident"].as_str().map_or_else(String::new, |i| format!(" ({i})"));
    format!("{}{guarded}{incident}: {}", word("verdict"), word("summary"))
}

/// Writes the first incident's report, and says what it lacks.
fn told(lab: &Lab, report: &File, own: &[String], progress: &Progress) -> anyhow::Result<String> {
    let Some(first) = own.first() else { bail!("the agent of {NODE} opened no incident") };
    await_ended(lab, NODE)?;
    let stem = report.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let path = report.with_file_name(format!("{stem}-by-itself.md"));
    let shown = path.display().to_string();
    lab.ctl(&["report", NODE, first, "--out", &shown])?.success()?;
    progress.say(format!("the report that lies there in the morning: {shown}"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {shown}"))?;
    let lacks: Vec<&str> = TOLD.into_iter().filter(|word| !text.contains(word)).collect();
    if lacks.is_empty() {
        return Ok("yes".to_owned());
    }
    progress.say(format!("it does not say: {}", lacks.join("; ")));
    Ok("no".to_owned())
}

fn await_ended(lab: &Lab, node: &str) -> anyhow::Result<()> {
    wait_for(&format!("no incident of {node} is under way"), END, || {
        let status = lab.ctl(&["status", node, "-o", "json"])?;
        let all: Value = serde_json::from_str(&status.stdout).unwrap_or_default();
        Ok(all["nodes"][0]["incident"].is_null() && all["nodes"][0]["verdict"].is_string())
    })?;
    Ok(())
}

/// Somebody does what the report says, and heals what the killed daemon leaves; how much differs from before then.
fn morning(
    lab: &Lab,
    nodes: &[Node; 2],
    before: &Snapshot,
    progress: &Progress,
) -> anyhow::Result<usize> {
    progress.say("in the morning somebody does what the report says");
    laptop(lab, &format!("{ADVICE} --timeout=25s"), progress)?;
    for node in nodes {
        wait_for("tailscaled has ended", END, || Ok(!node.sh("pgrep -x tailscaled")?.ok()))?;
        await_ended(lab, node.name())?;
    }
    for node in BOTH {
        progress.say(format!("laptop$ ctl heal {node}"));
        let out = lab.ctl(&["heal", node, "--yes", "--stability", "3s"])?;
        let said = if out.ok() { out.stdout } else { out.stdout + &out.stderr };
        said.lines().for_each(|line| progress.say(format!("    {line}")));
    }
    let left = witness::diff(before, &incident::snapshot(&nodes[0])?);
    let left: Vec<_> =
        left.into_iter().filter(|d| !faults::is_kept(d) && !judge::is_rewritten(d)).collect();
    incident::tell_left("in the morning", &left, progress);
    culprit::purge()?;
    Ok(left.len())
}
