//! The unit as systemd reads it, and what must never get into it again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

use std::process::{Command, Output};

const UNIT: &str = include_str!("../../systemd/lifeline-agent.service");

#[test]
fn systemd_has_nothing_to_say_against_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("lifeline-agent.service");
    let ours = env!("CARGO_BIN_EXE_lifeline-agent");
    std::fs::write(&unit, UNIT.replace("/usr/local/bin/lifeline-agent", ours)).unwrap();
    let verified = match Command::new("systemd-analyze").arg("verify").arg(&unit).output() {
        Ok(verified) => verified,
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "run systemd-analyze: {why}");
            eprintln!("skipped: run systemd-analyze: {why}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    let about_us: Vec<&str> = said.lines().filter(|l| l.contains("lifeline")).collect();
    assert!(verified.status.success() && about_us.is_empty(), "{said}");
}

/// Ten times what `systemd-analyze security` says; what is left is explained in the unit.
const EXPOSURE: &str = "--threshold=33";

/// What `systemd-analyze security` says of the unit; `None` on a laptop without it.
fn analyzed(more: &[&str]) -> Option<Output> {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("lifeline-agent.service");
    std::fs::write(&unit, UNIT).unwrap();
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager"]).args(more).arg(&unit);
    match analyze.output() {
        Ok(analyzed) => Some(analyzed),
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "run systemd-analyze: {why}");
            eprintln!("skipped: run systemd-analyze: {why}");
            None
        }
    }
}

#[test]
fn the_unit_is_exposed_no_more_than_it_must_be() {
    let Some(analyzed) = analyzed(&[EXPOSURE]) else { return };
    let said = String::from_utf8_lossy(&analyzed.stdout);
    assert!(analyzed.status.success(), "{said}{}", String::from_utf8_lossy(&analyzed.stderr));
}

#[test]
fn each_exposure_that_is_left_is_explained_in_the_unit() {
    let Some(analyzed) = analyzed(&[]) else { return };
    let (_, explained) = UNIT.split_once("What is missing here on purpose").unwrap();
    let said = String::from_utf8_lossy(&analyzed.stdout);
    let mut left = 0;
    for line in said.lines().filter_map(|l| l.strip_prefix('\u{2717}')) {
        let name = line.split(['=', '/']).next().unwrap_or_default().trim();
        assert!(explained.contains(name), "{name} is not explained: {line}");
        left += 1;
    }
    assert!(left > 0, "nothing was said: {said}");
}

#[test]
fn what_broke_a_sense_or_an_act_stays_out() {
    // Each with what it broke, seen on a live node.
    for (directive, broke) in [
        ("StateDirectory=", "the agent did not start on a read-only disk"),
        ("RestrictSUIDSGID=yes", "openat2 was refused: LocalAPI and quarantine"),
        ("ProtectKernelTunables=yes", "another boot id than the timer outside goes by"),
        ("ProtectControlGroups=yes", "another boot id than the timer outside goes by"),
        ("PrivateTmp=yes", "sockets in /tmp were not found"),
        ("ProtectProc=", "no other process was seen"),
    ] {
        let there = UNIT.lines().any(|l| l.starts_with(directive));
        assert!(!there, "{directive}: {broke}");
    }
    for needed in [
        // Without it ProtectSystem= takes away /etc/resolv.conf and quarantine.
        "ReadWritePaths=/etc /run /var",
        "Type=notify",
        "Restart=always",
        "StartLimitIntervalSec=0",
        "OOMPolicy=continue",
        "WatchdogSec=",
    ] {
        assert!(UNIT.lines().any(|l| l.starts_with(needed)), "{needed} is missing");
    }
}
