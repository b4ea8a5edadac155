//! The node by itself: no operator, no command; what happened is read afterwards.

use super::ground::{NODE, find, told};
use super::heal::{is_tailscales, ways};
use super::{Case, Ground, Verdict};
use crate::standin::apiserver::lease;
use crate::witness;
use std::thread;
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[
    Case {
        name: "alone_R1_an_exit_node_is_healed_without_a_trace_and_no_lease_is_missed",
        run: |g| heals(g, "R1", |_| false),
    },
    Case {
        name: "alone_R1_a_pod_that_is_kept_is_asked_and_no_lease_is_missed",
        run: |g| heals(g, "R1-kept", is_tailscales),
    },
    Case {
        name: "alone_R2_an_exit_node_with_lan_access_is_healed_and_no_lease_is_missed",
        run: |g| heals(g, "R2", |_| false),
    },
    Case {
        name: "alone_R4_a_daemon_that_fights_back_is_healed_and_no_lease_is_missed",
        run: |g| heals(g, "R4", |_| false),
    },
    Case {
        name: "alone_R8_a_wg_quick_full_tunnel_is_taken_back_and_no_lease_is_missed",
        run: |g| heals(g, "R8", |d| d.to_string().contains("wg0")),
    },
    Case {
        name: "alone_R11_a_deleted_default_route_is_restored_and_no_lease_is_missed",
        run: |g| heals(g, "R11", |_| false),
    },
    Case {
        name: "alone_R13_a_missing_main_rule_is_restored_and_no_lease_is_missed",
        run: |g| heals(g, "R13-main", |_| false),
    },
    Case {
        name: "alone_R9_a_split_default_is_taken_out_of_main_and_no_lease_is_missed",
        run: |g| heals(g, "R9", is_the_vpns),
    },
    Case {
        name: "alone_R12_a_blackhole_is_taken_away_and_no_lease_is_missed",
        run: |g| heals(g, "R12", |_| false),
    },
    Case {
        name: "alone_R15_the_ways_to_other_nodes_pods_are_restored_and_no_lease_is_missed",
        run: |g| heals(g, "R15", |_| false),
    },
    Case {
        name: "alone_N2_a_chain_that_shuts_the_operator_out_is_opened_by_nobody_but_the_agent",
        run: |g| {
            // The jumps that the flush took come back with k3s-agent.
            heals_as(g, |g| g.make("N2"), "systemctl restart k3s-agent", false, |_| false)
        },
    },
    Case {
        name: "alone_N5_a_catch_all_dnat_is_removed_and_no_lease_is_missed",
        run: |g| heals(g, "N5", |_| false),
    },
    Case {
        name: "alone_K1_a_kubelet_that_was_stopped_is_started",
        run: |g| {
            let stop = |g: &Ground<'_>| g.sh("systemctl stop k3s-agent").map(drop);
            heals_as(g, stop, "systemctl is-active k3s-agent", false, |_| false)
        },
    },
    Case {
        name: "alone_an_agent_that_is_killed_in_the_middle_of_its_own_heal_ends_it_recovered",
        run: killed,
    },
    Case {
        name: "alone_R5_a_culprit_that_is_started_again_is_held_down_and_said",
        run: |g| held_down(g, "R5", "tailscale-system"),
    },
    Case {
        name: "alone_R5_a_culprit_that_systemd_starts_again_is_held_down_and_its_unit_is_said",
        run: |g| held_down(g, "R5-unit", "unit tailscaled.service"),
    },
    Case {
        name: "alone_R16_a_live_benign_tailscale_is_left_alone",
        run: |g| left_alone(g, "heal", "R16"),
    },
    Case {
        name: "alone_R17_a_cluster_over_tailscale_is_left_alone",
        run: |g| left_alone(g, "heal", "R17"),
    },
    Case {
        name: "alone_R18_a_pods_own_tailscale_is_left_alone",
        run: |g| left_alone(g, "heal", "R18"),
    },
    Case { name: "alone_R19_foreign_rules_are_left_alone", run: |g| left_alone(g, "heal", "R19") },
    Case { name: "alone_R20_another_gateway_is_left_alone", run: |g| left_alone(g, "heal", "R20") },
    Case {
        name: "alone_R20_a_deliberate_vpn_that_works_is_left_alone",
        run: |g| left_alone(g, "heal", "R20-vpn"),
    },
    Case {
        name: "alone_R21_a_node_that_left_is_left_alone",
        run: |g| left_alone(g, "heal", "R21"),
    },
    Case {
        name: "alone_N9_the_chains_of_other_tools_are_left_alone",
        run: |g| left_alone(g, "heal", "N9"),
    },
    Case { name: "alone_R3_remnants_wait_for_an_operator", run: |g| left_alone(g, "heal", "R3") },
    Case {
        name: "alone_R1_in_mode_guard_only_the_guard_is_raised",
        run: |g| left_alone(g, "guard", "R1"),
    },
];

