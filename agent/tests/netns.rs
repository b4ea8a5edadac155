//! The kernel's tables, made with `ip` and read with ours, and written with ours and read with `ip`: each test in a network
//! namespace of its own.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on must stop")]

mod iproute;
mod scene;

use lifeline_agent::netlink::{Added, Deleted, Kernel, LinkNames, victim};
use lifeline_core::net::Family;
use lifeline_core::observation::{Action, Fate, Mark, RouteKind, Rule};
use scene::{alone, ip, node, output};
use std::time::Duration;

async fn ours(kernel: &Kernel, family: Family) -> Vec<Rule> {
    kernel.rules(family).await.unwrap().into_iter().map(|(r, _)| r).collect()
}

fn theirs(family: Family) -> Vec<Rule> {
    let flag = if family == Family::V4 { "-4" } else { "-6" };
    iproute::rules(&ip(&format!("{flag} -j -d rule")), family)
}

#[test]
fn rules_of_every_kind_are_read_as_ip_shows_them() {
    alone(async || {
        node();
        for rule in [
            "pref 5210 fwmark 0x80000/0xff0000 lookup main",
            "pref 5250 fwmark 0x80000/0xff0000 unreachable",
            "pref 5270 lookup 52",
            "pref 100 to 10.43.0.0/16 lookup main protocol 213",
            "pref 101 from 10.42.0.0/16 iif cni0 lookup 21300",
            "pref 102 not fwmark 0xca6c lookup 51820",
            "pref 103 lookup main suppress_prefixlength 0",
            "pref 104 ipproto tcp dport 6443 lookup 52",
            "pref 105 ipproto tcp dport 6443-6450 sport 1000-2000 lookup 52",
            "pref 106 uidrange 1000-2000 lookup 52",
            "pref 107 oif eth0 blackhole",
            "pref 108 iif gone0 prohibit",
            "pref 109 goto 5270",
            "pref 110 nop",
            "pref 111 fwmark 0/0x1000 to 203.0.113.10 lookup main protocol 213",
            "pref 112 tos 0x10 lookup 52",
        ] {
            ip(&format!("-4 rule add {rule}"));
        }
        ip("-6 rule add pref 5270 lookup 52");
        ip("-6 rule add pref 100 to fd00:10:43::/112 lookup main");
        let kernel = Kernel::open().unwrap();
        for family in Family::ALL {
            let rules = ours(&kernel, family).await;
            assert_eq!(rules, theirs(family));
            assert_eq!(
                rules.iter().filter(|r| r.exotic).count(),
                usize::from(family == Family::V4)
            );
        }
    });
}

#[test]
fn a_rule_written_by_us_is_what_was_meant_and_twice_is_once() {
    alone(async || {
        node();
        let kernel = Kernel::open().unwrap();
        let plain = Rule {
            family: Family::V4,
            pref: 5100,
            not: false,
            from: None,
            to: Some("203.0.113.10".parse().unwrap()),
            iif: None,
            oif: None,
            mark: Some(Mark { value: 0, mask: 0x1000 }),
            ipproto: None,
            sport: None,
            dport: None,
            uids: None,
            action: Action::Lookup(254),
            suppress: None,
            protocol: 213,
            exotic: false,
        };
        let mut rules = vec![plain.clone()];
        let mut add = |change: &dyn Fn(&mut Rule)| {
            let mut rule = plain.clone();
            rule.pref += u32::try_from(rules.len()).unwrap();
            change(&mut rule);
            rules.push(rule);
        };
        add(&|r| r.action = Action::Lookup(21_300));
        add(&|r| r.action = Action::Unreachable);
        add(&|r| r.mark = Some(Mark { value: 0x40, mask: 0x40 }));
        add(&|r| (r.not, r.to) = (true, None));
        add(&|r| r.from = Some("10.42.1.0/24".parse().unwrap()));
        add(&|r| r.iif = Some("cni0".into()));
        add(&|r| r.oif = Some("eth0".into()));
        add(&|r| (r.ipproto, r.dport) = (Some(6), Some((6443, 6443))));
        add(&|r| (r.ipproto, r.sport) = (Some(17), Some((10, 20))));
        add(&|r| r.uids = Some((1000, 2000)));
        add(&|r| r.suppress = Some(0));
        add(&|r| (r.mark, r.action) = (None, Action::Goto(32_766)));
        add(&|r| {
            (r.family, r.to) = (Family::V6, Some("fd00:2::10".parse().unwrap()));
        });
        for rule in &rules {
            assert_eq!(kernel.add_rule(rule).await.unwrap(), Added::Added, "{rule:?}");
            assert_eq!(kernel.add_rule(rule).await.unwrap(), Added::Exists, "{rule:?}");
        }
        for family in Family::ALL {
            let of = |all: Vec<Rule>| -> Vec<Rule> {
                all.into_iter().filter(|r| (5_000..6_000).contains(&r.pref)).collect()
            };
            let meant: Vec<Rule> = rules.iter().filter(|r| r.family == family).cloned().collect();
            assert_eq!(of(theirs(family)), meant);
            assert_eq!(of(ours(&kernel, family).await), meant);
            for (rule, message) in kernel.rules(family).await.unwrap() {
                if meant.contains(&rule) {
                    assert_eq!(
                        kernel.delete_rule(message.clone()).await.unwrap(),
                        Deleted::Deleted
                    );
                    assert_eq!(kernel.delete_rule(message).await.unwrap(), Deleted::Absent);
                }
            }
            assert_eq!(of(theirs(family)), []);
        }
    });
}

