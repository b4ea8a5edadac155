//! Bad input and bad days: a clear error, nothing half-done, nothing waits for ever.

use std::time::{Duration, Instant};

use super::ground::{NODE, find, told};
use super::{Case, Ground, Verdict};

pub const CASES: &[Case] = &[
    Case { name: "an_unknown_node_is_named_with_the_nodes_there_are", run: unknown_node },
    Case { name: "an_unreachable_agent_names_every_path_that_was_tried", run: unreachable },
    Case { name: "a_certificate_of_another_authority_is_refused_and_said", run: wrong_ca },
    Case { name: "an_expired_certificate_is_said_before_anything_is_dialled", run: expired },
    Case { name: "an_agents_certificate_cannot_act_as_an_operator", run: server_only },
    Case { name: "a_viewer_may_look_and_may_not_act", run: viewer },
    Case { name: "heal_without_a_terminal_and_without_yes_is_refused", run: no_terminal },
    Case { name: "a_truncated_firewall_dump_is_never_read_as_empty", run: truncated },
    Case { name: "a_missing_iptables_is_a_gap_and_is_named", run: missing_binary },
    Case { name: "a_hanging_iptables_is_bounded_and_is_named", run: hanging_binary },
    Case { name: "without_dbus_the_agent_still_diagnoses_and_heals_routing", run: no_dbus },
    Case { name: "an_unknown_key_in_the_configuration_is_named_with_its_line", run: unknown_key },
    Case {
        name: "a_journal_torn_at_its_tail_is_read_up_to_there",
        run: |g| journal(g, Damage::Torn),
    },
    Case {
        name: "a_journal_damaged_in_its_middle_is_said_and_left",
        run: |g| journal(g, Damage::Middle),
    },
    Case {
        name: "a_journal_of_a_newer_version_is_said_and_left",
        run: |g| journal(g, Damage::Newer),
    },
];

/// The command must fail, within `seconds`, and say all of `words`.
fn fails_saying(g: &Ground<'_>, args: &[&str], seconds: u64, words: &[&str]) -> Verdict {
    let begun = Instant::now();
    let out = g.ctl(args)?;
    let took = begun.elapsed();
    let said = format!("{}{}", out.stdout, out.stderr);
    if out.ok() || out.timed_out {
        return Err(format!("ctl {} did not fail: {said}", args.join(" ")));
    }
    if took > Duration::from_secs(seconds) {
        return Err(format!("it took {} s: {said}", took.as_secs()));
    }
    match words.iter().find(|w| !said.to_lowercase().contains(&w.to_lowercase())) {
        None => Ok(()),
        Some(word) => Err(format!("{word:?} is missing in: {said}")),
    }
}

fn unknown_node(g: &Ground<'_>) -> Verdict {
    fails_saying(g, &["heal", "calipso", "--yes"], 3, &["calipso", "calypso", "hint"])
}

fn unreachable(g: &Ground<'_>) -> Verdict {
    g.sh("systemctl stop lifeline-agent")?;
    let seen = fails_saying(g, &["heal", NODE, "--yes"], 15, &["192.168.2.80:7443", "hint"]);
    g.sh("systemctl start lifeline-agent")?;
    seen
}

/// A second authority and what it issued, made by the product's own command, used by a configuration of its own.
fn with_identity(
    g: &Ground<'_>,
    make: &str,
    cert: &str,
    ca: Option<&str>,
    args: &[&str],
) -> std::result::Result<crate::run::Output, String> {
    let operator = crate::agent::operator_dir();
    let dir = operator.join("trial");
    std::fs::remove_dir_all(&dir).ok();
    std::fs::create_dir_all(&dir).map_err(told)?;
    let ctl = crate::disk::Layer::common().path("/usr/local/bin/ctl");
    let script = make
        .replace("CTL", &ctl.display().to_string())
        .replace("PKI", &operator.join("../pki").display().to_string())
        .replace("DIR", &dir.display().to_string());
    let made = crate::run::host("sh", &["-ec", &script])
        .and_then(crate::run::Output::success)
        .map_err(told)?;
    drop(made);
    let text = std::fs::read_to_string(operator.join("ctl.toml")).map_err(told)?;
    let path = |name: &str| dir.join(name).display().to_string();
    let mine = operator.display().to_string();
    let ca = ca.map_or_else(|| format!("{mine}/ca.crt"), path);
    let text = text
        .replace(&format!("{mine}/ca.crt"), &ca)
        .replace(&format!("{mine}/operator.crt"), &path(&format!("{cert}.crt")))
        .replace(&format!("{mine}/operator.key"), &path(&format!("{cert}.key")));
    let config = dir.join("ctl.toml");
    std::fs::write(&config, text).map_err(told)?;
    let mut command = g.lab.ctl_command("laptop", args).map_err(told)?;
    crate::run::run(command.env("LIFELINE_CONFIG", &config), Duration::from_secs(60), None)
        .map_err(told)
}

