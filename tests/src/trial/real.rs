//! The cases that are tried again on the real cluster, with the real tailscaled; `kubectl` has the last word on each.
//!
//! Most are the quick gear's own, on faults of the same name. What is new here: the workload that stays and starts again what is
//! stopped, and that the cluster is at rest afterwards by its own account.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ground::{NODE, told};
use super::heal::{
    contained, diagnose_answers, lost_then_same, proven, remnants, taken_back, undone,
    without_a_trace,
};
use super::near_miss::left_alone;
use super::{Case, Ground, Verdict, crash, refusal};
use crate::real::cluster::{is_ready, kubectl};
use crate::real::culprit;
use crate::witness;

pub const CASES: &[Case] = &[
    Case {
        name: "real_R1_an_exit_node_is_healed_without_a_trace",
        run: |g| and_rests(g, |g| without_a_trace(g, "R1")),
    },
    Case {
        name: "real_R1_chains_in_iptables_legacy_are_healed_without_a_trace",
        run: |g| and_rests(g, |g| without_a_trace(g, "R1-legacy")),
    },
    Case {
        name: "real_R1_the_api_server_proves_the_heal_by_leases_ready_boot_and_pods",
        run: |g| and_rests(g, proven),
    },
    Case {
        name: "real_R1_while_it_stands_diagnose_answers_from_the_lan_and_from_beyond_the_gateway",
        run: |g| and_rests(g, diagnose_answers),
    },
    Case {
        name: "real_R1_with_the_daemonset_still_there_the_daemon_lives_and_harms_nobody",
        run: |g| and_rests(g, |g| harmless(g, "R1-kept")),
    },
    Case {
        name: "real_R2_an_exit_node_that_leaves_the_lan_is_healed_without_a_trace",
        run: |g| and_rests(g, |g| without_a_trace(g, "R2")),
    },
    Case {
        name: "real_R3_remnants_are_cleaned_and_nothing_is_restarted",
        run: |g| and_rests(g, remnants),
    },
    Case {
        name: "real_R3_what_was_cleaned_comes_back_when_the_operator_undoes_it",
        run: |g| and_rests(g, undone),
    },
    Case {
        name: "real_R6_accepted_routes_that_overlap_are_dropped_and_the_daemon_lives",
        run: |g| and_rests(g, |g| harmless(g, "R6")),
    },
    Case {
        name: "real_R7_an_orphaned_tun_with_a_default_route_is_deleted",
        run: |g| and_rests(g, |g| without_a_trace(g, "R7")),
    },
    Case {
        name: "real_R8_a_wg_quick_full_tunnel_is_taken_back",
        run: |g| and_rests(g, taken_back),
    },
    Case {
        name: "real_R10_a_capture_by_an_unknown_tool_is_contained_and_left_to_the_operator",
        run: |g| and_rests(g, contained),
    },
    Case {
        name: "real_R11_a_deleted_default_route_is_restored",
        run: |g| and_rests(g, |g| lost_then_same(g, "R11")),
    },
    Case {
        name: "real_R11_a_default_route_by_a_dead_gateway_is_put_right",
        run: |g| and_rests(g, |g| without_a_trace(g, "R11-dead")),
    },
    Case {
        name: "real_R13_a_missing_main_rule_is_restored",
        run: |g| and_rests(g, |g| lost_then_same(g, "R13-main")),
    },
    Case {
        name: "real_R16_a_live_benign_tailscale_is_left_alone",
        run: |g| and_rests(g, |g| left_alone(g, "R16", "Healthy")),
    },
    Case {
        name: "real_R18_tailscaled_in_a_pods_namespace_is_left_alone",
        run: |g| and_rests(g, |g| left_alone(g, "R18", "Healthy")),
    },
    Case { name: "real_a_wrong_or_mistyped_wish_is_refused_and_nothing_is_touched", run: refusals },
    Case {
        name: "real_killed_in_the_middle_of_a_heal_it_ends_recovered_or_as_it_was",
        run: |g| and_rests(g, killed),
    },
    Case {
        name: "real_the_operator_drops_off_in_the_middle_and_the_heal_goes_on",
        run: |g| and_rests(g, crash::operator_drops_off),
    },
];

/// Boundaries of a heal that are tried here: begun, in rung 2, in rung 3, at the end. The quick gear tries them all.
const BOUNDARIES: [usize; 4] = [1, 3, 9, 14];
/// A lease is renewed every ten seconds; a node that was silent is taken back within its next beats.
const REST: Duration = Duration::from_secs(60);

