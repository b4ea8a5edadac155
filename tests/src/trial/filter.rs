//! The packet filter, resolv.conf and kernel settings, spoilt on a live node and mended; asserted with iptables, nft, curl and flock.

use std::time::{Duration, Instant};

use super::ground::{NODE, find, lines, told};
use super::{Case, Ground, Verdict};
use crate::faults;
use crate::witness;

pub const CASES: &[Case] = &[
    Case {
        name: "N1_remnants_in_the_legacy_backend_go_and_the_other_stays_byte_identical",
        run: |g| mended(g, "N1", "Healthy"),
    },
    Case { name: "N1_remnants_go_from_nft_while_the_clusters_chains_are_in_legacy", run: reverse },
    Case {
        name: "N2_a_chain_that_drops_everything_is_opened_by_the_agent_on_the_node",
        run: shut_out,
    },
    Case { name: "N3_a_reject_of_unknown_owner_is_shown_and_removed_by_consent", run: by_consent },
    Case { name: "N3_a_reject_in_an_inet_table_is_named_and_left", run: named_only },
    Case { name: "N5_a_catch_all_dnat_is_removed_and_the_node_answers_again", run: inbound },
    Case { name: "N6_among_twenty_thousand_rules_only_tailscales_go", run: crowded },
    Case { name: "N7_a_lock_that_is_held_for_ever_ends_in_a_clear_message", run: locked },
    Case {
        name: "N8_after_a_blanket_flush_services_are_written_anew_and_host_ports_are_named",
        run: flushed,
    },
    Case {
        name: "N9_the_chains_of_docker_ufw_calico_cilium_and_firewalld_are_left_alone",
        run: owners,
    },
    Case { name: "S1_under_strict_rp_filter_the_exit_node_is_healed_all_the_same", run: strict },
    Case {
        name: "S2_src_valid_mark_goes_back_to_what_it_was",
        run: |g| mended(g, "S2", "Healthy"),
    },
    Case { name: "S2_forwarding_is_switched_on_again", run: |g| mended(g, "S2-forward", "Lost") },
    Case { name: "D1_resolv_conf_comes_back_from_its_backup", run: |g| mended(g, "D1", "Healthy") },
    Case { name: "D1_resolv_conf_that_was_a_link_comes_back_as_a_link", run: linked },
    Case {
        name: "D2_resolv_conf_comes_back_without_a_backup",
        run: |g| mended(g, "D2", "Healthy"),
    },
];

const CURL: &str = "curl -sk -m 3 -o /dev/null https://203.0.113.10:6443/readyz";

/// Spoilt, told, healed, and as it was before.
fn mended(g: &Ground<'_>, fault: &str, verdict: &str) -> Verdict {
    let before = g.snapshot()?;
    g.make(fault)?;
    if witness::diff(&before, &g.snapshot()?).is_empty() {
        return Err(format!("{fault} changed nothing: the case proves nothing"));
    }
    g.expect_verdict(verdict)?;
    g.heal_well()?;
    // The copies the fault itself keeps are no trace of the heal's.
    g.expect_same(&before)
}

fn reverse(g: &Ground<'_>) -> Verdict {
    let lay = "for T in iptables-legacy ip6tables-legacy; do $T -w -N KUBE-FORWARD; $T -w -A FORWARD -j KUBE-FORWARD; \
               $T -w -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP; $T -w -t nat -N CNI-HOSTPORT-DNAT; done";
    let clear = "for T in iptables-legacy ip6tables-legacy; do for t in filter nat; do $T -w -t $t -F; $T -w -t $t -X; done; done";
    g.sh(lay)?;
    let seen = (|| {
        let before = g.snapshot()?;
        g.sh(&faults::remnants("nft"))?;
        g.heal_well()?;
        g.expect_same(&before)
    })();
    g.sh(clear)?;
    seen
}

/// The node's own operator, over the agent's socket.
fn on_the_node(g: &Ground<'_>, verb: &str) -> std::result::Result<crate::run::Output, String> {
    let words = format!("ctl --socket /run/lifeline/agent.sock {verb}");
    let argv: Vec<&str> = words.split(' ').collect();
    g.node()?.exec_within(&argv, Duration::from_secs(100)).map_err(told)
}