#[test]
fn the_victim_of_a_deletion_is_foretold_as_the_kernel_does_it() {
    alone(async || {
        for rule in [
            "pref 5270 fwmark 1 lookup 52",
            "pref 5270 lookup 52",
            "pref 5270 to 10.0.0.0/8 lookup 52 protocol 7",
            "pref 5280 unreachable",
            "pref 5280 fwmark 0x2/0xff lookup 52",
        ] {
            ip(&format!("rule add {rule}"));
        }
        let kernel = Kernel::open().unwrap();
        let mut left = kernel.rules(Family::V4).await.unwrap();
        // Take each that is there at the moment in turn, delete by its message, and see who went.
        for ask in left.clone().into_iter().map(|(_, m)| m).skip(1) {
            let dump: Vec<_> = left.iter().map(|(_, m)| m.clone()).collect();
            let Some(foretold) = victim(&dump, &ask) else { continue };
            assert_eq!(kernel.delete_rule(ask.clone()).await.unwrap(), Deleted::Deleted);
            let now = kernel.rules(Family::V4).await.unwrap();
            let mut expected = left.clone();
            let gone = expected.remove(foretold);
            assert_eq!(now, expected, "asked for {ask:?}, foretold {gone:?}");
            left = now;
        }
        // K3: the plain message of `lookup 52` takes the first, marked one.
        ip("rule add pref 5270 lookup 52");
        ip("rule add pref 5270 fwmark 1 lookup 52");
        let dump: Vec<_> = kernel.rules(Family::V4).await.unwrap();
        let plain = dump.iter().position(|(r, _)| r.pref == 5270 && r.mark.is_none()).unwrap();
        let messages: Vec<_> = dump.iter().map(|(_, m)| m.clone()).collect();
        assert_eq!(victim(&messages, &messages[plain]), Some(plain));
        let reversed: Vec<_> = messages.iter().rev().cloned().collect();
        let marked = reversed.iter().position(|m| *m == messages[plain + 1]).unwrap();
        assert_eq!(victim(&reversed, &messages[plain]), Some(marked));
    });
}

#[test]
fn routes_of_every_kind_are_read_as_ip_shows_them() {
    alone(async || {
        node();
        ip("link add eth1 type veth peer name far1");
        ip("link set far1 up");
        ip("link set eth1 up");
        ip("addr add 192.168.3.80/24 dev eth1");
        for route in [
            "default dev tailscale0 table 52",
            "throw 127.0.0.0/8 table 52",
            "0.0.0.0/1 dev tailscale0",
            "blackhole 198.51.100.0/24",
            "unreachable 198.51.101.0/24 metric 7",
            "prohibit 198.51.102.0/24 table 21300",
            "203.0.113.0/24 via 10.9.9.9 dev eth0 onlink metric 50 src 192.168.2.80 proto 213",
            "203.0.112.0/24 nexthop via 192.168.2.1 dev eth0 weight 3 nexthop via 192.168.3.1 dev eth1 weight 1",
            "203.0.111.0/24 via 192.168.2.1 mtu 1400",
            "203.0.110.0/24 via inet6 fd00:2::1 dev eth0",
            "10.42.2.0/24 dev cni0 table 70000",
        ] {
            ip(&format!("route add {route}"));
        }
        for route in [
            "default dev tailscale0 table 52",
            "unreachable fd00:9::/64",
            "fd00:8::/64 via fd00:2::1 metric 5",
            "fd00:7::/64 nexthop via fd00:2::1 dev eth0 nexthop via fd00:2::2 dev eth0",
        ] {
            ip(&format!("-6 route add {route}"));
        }
        let kernel = Kernel::open().unwrap();
        // Link-local addresses are still being checked for duplicates and change the table meanwhile.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let names = kernel.names().await.unwrap();
        let mut ours: Vec<_> =
            kernel.routes(&names).await.unwrap().into_iter().map(|(r, _)| r).collect();
        let mut theirs = iproute::routes(&ip("-4 -j -d route show table all"), Family::V4);
        theirs.extend(iproute::routes(&ip("-6 -j -d route show table all"), Family::V6));
        assert_eq!(ours.len(), theirs.len());
        ours.sort();
        theirs.sort();
        for (a, b) in ours.iter().zip(&theirs) {
            assert_eq!(a, b);
        }
        assert_eq!(ours.iter().filter(|r| r.exotic).count(), 1, "the one with an MTU");
    });
}

