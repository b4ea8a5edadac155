//! What others put on a node, and changes somebody wants: none of it is to be touched.

use super::Node;
use crate::dice::Dice;
use lifeline_core::net::Prefix;
use lifeline_core::observation::{Route, TABLE_MAIN};

/// Puts something foreign on a node; nothing critical goes another way for it.
pub fn foreign(node: &mut Node, dice: &mut Dice) {
    let (uplink, gateway) = (node.uplink.clone(), node.gateway);
    let n = dice.roll(200);
    let line = match dice.roll(24) {
        0 => format!("rule 5210 fwmark 0x80000/0xf0000 lookup main\nrule {} from 10.99.0.0/16 lookup 52", 5200 + dice.roll(99)),
        1 => "rule 5270 fwmark 0x1 lookup 52\nroute 52 10.97.0.0/16 dev corp0".into(),
        2 => format!("rule {} to 10.98.0.0/16 lookup 100\nroute 100 10.98.0.0/16 via {gateway} dev {uplink}", 2 + dice.roll(32_000)),
        3 => format!("rule {} uid 4000-5000 lookup 77\nroute 77 default dev corp0", 99 + dice.roll(5000)),
        4 => format!("rule {} iif corp0 lookup 77\nroute 77 default dev corp0", 99 + dice.roll(5000)),
        5 => "rule 1310 ipproto 17 dport 53 lookup 78\nroute 78 default dev corp0".into(),
        6 => format!("rule {} lookup 79", 100 + dice.roll(9000)),
        7 => format!("rule {} lookup 80\nroute 80 10.200.0.0/16 dev corp0", 100 + dice.roll(9000)),
        8 => "rule 900 nop\nrule 901 goto 902\nrule 902 nop\nrule 32000 from 10.99.0.0/16 unreachable".into(),
        9 => format!("rule 32765 lookup main suppress 0\nroute main 198.18.{n}.0/24 dev corp0"),
        10 => format!("route main 172.31.{n}.0/24 via {gateway} dev {uplink} proto static"),
        11 => format!("route main unreachable 192.0.2.{n}\nroute main blackhole 10.250.0.0/16 proto 186"),
        12 => format!("route main prohibit default metric {}", 100_000 + n),
        13 => format!("route main default via {gateway} dev {uplink} metric {}", 20_000 + n),
        14 => format!("link docker0 index {} kind bridge up mac 02:42:aa:bb:cc:dd\naddr docker0 172.17.0.1/16\nroute main 172.17.0.0/16 dev docker0 src 172.17.0.1 scope link proto kernel", 100 + n),
        15 => format!("link wg{n} index {} kind wireguard up carrier\naddr wg{n} 10.200.{n}.2/32\nroute main 10.200.{n}.0/24 dev wg{n} scope link", 300 + n),
        16 => format!("link vethpod{n} index {} kind veth up carrier mac aa:bb:cc:dd:ee:ff master cni0", 500 + n),
        17 => format!("process {} tailscaled ppid 2 start 501 exe /usr/local/bin/tailscaled inode 1:2 netns other cgroup /kubepods/burstable/pod1 tun tailscale0 socket /tmp/tailscaled.sock statedir /var/lib/tailscale", 6000 + n),
        18 => format!("process {} sshd ppid 1 start 502 exe /usr/sbin/sshd inode 1:3 netns host cgroup /system.slice/ssh.service", 6000 + n),
        19 => peers(n),
        20 => format!("legacy filter\nlegacy filter :INPUT policy ACCEPT\nlegacy filter :DOCKER-USER\nlegacy filter -A INPUT -s 198.51.{n}.9/32 -j DROP\nlegacy filter -A INPUT -j DOCKER-USER"),
        21 => "rule6 1500 from fd00::/8 lookup 90\nroute6 90 default dev corp0\nroute6 main unreachable fd00::/8 metric 4096".into(),
        22 => format!("rule {} fwmark 0x29a lookup 81\nroute 81 default dev corp0", 3000 + n),
        _ => format!("route {} default via 10.99.77.1 dev corp0 proto static\nroute 52 172.31.0.0/16 dev corp0", 400 + n),
    };
    // Twice the same thing is refused by the kernel, and names are taken.
    let taken = line.contains("tailscale0")
        && line.contains("link")
        && node.seen.link("tailscale0").is_some();
    if !node.story.contains(&line) && !taken {
        if line.contains("dev corp0") && node.seen.link("corp0").is_none() {
            node.add("link corp0 index 40 kind tun up carrier\naddr corp0 10.99.0.2/24\nprocess 6001 corpvpnd ppid 1 start 500 exe /opt/corp/vpnd inode 1:1 netns host cgroup /system.slice/corp.service tun corp0");
        }
        node.add(&line);
        node.story.push(line);
    }
}

/// A live Tailscale with peers only (R16).
fn peers(n: u64) -> String {
    let mut t = String::from(
        "link tailscale0 index 90 kind tun up carrier\naddr tailscale0 100.64.0.5/32\n",
    );
    for family in ["", "6"] {
        t += &format!(
            "rule{family} 5210 fwmark 0x80000/0xff0000 lookup main\nrule{family} 5230 fwmark 0x80000/0xff0000 lookup default\nrule{family} 5250 fwmark 0x80000/0xff0000 unreachable\nrule{family} 5270 lookup 52\n"
        );
    }
    t + &format!(
        "route 52 100.64.0.{n} dev tailscale0\nroute6 52 fd7a:115c:a1e0::53 dev tailscale0 metric 1024\nprocess 4711 tailscaled ppid 4690 start 90210 exe /usr/local/bin/tailscaled inode 65024:9001 netns host cgroup /system.slice/tailscaled.service tun tailscale0 socket /run/tailscale/tailscaled.sock statedir /var/lib/tailscale\n"
    )
}

