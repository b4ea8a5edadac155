//! The unit as systemd reads it, and what must never get into it again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

use std::process::Command;

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

#[test]
fn what_broke_a_sense_or_an_act_stays_out() {
    // Each with what it broke, seen on a live node.
    for (directive, broke) in [
        ("StateDirectory=", "the agent did not start on a read-only disk"),
        ("RestrictSUIDSGID=yes", "openat2 was refused: LocalAPI and quarantine"),
        ("ProtectSystem=strict", "no rename into quarantine"),
        ("ProtectKernelTunables=yes", "no sysctl could be put back"),
        ("PrivateTmp=yes", "sockets in /tmp were not found"),
        ("ProtectProc=", "no other process was seen"),
    ] {
        let there = UNIT.lines().any(|l| l.starts_with(directive));
        assert!(!there, "{directive}: {broke}");
    }
    for needed in [
        "Type=notify",
        "Restart=always",
        "StartLimitIntervalSec=0",
        "OOMPolicy=continue",
        "WatchdogSec=",
    ] {
        assert!(UNIT.lines().any(|l| l.starts_with(needed)), "{needed} is missing");
    }
}
