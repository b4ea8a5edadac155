//! What is not this node's fault, live, with the agent in the mode in which it repairs alone: nothing is touched, nothing is restarted.
//!
//! The lab's kernel may lack netem, so loss is made by the gateway's packet filter, and delay by a tun device it sends packets through.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use super::ground::{NODE, told};
use super::{Case, Ground, Verdict};
use crate::disk::Layer;
use crate::run::Output;
use crate::topology::GATEWAY;

pub const CASES: &[Case] = &[
    Case {
        name: "U1_an_api_server_that_is_down_is_waited_for",
        run: |g| {
            along(
                g,
                &[("-I", "-d 203.0.113.10 -p tcp --dport 6443 -j REJECT --reject-with tcp-reset")],
                45,
                "Upstream",
            )
        },
    },
    Case {
        name: "U2_a_gateway_that_passes_nothing_is_waited_for",
        run: |g| along(g, &[("-I", "-s 192.168.2.80 -j DROP")], 45, "Upstream"),
    },
    Case { name: "U2_a_cable_that_is_pulled_is_waited_for", run: cable },
    Case { name: "U3_a_third_of_all_packets_lost_restarts_nothing", run: loss },
    Case {
        name: "U3_a_line_on_which_every_packet_takes_half_a_second_restarts_nothing",
        run: slow,
    },
    Case { name: "U3_a_line_that_flaps_every_five_seconds_restarts_nothing", run: flapping },
    Case {
        name: "U4_one_port_blocked_on_the_way_is_upstream",
        run: |g| along(g, &[("-I", "-s 192.168.2.80 -p tcp --dport 6443 -j DROP")], 45, "Upstream"),
    },
    Case { name: "U5_an_agent_that_stood_still_for_a_while_finds_nothing_stale", run: stood_still },
];

/// The journals of runs and incidents: nothing was opened while they are the same.
const JOURNALS: &str = "ls /var/lib/lifeline/journal";
const INVOCATION: &str = "systemctl show -p InvocationID --value k3s-agent";

fn gateway(g: &Ground<'_>, line: &str) -> Verdict {
    let space = g.lab.space(GATEWAY).map_err(told)?;
    space
        .exec(&line.split(' ').collect::<Vec<_>>())
        .and_then(Output::success)
        .map(drop)
        .map_err(told)
}

/// The agent repairs alone while the case runs.
fn alone(g: &Ground<'_>, case: impl FnOnce() -> Verdict) -> Verdict {
    in_mode(g, "heal", case)
}

/// The agent may do so much by itself while the case runs.
pub(super) fn in_mode(g: &Ground<'_>, mode: &str, case: impl FnOnce() -> Verdict) -> Verdict {
    let wanted = mode;
    let mode = |m: &str| {
        format!(
            "sed -i 's/^mode = .*/mode = \"{m}\"/' /etc/lifeline/agent.toml && systemctl restart lifeline-agent"
        )
    };
    let was = g.sh("sed -n 's/^mode = \"\\(.*\\)\"/\\1/p' /etc/lifeline/agent.toml")?;
    g.sh(&mode(wanted))?;
    let seen = g.settled(Duration::from_secs(40)).and_then(|()| case());
    g.sh(&mode(was.trim()))?;
    seen
}

/// While it goes on: only these verdicts, which change at most as often as the line, no restart, no incident; afterwards well, and nothing
/// has changed.
fn unmoved(
    g: &Ground<'_>,
    begin: &dyn Fn() -> Verdict,
    during: &dyn Fn() -> Verdict,
    end: &dyn Fn() -> Verdict,
    seconds: u64,
    wanted: &str,
    changes: usize,
) -> Verdict {
    let before = g.snapshot()?;
    let (was, journals) = (g.sh(INVOCATION)?, g.sh(JOURNALS)?);
    let run = || {
        begin()?;
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut said: Vec<String> = Vec::new();
        while Instant::now() < until {
            during()?;
            let out = g
                .node()?
                .exec(&["ctl", "--socket", "/run/lifeline/agent.sock", "status", "-o", "json"])
                .map_err(told)?;
            let value: serde_json::Value = serde_json::from_str(&out.stdout).map_err(told)?;
            let verdict =
                super::ground::find(&value, "verdict").and_then(|v| v.as_str().map(str::to_owned));
            let verdict = verdict.unwrap_or_default();
            if said.last() != Some(&verdict) {
                said.push(verdict);
            }
            thread::sleep(Duration::from_secs(1));
        }
        Ok::<_, String>(said)
    };
    let said = run();
    end()?;
    let said = said?;
    // A look that the trouble begins in may find one call answered and the next one not.
    let strange =
        |v: &&String| !["Healthy", "Upstream", "Unknown"].iter().any(|w| v.eq_ignore_ascii_case(w));
    if let Some(v) = said.iter().find(strange) {
        return Err(format!("{v} was said: {said:?}"));
    }
    if !wanted.is_empty() && !said.iter().any(|v| v.eq_ignore_ascii_case(wanted)) {
        return Err(format!("{wanted} was never said: {said:?}"));
    }
    if said.len() > changes.saturating_add(1) {
        return Err(format!(
            "the line changed {changes} times, and the verdict more often: {said:?}"
        ));
    }
    g.settled(Duration::from_secs(60))?;
    untouched(g, &was, &journals)?;
    g.expect_same(&before)
}