/// A change of the cluster's: nodes come and go, pods' devices too.
pub fn cluster(node: &mut Node, dice: &mut Dice) {
    let remotes = node.remotes();
    match dice.roll(3) {
        // A node joins.
        0 if !remotes.is_empty() => {
            let n = 60 + dice.roll(100);
            let line = format!(
                "route main 10.42.{n}.0/24 via 10.42.{n}.0 dev flannel.1 onlink\nfdb flannel.1 198.51.100.{n}"
            );
            if !node.story.contains(&line) {
                node.add(&line);
                node.story.push(line);
            }
        }
        // A node leaves; its route and its forwarding entry go.
        1 if remotes.len() > 1 => {
            let gone = dice.pick(&remotes).clone();
            let known = node
                .overlay
                .routes
                .iter()
                .filter(|r| r.dev() == Some("flannel.1"))
                .position(|r| r.dst == gone.dst);
            let Some(at) = known else { return };
            node.seen.routes.retain(|r| *r != gone);
            // The entries stand in the order of the routes; one address may be two nodes' in this game.
            let entry = node.overlay.fdb[at].clone();
            if let Some(place) = node.seen.fdb.iter().position(|f| *f == entry) {
                node.seen.fdb.remove(place);
            }
            node.story.push(format!("the node of {} left", gone.dst));
        }
        // The last pod goes: the bridge stays, its port goes.
        _ => {
            node.seen.links.retain(|l| l.name != "veth5d1a9c3e");
            node.story.push("a pod went".into());
        }
    }
}

/// A change somebody wants, which works (R20).
pub fn moved(node: &mut Node, dice: &mut Dice) {
    let (uplink, own) = (node.uplink.clone(), node.own);
    let lan = Prefix::new(own, 24);
    let other: std::net::IpAddr = lan.to_string().replace(".0/24", ".254").parse().unwrap_or(own);
    let is_default = |r: &Route| {
        r.table == TABLE_MAIN
            && r.dst.is_all()
            && r.dev() == Some(uplink.as_str())
            && r.family == lan.family()
    };
    let vpn = "link vpn7 index 77 kind tun up carrier\naddr vpn7 10.9.0.2/24\nprocess 5007 vpnd ppid 1 start 700 exe /opt/vpnd inode 1:7 netns host cgroup /system.slice/vpn.service tun vpn7\n";
    let mut choice = dice.roll(7);
    // Where the network itself routes pods, a tunnel for everything takes them too: that is no mere wish.
    // And where the API server is not behind the gateway, nothing proves that what the tunnel takes arrives.
    let near = |a: &std::net::SocketAddr| a.is_ipv6() || lan.contains(a.ip());
    let proven = !node.remotes().is_empty() && !node.seen.cluster.api.iter().any(near);
    if (3..6).contains(&choice) && !proven {
        choice = 0;
    }
    match choice {
        // DHCP gives another gateway.
        0 => {
            node.ways.push((uplink.clone(), Some(other)));
            for r in node.seen.routes.iter_mut().filter(|r| is_default(r)) {
                for h in &mut r.hops {
                    h.via = Some(other);
                }
            }
        }
        // A second gateway of better metric.
        1 => {
            node.ways.push((uplink.clone(), Some(other)));
            for r in node.seen.routes.iter_mut().filter(|r| is_default(r)) {
                r.metric += 500;
            }
            node.add(&format!("route main default via {other} dev {uplink} metric 50"));
        }
        // The uplink fails over.
        2 => {
            node.ways.push(("wwan0".into(), Some(std::net::IpAddr::from([10, 77, 0, 1]))));
            node.seen.routes.retain(|r| !is_default(r));
            node.add("link wwan0 index 70 kind wwan up carrier\naddr wwan0 10.77.0.9/24\nroute main 10.77.0.0/24 dev wwan0 src 10.77.0.9 scope link proto kernel\nroute main default via 10.77.0.1 dev wwan0 metric 700");
        }
        // A VPN for everything that has no better route, by rules or in main.
        3 => {
            node.ways.push(("vpn7".into(), None));
            node.add(&format!("{vpn}route 1234 default dev vpn7\nrule 1000 lookup main suppress 0\nrule 1001 not fwmark 0x80000/0xff0000 lookup 1234"));
        }
        4 => {
            node.ways.push(("vpn7".into(), None));
            node.add(&format!(
                "{vpn}route main 0.0.0.0/1 dev vpn7\nroute main 128.0.0.0/1 dev vpn7"
            ));
        }
        5 => {
            node.ways.push(("vpn7".into(), None));
            node.add(&format!("{}rule 32764 lookup main suppress 0\nrule 32765 not fwmark 0xca6c lookup 51820\nroute 51820 default dev vpn7", vpn.replace("kind tun", "kind wireguard")));
        }
        // The API server has another address.
        _ => {
            for a in &mut node.seen.cluster.api {
                a.set_ip(std::net::IpAddr::from([198, 51, 110, 9]));
            }
        }
    }
    node.story.push(format!("moved: {choice}"));
}

/// Trouble that is nobody's fault here: the API server is down, the link is, the gateway is.
pub fn upstream(node: &mut Node, dice: &mut Dice) {
    let uplink = node.uplink.clone();
    match dice.roll(3) {
        0 => node.world = false,
        1 => {
            node.seen.links.iter_mut().filter(|l| l.name == uplink).for_each(|l| l.carrier = false);
        }
        _ => node.ways.retain(|(d, _)| *d != uplink),
    }
    node.story.push("upstream".into());
}