fn shut_out(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    g.make("N2")?;
    if g.sh(CURL).is_ok() || g.ctl(&["status", NODE])?.ok() {
        return Err("the node still answers: nothing is dropped".to_owned());
    }
    let healed = on_the_node(g, &format!("heal {NODE} --yes --stability 3s"))?;
    let chain = g.sh("nft -j list chain ip filter INPUT")?;
    if !chain.contains("\"policy\": \"accept\"") {
        return Err(format!("INPUT is not open: {chain}\n{}{}", healed.stdout, healed.stderr));
    }
    g.sh(CURL).map_err(|why| format!("the API server does not answer: {why}"))?;
    if !healed.ok() {
        return Err(format!("{:?}\n{}{}", healed.code, healed.stdout, healed.stderr));
    }
    // The jumps that the flush took come back with k3s-agent.
    g.sh("systemctl restart k3s-agent")?;
    g.expect_same(&before)
}

fn by_consent(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    g.make("N3")?;
    g.expect_verdict("Filtered")?;
    let shown = g.ctl_json(&["plan", NODE, "-o", "json"])?.to_string();
    if !shown.contains("audit") {
        return Err(format!("the rule is not shown before it is removed: {shown}"));
    }
    g.heal_well()?;
    g.sh(CURL)?;
    g.expect_same(&before)
}

fn named_only(g: &Ground<'_>) -> Verdict {
    g.make("N3-inet")?;
    let before = g.snapshot()?;
    g.expect_verdict("Filtered")?;
    let said = g.ctl_json(&["diagnose", NODE, "-o", "json"])?.to_string();
    if !said.contains("inet corp") {
        return Err(format!("the table is not named: {said}"));
    }
    let out = g.heal()?;
    if out.ok() {
        return Err("it claims to have healed what it must not touch".to_owned());
    }
    g.expect_same(&before)
}

fn inbound(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    g.make("N5")?;
    let answers = || g.ctl(&["status", NODE]).is_ok_and(|o| o.ok());
    if answers() {
        return Err("the agent still answers from outside: nothing is diverted".to_owned());
    }
    let said = on_the_node(g, &format!("diagnose {NODE} -o json"))?;
    let value: serde_json::Value = serde_json::from_str(&said.stdout).map_err(told)?;
    if find(&value, "verdict").is_none_or(|v| !v.to_string().to_lowercase().contains("captured")) {
        return Err(format!("it is not said: {value:#}"));
    }
    let healed = on_the_node(g, &format!("heal {NODE} --yes --stability 3s"))?;
    if !healed.ok() {
        return Err(format!("{:?}\n{}{}", healed.code, healed.stdout, healed.stderr));
    }
    if !answers() {
        return Err("it still does not answer from outside".to_owned());
    }
    g.expect_same(&before)
}

/// Many thousand services, as kube-proxy writes them, in a chain of its own.
fn crowded(g: &Ground<'_>) -> Verdict {
    let lay = "{ echo '*nat'; for i in $(seq 1 10000); do echo \":KUBE-SVC-LAB$i - [0:0]\"; done; \
        for i in $(seq 1 10000); do echo \"-A KUBE-SVC-LAB$i -m comment --comment \\\"lab/s$i\\\" -j KUBE-MARK-MASQ\"; \
        echo \"-A KUBE-SVC-LAB$i -p tcp -m tcp -j DNAT --to-destination 10.42.9.9:80\"; done; echo COMMIT; } | iptables-nft-restore --noflush";
    let clear = "{ echo '*nat'; for i in $(seq 1 10000); do echo \"-F KUBE-SVC-LAB$i\"; echo \"-X KUBE-SVC-LAB$i\"; done; echo COMMIT; } | iptables-nft-restore --noflush";
    g.sh_patiently(lay)?;
    let seen = (|| {
        let before = g.snapshot()?;
        g.sh(&faults::remnants("nft"))?;
        g.heal_well()?;
        let left = g.sh("iptables-nft-save | grep -c KUBE-SVC-LAB")?;
        if left.trim() != "30000" {
            return Err(format!("{} lines of 30000 are left", left.trim()));
        }
        g.expect_same(&before)
    })();
    g.sh_patiently(clear)?;
    seen
}

fn locked(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    g.make("N1")?;
    g.sh("systemd-run -q --collect --unit=lab-lock flock /run/xtables.lock sleep 1000; sleep 0.5")?;
    let begun = Instant::now();
    let out = g.heal();
    let took = begun.elapsed();
    g.sh("systemctl stop lab-lock")?;
    let out = out?;
    let said = format!("{}{}", out.stdout, out.stderr);
    if out.ok() || out.timed_out {
        return Err(format!("{:?} with the lock held: {said}", out.code));
    }
    if !said.contains("xtables.lock") {
        return Err(format!("the lock is not named: {said}"));
    }
    if took > Duration::from_secs(60) {
        return Err(format!("it took {} s", took.as_secs()));
    }
    g.settled(Duration::from_secs(20)).or(Ok::<(), String>(()))?;
    g.heal_well()?;
    g.expect_same(&before)
}