const API: &str = "curl -sk -m 2 -o /dev/null https://203.0.113.10:6443/readyz";
const LEASES: &str = "/var/lib/lifeline-lab/leases.jsonl";
/// Debounce, the rungs, and thirty seconds in which it must stay well.
const HEAL_LIMIT: Duration = Duration::from_secs(100);

/// Runs a case with the node's agent in another mode and nothing spent, and gives the mode back.
pub(super) fn in_mode(g: &Ground<'_>, mode: &str, case: impl FnOnce() -> Verdict) -> Verdict {
    let set = |mode: &str| {
        g.sh(&format!(
            "sed -i 's/^mode = .*/mode = \"{mode}\"/' /etc/lifeline/agent.toml; \
             rm -f /var/lib/lifeline/budget/attempts.json; systemctl restart lifeline-agent"
        ))
    };
    set(mode)?;
    let done = g.settled(Duration::from_secs(30)).and_then(|()| case());
    g.leave();
    set("observe")?;
    done
}

/// The incidents the agent opened by itself, newest first, with their endings.
pub(super) fn own_incidents(g: &Ground<'_>) -> std::result::Result<Vec<(String, String)>, String> {
    let history = g.ctl_json(&["history", NODE, "-o", "json"])?;
    let all = find(&history, "incidents").and_then(|i| i.as_array().cloned()).unwrap_or_default();
    let text = |v: &serde_json::Value, key: &str| {
        find(v, key).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
    };
    Ok(all
        .iter()
        .filter(|i| text(i, "by") == "lifeline-agent")
        .map(|i| (text(i, "incident"), text(i, "ending")))
        .collect())
}

/// The API server's log has no gap for this node, and it never called it NotReady.
fn no_lease_missed(g: &Ground<'_>, begun: Duration) -> Verdict {
    let log = g.lab.node("tethys").and_then(|n| n.read(LEASES)).map_err(told)?;
    let entries = lease::parse(&log);
    let missed = lease::missed(&entries, NODE, begun, lease::boottime());
    let not_ready = entries.iter().any(|e| {
        e.node == NODE
            && e.what == lease::What::NotReady
            && u128::from(e.boottime_ms) >= begun.as_millis()
    });
    match (missed, not_ready) {
        (0, false) => Ok(()),
        (missed, not_ready) => Err(format!("{missed} leases missed, NotReady: {not_ready}")),
    }
}

/// What a VPN that goes on has of its own.
fn is_the_vpns(d: &witness::Difference) -> bool {
    let told = d.to_string();
    ["tun0", "tailnet-peer", ":1194"].iter().any(|own| told.contains(own))
}

fn heals(
    g: &Ground<'_>,
    fault: &str,
    on_purpose: impl Fn(&witness::Difference) -> bool,
) -> Verdict {
    let make = |g: &Ground<'_>| g.make(fault);
    in_mode(g, "heal", || {
        g.lay(fault)?;
        healed_by_itself(g, make, "true", true, on_purpose)
    })
}