/// k3s-agent runs as it did, and no incident was opened.
fn untouched(g: &Ground<'_>, was: &str, journals: &str) -> Verdict {
    if g.sh(INVOCATION)? != was {
        return Err("k3s-agent was restarted".to_owned());
    }
    let now = g.sh(JOURNALS)?;
    if now != journals {
        return Err(format!("something was opened:\n{journals}\n{now}"));
    }
    Ok(())
}

fn along(g: &Ground<'_>, rules: &[(&str, &str)], seconds: u64, wanted: &str) -> Verdict {
    let put = || {
        rules.iter().try_for_each(|(verb, rule)| {
            gateway(g, &format!("iptables-nft -w {verb} FORWARD {rule}"))
        })
    };
    let take = || {
        rules
            .iter()
            .try_for_each(|(_, rule)| gateway(g, &format!("iptables-nft -w -D FORWARD {rule}")))
    };
    alone(g, || unmoved(g, &put, &|| Ok(()), &take, seconds, wanted, usize::MAX))
}

fn loss(g: &Ground<'_>) -> Verdict {
    let rule = |verb: &str| {
        let rule = "-m statistic --mode random --probability 0.3 -j DROP";
        gateway(g, &format!("iptables-nft -w {verb} FORWARD {rule}"))
    };
    alone(g, || unmoved(g, &|| rule("-I"), &|| Ok(()), &|| rule("-D"), 60, "", 1))
}

/// Everything that the node sends beyond the gateway takes half a second.
fn slow(g: &Ground<'_>) -> Verdict {
    let space = g.lab.space(GATEWAY).map_err(told)?;
    let lab = Layer::common().path("/usr/local/bin/lab").display().to_string();
    let argv = [&lab, "standin", "slow-line", "--tun", "slow0", "--delay-ms", "500"];
    let mut command = space.command(&argv);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut line = command.spawn().map_err(told)?;
    let put = || {
        let lead = "i=0; until ip link show slow0 >/dev/null 2>&1; do i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.1; done; \
            ip link set slow0 up && echo 0 > /proc/sys/net/ipv4/conf/slow0/rp_filter && \
            ip route add default dev slow0 table 7777 && ip rule add pref 100 iif br-lan from 192.168.2.80 lookup 7777";
        space.sh(lead).and_then(Output::success).map(drop).map_err(told)?;
        let took = g.sh(
            "curl -sk -m 8 -o /dev/null -w '%{time_connect}' https://203.0.113.10:6443/readyz",
        )?;
        match took.trim().parse::<f32>() {
            Ok(seconds) if seconds > 0.4 => Ok(()),
            _ => Err(format!("the line is not slow: a connection takes {took} s")),
        }
    };
    let take = || {
        let away = "ip rule del pref 100 iif br-lan from 192.168.2.80 lookup 7777";
        space.sh(away).and_then(Output::success).map(drop).map_err(told)
    };
    let seen = alone(g, || unmoved(g, &put, &|| Ok(()), &take, 60, "", 1));
    line.kill().and_then(|()| line.wait()).map_err(told)?;
    seen
}

/// The port of the gateway's bridge that the node hangs on.
fn port(g: &Ground<'_>, state: &str) -> Verdict {
    let space = g.lab.space(GATEWAY).map_err(told)?;
    let links = space
        .exec(&["ip", "-j", "link", "show", "type", "veth"])
        .and_then(Output::success)
        .map_err(told)?;
    let all: Vec<serde_json::Value> = serde_json::from_str(&links.stdout).map_err(told)?;
    let name = all.iter().filter_map(|l| l["ifname"].as_str()).find(|n| n.contains(NODE));
    let name = name.ok_or_else(|| format!("no port of {NODE}'s in {}", links.stdout))?;
    gateway(g, &format!("ip link set {name} {state}"))
}

fn cable(g: &Ground<'_>) -> Verdict {
    alone(g, || {
        unmoved(g, &|| port(g, "down"), &|| Ok(()), &|| port(g, "up"), 45, "Upstream", usize::MAX)
    })
}

fn flapping(g: &Ground<'_>) -> Verdict {
    // Twelve times in a minute.
    let begun = Instant::now();
    let flap =
        || port(g, if (begun.elapsed().as_secs() / 5).is_multiple_of(2) { "down" } else { "up" });
    alone(g, || unmoved(g, &|| Ok(()), &flap, &|| port(g, "up"), 60, "", 12))
}

/// The node's wall clock is the whole machine's, so nobody sets it here (the age of a lease under a clock that jumps is a unit test's);
/// what can be had is an agent that misses a while, as one does that sleeps.
fn stood_still(g: &Ground<'_>) -> Verdict {
    const STILL: &str =
        "systemctl kill -s STOP lifeline-agent; sleep 20; systemctl kill -s CONT lifeline-agent";
    alone(g, || {
        let (before, was, journals) = (g.snapshot()?, g.sh(INVOCATION)?, g.sh(JOURNALS)?);
        g.sh_patiently(STILL)?;
        // It finds leases and looks of twenty seconds ago, and may act by itself on what it makes of them: it is given the time.
        thread::sleep(Duration::from_secs(20));
        g.settled(Duration::from_secs(60))?;
        untouched(g, &was, &journals)?;
        g.expect_same(&before)
    })
}