/// The case, and then: by the cluster's own account the node is Ready and untainted, renews its lease, and its pods are ready.
fn and_rests(g: &Ground<'_>, case: impl FnOnce(&Ground<'_>) -> Verdict) -> Verdict {
    case(g)?;
    let until = Instant::now() + REST;
    let first = lease()?;
    loop {
        let unrest = unrest()?;
        let renewed = lease()? != first;
        if unrest.is_empty() && renewed {
            return Ok(());
        }
        if Instant::now() > until {
            let lease = if renewed { "" } else { "; its lease is not renewed" };
            return Err(format!("the cluster is not at rest: {}{lease}", unrest.join(", ")));
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn lease() -> std::result::Result<String, String> {
    let of = ["get", "lease", NODE, "-n", "kube-node-lease", "-o", "jsonpath={.spec.renewTime}"];
    kubectl(&of).and_then(crate::run::Output::success).map(|o| o.stdout).map_err(told)
}

/// What kubectl sees that is not as it should be.
fn unrest() -> std::result::Result<Vec<String>, String> {
    let read = |args: &[&str]| -> std::result::Result<Value, String> {
        let out = kubectl(args).and_then(crate::run::Output::success).map_err(told)?;
        out.json().map_err(told)
    };
    let node = read(&["get", "node", NODE, "-o", "json"])?;
    let mut unrest = Vec::new();
    if !is_ready(&node) {
        unrest.push(format!("{NODE} is not Ready"));
    }
    for taint in node["spec"]["taints"].as_array().into_iter().flatten() {
        unrest.push(format!("{NODE} is tainted {}", taint["key"]));
    }
    let there = format!("--field-selector=spec.nodeName={NODE}");
    let pods = read(&["get", "pods", "-A", &there, "-o", "json"])?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let leaves = !pod["metadata"]["deletionTimestamp"].is_null();
        let space = &pod["metadata"]["namespace"];
        if !is_ready(pod) && !leaves && *space != culprit::SPACE {
            unrest.push(format!("pod {space}/{} is not ready", pod["metadata"]["name"]));
        }
    }
    Ok(unrest)
}

/// The workload stays. Its daemon is asked, not stopped: stopped it would be started again, and with it the fault. So it lives,
/// routes nothing of the cluster's, and its going is the cluster's business.
fn harmless(g: &Ground<'_>, fault: &str) -> Verdict {
    const ALIVE: &str = "pgrep -x tailscaled";
    const CAPTOR: &str = "ip route show table 52; ip -6 route show table 52";
    let before = g.snapshot()?;
    g.make(fault)?;
    g.expect_verdict("Captured")?;
    let daemon = g.sh(ALIVE)?;
    g.heal_with_proof()?;
    g.expect_no_guard()?;
    let left = g.sh(&format!("({CAPTOR}) 2>/dev/null || true"))?;
    let harm = |line: &&str| {
        ["default", "10.42.", "10.43.", "192.168.2.", "203.0.113."]
            .iter()
            .any(|p| line.starts_with(p))
    };
    if let Some(line) = left.lines().find(harm) {
        return Err(format!("it still captures: {line}"));
    }
    let now = g.sh(ALIVE)?;
    if now != daemon {
        return Err(format!("pid {} was asked, and now there is {}", daemon.trim(), now.trim()));
    }
    // Back-off, or a second life, would show as a restart.
    let restarts = [
        "get",
        "pods",
        "-n",
        culprit::SPACE,
        "-o",
        "jsonpath={.items[*].status.containerStatuses[*].restartCount}",
    ];
    let restarts = kubectl(&restarts).and_then(crate::run::Output::success).map_err(told)?.stdout;
    if restarts.trim() != "0" {
        return Err(format!("its container was restarted: {restarts}"));
    }
    // The cluster takes it away; what its sudden end leaves is the next heal's.
    g.leave();
    g.heal_well()?;
    g.expect_same_but(&before, |d| d.kind == witness::Kind::Files)
}

fn refusals(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    // Those alone that need no fault to be made.
    let wanted = ["unknown", "certificate", "authority", "expired"];
    let cases = refusal::CASES.iter().filter(|c| wanted.iter().any(|w| c.name.contains(w)));
    let mut tried = 0;
    for case in cases {
        (case.run)(g).map_err(|why| format!("{}: {why}", case.name))?;
        tried += 1;
    }
    if tried < 3 {
        return Err(format!("only {tried} refusals were tried"));
    }
    g.expect_same(&before)
}

fn killed(g: &Ground<'_>) -> Verdict {
    let mut hit = 0;
    for nth in BOUNDARIES {
        g.prepare()?;
        let was =
            crash::kill_at(g, nth).map_err(|why| format!("killed after entry {nth}: {why}"))?;
        hit += usize::from(was);
    }
    if hit >= 3 { Ok(()) } else { Err(format!("only {hit} boundaries were hit")) }
}
