//! Acts on the kernel's routing, on sysctls, files and sockets: spoilt with `ip` and friends, mended by our hands, told by `ip`
//! and friends.
//!
//! Longer than most files: every case stands on one scene.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must stop")]

mod alone;

use alone::{all, alone, sh, try_sh};
use lifeline_agent::act::{Hands, Paths};
use lifeline_agent::netlink::{Kernel, LinkNames};
use lifeline_core::net::Family;
use lifeline_core::observation::{Addr, Resolv, Route, Rule};
use lifeline_core::op::{NodeOp, Now, Op, Seen, Undo};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn hands() -> Hands {
    Hands::new(Kernel::open().unwrap(), Paths::default(), "test")
}

/// Looks, acts, looks: as the engine does.
async fn take(hands: &Hands, op: &NodeOp) -> Seen {
    let before = hands.look(op).await.unwrap();
    hands.act(op, &before).await.unwrap_or_else(|e| panic!("{op}: {}", e.why));
    let now = hands.look(op).await.unwrap();
    assert_eq!(op.compare(&before, &now), Now::Settled, "{op}: {now:?}");
    before
}

async fn undo(hands: &Hands, op: &NodeOp, before: &Seen) {
    let Undo::Put(back) = op.undo(before) else { panic!("{op} cannot be undone") };
    take(hands, &back).await;
}

async fn rules(family: Family) -> Vec<Rule> {
    let kernel = Kernel::open().unwrap();
    kernel.rules(family).await.unwrap().into_iter().map(|(r, _)| r).collect()
}

async fn routes(family: Family, table: u32) -> Vec<Route> {
    let kernel = Kernel::open().unwrap();
    let names = LinkNames::from(kernel.links().await.unwrap().as_slice());
    let all = kernel.routes(&names).await.unwrap().into_iter().map(|(r, _)| r);
    all.filter(|r| r.table == table && r.family == family).collect()
}

/// eth0 with a LAN and a default route, and a tun.
const NODE: &str = "
    ip link add eth0 type veth peer name far0
    ip link set far0 up
    ip link set eth0 up
    ip addr add 192.168.2.80/24 dev eth0
    ip -6 addr add fd00:2::80/64 dev eth0 nodad
    ip route add default via 192.168.2.1 dev eth0 proto dhcp metric 100
    ip tuntap add tailscale0 mode tun
    ip addr add 100.64.0.5/32 dev tailscale0
    ip link set tailscale0 up
";

/// Somebody's rule stands in front of Tailscale's, and its deletion would take that one (field guide K3).
const TRAP: &str = "
    ip rule add pref 5210 fwmark 0x80000/0xff0000 lookup main
    ip rule add pref 5230 fwmark 0x80000/0xff0000 lookup default
    ip rule add pref 5250 fwmark 0x80000/0xff0000 unreachable
    ip rule add pref 5270 fwmark 0x2 lookup 77
    ip rule add pref 5270 fwmark 0x1 lookup 52
    ip rule add pref 5270 from 10.9.0.0/16 lookup 52 protocol 4
    ip rule add pref 5270 lookup 52
    ip rule add pref 5270 to 10.8.0.0/16 tos 0x10 lookup 52
    ip rule add pref 5280 lookup 52
";

#[test]
fn a_rule_is_deleted_alone_though_the_kernel_would_take_another() {
    alone(async || {
        all(TRAP);
        let hands = hands();
        let ours = |r: &Rule| matches!(r.pref, 5210..=5250) || (r.pref == 5270 && r.is_plain());
        let absent: Vec<Rule> = rules(Family::V4).await.into_iter().filter(ours).collect();
        assert_eq!(absent.len(), 4);
        let before = sh("ip rule");
        let keep: Vec<&str> = before.lines().filter(|l| !is_tailscales(l)).collect();
        let op = NodeOp::Rules { family: Family::V4, absent, present: Vec::new() };
        let seen = take(&hands, &op).await;
        assert_eq!(sh("ip rule").lines().collect::<Vec<_>>(), keep);
        undo(&hands, &op, &seen).await;
        let sorted = |t: &str| {
            let mut lines: Vec<String> = t.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&sh("ip rule")), sorted(&before));
    });
}

