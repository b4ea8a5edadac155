//! `ctl drill` on a live node: it proves what it says, and nothing tells afterwards that it has been there.

use super::alone::in_mode;
use super::ground::{NODE, find, told};
use super::{Case, Ground, Verdict};
use crate::witness;
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;

pub const CASES: &[Case] = &[
    Case {
        name: "a_drill_in_mode_heal_proves_every_step_and_leaves_no_incident_and_no_trace",
        run: |g| in_mode(g, "heal", || proven(g)),
    },
    Case { name: "a_drill_in_mode_observe_proves_what_can_be_and_places_no_guard", run: observed },
    Case { name: "a_drill_on_a_captured_node_is_refused_and_touches_nothing", run: refused },
    Case {
        name: "an_agent_killed_in_the_middle_of_a_drill_leaves_nothing_of_it_after_its_next_start",
        run: |g| in_mode(g, "guard", || killed(g)),
    },
];

/// What a drill has put into the kernel, as `ip` shows it.
const THERE: &str = "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all";

/// What the agent remembers, and must not have learnt from a drill.
#[derive(PartialEq)]
struct Memory {
    history: Value,
    baseline: Value,
    budget: String,
    journal: String,
}

fn memory(g: &Ground<'_>) -> std::result::Result<Memory, String> {
    Ok(Memory {
        history: g.ctl_json(&["history", NODE, "-o", "json"])?,
        baseline: g.ctl_json(&["baseline", "show", NODE, "-o", "json"])?,
        budget: g.sh("cat /var/lib/lifeline/budget/attempts.json 2>/dev/null || true")?,
        journal: g.sh("ls /var/lib/lifeline/journal")?,
    })
}

fn drill(g: &Ground<'_>) -> std::result::Result<(Option<i32>, Value), String> {
    let out = g.ctl(&["drill", NODE, "-o", "json"])?;
    let seen = serde_json::from_str(&out.stdout)
        .map_err(|e| format!("ctl drill: {e}: {:?} {}{}", out.code, out.stdout, out.stderr))?;
    Ok((out.code, seen))
}

/// The steps with this outcome.
fn steps(seen: &Value, outcome: &str) -> Vec<String> {
    let all = find(seen, "steps").and_then(|s| s.as_array().cloned()).unwrap_or_default();
    all.iter()
        .filter(|s| s["outcome"] == outcome)
        .filter_map(|s| s["step"].as_str().map(str::to_owned))
        .collect()
}

fn gone(g: &Ground<'_>) -> Verdict {
    let there = g.sh(THERE)?;
    let left: Vec<&str> =
        there.lines().filter(|l| l.contains("21301") || l.contains("proto 214")).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("of a drill is left: {left:?}")) }
}

/// Neither the tools' eyes nor the agent's memory tell of it, but for a look's own time.
fn unchanged(
    g: &Ground<'_>,
    before: &witness::Snapshot,
    remembered: &Memory,
    raised: &str,
) -> Verdict {
    gone(g)?;
    g.expect_same(before)?;
    g.expect_no_guard()?;
    g.expect_verdict("Healthy")?;
    if memory(g)? != *remembered {
        return Err("history, baseline, budget or journal has changed".to_owned());
    }
    let now = alarms(g)?;
    if now != raised {
        return Err(format!("alarms were raised:\n{now}"));
    }
    Ok(())
}

/// What would wake somebody: the guard's events, verdicts, warnings and worse.
fn alarms(g: &Ground<'_>) -> std::result::Result<String, String> {
    g.sh("journalctl -u lifeline-agent -o cat --no-pager -q \
          | grep -v '^drill, ' | grep -E 'the guard|incident|Captured|Lost' || true; \
          journalctl -u lifeline-agent -p warning -o cat --no-pager -q")
}

fn proven(g: &Ground<'_>) -> Verdict {
    let (before, remembered, raised) = (g.snapshot()?, memory(g)?, alarms(g)?);
    let (code, seen) = drill(g)?;
    let passed = steps(&seen, "passed");
    let all = ["warning", "detection", "guard", "see-through", "lifeline", "as-before"];
    if code != Some(0) || passed != all {
        return Err(format!("ctl drill ended with {code:?}: {seen:#}"));
    }
    g.progress.say(format!("{}", find(&seen, "steps").unwrap_or(&Value::Null)));
    unchanged(g, &before, &remembered, &raised)
}

fn observed(g: &Ground<'_>) -> Verdict {
    let (before, remembered, raised) = (g.snapshot()?, memory(g)?, alarms(g)?);
    let (code, seen) = drill(g)?;
    if code != Some(0) || steps(&seen, "skipped") != ["warning", "guard"] {
        return Err(format!("ctl drill ended with {code:?}: {seen:#}"));
    }
    unchanged(g, &before, &remembered, &raised)
}

fn refused(g: &Ground<'_>) -> Verdict {
    g.make("R1")?;
    let before = g.snapshot()?;
    let out = g.ctl(&["drill", NODE])?;
    if out.code != Some(1) || !out.stderr.contains("it is Captured") {
        return Err(format!("ctl drill ended with {:?}\n{}{}", out.code, out.stdout, out.stderr));
    }
    gone(g)?;
    g.expect_same(&before)
}

/// Killed while something is captured, systemd starts it again, and that alone takes all of it away.
fn killed(g: &Ground<'_>) -> Verdict {
    let (before, remembered) = (g.snapshot()?, memory(g)?);
    let mut drill = g
        .lab
        .ctl_command("laptop", &["drill", NODE])
        .map_err(told)?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(told)?;
    // One shell on the node watches and kills: asking from here would be far too slow.
    let hunt = "for i in $(seq 1 4000); do if ip rule | grep -q 'lookup 21301'; then pkill -9 -x lifeline-agent; \
                ip rule | grep -q 'lookup 21301' && echo killed; exit; fi; sleep 0.005; done";
    let out = g.node()?.exec_within(&["sh", "-c", hunt], Duration::from_secs(60)).map_err(told)?;
    drill.kill().ok();
    drill.wait().ok();
    if !out.stdout.contains("killed") {
        return Err(format!("it was not killed in the middle: {}{}", out.stdout, out.stderr));
    }
    g.settled(Duration::from_secs(40))?;
    gone(g)?;
    g.expect_same(&before)?;
    g.expect_no_guard()?;
    if memory(g)? != remembered {
        return Err("history, baseline, budget or journal has changed".to_owned());
    }
    Ok(())
}
