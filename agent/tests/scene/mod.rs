//! A node in a network namespace of its own, made with `ip`.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on must stop")]

use nix::sched::{CloneFlags, unshare};
use std::process::Command;

/// Runs a test in a fresh namespace; without the privilege it is skipped aloud, but in CI it fails.
pub fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no network namespace: {e}");
        eprintln!("SKIPPED: a network namespace takes root ({e})");
        return;
    }
    ip("link set lo up");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test());
}

pub fn output(tool: &str, args: &str) -> (bool, String) {
    let out = Command::new(tool).args(args.split_whitespace()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    (out.status.success(), text + &String::from_utf8_lossy(&out.stderr))
}

pub fn ip(args: &str) -> String {
    let (ok, text) = output("ip", args);
    assert!(ok, "ip {args}: {text}");
    text
}

/// eth0 (an end of a veth pair with carrier) with 192.168.2.80/24 and a default route, cni0, and a tun.
pub fn node() {
    for args in [
        "link add eth0 type veth peer name far0",
        "link set far0 up",
        "link set eth0 up",
        "addr add 192.168.2.80/24 dev eth0",
        "-6 addr add fd00:2::80/64 dev eth0 nodad",
        "route add default via 192.168.2.1",
        "link add cni0 type bridge",
        "addr add 10.42.1.1/24 dev cni0",
        "link set cni0 up",
        "tuntap add tailscale0 mode tun",
        "link set tailscale0 up",
    ] {
        ip(args);
    }
}