fn refused(out: &crate::run::Output, words: &[&str]) -> Verdict {
    let said = format!("{}{}", out.stdout, out.stderr).to_lowercase();
    if out.ok() {
        return Err(format!("it was let in: {said}"));
    }
    match words.iter().find(|w| !said.contains(**w)) {
        None => Ok(()),
        Some(word) => Err(format!("{word:?} is missing in: {said}")),
    }
}

fn wrong_ca(g: &Ground<'_>) -> Verdict {
    let make = "CTL pki init --cluster lab --dir DIR/other; CTL pki operator mallory --role operator --dir DIR/other --out DIR";
    // The operator trusts the right authority, but carries another's certificate: the agent refuses.
    let out = with_identity(g, make, "operator", None, &["heal", NODE, "--yes"])?;
    refused(&out, &["certificate"])?;
    // The operator trusts another authority: the agent is not who it should be.
    let out = with_identity(g, make, "operator", Some("ca.crt"), &["heal", NODE, "--yes"])?;
    refused(&out, &["ca"])
}

fn expired(g: &Ground<'_>) -> Verdict {
    let make = "CTL pki operator late --role operator --days 0 --dir PKI --out DIR";
    let out = with_identity(g, make, "operator", None, &["heal", NODE, "--yes"])?;
    refused(&out, &["expired"])
}

fn server_only(g: &Ground<'_>) -> Verdict {
    let make = "CTL pki agent calypso --address 192.168.2.80 --dir PKI --out DIR";
    let out = with_identity(g, make, "agent", None, &["heal", NODE, "--yes"])?;
    refused(&out, &["certificate"])
}

fn viewer(g: &Ground<'_>) -> Verdict {
    let make = "CTL pki operator vera --role viewer --dir PKI --out DIR";
    let look = with_identity(g, make, "operator", None, &["diagnose", NODE, "-o", "json"])?;
    let seen: serde_json::Value = serde_json::from_str(&look.stdout)
        .map_err(|e| format!("{e}: {}{}", look.stdout, look.stderr))?;
    if find(&seen, "verdict").is_none() {
        return Err(format!("a viewer sees no verdict: {seen}"));
    }
    g.make("R3")?;
    let act = with_identity(g, make, "operator", None, &["heal", NODE, "--yes"])?;
    refused(&act, &["viewer"])
}

fn no_terminal(g: &Ground<'_>) -> Verdict {
    g.make("R3")?;
    let before = g.snapshot()?;
    let out = g.ctl(&["heal", NODE])?;
    if out.code != Some(2) {
        return Err(format!("exit code {:?}: {}{}", out.code, out.stdout, out.stderr));
    }
    g.expect_same(&before)
}

fn truncated(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    g.make("R1-nft")?;
    let cut = g.node()?.sh("iptables-nft-save 2>&1").map_err(told)?;
    if !format!("{}{}", cut.stdout, cut.stderr).contains("incompatible") && cut.ok() {
        return Err(
            "iptables-nft-save reads this firewall whole: the case proves nothing".to_owned()
        );
    }
    g.heal_well()?;
    g.expect_same(&before)
}

pub(super) fn hidden<T>(
    g: &Ground<'_>,
    hide: &str,
    show: &str,
    case: impl FnOnce() -> std::result::Result<T, String>,
) -> std::result::Result<T, String> {
    g.sh(hide)?;
    let seen = case();
    g.sh(show)?;
    seen
}

pub(super) fn gap_names(g: &Ground<'_>, word: &str) -> Verdict {
    let begun = Instant::now();
    let seen = g.ctl_json(&["diagnose", NODE, "-o", "json"])?;
    if begun.elapsed() > Duration::from_secs(10) {
        return Err(format!("diagnose took {} s", begun.elapsed().as_secs()));
    }
    let text = seen.to_string();
    if text.contains(word) { Ok(()) } else { Err(format!("{word:?} is not named in {seen:#}")) }
}

/// What reads nf_tables; with one of them gone the other still reads it whole.
const READERS: [&str; 2] = ["/usr/sbin/xtables-nft-multi", "/usr/sbin/nft"];

