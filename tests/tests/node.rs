//! A node as tests use it: bounded, and its files are its own.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says why it skips"
)]

use std::time::{Duration, Instant};

use lifeline_lab::lab::{self, Lab, Wish};
use lifeline_lab::names;
use lifeline_lab::progress::Progress;

struct Down;

impl Drop for Down {
    fn drop(&mut self) {
        lab::down(&Progress::new()).unwrap();
    }
}

#[test]
fn a_node_runs_what_it_is_told_within_bounds_and_keeps_to_its_own_files() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI runs these tests as root");
        println!("skipped: a lab needs root");
        return;
    }
    names::choose(Some("node")).unwrap();
    let _down = Down;
    let yes = std::env::var_os("CI").is_some();
    let lab = Lab::up(
        &Wish { yes, mode: "observe".to_owned(), gear: lifeline_lab::state::Gear::Quick },
        &Progress::new(),
    )
    .unwrap();
    let node = lab.node("calypso").unwrap();

    // A command that hangs is ended *on the node*, not only given up on.
    let begun = Instant::now();
    let out = node.exec_within(&["sleep", "4711"], Duration::from_secs(1)).unwrap();
    assert!(out.timed_out && begun.elapsed() < Duration::from_secs(4), "{out:?}");
    assert!(!node.exec(&["pgrep", "-f", "sleep 471[1]"]).unwrap().ok());
    // Its own exit codes are not mistaken for that.
    assert!(!node.sh("exit 124").unwrap().timed_out);

    // An absolute symlink leads where it leads on the node, never into the host.
    let mark = format!("/tmp/lifeline-node-{}", std::process::id());
    node.sh(&format!("ln -s {mark} /root/link")).unwrap().success().unwrap();
    node.write("/root/link", "inside").unwrap();
    assert!(!std::path::Path::new(&mark).exists());
    assert_eq!(node.read(&mark).unwrap(), "inside");
    assert_eq!(node.exec(&["cat", &mark]).unwrap().stdout, "inside");
    node.write("/var/lib/new/folder/file", "x").unwrap();
    assert!(node.read("/no/such/file").unwrap_err().to_string().contains("/no/such/file"));

    // What is spawned is a service of the node, seen by its systemd and in its cgroup.
    node.spawn("culprit", &["sleep", "1000"]).unwrap();
    let pid = node.sh("systemctl show -P MainPID culprit").unwrap().stdout;
    let cgroup = node.sh(&format!("cat /proc/{}/cgroup", pid.trim())).unwrap().stdout;
    assert!(cgroup.contains("/system.slice/culprit.service"), "{cgroup}");

    // The gateway and the laptop are places too.
    let seen = lab.space("gw").unwrap().sh("ip -br link show br-lan").unwrap().success().unwrap();
    assert!(seen.stdout.contains("br-lan"));
    assert!(lab.space("calypso").is_err() && lab.node("laptop").is_err());
}
