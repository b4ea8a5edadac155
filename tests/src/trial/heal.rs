//! `ctl heal` on what can be healed: the node ends as it was before, and the culprit is gone.

use super::ground::{NODE, lines, told};
use super::{Case, Ground, Verdict};
use crate::witness::{self, Kind};

pub const CASES: &[Case] = &[
    Case {
        name: "R1_an_exit_node_that_takes_the_lan_is_healed_without_a_trace",
        run: |g| without_a_trace(g, "R1"),
    },
    Case { name: "R1_the_api_server_proves_the_heal_by_two_leases_and_ready", run: proven },
    Case {
        name: "R2_an_exit_node_that_leaves_the_lan_is_healed_without_a_trace",
        run: |g| without_a_trace(g, "R2"),
    },
    Case {
        name: "R1_in_a_pod_that_is_kept_it_is_asked_lets_go_and_lives_on",
        run: |g| asked(g, "R1-kept"),
    },
    Case {
        name: "R2_in_a_pod_that_is_kept_it_is_asked_lets_go_and_lives_on",
        run: |g| asked(g, "R2-kept"),
    },
    Case {
        name: "R6_in_a_pod_that_is_kept_it_is_asked_and_gives_up_accepted_routes",
        run: |g| asked(g, "R6-kept"),
    },
    Case {
        name: "R4_a_daemon_that_fights_back_is_healed_without_a_trace",
        run: |g| without_a_trace(g, "R4"),
    },
    Case {
        name: "R1_while_it_stands_diagnose_answers_from_the_lan_and_from_beyond_the_gateway",
        run: diagnose_answers,
    },
    Case {
        name: "R1_the_iptables_nft_backend_is_healed_without_a_trace",
        run: |g| without_a_trace(g, "R1-ipt-nft"),
    },
    Case { name: "R1_the_native_nft_backend_is_healed_without_a_trace", run: native },
    Case { name: "R3_remnants_are_cleaned_and_nothing_is_restarted", run: remnants },
    Case { name: "R3_what_was_cleaned_comes_back_when_the_operator_undoes_it", run: undone },
    Case {
        name: "R7_an_orphaned_tun_with_a_default_route_is_deleted",
        run: |g| without_a_trace(g, "R7"),
    },
    Case { name: "R8_a_wg_quick_full_tunnel_is_taken_back", run: taken_back },
    Case {
        name: "R10_a_capture_by_an_unknown_tool_is_contained_and_left_to_the_operator",
        run: contained,
    },
    Case { name: "R11_a_deleted_default_route_is_restored", run: |g| lost_then_same(g, "R11") },
    Case {
        name: "R11_a_default_route_by_a_dead_gateway_is_put_right",
        run: |g| without_a_trace(g, "R11-dead"),
    },
    Case {
        name: "R11_a_default_route_out_ranked_by_a_lower_metric_is_put_right",
        run: |g| without_a_trace(g, "R11-metric"),
    },
    Case { name: "R13_a_missing_main_rule_is_restored", run: |g| lost_then_same(g, "R13-main") },
    Case {
        name: "R13_a_missing_default_rule_is_restored",
        run: |g| lost_then_same(g, "R13-default"),
    },
    Case {
        name: "R13_missing_rules_of_ipv6_are_restored",
        run: |g| lost_then_same(g, "R13-main6"),
    },
    Case { name: "R23_pods_of_other_nodes_answer_again", run: pods_answer },
];

/// Break, heal, and compare with the tools' eyes.
pub(super) fn without_a_trace(g: &Ground<'_>, fault: &str) -> Verdict {
    g.lay(fault)?;
    let before = g.snapshot()?;
    g.make(fault)?;
    let broken = witness::diff(&before, &g.snapshot()?);
    if broken.is_empty() {
        return Err(format!("{fault} changed nothing: the case proves nothing"));
    }
    g.heal_well()?;
    g.expect_same(&before)
        .map_err(|why| format!("{why}\nthe fault had made:\n{}", lines(&broken)))?;
    g.expect_no_guard()?;
    let alive = g.sh("pgrep -x tailscaled || true")?;
    if alive.trim().is_empty() { Ok(()) } else { Err(format!("the culprit lives: pid {alive}")) }
}

