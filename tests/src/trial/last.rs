//! The last two rungs: a reset is undone unless it is confirmed, whoever is dead by then; a reboot is a reboot, and the
//! incident goes on after it.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::ground::{NODE, plain_config, told};
use super::{Case, Ground, Verdict};

pub const CASES: &[Case] = &[
    Case {
        name: "N3_a_reset_that_nobody_confirms_is_undone_without_a_trace",
        run: |g| unconfirmed(g, Fate::Lives),
    },
    Case {
        name: "N3_a_reset_whose_agent_is_killed_is_undone_by_the_next_one",
        run: |g| unconfirmed(g, Fate::Killed),
    },
    Case {
        name: "N3_a_reset_whose_agent_stays_dead_is_undone_by_the_timer_outside",
        run: |g| unconfirmed(g, Fate::StaysDead),
    },
    Case {
        name: "N3_a_reset_whose_agent_hangs_is_undone_all_the_same",
        run: |g| unconfirmed(g, Fate::Hangs),
    },
    Case { name: "N3_a_reset_that_is_confirmed_heals_and_stays", run: confirmed },
    Case { name: "N3_the_journal_finds_a_heal_by_message_id_and_fields", run: journal },
    Case { name: "a_reset_is_never_taken_where_the_node_is_well", run: well },
    Case { name: "N3_what_only_a_reboot_heals_is_healed_by_a_reboot", run: by_reboot },
    Case { name: "reboots_have_a_budget_for_operators_too", run: budget },
];

/// What becomes of the agent between the act and the confirmation that does not come.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Lives,
    Killed,
    StaysDead,
    Hangs,
}

/// How long a reset waits here: the least that the agent's configuration takes.
const CONFIRM: Duration = Duration::from_secs(10);
/// The timer outside comes this much later.
const MARGIN: Duration = Duration::from_secs(15);
/// Rules and policies of all backends, without what counts.
const RULES: &str = "for t in iptables-nft-save ip6tables-nft-save; do echo == $t; $t | grep -v '^#' | sed 's/ \\[[0-9:]*\\]//' | sort -s -k1,1; done; nft list tables | sort";

fn configure(g: &Ground<'_>, confirm: bool) -> Verdict {
    let drop = "sed -i '/^confirm-ms/d; /^reboots-a-day/d' /etc/lifeline/agent.toml; ";
    let add = "sed -i 's/^.policy.$/[policy]\\nconfirm-ms = 10000\\nreboots-a-day = 2/' /etc/lifeline/agent.toml; ";
    let script =
        format!("{drop}{}systemctl restart lifeline-agent", if confirm { add } else { "" });
    g.sh(&script)?;
    g.settled(Duration::from_secs(30))
}

fn begin(g: &Ground<'_>, args: &[&str]) -> std::result::Result<Child, String> {
    let mut command = g.lab.ctl_command("laptop", args).map_err(told)?;
    command.env("LIFELINE_CONFIG", plain_config()).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(told)
}

fn reset(g: &Ground<'_>) -> std::result::Result<Child, String> {
    begin(g, &["heal", NODE, "--rung", "reset", "--yes", "--stability", "1s"])
}