/// The same for what is made otherwise, or costs leases while it stands; `after` is run before the node is compared.
fn heals_as(
    g: &Ground<'_>,
    make: impl Fn(&Ground<'_>) -> Verdict,
    after: &str,
    leases: bool,
    on_purpose: impl Fn(&witness::Difference) -> bool,
) -> Verdict {
    in_mode(g, "heal", || healed_by_itself(g, make, after, leases, on_purpose))
}

fn healed_by_itself(
    g: &Ground<'_>,
    make: impl Fn(&Ground<'_>) -> Verdict,
    after: &str,
    leases: bool,
    on_purpose: impl Fn(&witness::Difference) -> bool,
) -> Verdict {
    let (before, healthy) = (g.snapshot()?, ways(g)?);
    let (known, begun) = (own_incidents(g)?.len(), lease::boottime());
    make(g)?;
    ends_recovered(g, known)?;
    g.sh(API).map_err(|why| format!("the API server does not answer: {why}"))?;
    let now = ways(g)?;
    if now != healthy {
        return Err(format!("was {healthy:?}, is {now:?}"));
    }
    if leases {
        no_lease_missed(g, begun)?;
    }
    g.expect_no_guard()?;
    g.sh(after)?;
    g.expect_same_but(&before, on_purpose)
}

/// An incident more than were known is the agent's own and ends recovered.
fn ends_recovered(g: &Ground<'_>, known: usize) -> Verdict {
    let until = Instant::now() + HEAL_LIMIT;
    loop {
        // A node that answers nobody from outside may be what is to be healed.
        let own = own_incidents(g);
        let list = own.as_deref().unwrap_or_default();
        let ended = list.first().filter(|(_, ending)| list.len() > known && !ending.is_empty());
        match ended {
            Some((_, ending)) if ending == "recovered" => return Ok(()),
            Some((name, ending)) => return Err(format!("{name} ended: {ending}")),
            None if Instant::now() > until => {
                let limit = HEAL_LIMIT.as_secs();
                return Err(format!("nobody healed it within {limit} s: {own:?}"));
            }
            None => thread::sleep(Duration::from_millis(500)),
        }
    }
}

/// Killed when its first run has begun: the next process goes on with what this one began, by itself.
fn killed(g: &Ground<'_>) -> Verdict {
    const HUNT: &str = "set -- $(ls /var/lib/lifeline/journal/*.jsonl 2>/dev/null | wc -l); for i in $(seq 2000); do \
        [ $(ls /var/lib/lifeline/journal/*.jsonl 2>/dev/null | wc -l) -gt $1 ] && { sleep 0.02; pkill -9 -x lifeline-agent; echo killed; exit; }; sleep 0.01; done";
    in_mode(g, "heal", || {
        let before = g.snapshot()?;
        let (known, begun) = (own_incidents(g)?.len(), lease::boottime());
        let node = g.node()?;
        let hunt =
            thread::spawn(move || node.exec_within(&["sh", "-c", HUNT], Duration::from_secs(60)));
        g.make("R1")?;
        let hunted = hunt.join().map_err(|_| "the hunter panicked".to_owned())?.map_err(told)?;
        if !hunted.stdout.contains("killed") {
            return Err("the agent began nothing, and was not killed".to_owned());
        }
        ends_recovered(g, known)?;
        let own = own_incidents(g)?.len() - known;
        let (name, _) = own_incidents(g)?.swap_remove(0);
        let resumed = g.sh(&format!("tr -d '\\000' < /var/lib/lifeline/journal/{name}.incident | grep -c '\"resumed\"' || true"))?;
        if own != 1 || resumed.trim() == "0" {
            return Err(format!("{own} incidents, {name} gone on with {} times", resumed.trim()));
        }
        g.sh(API).map_err(|why| format!("the API server does not answer: {why}"))?;
        no_lease_missed(g, begun)?;
        g.expect_no_guard()?;
        g.expect_same(&before)
    })
}

fn held_down(g: &Ground<'_>, fault: &str, keeper: &str) -> Verdict {
    in_mode(g, "heal", || {
        let (known, begun) = (own_incidents(g)?.len(), lease::boottime());
        g.make(fault)?;
        let until = Instant::now() + HEAL_LIMIT;
        // Loudly: in the status, and in the journal as an error.
        let said = loop {
            let status = g.ctl_json(&["status", NODE, "-o", "json"])?.to_string();
            if status.contains("only the guard is kept") {
                break status;
            }
            if Instant::now() > until {
                return Err(format!("it does not say that it gave up: {status}"));
            }
            thread::sleep(Duration::from_millis(500));
        };
        if !said.contains(keeper) {
            return Err(format!("it does not say who brings it back: {said}"));
        }
        let errors = g.sh("journalctl -u lifeline-agent -p err -o cat --no-pager")?;
        if !errors.contains("only the guard is kept") {
            return Err(format!("it is not said as an error: {errors}"));
        }
        // Held down: for as long as nothing may be done, the guard alone keeps the node on its way.
        let (given_up, met) = (Instant::now(), own_incidents(g)?.len() - known);
        while given_up.elapsed() < Duration::from_secs(25) {
            g.sh(API).map_err(|why| format!("the guard does not hold: {why}"))?;
            thread::sleep(Duration::from_secs(1));
        }
        let later = own_incidents(g)?.len() - known;
        if met == 0 || met > 3 || later != met {
            return Err(format!("{met} incidents until it gave up, {later} afterwards"));
        }
        no_lease_missed(g, begun)
    })
}

/// The state stands for a while, and neither does a foreign byte change nor is an incident opened.
fn left_alone(g: &Ground<'_>, mode: &str, fault: &str) -> Verdict {
    in_mode(g, mode, || {
        g.lay(fault)?;
        if fault == "R17" {
            // The operator tells the agent that this is how the cluster is meant to be.
            let accepted = g.ctl(&["baseline", "accept", NODE, "--yes"])?;
            if !accepted.ok() {
                let said = format!("{}{}", accepted.stdout, accepted.stderr);
                return Err(format!("ctl baseline accept: {said}"));
            }
        }
        let known = own_incidents(g)?.len();
        g.make(fault)?;
        let before = g.snapshot()?;
        thread::sleep(Duration::from_secs(20));
        g.expect_same(&before)?;
        let own = own_incidents(g)?;
        if own.len() > known {
            return Err(format!("the agent acted by itself: {own:?}"));
        }
        if mode == "guard" {
            g.sh(API).map_err(|why| format!("no guard stands: {why}"))?;
        }
        Ok(())
    })
}