/// Also the empty chain of its own make goes, in whose place iptables-nft could not write any more.
fn native(g: &Ground<'_>) -> Verdict {
    without_a_trace(g, "R1-nft")?;
    for tool in ["iptables-nft", "ip6tables-nft"] {
        let rule = "OUTPUT -m comment --comment case -j RETURN";
        g.sh(&format!("{tool} -w -t mangle -A {rule} && {tool} -w -t mangle -D {rule}"))?;
    }
    Ok(())
}

/// What a kubelet would start again is asked, and no more: it lives on under the same pid, its own rules and chains stay,
/// nothing of anybody else's has changed, and every critical destination leaves as before. The end says who keeps it.
fn asked(g: &Ground<'_>, fault: &str) -> Verdict {
    const INVOCATION: &str = "systemctl show -p InvocationID --value k3s-agent";
    let (before, healthy, invocation) = (g.snapshot()?, ways(g)?, g.sh(INVOCATION)?);
    g.make(fault)?;
    let pid = g.sh("pgrep -x tailscaled")?;
    if ways(g)? == healthy {
        return Err(format!("{fault} takes nothing: the case proves nothing"));
    }
    let out = g.heal()?;
    let said = format!("{}{}", out.stdout, out.stderr);
    if !out.ok() {
        return Err(format!("ctl heal ended with {:?}\n{said}", out.code));
    }
    if !said.contains("still runs, kept by pod tailscale-system/tailscale-worker-x7k2p") {
        return Err(format!("the end does not say that it lives, and who keeps it:\n{said}"));
    }
    g.expect_no_guard()?;
    let now = ways(g)?;
    if now != healthy {
        return Err(format!("was {healthy:?}, is {now:?}"));
    }
    if g.sh("pgrep -x tailscaled")? != pid || g.sh(INVOCATION)? != invocation {
        return Err("tailscaled or k3s-agent was restarted".to_owned());
    }
    g.expect_same_but(&before, is_tailscales)
}

/// Where critical traffic leaves, as the kernel says.
pub fn ways(g: &Ground<'_>) -> std::result::Result<Vec<String>, String> {
    let way = |to: &&str| {
        let said = g.sh(&format!("ip route get {to} | head -1"))?;
        Ok(said.split(" uid").next().unwrap_or_default().trim().to_owned())
    };
    ["203.0.113.10", "192.168.2.1", "192.168.2.7", "10.42.2.2", "10.43.0.1"]
        .iter()
        .map(way)
        .collect()
}

/// A live Tailscale's own: its rules, its table, its device, its chains and marks, its folders, and the sysctl it sets.
pub fn is_tailscales(d: &crate::witness::Difference) -> bool {
    const OWN: [&str; 9] = [
        "tailscale",
        "ts-",
        "lookup 52",
        "table 52",
        "0x80000",
        "ff0000",
        "100.64.",
        "fd7a:115c",
        "src_valid_mark",
    ];
    // It listens at ports of no name.
    let wire = d.to_string().contains("listen") && d.to_string().contains("udp");
    wire || OWN.iter().any(|own| d.to_string().contains(own))
}

pub(super) fn proven(g: &Ground<'_>) -> Verdict {
    g.make("R1")?;
    g.heal_with_proof()
}

/// wg-quick's rules and its table go; the device, which somebody configured, stays with what hangs on it.
pub(super) fn taken_back(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    g.make("R8")?;
    g.expect_verdict("Captured")?;
    g.heal_well()?;
    g.expect_same_but(&before, |d| d.to_string().contains("wg0"))?;
    g.expect_no_guard()
}

pub(super) fn lost_then_same(g: &Ground<'_>, fault: &str) -> Verdict {
    g.lay(fault)?;
    let before = g.snapshot()?;
    g.make(fault)?;
    g.expect_verdict("Lost")?;
    g.heal_well()?;
    g.expect_same(&before)?;
    g.expect_no_guard()
}

