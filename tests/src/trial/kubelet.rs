//! The kubelet's unit in every bad state, on a live node; asserted with systemctl, busctl, ss and curl.

use std::thread;
use std::time::{Duration, Instant};

use super::ground::{NODE, told};
use super::routing::within;
use super::{Case, Ground, Verdict};

pub const CASES: &[Case] = &[
    Case {
        name: "K1_a_unit_that_was_stopped_is_started",
        run: |g| started(g, "systemctl stop k3s-agent", ""),
    },
    Case { name: "K1_a_unit_in_its_start_limit_is_started", run: start_limit },
    Case { name: "K1_a_masked_unit_is_said_and_not_started", run: masked },
    Case { name: "K2_a_unit_that_hangs_in_its_start_holds_nobody_up", run: hanging },
    Case { name: "K3_a_broken_configuration_is_started_once_and_its_words_are_told", run: broken },
    Case {
        name: "N4_native_rules_that_iptables_cannot_list_go_by_their_handles",
        run: |g| unlistable(g, mended),
    },
    Case {
        name: "N4_native_rules_of_somebody_elses_are_named_and_left",
        run: |g| unlistable(g, named_and_left),
    },
    Case {
        name: "K4_a_kubelets_dead_connections_are_closed_and_it_renews_its_lease_again",
        run: dead_connections,
    },
    Case {
        name: "K4_a_kubelet_that_stands_still_with_live_connections_is_started_anew",
        run: stands_still,
    },
    Case { name: "K5_a_port_that_accepts_while_tls_hangs_is_no_success", run: tcp_only },
];

const INVOCATION: &str = "systemctl show -p InvocationID --value k3s-agent";
const STATE: &str = "systemctl show -p ActiveState --value k3s-agent";
const UNIT: &str = "/etc/systemd/system/k3s-agent.service";
const DROP_IN: &str = "/run/systemd/system/k3s-agent.service.d";

fn is_active(g: &Ground<'_>) -> Verdict {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let state = g.sh(STATE)?;
        if state.trim() == "active" {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("k3s-agent is {}", state.trim()));
        }
        thread::sleep(Duration::from_millis(300));
    }
}

fn with_drop_in(g: &Ground<'_>, text: &str, case: impl FnOnce() -> Verdict) -> Verdict {
    g.sh(&format!(
        "mkdir -p {DROP_IN}; printf '{text}' > {DROP_IN}/lab.conf; systemctl daemon-reload"
    ))?;
    let seen = case();
    g.sh(&format!(
        "rm -rf {DROP_IN}; systemctl daemon-reload; systemctl reset-failed k3s-agent; systemctl restart k3s-agent"
    ))?;
    is_active(g)?;
    seen
}

fn started(g: &Ground<'_>, how: &str, back: &str) -> Verdict {
    let before = g.snapshot()?;
    g.sh(how)?;
    let seen =
        g.expect_verdict("KubeletStuck").and_then(|()| g.heal_well()).and_then(|()| is_active(g));
    if !back.is_empty() {
        g.sh(back)?;
    }
    seen?;
    g.expect_same(&before)
}

fn start_limit(g: &Ground<'_>) -> Verdict {
    // It may fail twice in a minute; then whatever made it fail is put right.
    let limit = "[Unit]\\nStartLimitIntervalSec=300\\nStartLimitBurst=2\\n[Service]\\nRestartSec=100ms\\nExecStartPre=/usr/bin/test -e /run/lab-k3s-may\\n";
    with_drop_in(g, limit, || {
        g.sh("rm -f /run/lab-k3s-may; systemctl restart k3s-agent || true; sleep 2")?;
        let result = g.sh("systemctl show -p ActiveState -p Result --value k3s-agent")?;
        if !result.contains("failed") {
            return Err(format!("it is not in its start limit: {result}"));
        }
        g.sh("touch /run/lab-k3s-may")?;
        // Nobody may start it until its counter is forgotten.
        if g.node()?.sh("systemctl start k3s-agent").map_err(told)?.ok() {
            return Err("systemctl starts it: it is not in its start limit".to_owned());
        }
        g.expect_verdict("KubeletStuck")?;
        g.heal_well()?;
        is_active(g)
    })
}

