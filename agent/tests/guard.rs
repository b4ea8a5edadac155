//! The guard's hands on the kernel: made with `ip`, asserted with `ip route get` and `ip -j rule`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on must stop"
)]

use lifeline_agent::guard::{Guard, Note, Order};
use lifeline_agent::netlink::Kernel;
use lifeline_core::baseline::{Baseline, Expected, Path, Role};
use lifeline_core::guard::Stand;
use lifeline_core::observation::{RouteKind, TABLE_MAIN};
use lifeline_core::policy::Policy;
use nix::sched::{CloneFlags, unshare};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs a test in a fresh namespace; without the privilege it is skipped aloud, but in CI it fails.
fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no network namespace: {e}");
        eprintln!("SKIPPED: a network namespace takes root ({e})");
        return;
    }
    for args in [
        "link set lo up",
        "link add eth0 type veth peer name far0",
        "link set far0 up",
        "link set eth0 up",
        "addr add 192.168.2.80/24 dev eth0",
        "route add default via 192.168.2.1",
        "link add cni0 type bridge",
        "addr add 10.42.1.1/24 dev cni0",
        "link set cni0 up",
        "link add far1 type veth peer name vpod",
        "link set vpod master cni0",
        "link set vpod up",
        "link set far1 up",
    ] {
        ip(args);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test());
}

