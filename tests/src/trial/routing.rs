//! The catalogue's routing rows that are met in `main`, by selectors, on IPv6, or in flannel's overlay.

use std::thread;
use std::time::{Duration, Instant};

use super::ground::NODE;
use super::near_miss::left_alone;
use super::{Case, Ground, Verdict, heal};
use crate::witness;

pub const CASES: &[Case] = &[
    Case {
        name: "R6_accepted_routes_that_overlap_the_clusters_are_healed_without_a_trace",
        run: |g| heal::without_a_trace(g, "R6"),
    },
    Case {
        name: "R9_a_split_default_is_guarded_by_our_own_table_and_taken_out_of_main",
        run: |g| split_default(g, "R9"),
    },
    Case {
        name: "R9_a_tunnels_default_in_the_place_of_the_healthy_one_is_taken_back",
        run: |g| split_default(g, "R9-replaced"),
    },
    Case { name: "R12_a_blackhole_for_the_api_server_is_removed", run: blackhole },
    Case {
        name: "R12_a_refusal_in_the_place_of_a_pod_route_is_put_right",
        run: |g| heal::lost_then_same(g, "R12-pods"),
    },
    Case {
        name: "R12_refusals_of_what_is_not_critical_are_left_alone",
        run: |g| left_alone(g, "R12-elsewhere", "Healthy"),
    },
    Case {
        name: "R14_a_capture_of_ipv6_alone_is_healed_where_the_api_server_is_reached_by_it",
        run: captured_on_six,
    },
    Case {
        name: "R14_what_is_left_of_ipv6_alone_harms_nobody_and_is_cleaned",
        run: remnant_of_six,
    },
    Case {
        name: "R15_the_ways_to_other_nodes_pods_are_restored",
        run: |g| heal::lost_then_same(g, "R15"),
    },
    Case { name: "R15_flannels_lost_device_comes_back_by_a_restart", run: device_lost },
    Case {
        name: "R20_an_uplink_that_failed_over_is_moved_and_left_alone",
        run: |g| left_alone(g, "R20-uplink", "Moved"),
    },
    Case {
        name: "R24_a_capture_by_user_is_contained_and_named",
        run: |g| contained(g, "R24-user", &["rule 3307", "uid 0", "corp7"]),
    },
    Case {
        name: "R24_a_capture_by_a_mark_of_the_packet_filters_is_contained_and_named",
        run: |g| contained(g, "R24-mark", &["rule 3307", "0x87", "corp7", "nft mangle: -A OUTPUT"]),
    },
    Case {
        name: "R24_a_mark_that_leads_nowhere_else_is_left_alone",
        run: |g| left_alone(g, "R24-marked", "Healthy"),
    },
    Case {
        name: "R24_what_another_user_sends_is_left_alone",
        run: |g| left_alone(g, "R24-others", "Healthy"),
    },
];

/// Does the API server answer, called as the kubelet calls it?
pub(super) const ANSWERS: &str = "curl -sk -m 2 -o /dev/null https://203.0.113.10:6443/readyz";

pub(super) fn within(limit: Duration, mut holds: impl FnMut() -> Verdict) -> Verdict {
    let until = Instant::now() + limit;
    loop {
        match holds() {
            Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(200)),
            done => return done,
        }
    }
}

pub(super) fn is_captured(g: &Ground<'_>) -> Verdict {
    match g.sh(ANSWERS) {
        Ok(_) => Err("the API server still answers: nothing is captured".to_owned()),
        Err(_) => Ok(()),
    }
}

/// What the operator is told holds all of these.
pub(super) fn expect_said(g: &Ground<'_>, words: &[&str]) -> Verdict {
    let said = g.ctl(&["diagnose", NODE])?;
    let said = format!("{}{}", said.stdout, said.stderr);
    match words.iter().find(|w| !said.contains(**w)) {
        Some(word) => Err(format!("{word:?} is not said in:\n{said}")),
        None => Ok(()),
    }
}

/// With an agent that guards by itself, so that what the guard does can be seen before anything is healed.
fn guarding(g: &Ground<'_>, case: impl FnOnce() -> Verdict) -> Verdict {
    let mode = |from: &str, to: &str| {
        g.sh(&format!(
            "sed -i 's/^mode = \"{from}\"/mode = \"{to}\"/' /etc/lifeline/agent.toml && \
             grep -q '^mode = \"{to}\"' /etc/lifeline/agent.toml && systemctl restart lifeline-agent"
        ))
    };
    mode("observe", "guard")?;
    let done = g.settled(Duration::from_secs(40)).and_then(|()| case());
    mode("guard", "observe")?;
    done
}

