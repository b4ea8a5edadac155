//! The agent is killed at every step boundary of a live heal: it ends recovered or as it was.

use std::thread;
use std::time::{Duration, Instant};

use super::ground::{lines, strange, told};
use super::{Case, Ground, Verdict};
use crate::witness;

pub const CASES: &[Case] = &[
    Case {
        name: "killed_at_every_step_boundary_of_a_heal_it_ends_recovered_or_as_it_was",
        run: every_boundary,
    },
    Case {
        name: "the_operator_drops_off_in_the_middle_and_the_heal_goes_on",
        run: |g| operator_drops_off(g, "R1"),
    },
];

/// Journal entries on disk, over all runs: the boundaries of a heal.
const COUNT: &str = "cat /var/lib/lifeline/journal/*.jsonl 2>/dev/null | tr -d '\\000' | wc -l";
/// A heal of R1 writes fewer entries than this; more would mean that it never ends.
const MOST: usize = 80;

fn entries(g: &Ground<'_>) -> std::result::Result<usize, String> {
    g.sh(COUNT)?.trim().parse().map_err(told)
}

/// Starts a heal, kills the agent when `nth` entries have been written, and sees how it ends after systemd has started it
/// again. False when the heal had ended before.
pub(super) fn kill_at(
    g: &Ground<'_>,
    fault: &str,
    nth: usize,
) -> std::result::Result<bool, String> {
    let healthy = g.snapshot()?;
    let begun_with = entries(g)?;
    g.make(fault)?;
    let sick = g.snapshot()?;
    let mut heal = g
        .lab
        .ctl_command("laptop", &["heal", super::ground::NODE, "--yes", "--stability", "1s"])
        .map_err(told)?
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .map_err(told)?;
    // One shell on the node watches and kills: asking from here would be far too slow to hit a boundary.
    let want = begun_with + nth;
    let hunt = format!(
        "for i in $(seq 1 3000); do n=$({COUNT}); if [ \"$n\" -ge {want} ]; then pkill -9 -x lifeline-agent; echo killed; exit; fi; \
         sleep 0.005; if [ $((i % 200)) = 0 ] && ! ip rule | grep -q 'lookup 52' && [ $i -gt 1500 ]; then exit; fi; done"
    );
    let killed =
        g.node()?.exec_within(&["sh", "-c", &hunt], Duration::from_secs(40)).map_err(told)?;
    let hit = killed.stdout.contains("killed");
    heal.kill().ok();
    heal.wait().ok();
    if !hit {
        return Ok(false);
    }
    // systemd starts it again and it finishes or undoes what was open; then the operator heals what is left.
    ended(g, &healthy, &sick)?;
    let k3s = g.sh("systemctl is-active k3s-agent || true")?;
    if !matches!(k3s.trim(), "active" | "activating") {
        return Err(format!("k3s-agent was left {}", k3s.trim()));
    }
    Ok(true)
}

/// Recovered, or as it was but for what is declared irreversible: the culprit may be gone with what dies with it.
fn ended(g: &Ground<'_>, healthy: &witness::Snapshot, sick: &witness::Snapshot) -> Verdict {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let open = g.ctl_json(&["status", super::ground::NODE, "-o", "json"]);
        let idle = open.as_ref().is_ok_and(|v| {
            matches!(
                super::ground::find(v, "incident").map(ToString::to_string).as_deref(),
                Some("\"\"" | "null") | None
            )
        });
        if idle {
            let strange = strange(healthy, sick, &g.snapshot()?);
            if strange.is_empty() {
                break;
            }
            if Instant::now() > until {
                return Err(format!("neither as before nor as it was:\n{}", lines(&strange)));
            }
        } else if Instant::now() > until {
            return Err(format!("an incident is still open: {open:?}"));
        }
        thread::sleep(Duration::from_millis(300));
    }
    g.heal_well()?;
    g.expect_same(healthy)
}

fn every_boundary(g: &Ground<'_>) -> Verdict {
    let mut boundaries = 0;
    for nth in 1..MOST {
        g.settled(Duration::from_secs(30))?;
        if !kill_at(g, "R1", nth).map_err(|why| format!("killed after entry {nth}: {why}"))? {
            break;
        }
        boundaries = nth;
    }
    g.prepare()?;
    if boundaries >= 8 {
        Ok(())
    } else {
        Err(format!("only {boundaries} boundaries were hit: the case proves little"))
    }
}

pub(super) fn operator_drops_off(g: &Ground<'_>, fault: &str) -> Verdict {
    let before = g.snapshot()?;
    g.make(fault)?;
    let mut heal = g
        .lab
        .ctl_command("laptop", &["heal", super::ground::NODE, "--yes", "--stability", "1s"])
        .map_err(told)?
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .map_err(told)?;
    let with = entries(g)?;
    let until = Instant::now() + Duration::from_secs(20);
    while entries(g)? <= with {
        if Instant::now() > until {
            heal.kill().ok();
            heal.wait().ok();
            return Err("the heal never began".to_owned());
        }
        thread::sleep(Duration::from_millis(20));
    }
    heal.kill().map_err(told)?;
    heal.wait().map_err(told)?;
    g.settled(Duration::from_secs(40))?;
    g.expect_same(&before)
}