fn ip(args: &str) -> String {
    let out = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "ip {args}: {text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

const DEVICE: [&str; 3] = [
    "tuntap add tailscale0 mode tun",
    "addr add 100.64.0.5/32 dev tailscale0",
    "link set tailscale0 up",
];
const RULES: [&str; 2] =
    ["rule add pref 5210 fwmark 0x80000/0xff0000 lookup main", "rule add pref 5270 lookup 52"];
const ROUTES: [&str; 3] = [
    "route add default dev tailscale0 table 52",
    "route add 192.168.2.0/24 dev tailscale0 table 52",
    "route add throw 127.0.0.0/8 table 52",
];

/// Captures without warning: a rule that comes before its routes is one.
fn capture() {
    for args in DEVICE.iter().chain(&ROUTES).chain(&RULES) {
        ip(args);
    }
}

fn expected(role: Role, prefix: &str, ask: &str, dev: &str, via: Option<&str>) -> Expected {
    let path = Path { dev: dev.into(), via: via.map(|v| v.parse().unwrap()), table: TABLE_MAIN };
    Expected { role, prefix: prefix.parse().unwrap(), ask: ask.parse().unwrap(), path: Some(path) }
}

async fn baseline(kernel: &Kernel) -> Arc<Baseline> {
    let names = kernel.names().await.unwrap();
    let mut base = Baseline {
        expected: vec![
            expected(Role::Api, "203.0.113.10", "203.0.113.10", "eth0", Some("192.168.2.1")),
            expected(Role::Lan, "192.168.2.0/24", "192.168.2.2", "eth0", None),
            expected(Role::OwnPods, "10.42.1.0/24", "10.42.1.2", "cni0", None),
            expected(Role::Services, "10.43.0.0/16", "10.43.0.1", "eth0", Some("192.168.2.1")),
        ],
        ..Baseline::default()
    };
    for family in lifeline_core::net::Family::ALL {
        base.rules.extend(kernel.rules(family).await.unwrap().into_iter().map(|(r, _)| r));
    }
    let main = |r: &lifeline_core::observation::Route| {
        r.table == TABLE_MAIN && r.kind == RouteKind::Unicast
    };
    base.routes
        .extend(kernel.routes(&names).await.unwrap().into_iter().map(|(r, _)| r).filter(main));
    Arc::new(base)
}

/// All rules and routes, but for the link-local addresses that come with duplicate address detection's own delay.
fn tables() -> Vec<String> {
    let all =
        [ip("rule"), ip("-6 rule"), ip("route show table all"), ip("-6 route show table all")]
            .concat();
    all.lines().filter(|l| !l.starts_with("local fe80::")).map(str::to_owned).collect()
}

fn dev(dst: &str) -> String {
    let text = ip(&format!("route get {dst}"));
    let at = text.split_whitespace().skip_while(|w| *w != "dev").nth(1);
    at.unwrap_or_default().to_owned()
}

async fn until(what: &str, limit: Duration, holds: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(
            begun.elapsed() < limit,
            "{what}: not within {limit:?}\n{}\n{}",
            ip("rule"),
            ip("route show table 21300")
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    begun.elapsed()
}

async fn stand(stand: Stand) -> (Kernel, Guard) {
    let kernel = Kernel::open().unwrap();
    let base = baseline(&kernel).await;
    let order = Order {
        stand,
        base: Some(base),
        moved: false,
        forgiven: 0,
        marks: Vec::new(),
        drill: None,
    };
    let guard = Guard::start(kernel.clone(), Policy::default(), order).unwrap();
    let state = guard.settled(Duration::from_secs(5)).await;
    assert_eq!(state.trouble, None);
    (kernel, guard)
}

#[test]
fn a_capture_is_guarded_within_a_second_and_seen_through() {
    alone(|| async {
        let (_kernel, guard) = stand(Stand::Guard).await;
        let mut notes = guard.notes();
        assert_eq!(dev("203.0.113.10"), "eth0");
        capture();
        let took =
            until("the guard stands", Duration::from_secs(1), || dev("203.0.113.10") == "eth0")
                .await;
        eprintln!("guarded {took:?} after the capture's last route");
        for dst in ["192.168.2.50", "10.43.0.1"] {
            until(dst, Duration::from_secs(1), || dev(dst) == "eth0").await;
        }
        assert_eq!(dev("203.0.113.10 mark 0x1000"), "tailscale0", "seen through");
        assert_eq!(dev("203.0.113.10 mark 0x40"), "eth0", "the lifeline path");
        assert_eq!(dev("8.8.8.8"), "tailscale0", "not critical, not ours");
        let note =
            tokio::time::timeout(Duration::from_secs(1), notes.recv()).await.unwrap().unwrap();
        let Note::Raised { sources, .. } = note else { panic!("{note:?}") };
        assert_eq!(sources, ["100.64.0.5".parse::<std::net::IpAddr>().unwrap()]);
    });
}

#[test]
fn rules_are_a_warning_and_the_route_that_follows_captures_nothing() {
    alone(|| async {
        let (_kernel, guard) = stand(Stand::Guard).await;
        for args in DEVICE.iter().chain(&RULES) {
            ip(args);
        }
        let raised = || ip("rule").contains("to 203.0.113.10");
        // It says so when the whole set stands; the first of its rules is seen a moment before.
        until("raised as a precaution", Duration::from_secs(1), || guard.state().guarded).await;
        for args in ROUTES {
            ip(args);
            let now = || format!("after {args}\n{}", ip("rule"));
            assert_eq!(dev("203.0.113.10"), "eth0", "{}", now());
            assert_eq!(dev("192.168.2.50"), "eth0", "{}", now());
        }
        assert_eq!(dev("203.0.113.10 mark 0x1000"), "tailscale0", "it would have been captured");
        // The daemon is asked to let go and keeps its rules: that is no new warning, but a route is all it needs.
        tokio::time::sleep(Duration::from_millis(200)).await;
        ip("route flush table 52");
        let stood = until("lowered", Duration::from_secs(13), || !raised()).await;
        assert!(stood > Duration::from_secs(9), "lowered after {stood:?}");
        assert_eq!(guard.state().trouble, None);
    });
}

#[test]
fn who_captures_again_without_a_warning_finds_the_guard_still_standing() {
    alone(|| async {
        let (kernel, guard) = stand(Stand::Guard).await;
        capture();
        until("raised", Duration::from_secs(1), || guard.state().guarded).await;
        for _ in 0..2 {
            ip("route flush table 52");
            tokio::time::sleep(Duration::from_secs(5)).await;
            ip(ROUTES[0]);
            assert_eq!(dev("203.0.113.10"), "eth0", "at once\n{}", ip("rule"));
            assert_eq!(dev("203.0.113.10 mark 0x1000"), "tailscale0", "it would be captured");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        ip("route flush table 52");
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert!(ip("rule").contains("to 203.0.113.10"), "it has come back before");
        // An operator's recovery has ended meanwhile.
        let base = Some(baseline(&kernel).await);
        guard.order(Order {
            stand: Stand::Guard,
            base,
            moved: false,
            forgiven: 1,
            marks: Vec::new(),
            drill: None,
        });
        guard.settled(Duration::from_secs(2)).await;
        assert!(!ip("rule").contains("to 203.0.113.10"), "it goes at once");
    });
}

#[test]
fn a_daemon_that_puts_its_rules_back_at_once_warns_again() {
    alone(|| async {
        let (_kernel, guard) = stand(Stand::Guard).await;
        capture();
        until("raised", Duration::from_secs(1), || guard.state().guarded).await;
        ip("route flush table 52");
        until("lowered", Duration::from_secs(13), || !guard.state().guarded).await;
        // tailscaled's start, after an end that left everything. The guard cannot look between: there is one thread.
        for rule in RULES {
            ip(&rule.replacen("add", "del", 1));
            ip(rule);
        }
        until("raised", Duration::from_secs(1), || guard.state().guarded).await;
        ip(ROUTES[0]);
        assert_eq!(dev("203.0.113.10"), "eth0", "{}", ip("rule"));
    });
}

#[test]
fn a_guard_that_is_deleted_comes_back() {
    alone(|| async {
        let (_kernel, guard) = stand(Stand::Guard).await;
        capture();
        until("raised", Duration::from_secs(1), || dev("203.0.113.10") == "eth0").await;
        guard.settled(Duration::from_secs(1)).await;
        // As `networkctl reconfigure` does with foreign rules (field guide K14).
        while Command::new("ip")
            .args(["rule", "del", "protocol", "213"])
            .output()
            .unwrap()
            .status
            .success()
        {}
        until("back", Duration::from_secs(1), || {
            dev("203.0.113.10") == "eth0" && dev("203.0.113.10 mark 0x40") == "eth0"
        })
        .await;
    });
}

#[test]
fn a_tool_without_preferences_is_overtaken() {
    alone(|| async {
        let (_kernel, _guard) = stand(Stand::Guard).await;
        capture();
        until("raised", Duration::from_secs(1), || dev("203.0.113.10") == "eth0").await;
        ip("tuntap add wg0 mode tun");
        ip("link set wg0 up");
        ip("route add default dev wg0 table 51820");
        for _ in 0..3 {
            ip("rule add not fwmark 0xca6c lookup 51820");
            until("overtaken", Duration::from_secs(2), || {
                dev("203.0.113.10") == "eth0" && dev("192.168.2.50") == "eth0"
            })
            .await;
        }
    });
}

#[test]
fn the_guard_goes_when_the_captor_has_gone_and_nothing_of_ours_stays_when_told_so() {
    alone(|| async {
        let before = tables();
        let (kernel, guard) = stand(Stand::Guard).await;
        capture();
        until("raised", Duration::from_secs(1), || dev("203.0.113.10") == "eth0").await;
        ip("rule del pref 5270");
        ip("rule del pref 5210");
        ip("link del tailscale0");
        ip("route flush table 52");
        until("lowered", Duration::from_secs(6), || !ip("rule").contains("to 203.0.113.10")).await;
        guard.order(Order {
            stand: Stand::Nothing,
            base: Some(baseline(&kernel).await),
            moved: false,
            forgiven: 0,
            marks: Vec::new(),
            drill: None,
        });
        guard.settled(Duration::from_secs(2)).await;
        assert_eq!(before, tables());
    });
}

#[test]
fn it_stands_still_when_nothing_changes() {
    alone(|| async {
        let (_kernel, guard) = stand(Stand::Guard).await;
        capture();
        until("raised", Duration::from_secs(1), || dev("203.0.113.10") == "eth0").await;
        guard.settled(Duration::from_secs(1)).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut monitor = Command::new("timeout")
            .args(["3", "ip", "monitor", "rule", "route"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        monitor.wait().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut monitor.stdout.take().unwrap(), &mut text).unwrap();
        let ours: Vec<&str> = text.lines().filter(|l| !l.contains("fe80::")).collect();
        assert_eq!(
            ours,
            Vec::<&str>::new(),
            "rules or routes were written although nothing had changed"
        );
    });
}