fn wait_until(
    what: &str,
    limit: Duration,
    mut so: impl FnMut() -> std::result::Result<bool, String>,
) -> Verdict {
    let until = Instant::now() + limit;
    while !so()? {
        if Instant::now() > until {
            return Err(format!("after {} s it is not so: {what}", limit.as_secs()));
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The reject has gone with the flush, and k3s-agent has been started anew.
fn flushed(g: &Ground<'_>, invocation: &str) -> std::result::Result<bool, String> {
    let left = g.sh("iptables-nft-save -t filter | grep -c 'comment audit' || true")?;
    Ok(left.trim() == "0" && invocation_of(g)? != invocation)
}

fn invocation_of(g: &Ground<'_>) -> std::result::Result<String, String> {
    g.sh("systemctl show -P InvocationID k3s-agent")
}

fn newest_journal(g: &Ground<'_>) -> std::result::Result<String, String> {
    g.sh("f=$(ls -t /var/lib/lifeline/journal/*-reset.jsonl | head -1); tr -d '\\000' < $f")
}

fn unconfirmed(g: &Ground<'_>, fate: Fate) -> Verdict {
    configure(g, true)?;
    // A policy that drops, so that a flush that forgot it would cut the node off: its own traffic is let through.
    let closed = "ip6tables-nft -w -A FORWARD -s 2001:db8:dead::/48 -j ACCEPT; ip6tables-nft -w -P FORWARD DROP";
    g.sh(closed)?;
    let done = unconfirmed_within(g, fate);
    g.sh("systemctl start lifeline-agent; ip6tables-nft -w -P FORWARD ACCEPT; ip6tables-nft -w -D FORWARD -s 2001:db8:dead::/48 -j ACCEPT || true")?;
    g.leave();
    configure(g, false).and(done)
}

fn unconfirmed_within(g: &Ground<'_>, fate: Fate) -> Verdict {
    g.make("N3")?;
    let (before, rules) = (g.snapshot()?, g.sh(RULES)?);
    let (invocation, begun) = (invocation_of(g)?, Instant::now());
    let mut heal = reset(g)?;
    wait_until("the reset is done", Duration::from_secs(20), || flushed(g, &invocation))?;
    let timer = g.sh("systemctl is-active lifeline-undo.timer || true")?;
    if timer.trim() != "active" {
        return Err(format!("the timer outside is {}", timer.trim()));
    }
    let open = g.sh("ip6tables-nft -S FORWARD | head -1")?;
    if open.trim() != "-P FORWARD ACCEPT" {
        return Err(format!("the policies were to be opened first: {open}"));
    }
    match fate {
        Fate::Lives => {}
        Fate::Killed => drop(g.sh("systemctl kill -s KILL lifeline-agent")?),
        Fate::StaysDead => drop(g.sh("systemctl stop lifeline-agent")?),
        Fate::Hangs => drop(g.sh("systemctl kill -s STOP --kill-whom=main lifeline-agent")?),
    }
    // What a hanging agent costs on top: it has to be silent for 20 s before it is killed.
    let limit = CONFIRM + MARGIN + Duration::from_secs(45);
    wait_until("the rules are back", limit, || Ok(g.sh(RULES)? == rules))
        .map_err(|why| format!("{why}\n{}", g.sh(RULES).unwrap_or_default()))?;
    let took = begun.elapsed();
    wait_until("the run has ended", Duration::from_secs(20), || {
        Ok(newest_journal(g)?.contains("\"ending\":\"rolled-back\""))
    })?;
    if took < CONFIRM {
        return Err(format!("undone after {took:?}, before the time to confirm was over"));
    }
    if fate == Fate::StaysDead {
        let dead = g.sh("systemctl is-active lifeline-agent || true")?;
        if dead.trim() != "inactive" {
            return Err(format!(
                "the agent was to stay dead and is {}: this proves nothing",
                dead.trim()
            ));
        }
        if took < CONFIRM + MARGIN {
            return Err(format!("undone after {took:?}, before the timer can have fired"));
        }
    }
    if matches!(fate, Fate::StaysDead | Fate::Hangs) {
        g.sh("systemctl start lifeline-agent")?;
    }
    match fate {
        Fate::Lives => {
            let out = heal.wait_with_output().map_err(told)?;
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            if out.status.code() != Some(3) || !said.contains("unless confirmed: ctl confirm") {
                return Err(format!("ctl heal ended with {:?}: {said}", out.status.code()));
            }
        }
        Fate::Killed | Fate::StaysDead | Fate::Hangs => {
            heal.kill().ok();
            heal.wait().ok();
        }
    }
    wait_until("no timer is left", Duration::from_secs(20), || {
        let units = g.sh("systemctl list-units --all --plain --no-legend 'lifeline-undo*'")?;
        Ok(units.trim().is_empty())
    })?;
    wait_until("no incident is open", Duration::from_secs(40), || {
        let status = g.ctl_json(&["status", NODE, "-o", "json"]);
        let open = |v: &serde_json::Value| {
            super::ground::find(v, "incident")
                .is_some_and(|i| i.as_str().is_some_and(|s| !s.is_empty()))
        };
        Ok(status.is_ok_and(|v| !open(&v)))
    })?;
    g.expect_same(&before)
}

fn confirmed(g: &Ground<'_>) -> Verdict {
    configure(g, true)?;
    g.make("N3")?;
    let invocation = invocation_of(g)?;
    let heal = reset(g)?;
    wait_until("the reset is done", Duration::from_secs(20), || flushed(g, &invocation))?;
    let run = g.sh("basename $(ls -t /var/lib/lifeline/journal/*-reset.jsonl | head -1) .jsonl")?;
    let said = g.ctl(&["confirm", NODE, run.trim()])?;
    if !said.ok() {
        return Err(format!("ctl confirm: {}{}", said.stdout, said.stderr));
    }
    let out = heal.wait_with_output().map_err(told)?;
    if !out.status.success() {
        return Err(format!("ctl heal: {}", String::from_utf8_lossy(&out.stderr)));
    }
    // Longer than the timer outside would have taken.
    thread::sleep(CONFIRM + MARGIN);
    if !flushed(g, &invocation)? {
        return Err("it was confirmed, and was undone all the same".to_owned());
    }
    g.expect_verdict("Healthy")?;
    let late = g.ctl(&["confirm", NODE, run.trim()])?;
    if late.ok() {
        return Err("a run that has ended was confirmed".to_owned());
    }
    configure(g, false)
}

/// `journalctl` finds what was told, by fields alone, and the words are whole.
fn journal(g: &Ground<'_>) -> Verdict {
    g.make("R1")?;
    g.heal_well()?;
    let incident =
        g.sh("basename $(ls -t /var/lib/lifeline/journal/*.incident | head -1) .incident")?;
    let incident = incident.trim();
    for (id, field, words) in [
        (
            "6816fe8added46439b75582cc6e4991a",
            format!("LIFELINE_INCIDENT={incident}"),
            "opened by operator alice",
        ),
        (
            "99111c7f2666404dad7e3274e09cbe54",
            "LIFELINE_RUNG=quiet".to_owned(),
            "opened: rung quiet",
        ),
        ("178db39df3e14c00a24c5182afe4369d", format!("LIFELINE_INCIDENT={incident}"), "ended:"),
        ("7e079527033b43b9a930ef63c339c2b6", "LIFELINE_ENDING=recovered".to_owned(), "recovered"),
        ("ce269a532d794263b072cc11335fc58d", format!("LIFELINE_NODE={NODE}"), "Healthy: "),
        (
            "09411e08647c49de822070c8b1b52955",
            format!("LIFELINE_NODE={NODE}"),
            "the guard stands, against ",
        ),
    ] {
        let found = g.sh(&format!("journalctl -b --no-pager -o cat MESSAGE_ID={id} {field}"))?;
        if !found.contains(words) {
            return Err(format!("{words:?} is not found by MESSAGE_ID={id} {field}: {found:?}"));
        }
    }
    Ok(())
}

fn well(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    let invocation = invocation_of(g)?;
    let out = g.ctl(&["heal", NODE, "--rung", "reset", "--yes", "--stability", "1s"])?;
    if !out.ok() || invocation_of(g)? != invocation {
        return Err(format!("code {:?}: {}{}", out.code, out.stdout, out.stderr));
    }
    g.expect_same(&before)
}

fn boot_of(g: &Ground<'_>) -> std::result::Result<String, String> {
    g.sh("cat /proc/sys/kernel/random/boot_id")
}

fn by_reboot(g: &Ground<'_>) -> Verdict {
    configure(g, true)?;
    g.sh("rm -rf /var/lib/lifeline/budget")?;
    g.make("N3")?;
    let boot = boot_of(g)?;
    let out = g.ctl(&["heal", NODE, "--rung", "reboot", "--yes", "--stability", "3s"])?;
    if !out.ok() {
        return Err(format!("ctl heal ended with {:?}\n{}{}", out.code, out.stdout, out.stderr));
    }
    if boot_of(g)? == boot {
        return Err("it is the same boot".to_owned());
    }
    g.expect_verdict("Healthy")?;
    let told =
        g.sh("f=$(ls -t /var/lib/lifeline/journal/*.incident | head -1); tr -d '\\000' < $f")?;
    for word in ["after a reboot", "\"ending\":\"recovered\""] {
        if !told.contains(word) {
            return Err(format!("{word:?} is missing in {told}"));
        }
    }
    Ok(())
}

fn budget(g: &Ground<'_>) -> Verdict {
    configure(g, true)?;
    let now = g.sh("date +%s%3N")?;
    let now: u64 = now.trim().parse().map_err(told)?;
    let spent = format!("{{\"at\":[{},{}]}}", now - 3_600_000, now - 60_000);
    g.sh(&format!(
        "mkdir -p /var/lib/lifeline/budget; echo '{spent}' > /var/lib/lifeline/budget/reboots.json"
    ))?;
    let boot = boot_of(g)?;
    let out = g.ctl(&["reboot", NODE, "--yes", "--stability", "1s"])?;
    let said = format!("{}{}", out.stdout, out.stderr);
    g.sh("rm -rf /var/lib/lifeline/budget")?;
    if out.code != Some(3)
        || !said.contains("2 times within 24 hours")
        || !said.contains("22 h") && !said.contains("23 h")
    {
        return Err(format!("code {:?}: {said}", out.code));
    }
    if boot_of(g)? != boot {
        return Err("it was rebooted".to_owned());
    }
    configure(g, false)
}
