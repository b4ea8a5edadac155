//! The lab itself, on the real thing: it comes up, it goes away without a trace, whatever cuts it off.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says why it skips"
)]

use std::fs;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// One after the other: six labs that boot at the same time, beside those of live cases, do not boot within their limit.
static TURN: Mutex<()> = Mutex::new(());

/// A lab of the test's own, taken down at the end of the test, however that ends.
struct Own(&'static str, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Own {
    /// None, with a printed reason, where labs cannot be made; where CI is, that is a failure.
    fn new(name: &'static str) -> Option<Self> {
        if rustix::process::geteuid().is_root() {
            // Once, not in each `up`: nested builds would wait for each other.
            static BUILT: Once = Once::new();
            BUILT.call_once(|| {
                let build = ["build", "--quiet", "--workspace", "--locked"];
                assert!(lifeline_lab::cargo::command().args(build).status().unwrap().success());
            });
            return Some(Self(name, TURN.lock().unwrap_or_else(PoisonError::into_inner)));
        }
        assert!(std::env::var_os("CI").is_none(), "CI runs these tests as root");
        println!("skipped: a lab needs root");
        None
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.args(args).env("LIFELINE_LAB", self.0).stdin(Stdio::null());
        command
    }

    fn lab(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn done(&self, args: &[&str]) -> String {
        let out = self.lab(args);
        assert!(out.status.success(), "lab {args:?}: {}", said(&out));
        String::from_utf8(out.stdout).unwrap()
    }

    fn traces(&self) -> Vec<String> {
        lifeline_lab::traces::of(self.0).unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.lab(&["down"]);
    }
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// The host's own network, which no lab may touch.
fn host_network() -> String {
    let look = "ip -o link | sed 's/qlen.*//'; ip addr | grep inet; ip rule; ip -6 rule; ip route show table all; \
                cat /proc/sys/net/ipv4/ip_forward";
    let out = Command::new("sh").args(["-c", look]).output().unwrap();
    // IPv6 lifetimes run down by themselves.
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().map(|l| l.split(" expires").next().unwrap_or(l)).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_lab_comes_up_whole_and_goes_down_without_a_trace() {
    let Some(own) = Own::new("whole") else { return };
    let before = host_network();
    own.done(&["up", "--yes", "--no-build"]);
    let status: serde_json::Value =
        serde_json::from_str(&own.done(&["status", "-o", "json"])).unwrap();
    assert_eq!(status["up"], true, "{status}");
    for node in status["nodes"].as_array().unwrap() {
        assert_eq!(node["system"], "running", "{status}");
    }
    assert_eq!(own.done(&["shell", "calypso", "--", "hostname"]), "calypso\n");
    // From pod to pod over the tunnel, from the laptop to a hostPort, from a node to a service.
    for (from, url, answers) in [
        ("calypso", "10.42.2.2:8080", &["styx\n"][..]),
        ("styx", "10.42.0.2:8080", &["tethys\n"]),
        ("laptop", "192.168.2.80:8088", &["calypso\n"]),
        ("lan", "203.0.113.20:8088", &["styx\n"]),
        ("calypso", "10.43.123.113:8080", &["calypso\n", "styx\n"]),
    ] {
        let answer = own.done(&["shell", from, "--", "curl", "-sSm5", url]);
        assert!(answers.contains(&answer.as_str()), "{from} -> {url}: {answer:?}");
    }
    assert_eq!(host_network(), before);
    own.done(&["down"]);
    assert_eq!(own.traces(), Vec::<String>::new());
    assert_eq!(host_network(), before);
}

#[test]
fn a_lab_that_is_killed_while_it_rises_is_taken_away_whole() {
    let Some(own) = Own::new("killed") else { return };
    // Once to the end, so that parts and root are there and the kills below fall into the raising itself.
    own.done(&["up", "--yes", "--no-build"]);
    own.done(&["down"]);
    for after in [5, 15, 30, 45, 60, 80, 100, 150, 250, 400, 700] {
        let mut up =
            own.command(&["up", "--yes", "--no-build"]).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(after));
        up.kill().unwrap();
        up.wait().unwrap();
        own.done(&["down"]);
        assert_eq!(own.traces(), Vec::<String>::new(), "killed after {after} ms");
    }
}

#[test]
fn what_a_killed_lab_left_does_not_stop_the_next_one() {
    let Some(own) = Own::new("next") else { return };
    own.done(&["up", "--yes", "--no-build"]);
    own.done(&["down"]);
    let mut up = own.command(&["up", "--yes", "--no-build"]).stderr(Stdio::null()).spawn().unwrap();
    thread::sleep(Duration::from_millis(200));
    up.kill().unwrap();
    up.wait().unwrap();
    own.done(&["up", "--yes", "--no-build"]);
    assert_eq!(own.done(&["shell", "styx", "--", "systemctl", "is-system-running"]), "running\n");
    // Now the nodes die under a lab that is up: `up` must not call that a lab.
    let status: serde_json::Value =
        serde_json::from_str(&own.done(&["status", "-o", "json"])).unwrap();
    let leader = status["nodes"][1]["leader"].as_i64().unwrap();
    assert!(Command::new("kill").args(["-9", &leader.to_string()]).status().unwrap().success());
    let gone = Instant::now();
    while own.lab(&["status"]).status.success() {
        assert!(gone.elapsed() < Duration::from_secs(10), "status still says up");
        thread::sleep(Duration::from_millis(50));
    }
    own.done(&["up", "--yes", "--no-build"]);
    own.done(&["status"]);
}

#[test]
fn a_second_up_is_refused_while_the_first_works_and_says_so_after() {
    let Some(own) = Own::new("second") else { return };
    let mut first =
        own.command(&["up", "--yes", "--no-build"]).stderr(Stdio::null()).spawn().unwrap();
    let lock = "/run/lifeline.second-lab.lock";
    let begun = Instant::now();
    while !fs::read_to_string(lock).is_ok_and(|t| t.contains("pid")) {
        assert!(begun.elapsed() < Duration::from_secs(120), "the first never took the lock");
        thread::sleep(Duration::from_millis(2));
    }
    let second = own.lab(&["up", "--yes", "--no-build"]);
    let refusal = said(&second);
    let holder = format!("cargo lab up (pid {})", first.id());
    assert!(!second.status.success() && refusal.contains(&holder), "{refusal}");
    assert!(first.wait().unwrap().success());
    let again = own.lab(&["up", "--yes", "--no-build"]);
    assert!(again.status.success() && said(&again).contains("already up"), "{}", said(&again));
    let other = own.lab(&["up", "--yes", "--no-build", "--mode", "guard"]);
    assert!(!other.status.success() && said(&other).contains("mode observe"), "{}", said(&other));
}

#[test]
fn a_power_cycle_keeps_the_disk_and_loses_the_kernels_state() {
    let Some(own) = Own::new("power") else { return };
    own.done(&["up", "--yes", "--no-build"]);
    let boot_id = ["shell", "calypso", "--", "cat", "/proc/sys/kernel/random/boot_id"];
    let before = own.done(&boot_id);
    let wound = "ip rule add pref 5270 lookup 52; ip route add default dev lo table 52; echo kept > /var/lib/kept; \
                 iptables-nft -N ts-input; touch /run/lost; sync";
    own.done(&["shell", "calypso", "--", "sh", "-c", wound]);
    own.done(&["power-cycle", "calypso"]);
    assert_ne!(own.done(&boot_id), before);
    let look = "cat /var/lib/kept; ls /run/lost 2>&1; ip rule; ip route show table 52 2>&1; iptables-nft-save";
    let after = own.done(&["shell", "calypso", "--", "sh", "-c", look]);
    assert!(after.starts_with("kept\n"), "{after}");
    assert!(
        after.contains("No such file") && !after.contains("5270") && !after.contains("ts-input"),
        "{after}"
    );
    assert!(after.contains("KUBE-SERVICES"), "the node is furnished again: {after}");
    assert_eq!(own.done(&["shell", "styx", "--", "curl", "-sSm5", "10.42.1.2:8080"]), "calypso\n");
}

#[test]
fn an_unknown_node_is_named_with_those_there_are() {
    let Some(own) = Own::new("unknown") else { return };
    let none = own.lab(&["shell", "calypso", "--", "true"]);
    assert!(!none.status.success() && said(&none).contains("cargo lab up"), "{}", said(&none));
    own.done(&["up", "--yes", "--no-build"]);
    let odd = own.lab(&["shell", "pluto", "--", "true"]);
    assert!(
        !odd.status.success() && said(&odd).contains("tethys, calypso, styx"),
        "{}",
        said(&odd)
    );
    let code = own.lab(&["shell", "calypso", "--", "sh", "-c", "exit 7"]);
    assert_eq!(code.status.code(), Some(7));
}