pub(super) fn diagnose_answers(g: &Ground<'_>) -> Verdict {
    g.make("R1")?;
    // The capture is real: what the operator did until now does not work.
    for space in ["lan", "laptop"] {
        let ping = g
            .lab
            .space(space)
            .and_then(|s| s.exec(&["ping", "-c", "1", "-W", "1", "192.168.2.80"]))
            .map_err(told)?;
        if ping.ok() {
            return Err(format!("{space} still reaches the node: nothing is captured"));
        }
        let seen = g.json_from(space, &["diagnose", NODE, "-o", "json"])?;
        let verdict = super::ground::find(&seen, "verdict").map(ToString::to_string);
        if verdict.as_deref() != Some("\"Captured\"") && verdict.as_deref() != Some("\"captured\"")
        {
            return Err(format!("from {space}: {seen:#}"));
        }
    }
    g.heal_well()
}

pub(super) fn remnants(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    let invocation = "systemctl show -p InvocationID --value k3s-agent";
    let was = g.sh(invocation)?;
    g.make("R3")?;
    g.expect_verdict("Healthy")?;
    g.heal_well()?;
    // An installed tailscaled's own state is its identity: it is nobody's damage, and stays.
    g.expect_same_but(&before, |d| {
        d.kind == Kind::Files
            && ["/var/lib/tailscale", "/run/tailscale", "/var/run/tailscale"]
                .iter()
                .any(|dir| d.to_string().contains(&format!(" {dir}")))
    })?;
    let is = g.sh(invocation)?;
    if was == is { Ok(()) } else { Err("k3s-agent was restarted for harmless remnants".to_owned()) }
}

pub(super) fn undone(g: &Ground<'_>) -> Verdict {
    g.make("R3")?;
    let sick = g.snapshot()?;
    g.heal_well()?;
    let history = g.ctl_json(&["history", NODE, "-o", "json"])?;
    let runs = super::ground::find(&history, "runs").and_then(|r| r.as_array().cloned());
    let runs = runs.ok_or_else(|| format!("no runs in {history}"))?;
    let clean = runs.iter().filter_map(|r| r.as_str()).find(|r| r.ends_with("clean"));
    let clean = clean.ok_or_else(|| format!("no run that cleaned in {history}"))?;
    let undo = g.ctl(&["undo", NODE, clean, "--yes"])?;
    if !matches!(undo.code, Some(0 | 3)) {
        return Err(format!("ctl undo {clean}: {:?} {}{}", undo.code, undo.stdout, undo.stderr));
    }
    g.expect_same(&sick)?;
    g.heal_well()
}

pub(super) fn contained(g: &Ground<'_>) -> Verdict {
    const ANSWERS: &str = "curl -sk -m 2 -o /dev/null https://203.0.113.10:6443/readyz";
    let before = g.snapshot()?;
    g.make("R10")?;
    let captured = g.snapshot()?;
    if g.sh(ANSWERS).is_ok() {
        return Err("the API server still answers: nothing is captured".to_owned());
    }
    let out = g.heal()?;
    if out.code != Some(3) {
        return Err(format!("ctl heal ended with {:?}\n{}{}", out.code, out.stdout, out.stderr));
    }
    g.sh(ANSWERS).map_err(|why| format!("the guard does not stay: {why}"))?;
    g.expect_same(&captured)
        .map_err(|why| format!("something of the unknown tool's was touched: {why}"))?;
    g.leave();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(40);
    while let Err(why) = g.expect_no_guard() {
        if std::time::Instant::now() > until {
            return Err(format!("the captor has gone and the guard has not: {why}"));
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    g.expect_same(&before)
}

fn pods_answer(g: &Ground<'_>) -> Verdict {
    // A pod of calypso asks a pod of styx, through VXLAN.
    let ask = "ip netns exec pod1 curl -sf -m 2 -o /dev/null http://10.42.2.2:8080/";
    g.sh(ask).map_err(|why| format!("before: {why}"))?;
    let before = g.snapshot()?;
    g.make("R23")?;
    if g.sh(ask).is_ok() {
        return Err("pods of styx still answer: VXLAN's outer packets are not captured".to_owned());
    }
    g.heal_well()?;
    g.sh(ask).map_err(|why| format!("after: {why}"))?;
    g.expect_same(&before)
}
