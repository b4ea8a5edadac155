//! The day of 13 October from end to end, told twice on the real cluster: the recovery plan by hand, and `ctl recover`.
//!
//! Both workers are lost to the DaemonSet, and styx's agent is not there: calypso is mended, styx restarted by its provider, the
//! namespace removed, the cluster verified, the report committed, the issues updated. Afterwards a namespace of the culprit's
//! name is created again, and whoever is infected by it is told.

pub mod cut;
pub mod desk;
mod hand;
pub mod marks;
pub mod operator;
pub mod secret;
mod table;

use std::path::Path as File;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::error::Result;
use crate::incident::{self, NODE, path::Path};
use crate::lab::Lab;
use crate::progress::Progress;
use crate::real::culprit::{self, SPACE, Variant};
use crate::real::incident as real;
use crate::real::view::{View, Way};
use crate::real::{cluster, incident::OTHER};
use crate::witness;
use desk::Desk;
use marks::{Mark, Marks};
pub use table::{Act, Record, judge, markdown, table};

/// Long enough for a DaemonSet that wakes: it took three seconds in the worst case seen.
const WAKE: Duration = Duration::from_secs(35);

/// Tells both acts and measures them.
pub fn tell(lab: &Lab, report: &File, progress: &Progress) -> anyhow::Result<Vec<Act>> {
    progress.say("── by hand: the whole recovery plan, typed by a script ──");
    let hand = act(lab, "by hand", progress, |desk, marks| {
        let typed = hand::type_all(lab, desk, marks, progress)?;
        Ok((typed, String::new()))
    })?;
    culprit::purge().ok();
    real::clear(lab, progress)?;
    progress.say("── by operator: ctl recover ──");
    let operator = act(lab, "by ctl recover", progress, |desk, marks| {
        by_operator(lab, desk, marks, progress)
    })?;
    keep(report, progress)?;
    Ok(vec![hand, operator])
}

/// One command.
pub fn by_operator(
    lab: &Lab,
    desk: &Desk,
    marks: &Marks,
    progress: &Progress,
) -> anyhow::Result<(usize, String)> {
    let ran = operator::recover(lab, desk, &operator::RECOVER, progress)?;
    marks.now(Mark::End);
    operator::take_verified(marks);
    marks.take_issues(desk);
    if ran.code != Some(0) {
        bail!("ctl recover ended with {:?}", ran.code);
    }
    let unreached = operator::unreached();
    if !unreached.is_empty() {
        bail!("no pod of {} is said to have reached {}", unreached.join(", "), desk::SERVICE);
    }
    Ok((1, ran.said))
}

/// Both workers are lost, and styx's agent is not there to be asked.
pub fn strike(lab: &Lab, progress: &Progress) -> Result<()> {
    let stop = ["systemctl", "stop", "lifeline-agent"];
    lab.node(OTHER)?.exec(&stop)?.success()?;
    progress.say(format!("{OTHER}: somebody has stopped its agent"));
    culprit::apply(Variant::default())?;
    progress.say("somebody applies the DaemonSet tailscale-system/tailscale-worker");
    Ok(())
}

