//! Routes made with `ip`, removed and put back by our hands, and asserted with `ip`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must stop")]

mod alone;
mod iproute;

use alone::{all, alone, sh};
use lifeline_agent::act::{Hands, Paths};
use lifeline_agent::netlink::Kernel;
use lifeline_core::net::Family;
use lifeline_core::observation::Route;
use lifeline_core::op::{NodeOp, Now, Op, Seen, Undo};

/// A worker with an exit node on that takes its own network as well, and routes of others of every kind.
const NODE: &str = "
    ip link add eth0 type veth peer name far0
    ip link set far0 up
    ip link set eth0 up
    ip addr add 192.168.2.80/24 dev eth0
    ip -6 addr add fe80::80/64 dev eth0 nodad
    ip -6 addr add fd00:2::80/64 dev eth0 nodad
    ip route add default via 192.168.2.1 proto dhcp src 192.168.2.80 metric 100
    ip -6 route add default via fd00:2::1 proto ra metric 100
    ip link add cni0 type bridge
    ip addr add 10.42.1.1/24 dev cni0
    ip link set cni0 up
    ip route add 10.42.2.0/24 via 192.168.2.81 dev eth0 onlink
    ip route add 10.42.3.0/24 nexthop via 192.168.2.82 weight 2 nexthop via 192.168.2.83
    ip route add blackhole 10.99.0.0/16 proto 7
    ip tuntap add tailscale0 mode tun
    ip link set tailscale0 up
    ip route add default dev tailscale0 table 52
    ip route add 192.168.2.0/24 dev tailscale0 table 52
    ip route add 100.100.100.100 dev tailscale0 table 52
    ip route add throw 127.0.0.0/8 table 52
    ip route add unreachable 10.98.0.0/16 metric 7 table 52
    ip route add 10.97.0.0/16 via 192.168.2.9 dev eth0 proto 7 table 52
    ip -6 route add default dev tailscale0 table 52
    ip -6 route add fd7a:115c:a1e0::/48 dev tailscale0 metric 1024 table 52
    ip -6 route add throw fd00:2::/64 table 52
    ip -6 route add unreachable fd00:98::/32 metric 7 table 52
    ip -6 route add fd00:97::/32 via fd00:2::9 dev eth0 proto 7 table 52
";

fn hands() -> Hands {
    Hands::new(Kernel::open().unwrap(), Paths::default(), "test")
}

fn flag(family: Family) -> &'static str {
    if family == Family::V4 { "-4" } else { "-6" }
}

/// Byte for byte what `ip` shows of every table and family.
fn shown() -> String {
    sh("ip -4 -j -d route show table all") + &sh("ip -6 -j -d route show table all")
}

fn routes(family: Family, table: u32) -> Vec<Route> {
    let json = sh(&format!("ip {} -j -d route show table all", flag(family)));
    let mut routes = iproute::routes(&json, family);
    routes.retain(|r| r.table == table);
    routes
}

fn op(family: Family, table: u32, absent: Vec<Route>, present: Vec<Route>) -> NodeOp {
    NodeOp::Routes { family, table, absent, present }
}

/// Looks, acts, looks: as the engine does.
async fn take(hands: &Hands, op: &NodeOp) -> Seen {
    let before = hands.look(op).await.unwrap();
    hands.act(op, &before).await.unwrap();
    let now = hands.look(op).await.unwrap();
    assert_eq!(op.compare(&before, &now), Now::Settled, "{now:?}");
    before
}

async fn undo(hands: &Hands, op: &NodeOp, before: &Seen) {
    let Undo::Put(back) = op.undo(before) else { panic!("{op} cannot be undone") };
    take(hands, &back).await;
}

async fn refused(hands: &Hands, op: &NodeOp) -> String {
    let before = shown();
    let seen = hands.look(op).await.unwrap();
    let e = hands.act(op, &seen).await.unwrap_err();
    assert!(!e.retryable, "{}", e.why);
    assert_eq!(shown(), before, "it was refused, and yet something changed");
    e.why
}

#[test]
fn a_table_is_emptied_but_for_a_strangers_route_and_comes_back_byte_for_byte() {
    alone(async || {
        all(NODE);
        let hands = hands();
        let spoilt = shown();
        let mut done = Vec::new();
        for family in Family::ALL {
            let mut absent = routes(family, 52);
            let count = absent.len();
            absent.retain(|r| r.protocol != 7);
            assert_eq!((count, absent.len()), if family == Family::V4 { (6, 5) } else { (5, 4) });
            let op = op(family, 52, absent, Vec::new());
            done.push((take(&hands, &op).await, op));
            let left = routes(family, 52);
            assert!(left.len() == 1 && left[0].protocol == 7, "{left:?}");
        }
        let clean = shown();
        for (before, op) in done.iter().rev() {
            undo(&hands, op, before).await;
        }
        assert_eq!(shown(), spoilt);
        for (_, op) in &done {
            take(&hands, op).await;
            hands.act(op, &hands.look(op).await.unwrap()).await.unwrap();
        }
        assert_eq!(shown(), clean, "twice is once");
    });
}