fn flushed(g: &Ground<'_>) -> Verdict {
    const SERVICE: &str = "curl -sk -m 3 -o /dev/null https://10.43.0.1:443/readyz";
    g.sh(SERVICE).map_err(|why| format!("before: {why}"))?;
    let before = g.snapshot()?;
    g.make("N8")?;
    if g.sh(SERVICE).is_ok() {
        return Err("the service still answers: nothing is gone".to_owned());
    }
    g.expect_verdict("Lost")?;
    g.heal_well()?;
    g.sh(SERVICE).map_err(|why| format!("after: {why}"))?;
    let said = g.ctl_json(&["diagnose", NODE, "-o", "json"])?.to_string();
    if !said.contains("host-ports-lost") || !said.contains("crictl stopp") {
        return Err(format!("the host ports are not named: {said}"));
    }
    // Only what the CNI wrote is missing now.
    let left = witness::diff(&before, &g.snapshot()?);
    let rest: Vec<_> = left.into_iter().filter(|d| !d.to_string().contains("CNI-")).collect();
    if rest.iter().any(|d| d.to_string().contains("KUBE-")) {
        return Err(format!("of kube-proxy's something is missing:\n{}", lines(&rest)));
    }
    Ok(())
}

fn owners(g: &Ground<'_>) -> Verdict {
    g.make("N9")?;
    let before = g.snapshot()?;
    g.expect_verdict("Healthy")?;
    g.heal()?;
    g.expect_same(&before)?;
    g.expect_verdict("Healthy")
}

fn strict(g: &Ground<'_>) -> Verdict {
    let set = |v: &str| {
        format!(
            "for f in all default eth0; do echo {v} > /proc/sys/net/ipv4/conf/$f/rp_filter; done"
        )
    };
    let was =
        g.sh("cat /proc/sys/net/ipv4/conf/all/rp_filter /proc/sys/net/ipv4/conf/eth0/rp_filter")?;
    g.sh(&set("1"))?;
    let run = || {
        let before = g.snapshot()?;
        g.make("R1")?;
        // A strict filter drops what comes from where the tunnel would answer, marked or not: only the guard makes the agent
        // reachable, and only for the networks it covers. The laptop beyond the gateway is in none of them.
        let until = Instant::now() + Duration::from_secs(15);
        while g.json_from("lan", &["status", NODE, "-o", "json"]).is_err() {
            if Instant::now() > until {
                return Err("the guard does not make the agent reachable on its LAN".to_owned());
            }
        }
        let healed = on_the_node(g, &format!("heal {NODE} --yes --stability 3s"))?;
        if !healed.ok() {
            return Err(format!("{:?}\n{}{}", healed.code, healed.stdout, healed.stderr));
        }
        g.expect_same(&before)?;
        g.expect_no_guard()
    };
    let seen = super::upstream::in_mode(g, "guard", run);
    let mut was = was.split_whitespace();
    let (all, eth0) = (was.next().unwrap_or("0"), was.next().unwrap_or("0"));
    g.sh(&format!("{}; echo {all} > /proc/sys/net/ipv4/conf/all/rp_filter; echo {eth0} > /proc/sys/net/ipv4/conf/eth0/rp_filter", set("0")))?;
    seen
}

fn linked(g: &Ground<'_>) -> Verdict {
    g.sh("cp -L /etc/resolv.conf /run/lab-real; cp -a /etc/resolv.conf /run/lab-was; rm /etc/resolv.conf; ln -s ../run/lab-real /etc/resolv.conf")?;
    let seen = (|| {
        let reset = g.ctl(&["baseline", "reset", NODE, "--yes"])?;
        if !reset.ok() {
            return Err(format!("{}{}", reset.stdout, reset.stderr));
        }
        g.settled(Duration::from_secs(40))?;
        let before = g.snapshot()?;
        g.make("D1")?;
        g.heal_well()?;
        let link = g.sh("readlink /etc/resolv.conf")?;
        if link.trim() != "../run/lab-real" {
            return Err(format!("it is no link to where it led: {link}"));
        }
        g.expect_same(&before)
    })();
    g.sh("rm -f /etc/resolv.conf; cp -a /run/lab-was /etc/resolv.conf; rm -f /etc/resolv.pre-tailscale-backup.conf")?;
    g.ctl(&["baseline", "reset", NODE, "--yes"])?;
    seen
}