fn is_tailscales(line: &str) -> bool {
    line.starts_with("52") && line.contains("fwmark 0x80000") || line == "5270:\tfrom all lookup 52"
}

#[test]
fn without_a_trap_an_undo_is_byte_identical_and_every_copy_goes() {
    alone(async || {
        let hands = hands();
        for family in ["-4", "-6"] {
            all(&format!(
                "ip {family} rule add pref 5210 fwmark 0x80000/0xff0000 lookup main
                 ip {family} rule add pref 5250 fwmark 0x80000/0xff0000 unreachable
                 ip {family} rule add pref 5270 lookup 52"
            ));
            let before = sh(&format!("ip {family} rule"));
            let family_ = if family == "-4" { Family::V4 } else { Family::V6 };
            let absent: Vec<Rule> = rules(family_)
                .await
                .into_iter()
                .filter(|r| (5210..5300).contains(&r.pref))
                .collect();
            let op = NodeOp::Rules { family: family_, absent, present: Vec::new() };
            let seen = take(&hands, &op).await;
            assert!(!sh(&format!("ip {family} rule")).contains("52"));
            undo(&hands, &op, &seen).await;
            assert_eq!(sh(&format!("ip {family} rule")), before);
        }
        // The kernel takes a second copy when nobody asks it not to.
        let kernel = Kernel::open().unwrap();
        let (rule, message) = kernel
            .rules(Family::V4)
            .await
            .unwrap()
            .into_iter()
            .find(|(r, _)| r.pref == 5270)
            .unwrap();
        kernel.copy_rule(message).await.unwrap();
        assert_eq!(sh("ip rule").matches("lookup 52").count(), 2);
        let op = NodeOp::Rules { family: Family::V4, absent: vec![rule], present: Vec::new() };
        take(&hands, &op).await;
        assert_eq!(sh("ip rule").matches("lookup 52").count(), 0);
    });
}