#[test]
fn a_route_written_by_us_is_the_route_that_was_read() {
    alone(async || {
        node();
        for route in [
            "203.0.113.0/24 via 10.9.9.9 dev eth0 onlink metric 50 src 192.168.2.80 proto 213",
            "203.0.112.0/24 nexthop via 192.168.2.1 dev eth0 weight 3 nexthop dev cni0 weight 1",
            "203.0.110.0/24 via inet6 fd00:2::1 dev eth0",
            "blackhole 198.51.100.0/24",
            "throw 198.51.0.0/16 table 70000",
            "10.42.2.0/24 dev cni0 table 70000 scope link",
        ] {
            ip(&format!("route add {route}"));
        }
        for route in ["fd00:8::/64 via fd00:2::1 metric 5", "unreachable fd00:9::/64 table 52"] {
            ip(&format!("-6 route add {route}"));
        }
        let kernel = Kernel::open().unwrap();
        let names = kernel.names().await.unwrap();
        let before: Vec<_> = kernel
            .routes(&names)
            .await
            .unwrap()
            .into_iter()
            .filter(|(r, _)| r.protocol != 2 && r.kind != RouteKind::Multicast)
            .collect();
        assert_eq!(before.len(), 9, "{before:#?}");
        let listing = || {
            let mut lines: Vec<String> = (ip("-4 -d route show table all")
                + &ip("-6 -d route show table all"))
                .lines()
                .filter(|l| !l.contains("proto kernel"))
                .map(str::to_owned)
                .collect();
            lines.sort();
            lines
        };
        let text = listing();
        for (route, message) in &before {
            assert_eq!(kernel.add_route(route, &names).await.unwrap(), Added::Exists, "{route:?}");
            assert_eq!(kernel.delete_route(message.clone()).await.unwrap(), Deleted::Deleted);
            assert_eq!(kernel.delete_route(message.clone()).await.unwrap(), Deleted::Absent);
        }
        assert_eq!(listing(), Vec::<String>::new());
        for (route, _) in &before {
            assert_eq!(kernel.add_route(route, &names).await.unwrap(), Added::Added, "{route:?}");
        }
        assert_eq!(listing(), text);
        let gone = kernel
            .add_route(
                &before.iter().find(|(r, _)| r.dev() == Some("eth0")).unwrap().0,
                &LinkNames::default(),
            )
            .await;
        assert!(gone.unwrap_err().to_string().contains("there is no device eth0"));
    });
}

