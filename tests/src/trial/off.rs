//! A machine that is off by its provider's word is taken out of service, so that its pods are let go of; and when it comes back, it gets
//! back all that was changed of it.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ground::told;
use super::{Case, Ground, Verdict};
use crate::incident;
use crate::real::cluster::{self, is_ready, kubectl};
use crate::real::incident::OTHER;
use crate::recover::desk::{Desk, STYX};
use crate::run::{self, Output};

pub const REAL: &[Case] = &[Case {
    name: "real_a_machine_that_is_off_is_taken_out_of_service_and_given_back_when_it_returns",
    run: off,
}];

const TAINT: &str = "node.kubernetes.io/out-of-service";
/// Its restart is not agreed to, nor that it is drained or deleted.
const HEAL: [&str; 8] =
    ["ctl", "heal", OTHER, "--yes", "--confirm", "cordon styx", "--confirm", "out-of-service styx"];
const LIMIT: Duration = Duration::from_secs(240);
/// The grace period is 50 s, and 90 s were seen just after the API server had been away.
const NOTICED: Duration = Duration::from_secs(150);
/// The control plane's collector comes by every 20 s.
const COLLECTED: Duration = Duration::from_secs(90);
const REST: Duration = Duration::from_secs(120);

fn read(args: &[&str]) -> std::result::Result<Value, String> {
    let out = kubectl(args).and_then(Output::success).map_err(told)?;
    out.json().map_err(told)
}

fn node() -> std::result::Result<Value, String> {
    read(&["get", "node", OTHER, "-o", "json"])
}

fn taints(node: &Value) -> Vec<String> {
    let all = node["spec"]["taints"].as_array().into_iter().flatten();
    all.map(|t| {
        format!("{}:{}", t["key"].as_str().unwrap_or("?"), t["effect"].as_str().unwrap_or("?"))
    })
    .collect()
}

/// Pods on styx that go where their node goes: those of DaemonSets stay bound to it.
fn movable() -> std::result::Result<Vec<String>, String> {
    let there = format!("--field-selector=spec.nodeName={OTHER}");
    let seen = read(&["get", "pods", "-A", &there, "-o", "json"])?;
    let all = seen["items"].as_array().into_iter().flatten();
    let moves = all.filter(|p| p["metadata"]["ownerReferences"][0]["kind"] != "DaemonSet");
    let uid = |p: &Value| p["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    Ok(moves.map(uid).collect())
}

fn within(
    limit: Duration,
    what: &str,
    mut done: impl FnMut() -> std::result::Result<bool, String>,
) -> Verdict {
    let until = Instant::now() + limit;
    while !done()? {
        if Instant::now() > until {
            return Err(format!("{what}: not within {} s", limit.as_secs()));
        }
        thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

fn off(g: &Ground<'_>) -> Verdict {
    cluster::await_rest(REST, g.progress).map_err(told)?;
    let desk = Desk::lay(g.progress).map_err(told)?;
    let before = node()?;
    let pods = movable()?;
    if pods.is_empty() {
        return Err(format!("no pod on {OTHER} could be let go of"));
    }
    g.lab.power_off(OTHER, g.progress).map_err(told)?;
    desk.provider.change(STYX, |m| m.state = "stopped".to_owned());
    let left = taken_out(g, &desk, &pods);
    // Whatever came of it: its owner switches it on again.
    desk.provider.change(STYX, |m| m.state = "running".to_owned());
    g.lab.power_on(OTHER, g.progress).map_err(told)?;
    let back = left.and_then(|()| given_back(g, &desk, &before));
    if back.is_err() {
        kubectl(&["taint", "node", OTHER, &format!("{TAINT}-")]).map_err(told)?;
        kubectl(&["uncordon", OTHER]).map_err(told)?;
    }
    cluster::await_rest(REST, g.progress).map_err(told)?;
    back
}

fn heal(g: &Ground<'_>, desk: &Desk, code: i32) -> std::result::Result<String, String> {
    let mut command = desk.command(g.lab, &HEAL).map_err(told)?;
    let out = run::run(&mut command, LIMIT, None).map_err(told)?;
    let said = format!("{}{}", out.stdout, out.stderr);
    g.progress.say(format!(
        "    ctl heal {OTHER}: {:?} after {:.0} s",
        out.code,
        out.took.as_secs_f64()
    ));
    if out.code == Some(code) {
        Ok(said)
    } else {
        Err(format!("exit code {:?}, not {code}: {said}", out.code))
    }
}

fn taken_out(g: &Ground<'_>, desk: &Desk, pods: &[String]) -> Verdict {
    within(NOTICED, "NotReady", || Ok(!is_ready(&node()?)))?;
    heal(g, desk, 3)?;
    let now = node()?;
    let wanted = format!("{TAINT}:NoExecute");
    if !taints(&now).contains(&wanted) || now["spec"]["unschedulable"] != true {
        return Err(format!("it is not taken out of service: {:?}", taints(&now)));
    }
    // Without a kubelet to agree: by the taint alone.
    let begun = Instant::now();
    within(COLLECTED, "its pods are let go of", || {
        let there = movable()?;
        Ok(!pods.iter().any(|uid| there.contains(uid)))
    })?;
    g.progress
        .say(format!("    its pods were let go of {:.0} s later", begun.elapsed().as_secs_f64()));
    Ok(())
}

fn given_back(g: &Ground<'_>, desk: &Desk, before: &Value) -> Verdict {
    incident::healthy(g.lab, OTHER, g.progress).map_err(|e| format!("{e:#}"))?;
    let said = heal(g, desk, 0)?;
    let now = node()?;
    if !taints(&now).is_empty() || now["spec"]["unschedulable"] == true {
        return Err(format!("it did not get back what it was: {:?}: {said}", taints(&now)));
    }
    for what in ["uid", "labels"] {
        let (was, is) = (&before["metadata"][what], &now["metadata"][what]);
        if was != is {
            return Err(format!("{what}: {was} before, {is} now"));
        }
    }
    if desk.provider.wishes() != 0 {
        return Err(format!("the provider was asked for: {:?}", desk.provider.asked()));
    }
    within(REST, "a pod is placed there again", || Ok(!movable()?.is_empty()))
}
