//! Rows of the catalogue that the other files leave: lost addresses, and what a plain lookup does not show.

use std::time::Duration;

use super::near_miss::left_alone;
use super::routing::{ANSWERS, contained, expect_said, is_captured, within};
use super::{Case, Ground, Verdict};

pub const CASES: &[Case] = &[
    Case { name: "R15_the_pods_gateway_is_put_back_without_a_restart", run: bridge },
    Case { name: "R15_the_overlays_lost_address_comes_back_by_a_restart", run: overlay },
    Case {
        name: "R24_a_capture_by_port_is_contained_and_named",
        run: |g| contained(g, "R24-port", &["rule 3307", "dport 6443", "corp7"]),
    },
    Case { name: "R24_an_ipsec_policy_is_named_and_left", run: ipsec },
    Case {
        name: "R24_ipsec_policies_for_others_are_left_alone",
        run: |g| left_alone(g, "R24-bypass", "Healthy"),
    },
];

const INVOCATION: &str = "systemctl show -p InvocationID --value k3s-agent";
/// A pod of the node asks a pod of another node, by its gateway and through VXLAN.
const POD: &str = "ip netns exec pod1 curl -sf -m 2 -o /dev/null http://10.42.2.2:8080/";

fn pods_are_cut_off(g: &Ground<'_>) -> Verdict {
    match g.sh(POD) {
        Ok(_) => Err("pods still answer: nothing is lost".to_owned()),
        Err(_) => Ok(()),
    }
}

fn bridge(g: &Ground<'_>) -> Verdict {
    g.sh(POD).map_err(|why| format!("before: {why}"))?;
    let (before, was) = (g.snapshot()?, g.sh(INVOCATION)?);
    g.make("R15-bridge")?;
    pods_are_cut_off(g)?;
    g.expect_verdict("Lost")?;
    g.heal_well()?;
    g.sh(POD).map_err(|why| format!("after: {why}"))?;
    if g.sh(INVOCATION)? != was {
        return Err("k3s-agent was restarted for an address".to_owned());
    }
    g.expect_same(&before)
}

fn overlay(g: &Ground<'_>) -> Verdict {
    g.sh(POD).map_err(|why| format!("before: {why}"))?;
    let before = g.snapshot()?;
    g.make("R15-overlay")?;
    pods_are_cut_off(g)?;
    // The kernel has taken the neighbours along, and nobody but flannel writes them.
    let left = g.sh("ip neigh show dev flannel.1 nud permanent")?;
    if !left.trim().is_empty() {
        return Err(format!("neighbours are left: {left}"));
    }
    g.expect_verdict("Lost")?;
    g.heal_well()?;
    g.sh(POD).map_err(|why| format!("after: {why}"))?;
    g.expect_same(&before)
}

/// Every route is right and no guard helps: it is said, and a person takes it away.
fn ipsec(g: &Ground<'_>) -> Verdict {
    const POLICIES: &str = "ip xfrm policy show";
    g.make("R24-xfrm")?;
    is_captured(g)?;
    let (before, policies) = (g.snapshot()?, g.sh(POLICIES)?);
    within(Duration::from_secs(15), || g.expect_verdict("Filtered"))?;
    expect_said(g, &["IPsec", "203.0.113.10", "block"])?;
    if g.heal()?.ok() {
        return Err("it claims to have healed what it must not touch".to_owned());
    }
    if g.sh(POLICIES)? != policies {
        return Err("a policy of somebody's was touched".to_owned());
    }
    g.expect_same(&before)?;
    g.leave();
    g.sh(ANSWERS)?;
    g.settled(Duration::from_secs(40))
}
