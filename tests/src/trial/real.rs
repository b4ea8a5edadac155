//! The cases that are tried again on the real cluster, with the real tailscaled; `kubectl` has the last word on each.
//!
//! Most are the quick gear's own, on faults of the same name. What is new here: the workload that stays and starts again what is
//! stopped, and that the cluster is at rest afterwards by its own account.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ground::{NODE, told};
use super::heal::{
    contained, diagnose_answers, lost_then_same, remnants, taken_back, undone, without_a_trace,
};
use super::near_miss::left_alone;
use super::{Case, Ground, Verdict, crash, refusal};
use crate::faults::Site;
use crate::real::cluster::{is_ready, kubectl};
use crate::real::culprit;
use crate::real::faults::let_go;
use crate::run::Output;

pub const CASES: &[Case] = &[
    Case {
        name: "real_R1_a_daemonsets_exit_node_is_asked_harms_nobody_and_leaves_no_trace",
        run: |g| and_rests(g, |g| asked(g, "R1")),
    },
    Case {
        name: "real_R1_with_chains_in_iptables_legacy_it_leaves_no_trace",
        run: |g| and_rests(g, |g| asked(g, "R1-legacy")),
    },
    Case {
        name: "real_R1_while_it_stands_diagnose_answers_from_the_lan_and_from_beyond_the_gateway",
        run: |g| and_rests(g, diagnose_answers),
    },
    Case {
        name: "real_R2_an_exit_node_that_leaves_the_lan_is_asked_and_leaves_no_trace",
        run: |g| and_rests(g, |g| asked(g, "R2")),
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
        run: |g| and_rests(g, |g| asked(g, "R6")),
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
    Case {
        name: "real_N8_after_a_blanket_flush_services_and_host_ports_answer_again",
        run: |g| and_rests(g, flushed),
    },
    Case { name: "real_a_wrong_or_mistyped_wish_is_refused_and_nothing_is_touched", run: refusals },
    Case {
        name: "real_killed_in_the_middle_of_a_heal_it_ends_recovered_or_as_it_was",
        run: |g| and_rests(g, killed),
    },
    Case {
        name: "real_the_operator_drops_off_in_the_middle_and_the_heal_goes_on",
        run: |g| and_rests(g, |g| crash::operator_drops_off(g, "R3")),
    },
];

/// Boundaries of a heal of remnants that are tried here: opened, in the middle of its steps, at their end. The quick gear tries all.
const BOUNDARIES: [usize; 3] = [1, 8, 18];
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
    kubectl(&of).and_then(Output::success).map(|o| o.stdout).map_err(told)
}

/// What kubectl sees that is not as it should be.
fn unrest() -> std::result::Result<Vec<String>, String> {
    let read = |args: &[&str]| -> std::result::Result<Value, String> {
        let out = kubectl(args).and_then(Output::success).map_err(told)?;
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

/// The workload stays. Its daemon is asked, not stopped: stopped it would be started again, and with it the fault. So it lives and
/// routes nothing of the cluster's, proven by the API server. When the cluster takes it away, the next heal cleans what it left.
fn asked(g: &Ground<'_>, fault: &str) -> Verdict {
    const ALIVE: &str = "pgrep -x tailscaled";
    const CAPTOR: &str = "(ip route show table 52; ip -6 route show table 52) 2>/dev/null || true";
    let before = g.snapshot()?;
    g.make(fault)?;
    g.expect_verdict("Captured")?;
    let daemon = g.sh(ALIVE)?;
    g.heal_with_proof()?;
    g.expect_no_guard()?;
    let left = g.sh(CAPTOR)?;
    let harm = |line: &&str| {
        let cluster = ["default", "10.42.", "10.43.", "192.168.2.", "203.0.113."];
        cluster.iter().any(|p| line.starts_with(p))
    };
    if let Some(line) = left.lines().find(harm) {
        return Err(format!("it still captures: {line}"));
    }
    let now = g.sh(ALIVE)?;
    if now != daemon {
        return Err(format!("pid {} was asked, and now there is {}", daemon.trim(), now.trim()));
    }
    let count = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    let restarts = kubectl(&["get", "pods", "-n", culprit::SPACE, "-o", count]);
    let restarts = restarts.and_then(Output::success).map_err(told)?.stdout;
    if restarts.trim() != "0" {
        return Err(format!("its container was restarted: {restarts}"));
    }
    Site::of(g.lab, NODE).and_then(|site| let_go(&site)).map_err(told)?;
    g.heal_well()?;
    g.expect_same(&before)
}

/// The unit is started anew for kube-proxy's rules, and the pod with the host port gets another sandbox for portmap's: the pod is the
/// same one, its container another.
fn flushed(g: &Ground<'_>) -> Verdict {
    const SERVICE: &str = "curl -sk -m 3 -o /dev/null https://10.43.0.1:443/readyz";
    let port = || {
        let ask = "curl -s -m 3 -o /dev/null http://192.168.2.80:8088/health";
        g.lab.node("styx").and_then(|n| n.sh(ask)).map(|out| out.ok()).map_err(told)
    };
    let pod = || {
        let there = format!("--field-selector=spec.nodeName={NODE}");
        let what =
            "jsonpath={.items[0].metadata.uid} {.items[0].status.containerStatuses[0].containerID}";
        let app = "app.kubernetes.io/name=ls-app";
        let out = kubectl(&["get", "pods", "-n", "apps", "-l", app, &there, "-o", what]);
        let said = out.and_then(Output::success).map_err(told)?.stdout;
        let both = said.split_once(' ').map(|(uid, id)| (uid.to_owned(), id.trim().to_owned()));
        both.ok_or_else(|| format!("no pod with a host port: {said:?}"))
    };
    let before = pod()?;
    g.sh(SERVICE).map_err(|why| format!("before: {why}"))?;
    if !port()? {
        return Err("before: the host port does not answer".to_owned());
    }
    g.make("N8")?;
    // What was there before is of the old sandbox: put back afterwards, it would take the new one's rules away.
    g.sh("rm -f /run/lab-n8")?;
    if port()? {
        return Err("the host port still answers: nothing is gone".to_owned());
    }
    g.heal_well()?;
    g.sh(SERVICE).map_err(|why| format!("after: {why}"))?;
    let until = Instant::now() + REST;
    while !port()? {
        if Instant::now() > until {
            let said = g.ctl_json(&["diagnose", NODE, "-o", "json"])?;
            return Err(format!("the host port is dead {} s after: {said:#}", REST.as_secs()));
        }
        thread::sleep(Duration::from_millis(500));
    }
    // The port answers before the kubelet has told the API server of the new container.
    let mut after = pod()?;
    while after.1 == before.1 && Instant::now() < until {
        thread::sleep(Duration::from_millis(500));
        after = pod()?;
    }
    if after.0 != before.0 || after.1 == before.1 {
        return Err(format!("the pod and its container were {before:?}, and are {after:?}"));
    }
    g.at_rest()
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
        let was = crash::kill_at(g, "R3", nth)
            .map_err(|why| format!("killed after entry {nth}: {why}"))?;
        hit += usize::from(was);
    }
    if hit >= 2 { Ok(()) } else { Err(format!("only {hit} boundaries were hit")) }
}