#[test]
fn a_missing_main_rule_is_restored_and_one_with_unknown_selectors_is_left() {
    alone(async || {
        let hands = hands();
        let healthy = rules(Family::V4).await;
        let before = sh("ip rule");
        all("ip rule del pref 32766
             ip rule add pref 100 tos 0x10 lookup 52");
        let op = NodeOp::Rules { family: Family::V4, absent: Vec::new(), present: healthy };
        take(&hands, &op).await;
        let exotic = rules(Family::V4).await.into_iter().filter(|r| r.pref == 100).collect();
        let op = NodeOp::Rules { family: Family::V4, absent: exotic, present: Vec::new() };
        let seen = hands.look(&op).await.unwrap();
        let e = hands.act(&op, &seen).await.unwrap_err();
        assert!(e.why.contains("selectors we do not know"), "{}", e.why);
        sh("ip rule del pref 100");
        assert_eq!(sh("ip rule"), before);
    });
}

#[test]
fn the_culprits_table_is_emptied_and_an_undo_is_byte_identical() {
    alone(async || {
        all(NODE);
        all("ip route add default dev tailscale0 table 52
             ip route add 192.168.2.0/24 dev tailscale0 table 52
             ip route add 100.100.100.100 dev tailscale0 table 52
             ip route add throw 127.0.0.0/8 table 52
             ip -6 route add default dev tailscale0 table 52
             ip -6 route add throw fd00:42::/64 table 52");
        let hands = hands();
        let show = || sh("ip route show table all; ip -6 route show table all");
        let before = show();
        for family in Family::ALL {
            let absent = routes(family, 52).await;
            assert!(absent.len() >= 2);
            let op = NodeOp::Routes { family, table: 52, absent, present: Vec::new() };
            let seen = take(&hands, &op).await;
            assert_eq!(
                try_sh(&format!("ip {} route show table 52", flag(family)))
                    .1
                    .lines()
                    .filter(|l| l.contains("dev") || l.contains("throw"))
                    .count(),
                0
            );
            undo(&hands, &op, &seen).await;
        }
        assert_eq!(show(), before);
    });
}

fn flag(family: Family) -> &'static str {
    if family == Family::V4 { "-4" } else { "-6" }
}

#[test]
fn a_default_route_comes_back_by_its_own_device_whatever_has_become_of_the_rest() {
    alone(async || {
        all(NODE);
        let hands = hands();
        let healthy = routes(Family::V4, 254).await;
        let default: Vec<Route> = healthy.iter().filter(|r| r.dst.is_all()).cloned().collect();
        let shown = sh("ip route show default");
        let op = |absent: Vec<Route>, present: Vec<Route>| NodeOp::Routes {
            family: Family::V4,
            table: 254,
            absent,
            present,
        };
        // Deleted; and meanwhile everything else is captured, so that a route without a device would go there.
        all("ip route del default
             ip rule add pref 5270 lookup 52
             ip route add default dev tailscale0 table 52");
        take(&hands, &op(Vec::new(), default.clone())).await;
        assert_eq!(sh("ip route show default"), shown);
        // Replaced by one through a dead gateway, of the same metric: exchanged in one go.
        sh("ip route replace default via 192.168.2.250 dev eth0 proto dhcp metric 100");
        let bad: Vec<Route> =
            routes(Family::V4, 254).await.into_iter().filter(|r| r.dst.is_all()).collect();
        let swap = op(bad, default.clone());
        let seen = take(&hands, &swap).await;
        assert_eq!(sh("ip route show default"), shown);
        undo(&hands, &swap, &seen).await;
        assert!(sh("ip route show default").contains("192.168.2.250"));
        take(&hands, &swap).await;
        // Out-ranked by a lower metric: that one goes, ours was never touched.
        sh("ip route add default dev tailscale0 metric 5");
        let bad = routes(Family::V4, 254)
            .await
            .into_iter()
            .filter(|r| r.dst.is_all() && r.metric == 5)
            .collect();
        take(&hands, &op(bad, default.clone())).await;
        assert_eq!(sh("ip route show default"), shown);
        // The link route is missing as well: the gateway is declared on-link.
        all("ip route del default
             ip route del 192.168.2.0/24 dev eth0");
        take(&hands, &op(Vec::new(), default.clone())).await;
        assert!(sh("ip route show default").contains("via 192.168.2.1 dev eth0"));
        // Both are wanted: the link route goes first.
        sh("ip route del default");
        take(&hands, &op(Vec::new(), healthy.clone())).await;
        assert_eq!(sh("ip route show default"), shown);
        // One without a device is refused.
        let mut lost = default[0].clone();
        lost.hops[0].dev = None;
        lost.metric = 7;
        let op = op(Vec::new(), vec![lost]);
        let seen = hands.look(&op).await.unwrap();
        assert!(hands.act(&op, &seen).await.unwrap_err().why.contains("names no device"));
    });
}

#[test]
fn a_route_of_somebody_elses_in_the_place_of_ours_is_left() {
    alone(async || {
        all(NODE);
        let hands = hands();
        let default: Vec<Route> =
            routes(Family::V4, 254).await.into_iter().filter(|r| r.dst.is_all()).collect();
        sh("ip route replace default via 192.168.2.9 dev eth0 proto dhcp metric 100");
        let op =
            NodeOp::Routes { family: Family::V4, table: 254, absent: Vec::new(), present: default };
        let seen = hands.look(&op).await.unwrap();
        let e = hands.act(&op, &seen).await.unwrap_err();
        assert!(e.why.contains("another route of metric 100 is in its place"), "{}", e.why);
        assert!(sh("ip route show default").contains("192.168.2.9"));
    });
}

#[test]
fn a_left_over_tun_is_deleted_and_another_kind_of_that_name_is_not() {
    alone(async || {
        all(NODE);
        let hands = hands();
        let op = |kind: &str| NodeOp::LinkGone { name: "tailscale0".into(), kind: kind.into() };
        for wrong in ["dummy", ""] {
            let op = op(wrong);
            let seen = hands.look(&op).await.unwrap();
            assert!(hands.act(&op, &seen).await.unwrap_err().why.contains("refused"));
        }
        assert!(sh("ip -o link").contains("tailscale0"));
        let op = op("tun");
        take(&hands, &op).await;
        take(&hands, &op).await;
        assert!(!sh("ip -o link").contains("tailscale0"));
        assert!(sh("ip -o link").contains("eth0"));
    });
}

#[test]
fn a_bridges_address_is_put_back_with_what_the_kernel_makes_of_it_and_taken_away_by_an_undo() {
    alone(async || {
        all(NODE);
        all("ip link add cni0 type bridge
            ip addr add 10.42.1.1/24 brd + dev cni0
            ip link set cni0 up");
        let shown = || sh("ip -4 -o addr show dev cni0; ip route show table all dev cni0");
        let (hands, healthy) = (hands(), shown());
        sh("ip -4 addr flush dev cni0");
        let bare = shown();
        let addr = |dev: &str| Addr { dev: dev.into(), addr: [10, 42, 1, 1].into(), len: 24 };
        let op = |dev: &str| NodeOp::Addrs {
            dev: dev.into(),
            absent: Vec::new(),
            present: vec![addr(dev)],
        };
        let seen = take(&hands, &op("cni0")).await;
        assert_eq!(shown(), healthy);
        take(&hands, &op("cni0")).await;
        undo(&hands, &op("cni0"), &seen).await;
        assert_eq!(shown(), bare);
        let gone = op("cni7");
        let e = hands.act(&gone, &hands.look(&gone).await.unwrap()).await.unwrap_err();
        assert!(e.why.contains("no such device") && !e.retryable, "{}", e.why);
    });
}

#[test]
fn a_sysctl_is_set_and_set_back_in_this_namespace() {
    alone(async || {
        let hands = hands();
        let key = "net.ipv4.conf.all.src_valid_mark";
        sh(&format!("sysctl -w {key}=1"));
        let op = NodeOp::Sysctl { key: key.into(), value: "0".into() };
        let seen = take(&hands, &op).await;
        assert_eq!(sh(&format!("sysctl -n {key}")).trim(), "0");
        undo(&hands, &op, &seen).await;
        assert_eq!(sh(&format!("sysctl -n {key}")).trim(), "1");
        let none = NodeOp::Sysctl { key: "net.ipv4.conf.all.nonsense".into(), value: "0".into() };
        assert_eq!(hands.look(&none).await.unwrap(), Seen::Sysctl { value: None });
        assert!(hands.act(&none, &Seen::Sysctl { value: None }).await.is_err());
    });
}

#[test]
fn a_resolv_conf_that_is_a_mount_of_its_own_is_told_as_such() {
    alone(async || {
        all("mkdir /run/etc
             touch /run/etc/resolv.conf /run/other
             mount --bind /run/other /run/etc/resolv.conf");
        let paths = Paths { resolv: "/run/etc/resolv.conf".into(), ..Paths::default() };
        let hands = Hands::new(Kernel::open().unwrap(), paths, "test");
        let wanted = Resolv { text: "nameserver 9.9.9.9\n".into(), ..Resolv::default() };
        let op = NodeOp::ResolvConf { wanted };
        let seen = hands.look(&op).await.unwrap();
        let e = hands.act(&op, &seen).await.unwrap_err();
        assert!(e.why.contains("it is a mount of its own") && !e.retryable, "{}", e.why);
        assert_eq!(sh("ls -A /run/etc"), "resolv.conf\n");
    });
}

#[test]
fn a_directory_on_another_file_system_is_set_aside_there_and_a_mount_is_not_copied() {
    alone(async || {
        all("mkdir -p /run/big /run/state
             mount -t tmpfs tmpfs /run/big
             mkdir /run/big/tailscale
             touch /run/big/tailscale/keys");
        let paths = Paths { quarantine: "/run/state/quarantine".into(), ..Paths::default() };
        let hands = Hands::new(Kernel::open().unwrap(), paths, "r1");
        let op = NodeOp::Quarantined { path: "/run/big/tailscale".into() };
        let seen = take(&hands, &op).await;
        let place = sh("find /run/big -name keys");
        assert_eq!(place.trim(), "/run/big/.lifeline-quarantine/r1/run%2Fbig%2Ftailscale/keys");
        assert!(sh("stat -c %a /run/big/.lifeline-quarantine").starts_with("700"));
        undo(&hands, &op, &seen).await;
        assert!(sh("ls /run/big/tailscale").contains("keys"));
        let mount = NodeOp::Quarantined { path: "/run/big".into() };
        let seen = hands.look(&mount).await.unwrap();
        let e = hands.act(&mount, &seen).await.unwrap_err();
        assert!(e.why.contains("it is a mount of its own, and is never copied"), "{}", e.why);
    });
}

/// A connection to a listener in this namespace from a source address of the tun's.
fn connection(from: &str, to: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(to).unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let from: std::net::SocketAddr = from.parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&listener.local_addr().unwrap().into()).unwrap();
    (socket.into(), listener.accept().unwrap().0)
}

#[test]
fn connections_from_a_dead_source_are_closed_at_once_and_others_live() {
    alone(async || {
        all(NODE);
        // So that there are conntrack entries.
        sh("iptables-nft -A OUTPUT -m conntrack --ctstate NEW -j ACCEPT");
        let hands = hands();
        let (mut dead, _far) = connection("100.64.0.5:0", "192.168.2.80:6443");
        let (mut alive, mut far) = connection("192.168.2.80:0", "192.168.2.80:6444");
        let sources = vec!["100.64.0.5".parse().unwrap()];
        let op = NodeOp::FlowsGone { sources, dead_to: Vec::new() };
        let Seen::Flows { count } = hands.look(&op).await.unwrap() else { panic!("no flows") };
        // The connection's own socket and its conntrack entry; the accepted one's source is another.
        assert!(count >= 2, "{count}");
        take(&hands, &op).await;
        let e = dead.read(&mut [0; 1]).unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::ConnectionAborted);
        alive.write_all(b"x").unwrap();
        far.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(sh("ss -Htn src 100.64.0.5"), "");
        assert_eq!(sh("conntrack -L -q 100.64.0.5 2>/dev/null"), "");
    });
}

#[test]
fn of_connections_to_a_destination_only_the_dead_are_closed() {
    alone(async || {
        all(NODE);
        let hands = hands();
        let (mut alive, mut far) = connection("192.168.2.80:0", "192.168.2.80:6443");
        // 192.168.2.1 is nowhere, but the neighbour is known: the SYN goes out and nothing comes back.
        sh("ip neigh replace 192.168.2.1 lladdr 02:00:00:00:00:01 dev eth0");
        let dead =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        dead.set_nonblocking(true).unwrap();
        let to: std::net::SocketAddr = "192.168.2.1:6443".parse().unwrap();
        let _in_progress = dead.connect(&to.into());
        let dead_to = vec!["192.168.2.1".parse().unwrap(), "192.168.2.80".parse().unwrap()];
        let op = NodeOp::FlowsGone { sources: Vec::new(), dead_to };
        // A connection that has only just been asked for is not dead yet.
        assert_eq!(hands.look(&op).await.unwrap(), Seen::Flows { count: 0 });
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        assert_eq!(hands.look(&op).await.unwrap(), Seen::Flows { count: 1 });
        take(&hands, &op).await;
        assert!(dead.take_error().unwrap().is_some());
        alive.write_all(b"x").unwrap();
        far.read_exact(&mut [0; 1]).unwrap();
    });
}
