//! Near misses: what looks like the fault and is not. Touching anything is the failure.

use super::ground::{NODE, lines, told};
use super::routing::within;
use super::upstream::in_mode;
use super::{Case, Ground, Verdict};
use crate::witness;
use std::thread;
use std::time::Duration;

pub const CASES: &[Case] = &[
    Case {
        name: "R16_a_live_benign_tailscale_is_left_alone",
        run: |g| left_alone(g, "R16", "Healthy"),
    },
    Case { name: "R17_a_cluster_that_runs_over_tailscale_is_left_alone", run: over_the_tunnel },
    Case {
        name: "R18_tailscaled_in_a_pods_namespace_is_left_alone",
        run: |g| left_alone(g, "R18", "Healthy"),
    },
    Case {
        name: "R19_somebody_elses_rules_at_5200_and_table_52_are_left_alone",
        run: |g| left_alone(g, "R19", "Healthy"),
    },
    Case {
        name: "R19_a_foreign_rule_in_front_of_tailscales_own_survives_the_heal",
        run: foreign_in_front,
    },
    Case {
        name: "R20_another_gateway_by_dhcp_is_moved_and_left_alone",
        run: |g| left_alone(g, "R20", "Moved"),
    },
    Case {
        name: "R20_a_second_gateway_of_better_metric_is_moved_and_left_alone",
        run: |g| left_alone(g, "R20-metric", "Moved"),
    },
    Case {
        name: "R20_a_deliberate_vpn_that_works_is_moved_and_left_alone",
        run: |g| left_alone(g, "R20-vpn", "Moved"),
    },
    Case {
        name: "R20_an_api_server_at_another_address_is_left_alone",
        run: |g| left_alone(g, "R20-api", "Healthy"),
    },
    Case {
        name: "R21_a_node_that_left_the_cluster_is_not_put_back",
        run: |g| left_alone(g, "R21", "Healthy"),
    },
    Case { name: "R22_the_guard_overtakes_a_tool_without_preferences", run: overtaken },
];

/// The state stands, the operator says heal, and no foreign byte changes.
pub(super) fn left_alone(g: &Ground<'_>, fault: &str, verdict: &str) -> Verdict {
    g.lay(fault)?;
    let healthy = g.snapshot()?;
    g.make(fault)?;
    let before = g.snapshot()?;
    if fault != "R18" && witness::diff(&healthy, &before).is_empty() {
        return Err(format!("{fault} changed nothing: the case proves nothing"));
    }
    g.expect_verdict(verdict)?;
    g.heal()?;
    g.expect_same(&before)?;
    g.expect_verdict(verdict)
}

fn over_the_tunnel(g: &Ground<'_>) -> Verdict {
    g.lay("R17")?;
    g.make("R17")?;
    // The operator tells the agent that this is how the cluster is meant to be.
    let accepted = g.ctl(&["baseline", "accept", NODE, "--yes"])?;
    if !accepted.ok() {
        return Err(format!("ctl baseline accept: {}{}", accepted.stdout, accepted.stderr));
    }
    let before = g.snapshot()?;
    g.expect_verdict("Healthy")?;
    g.heal()?;
    let after = witness::diff(&before, &g.snapshot()?);
    g.ctl(&["baseline", "reset", NODE, "--yes"])?;
    if after.is_empty() { Ok(()) } else { Err(format!("changed:\n{}", lines(&after))) }
}

fn foreign_in_front(g: &Ground<'_>) -> Verdict {
    // A naive delete of `5270 lookup 52` removes the foreign `fwmark 0x1 lookup 52` instead: absent attributes are wildcards.
    // Remnants, not a live daemon: a daemon that is told to stop does that naive delete itself.
    const COUNT: &str = "ip rule | grep -c 'fwmark 0x1 lookup 52' || true";
    g.make("R3")?;
    g.sh("ip rule del pref 5270 lookup 52; ip rule add pref 5270 fwmark 0x1 lookup 52; ip rule add pref 5270 lookup 52 protocol 0")?;
    let foreign = g.sh(COUNT)?;
    g.heal_well()?;
    let left = g.sh(COUNT)?;
    let rules = g.sh("ip rule; ip -6 rule")?;
    g.sh("ip rule del pref 5270 fwmark 0x1 lookup 52 || true")?;
    if foreign.trim() != "1" || left != foreign {
        return Err(format!("of {} foreign rules {} survived", foreign.trim(), left.trim()));
    }
    let remnant = rules.lines().find(|l| l.starts_with("52") && !l.contains("fwmark 0x1 "));
    remnant.map_or(Ok(()), |line| Err(format!("Tailscale's own rule is left: {line}")))
}

/// A ping every 50 ms, and how many of them the gateway did not answer.
const LAN: &str = "ping -n -q -i 0.05 -W 1 -c 500 192.168.2.1 | sed -n 's/^\\([0-9]*\\) packets transmitted, \\([0-9]*\\) .*/\\1 \\2/p'";
/// A new connection every 100 ms, and how many of them came to nothing within half a second.
const API: &str = "n=0; for i in $(seq 150); do curl -sk -m 0.5 -o /dev/null https://203.0.113.10:6443/readyz || n=$((n+1)); sleep 0.1; done; echo 150 $((150 - n))";

/// Says how many were sent, and how many of those were lost.
fn lost(said: &str) -> std::result::Result<(u32, u32), String> {
    let mut numbers = said.split_whitespace().filter_map(|w| w.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(sent), Some(came)) => Ok((sent, sent.saturating_sub(came))),
        _ => Err(format!("it was not counted: {said:?}")),
    }
}

/// The guard stands against tailscaled, a tool's rule lands in front of it, and all the while somebody calls.
fn overtaken(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    in_mode(g, "guard", || {
        let call = |script: &'static str| {
            let node = g.node()?;
            Ok::<_, String>(thread::spawn(move || {
                node.exec_within(&["sh", "-c", script], Duration::from_secs(120))
            }))
        };
        let calls = [("LAN", call(LAN)?, 4), ("API server", call(API)?, 3)];
        thread::sleep(Duration::from_secs(1));
        g.make("R22")?;
        is_in_front(g)?;
        for (whom, call, most) in calls {
            let said = call.join().map_err(|_| "a caller panicked".to_owned())?.map_err(told)?;
            let (sent, lost) = lost(&said.stdout)?;
            if lost > most {
                return Err(format!("of {sent} calls to the {whom} {lost} were lost"));
            }
        }
        is_in_front(g)
    })?;
    g.heal_well()?;
    g.expect_no_guard()?;
    // The device that wg-quick configured stays, with what hangs on it; its rules and its table do not.
    g.expect_same_but(&before, |d| d.to_string().contains("wg0"))
}

/// A rule of ours for the API server stands, and in front of the tool's own.
fn is_in_front(g: &Ground<'_>) -> Verdict {
    const FIRST: &str = "ip rule | awk -F: '/lookup 51820/ {t=$1} /to 203.0.113.10 .*proto 213/ && g==\"\" {g=$1} END {print t, g; exit !(t!=\"\" && g!=\"\" && g+0 < t+0)}'";
    within(Duration::from_secs(5), || {
        g.sh(FIRST)
            .map(drop)
            .map_err(|why| format!("the guard is not in front of the tool's rule: {why}"))
    })
}