/// k3s lists the packet filter at its start, and ends where that fails; soon systemd starts it no more.
fn unlistable(g: &Ground<'_>, case: impl FnOnce(&Ground<'_>) -> Verdict) -> Verdict {
    let lists = "[Unit]\\nStartLimitIntervalSec=300\\nStartLimitBurst=3\\n[Service]\\nRestart=always\\nRestartSec=100ms\\nExecStartPre=/usr/sbin/iptables-nft -w -t filter -S\\n";
    with_drop_in(g, lists, || {
        let done = case(g);
        g.leave();
        done
    })
}

/// The rules are there, and k3s-agent has given up.
fn gives_up(g: &Ground<'_>, fault: &str) -> Verdict {
    g.make(fault)?;
    if g.sh("iptables-nft -w -t filter -S").is_ok() {
        return Err("iptables lists the table: the case proves nothing".to_owned());
    }
    g.sh("systemctl restart k3s-agent || true; sleep 2")?;
    let state = g.sh(STATE)?;
    if state.trim() == "failed" { Ok(()) } else { Err(format!("k3s-agent is {}", state.trim())) }
}

fn mended(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    let handles = "nft -a list chain ip filter INPUT | grep -v 'jump ts-input' | sed 's/packets [0-9]* bytes [0-9]*//'";
    let others = g.sh(handles)?;
    gives_up(g, "N4")?;
    g.expect_verdict("KubeletStuck")?;
    g.heal_well()?;
    is_active(g)?;
    g.sh("iptables-nft -w -t filter -S")?;
    g.expect_same(&before)?;
    // kube-proxy puts its own jumps back where they are missing, and none was.
    let now = g.sh(handles)?;
    if now == others { Ok(()) } else { Err(format!("other rules were touched:\n{others}\n{now}")) }
}

fn named_and_left(g: &Ground<'_>) -> Verdict {
    gives_up(g, "N4-others")?;
    let listed = "nft -a list table ip filter | sed 's/packets [0-9]* bytes [0-9]*//'";
    let before = g.sh(listed)?;
    g.expect_verdict("KubeletStuck")?;
    let said = g.ctl_json(&["diagnose", NODE, "-o", "json"])?.to_string();
    for word in ["native-nft", "nft filter holds rules that iptables cannot express"] {
        if !said.contains(word) {
            return Err(format!("{word:?} is not said: {said}"));
        }
    }
    let out = g.heal()?;
    if out.ok() {
        return Err("it claims to have healed what it must not touch".to_owned());
    }
    let now = g.sh(listed)?;
    if now == before { Ok(()) } else { Err(format!("it was touched:\n{before}\n{now}")) }
}

fn masked(g: &Ground<'_>) -> Verdict {
    // `systemctl mask` refuses a unit that lives in /etc.
    g.sh(&format!("systemctl stop k3s-agent; mv {UNIT} /run/lab-unit; ln -s /dev/null {UNIT}; systemctl daemon-reload"))?;
    let seen = (|| {
        g.expect_verdict("KubeletStuck")?;
        let said = g.ctl_json(&["diagnose", NODE, "-o", "json"])?.to_string();
        if !said.contains("masked") {
            return Err(format!("it is not said: {said}"));
        }
        if g.heal()?.ok() {
            return Err("it claims to have healed".to_owned());
        }
        let state = g.sh(STATE)?;
        if state.trim() == "inactive" { Ok(()) } else { Err(format!("it is {state}")) }
    })();
    g.sh(&format!(
        "rm -f {UNIT}; mv /run/lab-unit {UNIT}; systemctl daemon-reload; systemctl start k3s-agent"
    ))?;
    is_active(g)?;
    seen
}

