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
    Case { name: "alone_R5_a_culprit_that_is_started_again_is_held_down_and_said", run: held_down },
    Case {
        name: "alone_R16_a_live_benign_tailscale_is_left_alone",
        run: |g| left_alone(g, "heal", "R16"),
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
fn own_incidents(g: &Ground<'_>) -> std::result::Result<Vec<(String, String)>, String> {
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

fn heals(
    g: &Ground<'_>,
    fault: &str,
    on_purpose: impl Fn(&witness::Difference) -> bool,
) -> Verdict {
    in_mode(g, "heal", || {
        g.lay(fault)?;
        let (before, healthy) = (g.snapshot()?, ways(g)?);
        let (known, begun) = (own_incidents(g)?.len(), lease::boottime());
        g.make(fault)?;
        let until = Instant::now() + HEAL_LIMIT;
        loop {
            let own = own_incidents(g)?;
            let ended = own.first().filter(|(_, ending)| own.len() > known && !ending.is_empty());
            match ended {
                Some((_, ending)) if ending == "recovered" => break,
                Some((name, ending)) => return Err(format!("{name} ended: {ending}")),
                None if Instant::now() > until => {
                    return Err(format!("nobody healed it within {} s", HEAL_LIMIT.as_secs()));
                }
                None => thread::sleep(Duration::from_millis(500)),
            }
        }
        g.sh(API).map_err(|why| format!("the API server does not answer: {why}"))?;
        let now = ways(g)?;
        if now != healthy {
            return Err(format!("was {healthy:?}, is {now:?}"));
        }
        no_lease_missed(g, begun)?;
        g.expect_no_guard()?;
        g.expect_same_but(&before, on_purpose)
    })
}

fn held_down(g: &Ground<'_>) -> Verdict {
    in_mode(g, "heal", || {
        let (known, begun) = (own_incidents(g)?.len(), lease::boottime());
        g.make("R5")?;
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
        if !said.contains("tailscale-system") {
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