#[test]
fn the_whole_main_table_comes_back_byte_for_byte_with_its_link_routes_first() {
    alone(async || {
        all(NODE);
        let hands = hands();
        let healthy = shown();
        for family in Family::ALL {
            // What depends on another stands in front of it.
            let mut present = routes(family, 254);
            present.sort_by_key(|r| r.via().is_none());
            assert!(present.len() >= 2);
            let op = op(family, 254, Vec::new(), present);
            for round in ["all", "some"] {
                match round {
                    "all" => sh(&format!("ip {} route flush table main", flag(family))),
                    _ => sh(&format!("ip {} route del default", flag(family))),
                };
                assert_ne!(shown(), healthy);
                take(&hands, &op).await;
                assert!(shown() == healthy, "{round} of {}", flag(family));
            }
        }
    });
}

#[test]
fn without_its_link_route_a_gateway_is_declared_on_link() {
    alone(async || {
        all(NODE);
        let hands = hands();
        for (family, link, via) in [
            (Family::V4, "192.168.2.0/24", "via 192.168.2.1 dev eth0"),
            (Family::V6, "fd00:2::/64", "via fd00:2::1 dev eth0"),
        ] {
            let flag = flag(family);
            let default: Vec<Route> =
                routes(family, 254).into_iter().filter(|r| r.dst.is_all()).collect();
            sh(&format!("ip {flag} route del default"));
            sh(&format!("ip {flag} route del {link} dev eth0"));
            let op = op(family, 254, Vec::new(), default);
            take(&hands, &op).await;
            let got = sh(&format!("ip {flag} route show default"));
            assert!(got.contains(via), "{got}");
            assert!(got.contains("onlink"), "{got}");
        }
    });
}

#[test]
fn who_put_a_route_there_matters_for_one_that_is_to_go_and_not_for_one_that_is_wanted() {
    alone(async || {
        all(NODE);
        let hands = hands();
        let default: Vec<Route> =
            routes(Family::V4, 254).into_iter().filter(|r| r.dst.is_all()).collect();
        sh("ip route replace default via 192.168.2.1 proto static src 192.168.2.80 metric 100");
        let before = shown();
        take(&hands, &op(Family::V4, 254, Vec::new(), default.clone())).await;
        take(&hands, &op(Family::V4, 254, default, Vec::new())).await;
        assert_eq!(shown(), before);
    });
}

#[test]
fn what_cannot_be_put_back_or_would_hit_a_stranger_is_refused() {
    alone(async || {
        all(NODE);
        let hands = hands();
        // Two routes with one key; without a gateway the message of the second matches the first as well.
        all("ip route add 10.96.0.0/16 via 192.168.2.7 dev eth0 table 53
             ip route append 10.96.0.0/16 dev eth0 scope global table 53
             ip route add 10.95.0.0/16 dev eth0 mtu 1300 table 53
             ip route add 10.94.0.0/16 dev eth0 table 53");
        let of = |dst: &str| -> Vec<Route> {
            let dst = dst.parse().unwrap();
            routes(Family::V4, 53).into_iter().filter(|r| r.dst == dst).collect()
        };
        let pair = of("10.96.0.0/16");
        assert_eq!(pair.len(), 2);
        let one = op(Family::V4, 53, vec![pair[1].clone()], Vec::new());
        assert!(refused(&hands, &one).await.contains("instead"));
        let metrics = op(Family::V4, 53, of("10.95.0.0/16"), Vec::new());
        assert!(refused(&hands, &metrics).await.contains("attributes we do not know"));
        let elsewhere = op(Family::V4, 254, of("10.94.0.0/16"), Vec::new());
        assert!(refused(&hands, &elsewhere).await.contains("belongs to table 53"));
        let mut lost = of("10.94.0.0/16").remove(0);
        lost.hops[0].dev = None;
        let lost = op(Family::V4, 53, Vec::new(), vec![lost]);
        assert!(refused(&hands, &lost).await.contains("names no device"));
        let mut gone = of("10.94.0.0/16").remove(0);
        gone.hops[0].dev = Some("gone0".into());
        let gone = op(Family::V4, 53, Vec::new(), vec![gone]);
        assert!(refused(&hands, &gone).await.contains("gone0"));
        // Both of the pair go and come back, in their order.
        let before = shown();
        let both = op(Family::V4, 53, pair, Vec::new());
        let seen = take(&hands, &both).await;
        assert_eq!(of("10.96.0.0/16"), []);
        undo(&hands, &both, &seen).await;
        assert_eq!(shown(), before);
    });
}

#[test]
fn a_default_route_that_captures_is_replaced_so_that_there_is_always_one() {
    alone(async || {
        all(NODE);
        let hands = hands();
        let healthy = shown();
        let default = |family| -> Vec<Route> {
            routes(family, 254).into_iter().filter(|r| r.dst.is_all()).collect()
        };
        for family in Family::ALL {
            let wanted = default(family);
            sh(&format!("ip {} route replace default dev tailscale0 metric 100", flag(family)));
            let bad: Vec<Route> =
                default(family).into_iter().filter(|r| !wanted.contains(r)).collect();
            assert_eq!(bad.len(), 1, "{family:?}");
            let spoilt = shown();
            let op = op(family, 254, bad, wanted);
            let seen = take(&hands, &op).await;
            assert_eq!(shown(), healthy, "{family:?}");
            undo(&hands, &op, &seen).await;
            assert_eq!(shown(), spoilt, "{family:?}");
            take(&hands, &op).await;
        }
    });
}