fn hanging(g: &Ground<'_>) -> Verdict {
    // Never ready, as a Type=notify unit may be for ever.
    let hang = "[Service]\\nExecStart=\\nExecStart=/bin/sleep 1000\\n";
    with_drop_in(g, hang, || {
        g.sh("systemctl restart --no-block k3s-agent; sleep 1")?;
        let begun = Instant::now();
        let state = g.sh(STATE)?;
        g.verdict()?;
        if begun.elapsed() > Duration::from_secs(10) {
            return Err(format!("diagnose took {} s", begun.elapsed().as_secs()));
        }
        if state.trim() != "activating" {
            return Err(format!("it is {state}"));
        }
        // The lease tells, once it is stale.
        let until = Instant::now() + Duration::from_secs(45);
        while g.verdict()? != "KubeletStuck" {
            if Instant::now() > until {
                return Err("it is never said".to_owned());
            }
            thread::sleep(Duration::from_secs(1));
        }
        let begun = Instant::now();
        let out = g.heal()?;
        if out.ok() || out.timed_out || begun.elapsed() > Duration::from_secs(110) {
            return Err(format!("{:?} after {} s", out.code, begun.elapsed().as_secs()));
        }
        Ok(())
    })
}

fn broken(g: &Ground<'_>) -> Verdict {
    let bad = "[Service]\\nExecStart=\\nExecStart=/usr/local/bin/k3s agent --flanel-iface=eth0\\n";
    with_drop_in(g, bad, || {
        g.sh("systemctl restart --no-block k3s-agent; sleep 27")?;
        g.expect_verdict("KubeletStuck")?;
        let said = g.ctl_json(&["diagnose", NODE, "-o", "json"])?.to_string();
        if !said.contains("flanel-iface") {
            return Err(format!("what it said is not told: {said}"));
        }
        let out = g.heal()?;
        if out.ok() {
            return Err("it claims to have healed".to_owned());
        }
        let told = g.ctl_json(&["history", NODE, "-o", "json"])?;
        let runs = super::ground::find(&told, "runs").and_then(|r| r.as_array());
        if runs.map(Vec::len) != Some(1) {
            return Err(format!("once is enough, and these ran: {runs:?}"));
        }
        Ok(())
    })
}

/// The kubelet's connections to the API server, by their ports; the agent's are not among them.
const PORTS: &str =
    "ss -Htnp dst 203.0.113.10 and dport = :6443 | grep -w k3s | awk '{print $4}' | sed 's/.*://'";

