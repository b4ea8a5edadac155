//! What an agent makes of a node that is captured when it first sees it, or when it boots: it guards, learns nothing of it, and leaves the
//! rest to an operator, or to what it knows from before.

use super::alone::{in_mode, own_incidents};
use super::ground::{NODE, told};
use super::routing::{ANSWERS, within};
use super::{Case, Ground, Verdict};
use std::thread;
use std::time::Duration;

pub const CASES: &[Case] = &[
    Case {
        name: "A11_an_agent_that_first_sees_a_captured_node_guards_and_learns_nothing_until_it_is_healed",
        run: first_start,
    },
    Case {
        name: "A11_a_node_that_boots_captured_is_guarded_and_what_was_learnt_before_stands",
        run: boots_captured,
    },
];

/// What is learnt lies here; a captor's device in it would be a poisoned one.
const POISON: &str = "cat /var/lib/lifeline/baseline/* 2>/dev/null | grep -c tailscale0 || true";

/// How many lines of all that was learnt name the captor's device. On a node with a past, where one of its kind has lived in peace,
/// there are some.
fn poison(g: &Ground<'_>) -> std::result::Result<u32, String> {
    let lines = g.sh(POISON)?;
    lines.trim().parse().map_err(|why| format!("count the captor's lines in {lines:?}: {why}"))
}

fn is_not_learnt(g: &Ground<'_>, before: u32) -> Verdict {
    match poison(g)? {
        lines if lines <= before => Ok(()),
        lines => Err(format!("the captor is in what was learnt: {lines} lines, {before} before")),
    }
}

/// Rules of the guard stand, and the API server answers by them.
fn guarded(g: &Ground<'_>) -> Verdict {
    within(Duration::from_secs(20), || match g.expect_no_guard() {
        Ok(()) => Err("no guard is raised".to_owned()),
        Err(_) => g.sh(ANSWERS).map(drop).map_err(|why| format!("the guard does not hold: {why}")),
    })
}

fn first_start(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    in_mode(g, "heal", || {
        // As on a node where it was just installed: certificates, a configuration, and no past.
        g.sh("systemctl stop lifeline-agent; lifeline-agent cleanup; rm -rf /var/lib/lifeline/baseline /var/lib/lifeline/journal /var/lib/lifeline/budget")?;
        g.make("R1")?;
        g.sh("systemctl start lifeline-agent")?;
        within(Duration::from_secs(20), || g.expect_verdict("Captured"))?;
        guarded(g)?;
        // It looks every five seconds, and would learn and act within a few looks.
        thread::sleep(Duration::from_secs(20));
        if let Some(own) = own_incidents(g)?.first() {
            return Err(format!("it repaired a node that it did not know: {own:?}"));
        }
        let status = g.ctl_json(&["status", NODE, "-o", "json"])?.to_string();
        if !status.contains("has not been learnt yet") {
            return Err(format!("it does not say why it only guards: {status}"));
        }
        is_not_learnt(g, 0)?;
        guarded(g)?;
        g.heal_well()?;
        // Only now does it learn, from a node that is well by itself.
        g.settled(Duration::from_secs(60))?;
        is_not_learnt(g, 0)
    })?;
    g.expect_no_guard()?;
    g.expect_same(&before)
}

/// A tailscaled that comes with the boot, before anybody has looked.
const UNIT: &str = "/etc/systemd/system/lab-at-boot.service";

fn boots_captured(g: &Ground<'_>) -> Verdict {
    let seen = in_mode(g, "guard", || {
        let learnt = "ls /var/lib/lifeline/baseline | sort | tail -1";
        let (was, before) = (g.sh(learnt)?, poison(g)?);
        g.sh(&format!(
            "printf '[Unit]\\nBefore=lifeline-agent.service\\n[Service]\\nExecStart=/opt/tailscale/tailscaled --route-delay 0 --exit-node 100.64.0.1 --firewall legacy\\n\
             [Install]\\nWantedBy=multi-user.target\\n' > {UNIT}; systemctl daemon-reload; systemctl enable lab-at-boot"
        ))?;
        g.lab.power_cycle(NODE, g.progress).map_err(told)?;
        within(Duration::from_secs(40), || g.expect_verdict("Captured"))?;
        guarded(g)?;
        thread::sleep(Duration::from_secs(15));
        is_not_learnt(g, before)?;
        if g.sh(learnt)? != was {
            return Err("something was learnt of a captured node".to_owned());
        }
        guarded(g)?;
        g.sh("systemctl disable lab-at-boot")?;
        g.heal_well()?;
        g.sh(ANSWERS)?;
        g.expect_no_guard()?;
        is_not_learnt(g, before)
    });
    g.sh(&format!(
        "systemctl disable --now lab-at-boot 2>/dev/null; rm -f {UNIT}; systemctl daemon-reload"
    ))?;
    seen
}
