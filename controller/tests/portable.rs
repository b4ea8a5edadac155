//! The operator's laptop may be a Mac: nothing that is Linux's alone gets into this crate's tree.

use std::process::Command;

/// Crates that speak to Linux, systemd or D-Bus.
const LINUX: [&str; 14] = [
    "rtnetlink",
    "netlink-packet-core",
    "netlink-packet-route",
    "netlink-proto",
    "netlink-sys",
    "iptables",
    "zbus",
    "sd-notify",
    "tracing-journald",
    "nix",
    "procfs",
    "linux-raw-sys",
    "inotify",
    "lifeline-agent",
];

fn tree(package: &str, target: &str) -> Vec<String> {
    // The manifests of crates that only macOS needs may have to be downloaded first, hence no --offline.
    let args = ["tree", "--locked", "--prefix", "none", "--format", "{p}", "-e", "normal"];
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(args)
        .args(["--target", target, "-p", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let out = cargo.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let mut names: Vec<_> =
        text.lines().filter_map(|l| l.split(' ').next()).map(Into::into).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn no_linux_only_crate_is_in_the_controllers_tree() {
    let found =
        |names: &[String]| LINUX.into_iter().filter(|l| names.iter().any(|n| n == l)).count();
    let here = tree("lifeline-ctl", "aarch64-apple-darwin");
    assert!(
        here.len() > 100 && here.contains(&"kube".to_owned()),
        "it is the whole tree: {here:?}"
    );
    let foreign: Vec<_> = here.iter().filter(|n| LINUX.contains(&n.as_str())).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    // The list means something: the agent's tree is full of them.
    assert!(found(&tree("lifeline-agent", "x86_64-unknown-linux-gnu")) >= 8);
}
