//! The API server of the real cluster is down for everybody, and everybody is at hand who could do something: agents that repair alone,
//! an operator who agrees to everything beforehand, a provider that would cut the power. Nobody touches a node.

use std::thread;
use std::time::{Duration, Instant};

use super::ground::{NODE, find, is_ours, lines, told};
use super::{Case, Ground, Verdict};
use crate::incident::{self, itself::set_mode};
use crate::real::cluster;
use crate::real::faults::is_kept;
use crate::real::incident::OTHER;
use crate::real::judge::is_rewritten;
use crate::recover::desk::Desk;
use crate::run::{self, Output};
use crate::witness::{self, Difference, Snapshot};

pub const REAL: &[Case] = &[Case {
    name: "real_U1_while_the_api_server_is_down_for_everybody_neither_agents_nor_recover_touch_a_node",
    run: down,
}];

const BOTH: [&str; 2] = [NODE, OTHER];
const SERVER: &str = "tethys";
/// A lease lasts 40 s, and the control plane waits for 50.
const LEAST: Duration = Duration::from_secs(95);
const NOTICED: Duration = Duration::from_secs(60);
const RECOVER: Duration = Duration::from_secs(300);
const BACK: Duration = Duration::from_secs(120);
/// What is agreed to beforehand: everything, the restart of the rented machine by its name.
const ARGS: [&str; 7] = ["ctl", "recover", "--yes", "--confirm", OTHER, "--confirm", NODE];
/// Whoever restarts something changes one of these.
const RUNS: &str = "cat /proc/sys/kernel/random/boot_id; systemctl show -p MainPID -p InvocationID -p NRestarts k3s-agent; \
                    for p in kubelet kube-proxy containerd; do pgrep -x $p; done; pgrep -f '^[^ ]*containerd-shim-runc-v2 -namespace'";
/// As when its machine dies: it takes leave of nobody, nor does it take itself out of its own Service.
const STOP: &str = "d=/run/systemd/system/kube-apiserver.service.d; mkdir -p $d && printf '[Service]\\nRestart=no\\n' > $d/lab-down.conf && \
                    systemctl daemon-reload && systemctl kill -s KILL kube-apiserver";
const START: &str = "rm -r /run/systemd/system/kube-apiserver.service.d; systemctl daemon-reload; systemctl reset-failed kube-apiserver; \
                     systemctl start kube-apiserver";
const MODE: &str = "sed -n 's/^mode = \"\\(.*\\)\"/\\1/p' /etc/lifeline/agent.toml";

fn on(g: &Ground<'_>, node: &str, script: &str) -> std::result::Result<String, String> {
    let out = g.lab.node(node).and_then(|n| n.sh(script)).and_then(Output::success);
    out.map(|o| o.stdout).map_err(told)
}

fn looks(g: &Ground<'_>) -> std::result::Result<[Snapshot; 2], String> {
    let look = |node: &str| {
        let node = g.lab.node(node).map_err(told)?;
        witness::look(&node).map_err(|e| format!("{e:#}"))
    };
    Ok([look(NODE)?, look(OTHER)?])
}

/// What differs on either, but for what follows the node by itself.
fn differences(before: &[Snapshot; 2], now: &[Snapshot; 2]) -> Vec<Difference> {
    let all = before.iter().zip(now).flat_map(|(before, now)| witness::diff(before, now));
    all.filter(|d| !is_ours(d) && !is_kept(d)).collect()
}

/// Two looks some seconds apart that show the same on both.
fn at_rest(g: &Ground<'_>) -> std::result::Result<[Snapshot; 2], String> {
    let until = Instant::now() + BACK;
    let mut before = looks(g)?;
    loop {
        thread::sleep(Duration::from_secs(3));
        let now = looks(g)?;
        let left = differences(&before, &now);
        if left.is_empty() {
            return Ok(now);
        }
        if Instant::now() > until {
            return Err(format!("the nodes do not come to rest:\n{}", lines(&left)));
        }
        before = now;
    }
}

fn verdict(g: &Ground<'_>, node: &str) -> std::result::Result<String, String> {
    let seen = g.ctl_json(&["diagnose", node, "-o", "json"])?;
    Ok(find(&seen, "verdict").and_then(|v| v.as_str()).unwrap_or_default().to_owned())
}