fn split_default(g: &Ground<'_>, fault: &str) -> Verdict {
    let before = g.snapshot()?;
    guarding(g, || {
        g.make(fault)?;
        // `lookup main` would lead into the tunnel: only a table of our own helps, and a full look has to have said so.
        within(Duration::from_secs(20), || g.sh(ANSWERS).map(drop))
            .map_err(|why| format!("the guard does not help: {why}"))?;
        g.sh("ip -j route get 203.0.113.10 mark 0x1000 | grep -q '\"dev\":\"tun0\"'")
            .map_err(|why| format!("nothing is captured, guard or no guard: {why}"))?;
        g.sh("ip -j rule | tr '{' '\\n' | grep '\"dst\":\"203.0.113.10\"' | grep -q '\"table\":\"21300\"'")
            .map_err(|why| format!("the guard does not lead into our own table: {why}"))?;
        expect_said(g, &["tun0", "/usr/local/bin/lab", "dev tun0"])
    })?;
    g.heal_well()?;
    // The VPN goes on, with its device and its own network.
    g.sh("systemctl is-active work-vpn.service && ip route show 10.8.0.1 | grep -q tun0")?;
    g.expect_same_but(&before, |d| {
        let told = d.to_string();
        told.contains("tun0") || told.contains("tailnet-peer") || told.contains(":1194")
    })?;
    g.sh(ANSWERS)?;
    g.expect_no_guard()
}

fn blackhole(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    g.make("R12")?;
    g.expect_verdict("Captured")?;
    is_captured(g)?;
    g.heal_well()?;
    g.expect_same(&before)?;
    g.sh(ANSWERS)?;
    g.expect_no_guard()
}

fn captured_on_six(g: &Ground<'_>) -> Verdict {
    const SIX: &str = "curl -sk -m 2 -o /dev/null https://[2001:db8:113::10]:6443/readyz";
    g.lay("R14-api")?;
    let before = g.snapshot()?;
    g.sh(SIX).map_err(|why| format!("the API server does not answer by IPv6: {why}"))?;
    g.make("R14-api")?;
    g.expect_verdict("Captured")?;
    if g.sh(SIX).is_ok() {
        return Err("the API server still answers by IPv6: nothing is captured".to_owned());
    }
    g.heal_well()?;
    g.expect_same(&before)?;
    g.sh(SIX)?;
    g.expect_no_guard()
}

/// The cluster does not use IPv6: what a dead Tailscale left there is a remnant, and no capture.
fn remnant_of_six(g: &Ground<'_>) -> Verdict {
    const INVOCATION: &str = "systemctl show -p InvocationID --value k3s-agent";
    let (before, was) = (g.snapshot()?, g.sh(INVOCATION)?);
    g.make("R14")?;
    if witness::diff(&before, &g.snapshot()?).is_empty() {
        return Err("R14 changed nothing: the case proves nothing".to_owned());
    }
    g.expect_verdict("Healthy")?;
    g.sh(ANSWERS)?;
    g.heal_well()?;
    g.expect_same(&before)?;
    g.expect_no_guard()?;
    if g.sh(INVOCATION)? == was {
        Ok(())
    } else {
        Err("k3s-agent was restarted for a remnant".to_owned())
    }
}

fn device_lost(g: &Ground<'_>) -> Verdict {
    const POD: &str = "ip netns exec pod1 curl -sf -m 2 -o /dev/null http://10.42.2.2:8080/";
    g.sh(POD).map_err(|why| format!("before: {why}"))?;
    let before = g.snapshot()?;
    g.make("R15-device")?;
    g.expect_verdict("Lost")?;
    g.heal_well()?;
    g.sh(POD).map_err(|why| format!("after: {why}"))?;
    g.expect_same(&before)
}

/// An unknown tool's capture: the guard stands, the operator is told what it is, nothing of the tool's is touched, and the
/// guard goes with it.
pub(super) fn contained(g: &Ground<'_>, fault: &str, words: &[&str]) -> Verdict {
    let before = g.snapshot()?;
    g.make(fault)?;
    let captured = g.snapshot()?;
    if witness::diff(&before, &captured).is_empty() {
        return Err(format!("{fault} changed nothing: the case proves nothing"));
    }
    // Only with the agent's own eyes on the packet can it be told from a healthy node: `ip route get` says nothing.
    within(Duration::from_secs(10), || g.expect_verdict("Captured"))?;
    is_captured(g)?;
    expect_said(g, words)?;
    let out = g.heal()?;
    if out.code != Some(3) {
        return Err(format!("ctl heal ended with {:?}\n{}{}", out.code, out.stdout, out.stderr));
    }
    g.sh(ANSWERS).map_err(|why| format!("the guard does not help: {why}"))?;
    // It stays, look after look: what works thanks to it is not taken for health.
    thread::sleep(Duration::from_secs(8));
    g.expect_verdict("Captured")?;
    g.sh(ANSWERS).map_err(|why| format!("the guard does not stay: {why}"))?;
    g.expect_same(&captured)
        .map_err(|why| format!("something of the unknown tool's was touched: {why}"))?;
    g.leave();
    within(Duration::from_secs(40), || g.expect_no_guard())
        .map_err(|why| format!("the captor has gone and the guard has not: {why}"))?;
    g.expect_same(&before)
}
