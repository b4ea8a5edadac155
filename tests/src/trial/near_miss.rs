//! Near misses: what looks like the fault and is not. Touching anything is the failure.

use super::ground::{NODE, lines};
use super::{Case, Ground, Verdict};
use crate::witness;

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

fn overtaken(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    g.make("R22")?;
    g.heal_well()?;
    g.expect_no_guard()?;
    // The device that wg-quick configured stays, with what hangs on it; its rules and its table do not.
    g.expect_same_but(&before, |d| d.to_string().contains("wg0"))
}