fn down(g: &Ground<'_>) -> Verdict {
    let desk = Desk::lay(g.progress).map_err(told)?;
    let modes = [on(g, NODE, MODE)?, on(g, OTHER, MODE)?];
    let mode = |node: &str, mode: &str| set_mode(g.lab, node, mode).map_err(|e| format!("{e:#}"));
    let tried =
        BOTH.iter().try_for_each(|node| mode(node, "heal")).and_then(|()| through(g, &desk));
    for (node, was) in BOTH.iter().zip(&modes) {
        mode(node, was.trim())?;
    }
    tried
}

fn through(g: &Ground<'_>, desk: &Desk) -> Verdict {
    cluster::await_rest(BACK, g.progress).map_err(told)?;
    for node in BOTH {
        incident::healthy(g.lab, node, g.progress).map_err(|e| format!("{e:#}"))?;
    }
    let before = at_rest(g)?;
    let ran = [on(g, NODE, RUNS)?, on(g, OTHER, RUNS)?];
    let opened = incidents(g)?;
    on(g, SERVER, STOP)?;
    let stopped = Instant::now();
    g.progress.say("the API server is down for everybody");
    let seen = meanwhile(g, desk, stopped).and_then(|()| {
        // While nobody could have told a kubelet or kube-proxy anything, nothing at all may differ.
        let left = differences(&before, &looks(g)?);
        if left.is_empty() { Ok(()) } else { Err(format!("touched:\n{}", lines(&left))) }
    });
    on(g, SERVER, START)?;
    let lasted = stopped.elapsed().as_secs_f64();
    g.progress.say(format!("after {lasted:.0} s the API server is there again"));
    cluster::await_rest(BACK, g.progress).map_err(told)?;
    seen?;
    for node in BOTH {
        incident::healthy(g.lab, node, g.progress).map_err(|e| format!("{e:#}"))?;
    }
    let now = [on(g, NODE, RUNS)?, on(g, OTHER, RUNS)?];
    if now != ran {
        return Err(format!("something was restarted:\n{ran:?}\n{now:?}"));
    }
    if incidents(g)? != opened {
        return Err(format!("an agent opened an incident: {:?}", incidents(g)?));
    }
    if desk.provider.wishes() != 0 || !desk.cycles().is_empty() {
        return Err(format!("the provider was asked for: {:?}", desk.provider.asked()));
    }
    g.expect_no_guard()?;
    // Endpoints that were taken out and put in again are kube-proxy's to write.
    let left: Vec<Difference> =
        differences(&before, &at_rest(g)?).into_iter().filter(|d| !is_rewritten(d)).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("different from before:\n{}", lines(&left))) }
}

/// How many incidents each agent knows of.
fn incidents(g: &Ground<'_>) -> std::result::Result<[usize; 2], String> {
    let of = |node: &str| incident::itself::incidents(g.lab, node).map_err(|e| format!("{e:#}"));
    Ok([of(NODE)?.len(), of(OTHER)?.len()])
}

/// The agents see whose fault it is, and the operator's one command ends with the same.
fn meanwhile(g: &Ground<'_>, desk: &Desk, stopped: Instant) -> Verdict {
    for node in BOTH {
        while !verdict(g, node)?.eq_ignore_ascii_case("upstream") {
            if stopped.elapsed() > NOTICED {
                return Err(format!("{node}'s agent says {}, not Upstream", verdict(g, node)?));
            }
            thread::sleep(Duration::from_secs(1));
        }
    }
    let mut command = desk.command(g.lab, &ARGS).map_err(told)?;
    let out = run::run(&mut command, RECOVER, None).map_err(told)?;
    let said = format!("{}{}", out.stdout, out.stderr);
    let took = out.took.as_secs_f64();
    g.progress.say(format!("    ctl recover ended with {:?} after {took:.0} s", out.code));
    // 3: something is not well, or not agreed to.
    if out.code != Some(3) {
        return Err(format!("exit code {:?}, not 3: {said}", out.code));
    }
    let spared = BOTH.map(|node| format!("{node} is left as it is: its agent says Upstream"));
    let words = ["Cluster lab: unwell", "the API server", "ctl recover --resume"];
    for word in spared.iter().map(String::as_str).chain(words) {
        if !said.contains(word) {
            return Err(format!("{word:?} is missing in: {said}"));
        }
    }
    thread::sleep(LEAST.saturating_sub(stopped.elapsed()));
    Ok(())
}
