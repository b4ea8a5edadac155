//! The act in which nobody does anything: the agent is in `heal` mode and meets the exit node by itself.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::table::Act;
use super::{LOG, NODE};
use crate::bench::probe::{self, Probe, Sent};
use crate::lab::Lab;
use crate::progress::Progress;
use crate::standin::apiserver::lease;
use crate::witness;

/// Guard, quiet, clean and half a minute of watching that it stays so take less; more is a heal that hangs.
const LIMIT: Duration = Duration::from_secs(150);

/// What a node's agent may do by itself from now on.
pub(crate) fn set_mode(lab: &Lab, node: &str, mode: &str) -> anyhow::Result<()> {
    let script = format!(
        "sed -i 's/^mode = .*/mode = \"{mode}\"/' /etc/lifeline/agent.toml && systemctl restart lifeline-agent"
    );
    let done = lab.node(node)?.sh(&script)?.success();
    done.with_context(|| format!("put the agent of {node} into mode {mode}"))?;
    Ok(())
}

/// What the probes and the agent say of what follows a strike.
#[derive(Debug)]
pub(crate) struct Alone {
    /// Probes of the API server, one every 10 ms.
    pub sent: Vec<Sent>,
    /// The incident.
    pub incident: String,
}

/// Strikes, and waits until the agent has opened and ended an incident of its own.
pub(crate) fn watch(
    lab: &Lab,
    progress: &Progress,
    strike: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Alone> {
    let probe = Probe::begin(&lab.node(NODE)?)?;
    probe.await_steady(Duration::from_secs(1), Duration::from_secs(20))?;
    let known = incidents(lab, NODE)?.len();
    let begun = Instant::now();
    strike()?;
    let mut told = false;
    let incident = loop {
        if begun.elapsed() > LIMIT {
            let out = lab.ctl(&["history", NODE])?;
            bail!(
                "the agent has not healed the node within {LIMIT:?}:\n{}{}",
                out.stdout,
                out.stderr
            );
        }
        let all = incidents(lab, NODE)?;
        // The latest comes first.
        let new = all.first().filter(|_| all.len() > known);
        if let Some(one) = new {
            let id = one["incident"].as_str().unwrap_or_default().to_owned();
            if !told {
                progress.say(format!(
                    "nobody does anything; the agent has opened incident {id} by itself"
                ));
                told = true;
            }
            if let Some(ending) = one["ending"].as_str() {
                progress.say(format!(
                    "{:.1} s after the strike it ended: {ending}; it was about {}",
                    begun.elapsed().as_secs_f64(),
                    words(&one["findings"])
                ));
                break id;
            }
        }
        thread::sleep(Duration::from_millis(500));
    };
    Ok(Alone { sent: probe.end(), incident })
}

fn words(list: &Value) -> String {
    let all: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    all.join(", ")
}

/// The incidents a node's agent knows, the latest first.
pub(crate) fn incidents(lab: &Lab, node: &str) -> anyhow::Result<Vec<Value>> {
    let out = lab.ctl(&["history", node, "--limit", "200", "-o", "json"])?;
    let all: Value = serde_json::from_str(&out.stdout)
        .with_context(|| format!("understand ctl history: {}{}", out.stdout, out.stderr))?;
    Ok(all["incidents"].as_array().cloned().unwrap_or_default())
}

/// The quick gear's act.
pub(super) fn act(
    lab: &Lab,
    progress: &Progress,
    strike: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Act> {
    set_mode(lab, NODE, "heal")?;
    super::healthy(lab, NODE, progress)?;
    let node = lab.node(NODE)?;
    let before = super::snapshot(&node)?;
    let begun = lease::boottime();
    let alone = watch(lab, progress, || {
        strike()?;
        progress.say("the exit node arrives: tailscaled runs in the host's network namespace");
        Ok(())
    })?;
    let lost = alone.sent.iter().filter(|s| !s.answered).count();
    progress.say(format!(
        "of {} probes of the API server, one every 10 ms, {lost} were lost",
        alone.sent.len()
    ));
    thread::sleep(super::AFTERMATH);
    let end = lease::boottime();
    let leases = lease::parse(&lab.node("tethys")?.read(LOG)?);
    let left = witness::diff(&before, &super::snapshot(&node)?);
    super::tell_left("by itself", &left, progress);
    set_mode(lab, NODE, &lab.state.mode)?;
    progress.say(format!("what it did: ctl report {NODE} {}", alone.incident));
    Ok(Act {
        name: "by itself",
        outage: probe::outage(&alone.sent).unwrap_or_default(),
        acting: None,
        missed: lease::missed(&leases, NODE, begun, end),
        not_ready: super::was_not_ready(&leases, begun),
        typed: 0,
        left,
        cluster: Vec::new(),
    })
}