fn act(
    lab: &Lab,
    name: &'static str,
    progress: &Progress,
    recover: impl FnOnce(&Desk, &Marks) -> anyhow::Result<(usize, String)>,
) -> anyhow::Result<Act> {
    cluster::await_rest(real::REST_LIMIT, progress)?;
    incident::healthy(lab, NODE, progress)?;
    let desk = Desk::lay(progress)?.with_record()?;
    let node = lab.node(NODE)?;
    let before = incident::snapshot(&node)?;
    let (view, other, path) = (View::of(NODE), View::of(OTHER), Path::watch(&node)?);
    let seen = other.watched(progress, || {
        view.during(&node, progress, || {
            thread::sleep(Duration::from_secs(3));
            strike(lab, progress)?;
            let broken =
                path.await_state(false, real::CAPTURE_LIMIT).context("wait for the capture")?;
            for (who, view) in [(NODE, &view), (OTHER, &other)] {
                view.await_ready(false, real::NOT_READY_LIMIT)?;
                progress.say(format!("{who} is NotReady"));
            }
            progress.say("somebody notices, and acts");
            let marks = Marks::from_now();
            let lookout = secret::Lookout::begin();
            let done = marks.during(|| recover(&desk, &marks));
            let arguments = lookout.end()?;
            let (typed, said) = done?;
            let restored = path.await_state(true, real::BACK_LIMIT).context("wait for the path")?;
            marks.set(Mark::PathBack, restored);
            for (mark, view) in [(Mark::CalypsoReady, &view), (Mark::StyxReady, &other)] {
                marks.set(mark, view.await_ready(true, real::BACK_LIMIT)?);
            }
            thread::sleep(real::AFTERMATH);
            let missed = [view.missed(broken), other.missed(broken)];
            let ways = Way::ALL.map(|way| (way.told(), view.works(way)));
            Ok((marks, typed, said, arguments, missed, ways, view.pods_not_ready(None)))
        })
    })?;
    let (marks, typed, said, arguments, missed, ways, pods) = seen;
    let left = witness::diff(&before, &incident::snapshot(&node)?);
    incident::tell_left(name, &left, progress);
    let orphans = real::orphans()?;
    if !orphans.is_empty() {
        progress.say(format!("left in etcd, in a namespace that is no more: {orphans}"));
    }
    let infected = wakes(lab, progress)?;
    let leaks = leaks(lab, &said, &arguments)?;
    Ok(Act {
        name,
        marks,
        cycle: desk.cycles().iter().sum(),
        typed,
        missed,
        ways: ways
            .map(|(way, is)| (way, is.map_or("?", |is| if is { "works" } else { "dead" })))
            .to_vec(),
        pods,
        left,
        orphans,
        infected,
        leaks,
        record: Record::of(&desk)?,
    })
}

/// A namespace of the culprit's name is created again: who is infected by it? It is taken away afterwards.
pub fn wakes(lab: &Lab, progress: &Progress) -> Result<Vec<String>> {
    culprit::await_free()?;
    cluster::kubectl(&["create", "namespace", SPACE])?.success()?;
    progress.say(format!("somebody creates a namespace {SPACE} again"));
    let (begun, mut infected) = (Instant::now(), Vec::new());
    while begun.elapsed() < WAKE && infected.is_empty() {
        let pods = cluster::kubectl(&["get", "pods", "-n", SPACE, "-o", "name"])?.success()?;
        infected.extend(pods.stdout.split_whitespace().map(str::to_owned));
        for node in [NODE, OTHER] {
            if lab.node(node)?.exec(&["pgrep", "-x", "tailscaled"])?.ok() {
                infected.push(format!("tailscaled on {node}"));
            }
        }
        thread::sleep(Duration::from_secs(1));
    }
    let after = begun.elapsed().as_secs_f64();
    match infected.is_empty() {
        true => progress.say(format!("{after:.0} s later nobody is infected")),
        false => progress.say(format!("{after:.1} s later it is back: {}", infected.join(", "))),
    }
    culprit::purge()?;
    Ok(infected)
}

/// Where a token was that it must not be: arguments, words, files, commits, comments, agents' logs.
fn leaks(lab: &Lab, said: &str, arguments: &secret::Arguments) -> Result<Vec<String>> {
    let mut leaks: Vec<String> =
        arguments.with.iter().map(|program| format!("in the arguments of {program}")).collect();
    if !arguments.asked_op {
        leaks.push(format!(
            "nowhere, but op was not seen either in {} looks at {} processes",
            arguments.looks, arguments.processes
        ));
    }
    if secret::holds(said.as_bytes()) {
        leaks.push("in what it said".to_owned());
    }
    leaks.extend(secret::written(
        &desk::dir(),
        &["vault", desk::VAULT_PROGRAM, ".git", "papers.git"],
    ));
    if secret::committed(&desk::remote())? {
        leaks.push("in a commit".to_owned());
    }
    for node in [NODE, OTHER] {
        let log = lab.node(node)?.exec(&["journalctl", "-b", "--no-pager", "-o", "cat"])?;
        if secret::holds(log.success()?.stdout.as_bytes()) {
            leaks.push(format!("in the log of {node}"));
        }
    }
    Ok(leaks)
}

/// The report is kept where the caller wants it, for it lies in a repository that goes with the lab.
fn keep(report: &File, progress: &Progress) -> anyhow::Result<()> {
    let folder = desk::work_tree().join("docs/incidents");
    let found = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path());
    let found = found.max().with_context(|| format!("find the report in {}", folder.display()))?;
    std::fs::copy(&found, report).with_context(|| format!("copy {}", found.display()))?;
    progress.say(format!("the incident report: {}", report.display()));
    Ok(())
}