#[test]
fn devices_addresses_and_other_nodes_are_seen() {
    alone(async || {
        node();
        for args in [
            "link add flannel.1 type vxlan id 1 dev eth0 dstport 8472 nolearning",
            "addr add 10.42.1.0/32 dev flannel.1",
            "link set flannel.1 up",
            "link add veth1 type veth peer name in1",
            "link set veth1 master cni0",
            "addr add 100.64.0.5 peer 100.64.0.1 dev tailscale0",
        ] {
            ip(args);
        }
        let (ok, _) =
            output("bridge", "fdb append 02:00:00:00:00:02 dev flannel.1 dst 203.0.113.12");
        assert!(ok);
        let kernel = Kernel::open().unwrap();
        let links = kernel.links().await.unwrap();
        let link = |name: &str| links.iter().find(|l| l.name == name).unwrap();
        assert_eq!(link("tailscale0").kind, "tun");
        assert!(link("tailscale0").persist && !link("tailscale0").carrier);
        assert_eq!(link("flannel.1").kind, "vxlan");
        assert_eq!(link("veth1").master.as_deref(), Some("cni0"));
        assert!(link("eth0").up && link("eth0").carrier);
        let json: serde_json::Value = serde_json::from_str(&ip("-j -d addr")).unwrap();
        assert_eq!(json.as_array().unwrap().len(), links.len());
        for (link, json) in links.iter().zip(json.as_array().unwrap()) {
            assert_eq!(json["ifname"], link.name);
            assert_eq!(json["ifindex"], link.index);
            assert_eq!(json["address"].as_str().unwrap_or_default(), link.mac);
            assert_eq!(json["linkinfo"]["info_kind"].as_str().unwrap_or_default(), link.kind);
        }
        let names = LinkNames::from(links.as_slice());
        let addrs: Vec<String> = kernel
            .addrs(&names)
            .await
            .unwrap()
            .iter()
            .filter(|a| a.addr.is_ipv4())
            .map(|a| format!("{} {}/{}", a.dev, a.addr, a.len))
            .collect();
        assert_eq!(
            addrs,
            [
                "lo 127.0.0.1/8",
                "eth0 192.168.2.80/24",
                "cni0 10.42.1.1/24",
                "tailscale0 100.64.0.5/32",
                "flannel.1 10.42.1.0/32"
            ]
        );
        let fdb = kernel.neighbours_fdb(&names).await.unwrap();
        assert_eq!(fdb.len(), 1, "{fdb:?}");
        assert_eq!(
            (fdb[0].dev.as_str(), fdb[0].dst.to_string()),
            ("flannel.1", "203.0.113.12".into())
        );
        assert_eq!(kernel.delete_link(link("tailscale0").index).await.unwrap(), Deleted::Deleted);
        assert_eq!(kernel.delete_link(link("tailscale0").index).await.unwrap(), Deleted::Absent);
    });
}

#[test]
fn the_kernel_is_asked_with_mark_port_and_user() {
    alone(async || {
        node();
        for args in [
            "addr add 100.64.0.5 dev tailscale0",
            "route add default dev tailscale0 table 52",
            "rule add pref 5210 fwmark 0x80000/0xff0000 lookup main",
            "rule add pref 5270 to 203.0.113.10 lookup 52",
            "rule add pref 5271 ipproto tcp dport 6443 to 203.0.113.11 lookup 52",
            "rule add pref 5272 uidrange 1000-1000 to 203.0.113.12 lookup 52",
            "rule add pref 5273 to 203.0.113.13 prohibit",
            "route add blackhole 203.0.113.14",
            "route add unreachable 203.0.113.15",
            "-6 route add unreachable fd00:9::/64",
        ] {
            ip(args);
        }
        // A tun without a process has no carrier, which is the default for `linkdown` routes to be used all the same.
        let kernel = Kernel::open().unwrap();
        let names = kernel.names().await.unwrap();
        let ask = async |dst: &str, mark, dport, uid| {
            kernel.lookup(&names, dst.parse().unwrap(), mark, (6, dport), uid, None).await.unwrap()
        };
        let tun = Fate::Leaves {
            dev: "tailscale0".into(),
            via: None,
            table: 52,
            src: Some("100.64.0.5".parse().unwrap()),
        };
        let uplink = Fate::Leaves {
            dev: "eth0".into(),
            via: Some("192.168.2.1".parse().unwrap()),
            table: 254,
            src: Some("192.168.2.80".parse().unwrap()),
        };
        assert_eq!(ask("203.0.113.10", 0, 6443, 0).await, tun);
        assert_eq!(ask("203.0.113.10", 0x80000, 6443, 0).await, uplink);
        assert_eq!(ask("203.0.113.11", 0, 6443, 0).await, tun);
        assert_eq!(ask("203.0.113.11", 0, 443, 0).await, uplink);
        assert_eq!(ask("203.0.113.12", 0, 6443, 1000).await, tun);
        assert_eq!(ask("203.0.113.12", 0, 6443, 0).await, uplink);
        assert_eq!(ask("203.0.113.13", 0, 6443, 0).await, Fate::Refused(13));
        assert_eq!(ask("203.0.113.14", 0, 6443, 0).await, Fate::Refused(22));
        assert_eq!(ask("203.0.113.15", 0, 6443, 0).await, Fate::Refused(113));
        assert_eq!(ask("192.168.2.80", 0, 6443, 0).await, Fate::Local);
        assert_eq!(ask("fd00:2::80", 0, 6443, 0).await, Fate::Local);
        assert_eq!(ask("fd00:9::1", 0, 6443, 0).await, Fate::Refused(113));
        assert_eq!(ask("fd00:77::1", 0, 6443, 0).await, Fate::Refused(101));
    });
}