/// Everything between the node and the API server is dropped until the lease is stale; then it is let through, but for the connections that
/// are open: they are dead, with words on the way that nobody answers. A kubelet of the lab's would dial again by itself, so it is made to
/// hang like one that waits for them: it stands still until they are gone.
fn dead_connections(g: &Ground<'_>) -> Verdict {
    let gateway = g.lab.space(crate::topology::GATEWAY).map_err(told)?;
    let rule = |verb: &str, from: &str| {
        let line = format!(
            "iptables-nft -w {verb} FORWARD -s 192.168.2.80 -d 203.0.113.10 -p tcp{from} --dport 6443 -j DROP"
        );
        gateway
            .exec(&line.split(' ').collect::<Vec<_>>())
            .and_then(crate::run::Output::success)
            .map_err(told)
    };
    let by_port = |verb: &str, ports: &[String]| {
        ports.iter().try_for_each(|p| rule(verb, &format!(" --sport {p}")).map(drop))
    };
    let was = g.sh(INVOCATION)?;
    rule("-I", "")?;
    // It speaks every ten seconds, and gives a connection up after twice ten.
    thread::sleep(Duration::from_secs(12));
    g.sh("systemctl kill -s STOP k3s-agent")?;
    let open = g.sh(PORTS)?;
    let ports: Vec<String> = open.split_whitespace().map(str::to_owned).collect();
    let seen = (|| {
        thread::sleep(Duration::from_secs(18));
        let during = g.verdict();
        by_port("-I", &ports)?;
        rule("-D", "")?;
        if during.as_deref() != Ok("Upstream") {
            return Err(format!("while it was dropped on the way: {during:?}"));
        }
        if ports.is_empty() {
            return Err("the kubelet has no connection: the case proves nothing".to_owned());
        }
        // Nobody but the agent can close what a process that stands still has open.
        let held = ports.join("|");
        g.sh(&format!(
            "rm -f /run/lab-closed; systemd-run -q --collect --unit=lab-wake sh -c \"while ss -Htn dst 203.0.113.10 and dport = :6443 | grep -qE ':({held}) '; \
             do sleep 0.1; done; touch /run/lab-closed; systemctl kill -s CONT k3s-agent\""
        ))?;
        within(Duration::from_secs(15), || g.expect_verdict("KubeletStuck"))?;
        if g.sh("test -e /run/lab-closed").is_ok() {
            return Err("its connections went by themselves: the case proves nothing".to_owned());
        }
        g.heal_well()?;
        let (closed, restarted) =
            (g.sh("test -e /run/lab-closed").is_ok(), g.sh(INVOCATION)? != was);
        if !closed && !restarted {
            return Err("neither was a dead connection closed nor the unit restarted".to_owned());
        }
        let deeds =
            g.sh("ls -t /var/lib/lifeline/journal/*.jsonl | head -1 | xargs cat | tr -d '\\000'")?;
        if !deeds.contains("flows-gone") && !deeds.contains("restarted") {
            return Err(format!("what was done is not in the journal: {deeds}"));
        }
        Ok(())
    })();
    rule("-D", "").ok();
    by_port("-D", &ports).ok();
    g.sh("systemctl kill -s CONT k3s-agent; systemctl stop lab-wake 2>/dev/null; rm -f /run/lab-closed")?;
    seen?;
    is_active(g)?;
    g.settled(Duration::from_secs(30))
}

/// Its connections are alive and it does nothing with them: closing what is dead is not enough, and nobody is asked a second time.
fn stands_still(g: &Ground<'_>) -> Verdict {
    let (before, was) = (g.snapshot()?, g.sh(INVOCATION)?);
    g.sh("systemctl kill -s STOP k3s-agent")?;
    let seen = (|| {
        within(Duration::from_secs(60), || g.expect_verdict("KubeletStuck"))?;
        if g.sh(PORTS)?.trim().is_empty() {
            return Err("the kubelet has no connection: the case proves nothing".to_owned());
        }
        g.heal_well()?;
        if g.sh(INVOCATION)? == was {
            return Err("it was not started anew".to_owned());
        }
        Ok(())
    })();
    g.sh("systemctl kill -s CONT k3s-agent")?;
    seen?;
    is_active(g)?;
    g.settled(Duration::from_secs(30))?;
    g.expect_same(&before)
}

fn tcp_only(g: &Ground<'_>) -> Verdict {
    // The balancer's port accepts, as it always does; behind it nothing answers TLS.
    let gateway = g.lab.space(crate::topology::GATEWAY).map_err(told)?;
    let before = g.snapshot()?;
    let rule = |verb: &str| {
        // Data packets to the API server are lost, handshakes of TCP pass.
        let line = format!(
            "iptables-nft -w {verb} FORWARD -s 192.168.2.80 -d 203.0.113.10 -p tcp --dport 6443 -m length --length 90:65535 -j DROP"
        );
        gateway
            .exec(&line.split(' ').collect::<Vec<_>>())
            .and_then(crate::run::Output::success)
            .map_err(told)
    };
    rule("-I")?;
    let seen = (|| {
        g.sh("timeout 3 sh -c 'exec 3<>/dev/tcp/203.0.113.10/6443' 2>/dev/null || timeout 3 bash -c 'exec 3<>/dev/tcp/203.0.113.10/6443'")
            .map_err(|why| format!("TCP does not connect: {why}"))?;
        g.expect_verdict("Upstream")?;
        g.heal()?;
        g.expect_same(&before)
    })();
    rule("-D")?;
    g.settled(Duration::from_secs(60))?;
    seen
}