/// The firewall changes, so that what was read before does not serve; then its readers are taken away or made to hang.
fn without_readers(g: &Ground<'_>, instead: Option<&str>) -> Verdict {
    let hide: String = READERS.iter().map(|r| format!("mv {r} {r}.hidden; ")).collect();
    let show: String = READERS.iter().map(|r| format!("mv -f {r}.hidden {r}; ")).collect();
    let put: String = instead.map_or_else(String::new, |script| {
        let one = |r: &&str| format!("printf '{script}' > {r}; chmod 755 {r}; ");
        READERS.iter().map(one).collect()
    });
    let change = "nft add table ip trial; nft delete table ip trial; ";
    hidden(g, &format!("{change}{hide}{put}"), &format!("{show}pkill -x sleep || true"), || {
        gap_names(g, "nft")?;
        let said = g.ctl_json(&["diagnose", NODE, "-o", "json"])?.to_string();
        if said.contains("tailscale-remnant") {
            Ok(())
        } else {
            Err(format!("the fault that needs it is not held: {said}"))
        }
    })
}

fn missing_binary(g: &Ground<'_>) -> Verdict {
    without_readers(g, None)
}

fn hanging_binary(g: &Ground<'_>) -> Verdict {
    without_readers(g, Some("#!/bin/sh\\nexec sleep 1000\\n"))
}

fn no_dbus(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    hidden(
        g,
        "mv /run/dbus/system_bus_socket /run/dbus/hidden",
        "mv /run/dbus/hidden /run/dbus/system_bus_socket",
        || {
            gap_names(g, "bus")?;
            g.make("R11")?;
            g.heal_well()
        },
    )?;
    g.expect_same(&before)
}

fn unknown_key(g: &Ground<'_>) -> Verdict {
    let out = g
        .node()?
        .sh("sed 's/^.policy.$/[policy]\\nmoode = \"guard\"/' /etc/lifeline/agent.toml > /tmp/bad.toml; lifeline-agent --config /tmp/bad.toml check-config")
        .map_err(told)?;
    let said = format!("{}{}", out.stdout, out.stderr);
    let line = g.sh("grep -n moode /tmp/bad.toml | cut -d: -f1")?;
    if !out.ok() && said.contains("moode") && said.contains(line.trim()) {
        Ok(())
    } else {
        Err(format!("code {:?}, line {}: {said}", out.code, line.trim()))
    }
}

#[derive(Clone, Copy)]
enum Damage {
    Torn,
    Middle,
    Newer,
}

fn journal(g: &Ground<'_>, damage: Damage) -> Verdict {
    // A run to damage: remnants, healed.
    g.make("R3")?;
    g.heal_well()?;
    let newest = "$(ls -t /var/lib/lifeline/journal/*.jsonl | head -1)";
    let (hurt, word) = match damage {
        Damage::Torn => {
            (format!("f={newest}; tr -d '\\000' < $f > /tmp/j; head -c -7 /tmp/j > $f"), "")
        }
        Damage::Middle => (format!("f={newest}; sed -i '2s/step/stop/' $f"), "line 2"),
        Damage::Newer => (
            format!(
                "f={newest}; tr -d '\\000' < $f | head -1 > /tmp/j; j='{{\"seq\":1,\"stamp\":{{\"boot\":\"b\",\"ms\":1,\"wall_ms\":1}},\"event\":{{\"event\":\"teleported\"}}}}'; \
                 printf '%08x %s\\n' 0x$(printf '%s' \"$j\" | gzip -c | tail -c8 | head -c4 | od -An -tx4 | tr -d ' ') \"$j\" >> /tmp/j; cp /tmp/j $f"
            ),
            "newer",
        ),
    };
    g.sh("systemctl stop lifeline-agent")?;
    g.sh(&hurt)?;
    let content = g.sh(&format!("sha256sum {newest}"))?;
    g.sh("systemctl start lifeline-agent")?;
    g.settled(Duration::from_secs(20))?;
    let said = g.sh("journalctl -u lifeline-agent -b --no-pager -o cat | tail -60")?;
    let history = g.ctl(&["history", NODE])?;
    if !format!("{said}{}", history.stdout).to_lowercase().contains(word) {
        return Err(format!("{word:?} is not said: {said}"));
    }
    if !matches!(damage, Damage::Torn) && content != g.sh(&format!("sha256sum {newest}"))? {
        return Err("a damaged journal was written to".to_owned());
    }
    g.sh(&format!("rm -f {newest}"))?;
    // The agent still heals.
    let before = g.snapshot()?;
    g.make("R11")?;
    g.heal_well()?;
    g.expect_same(&before)
}
