//! Runs a test alone: in a network and a mount namespace of its own, with an empty `/run`.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on must stop")]

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::process::{Command, Stdio};

/// Runs a test in fresh namespaces; without the privilege it is skipped aloud, but in CI it fails.
pub fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    if let Err(e) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no namespaces: {e}");
        eprintln!("SKIPPED: namespaces take root ({e})");
        return;
    }
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    // Link-local addresses come, with their routes, whenever they have been found to be unique: what a test compares would change.
    sh("echo 1 >/proc/sys/net/ipv6/conf/default/addr_gen_mode");
    sh("ip link set lo up");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test());
}

/// Whether a command succeeds, and all it says.
pub fn try_sh(line: &str) -> (bool, String) {
    let out = Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    (out.status.success(), text + &String::from_utf8_lossy(&out.stderr))
}

/// What a command says; it must succeed.
pub fn sh(line: &str) -> String {
    let (ok, text) = try_sh(line);
    assert!(ok, "{line}: {text}");
    text
}

/// Runs each line.
pub fn all(lines: &str) {
    for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
        sh(line);
    }
}
