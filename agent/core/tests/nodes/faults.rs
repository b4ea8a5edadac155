//! The catalogue's faults, made on any node: what they are called when found, and whether they can be mended or only contained.
//!
//! Longer than most files: a catalogue: its rows are read beside each other.

use super::{Node, uses};
use crate::dice::Dice;
use lifeline_core::baseline::Baseline;
use lifeline_core::net::Family;
use lifeline_core::observation::{NfRule, Route, RouteKind, TABLE_MAIN};

/// What becomes of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The node is as it was.
    Mended,
    /// The guard holds, the rest is for a person.
    Contained,
}

/// A fault of the catalogue.
pub struct Fault {
    /// Row.
    pub row: &'static str,
    /// The finding that has to come up, sooner or later.
    pub finding: &'static str,
    /// How it ends.
    pub end: End,
    /// Makes it; false where the node does not have what it would break.
    pub strike: fn(&mut Node, &Baseline, &mut Dice) -> bool,
}

const TUNNEL: &str = "link tailscale0 index 91 kind tun up carrier\naddr tailscale0 100.64.0.5/32\naddr tailscale0 fd7a:115c:a1e0:ab12:4843:cd96:6240:5/128\n";
const DAEMON: &str = "process 4711 tailscaled ppid 4690 start 90210 exe /usr/local/bin/tailscaled inode 65024:9001 netns host cgroup /system.slice/tailscaled.service tun tailscale0 socket /run/tailscale/tailscaled.sock statedir /var/lib/tailscale\n";
const CHAINS: &str = "legacy filter\nlegacy filter :INPUT policy ACCEPT\nlegacy filter :FORWARD policy ACCEPT\nlegacy filter :ts-input\nlegacy filter :ts-forward\nlegacy filter -A INPUT -j ts-input\nlegacy filter -A FORWARD -j ts-forward\nlegacy filter -A ts-input -i tailscale0 -j ACCEPT\n";

fn rules() -> String {
    ["", "6"]
        .iter()
        .map(|s| format!("rule{s} 5210 fwmark 0x80000/0xff0000 lookup main\nrule{s} 5230 fwmark 0x80000/0xff0000 lookup default\nrule{s} 5250 fwmark 0x80000/0xff0000 unreachable\nrule{s} 5270 lookup 52\n"))
        .collect()
}

fn tailscale(node: &mut Node, daemon: bool, routes: &str) -> bool {
    // One is there already, or a VPN of another kind has the name.
    if node.seen.link("tailscale0").is_some()
        || node.seen.rules.iter().any(|r| r.pref == 5270)
        || node.seen.routes.iter().any(|r| r.table == 52)
    {
        return false;
    }
    let tunnel = if daemon {
        TUNNEL.to_string()
    } else {
        TUNNEL.replace(" up carrier", " up carrier persist")
    };
    node.add(&format!("{tunnel}{}{routes}", rules()));
    if daemon {
        node.add(DAEMON);
    }
    if !node.seen.netfilter.iter().any(|t| t.backend == lifeline_core::observation::Backend::Legacy)
    {
        node.add(CHAINS);
    }
    true
}

/// Routes of table 52 with an exit node; of its prefixes those that are local, where LAN access is not allowed.
fn exit_routes(node: &Node, lan: bool) -> String {
    let mut t = String::from(
        "route 52 100.100.100.100 dev tailscale0\nroute 52 default dev tailscale0\nroute6 52 default dev tailscale0 metric 1024\nroute 52 throw 127.0.0.0/8\n",
    );
    for a in node.seen.addrs.iter().filter(|a| a.addr.is_ipv4() && a.dev != "lo" && a.len < 32) {
        let prefix = lifeline_core::net::Prefix::new(a.addr, a.len);
        t += &if lan {
            format!("route 52 throw {prefix}\n")
        } else {
            format!("route 52 {prefix} dev tailscale0\n")
        };
    }
    t
}

fn default_of(node: &Node) -> Option<Route> {
    let own = Family::of(node.own);
    let mine =
        |r: &&Route| r.family == own && r.dst.is_all() && r.dev() == Some(node.uplink.as_str());
    node.routes().filter(mine).min_by_key(|r| r.metric).cloned()
}

/// Does anything critical lie behind the IPv4 gateway?
fn by_default(base: &Baseline) -> bool {
    base.expected.iter().any(|e| {
        matches!(e.role, lifeline_core::baseline::Role::Api | lifeline_core::baseline::Role::Node)
            && e.prefix.family() == Family::V4
            && e.path.as_ref().is_some_and(|p| p.via.is_some())
    })
}

/// Is every API server behind the IPv4 gateway, so that its silence is this fault's doing?
fn api_by_default(base: &Baseline) -> bool {
    base.expected.iter().filter(|e| e.role == lifeline_core::baseline::Role::Api).all(|e| {
        e.prefix.family() == Family::V4 && e.path.as_ref().is_some_and(|p| p.via.is_some())
    })
}

fn corp(node: &mut Node) {
    if node.seen.link("corp7").is_none() {
        node.add("link corp7 index 45 kind tun up carrier\naddr corp7 172.31.9.2/32\nroute 7316 default dev corp7 scope link\nroute6 7316 default dev corp7\nprocess 5001 corpvpnd ppid 1 start 77000 exe /opt/corp/corpvpnd inode 65024:9100 netns host cgroup /system.slice/corpvpn.service tun corp7");
    }
}

/// A device loses its last address, and the kernel forgets its routes with it.
fn bare(node: &mut Node, dev: &str) -> bool {
    let had = node.seen.addrs.len();
    node.seen.addrs.retain(|a| a.dev != dev);
    node.seen.routes.retain(|r| r.dev() != Some(dev));
    node.seen.addrs.len() < had
}

fn stands(node: &Node, table: u32) -> bool {
    node.seen.routes.iter().any(|r| r.table == table)
}

/// The catalogue.
pub const ALL: &[Fault] = &[
    Fault {
        row: "R1",
        finding: "tailscale-capture",
        end: End::Mended,
        strike: |n, _, _| {
            let routes = exit_routes(n, false);
            tailscale(n, true, &routes)
        },
    },
    Fault {
        row: "R2",
        finding: "tailscale-capture",
        end: End::Mended,
        strike: |n, b, _| {
            let routes = exit_routes(n, true);
            // With the LAN let through, only what lies behind a gateway or an overlay is taken.
            (api_by_default(b) || !n.remotes().is_empty()) && tailscale(n, true, &routes)
        },
    },
    Fault {
        row: "R3",
        finding: "tailscale-remnant",
        end: End::Mended,
        strike: |n, _, _| {
            let done = tailscale(
                n,
                true,
                "route 52 throw 127.0.0.0/8\nroute 52 100.64.0.7 dev tailscale0\n",
            );
            if done {
                n.seen.processes.retain(|p| p.pid != 4711);
                n.lose("tailscale0");
                n.seen.sysctls.insert("net.ipv4.conf.all.src_valid_mark".into(), "1".into());
            }
            done
        },
    },
    Fault {
        row: "R6",
        finding: "tailscale-capture",
        end: End::Mended,
        strike: |n, _, dice| {
            let remotes = n.remotes();
            if remotes.is_empty() {
                return false;
            }
            let prefix = dice.pick(&remotes).dst;
            tailscale(
                n,
                true,
                &format!("route 52 100.64.0.7 dev tailscale0\nroute 52 {prefix} dev tailscale0\n"),
            )
        },
    },
    Fault {
        row: "R7",
        finding: "tailscale-capture",
        end: End::Mended,
        strike: |n, _, _| {
            let routes = exit_routes(n, false);
            tailscale(n, false, &routes)
        },
    },
    Fault {
        row: "R7-main",
        finding: "orphan-tun-capture",
        end: End::Mended,
        strike: |n, b, _| {
            if !api_by_default(b) || default_of(n).is_none_or(|d| d.metric == 0) {
                return false;
            }
            n.add("link vpn0 index 46 kind tun up carrier persist\naddr vpn0 10.9.9.2/32\nroute main default dev vpn0 scope link");
            true
        },
    },
    Fault {
        row: "R8",
        finding: "wg-quick-capture",
        end: End::Mended,
        strike: |n, b, dice| {
            if !api_by_default(b)
                || n.seen.rules.iter().any(|r| r.suppress.is_some())
                || stands(n, 51_820)
            {
                return false;
            }
            let pref = 5_000 + dice.roll(20_000);
            n.add(&format!("link wg0 index 47 kind wireguard up carrier\naddr wg0 10.66.0.2/32\nrule {pref} lookup main suppress 0\nrule {} not fwmark 0xca6c lookup 51820\nroute 51820 default dev wg0 scope link", pref + 1));
            true
        },
    },
    Fault {
        row: "R9",
        finding: "split-default",
        end: End::Mended,
        strike: |n, b, _| {
            if !api_by_default(b) || n.seen.link("tun0").is_some() {
                return false;
            }
            n.add("link tun0 index 48 kind tun up carrier\naddr tun0 10.8.0.2/24\nroute main 0.0.0.0/1 via 10.8.0.1 dev tun0\nroute main 128.0.0.0/1 via 10.8.0.1 dev tun0\nprocess 5002 openvpn ppid 1 start 77000 exe /usr/sbin/openvpn inode 65024:9200 netns host cgroup /system.slice/openvpn.service tun tun0");
            true
        },
    },
    Fault {
        row: "R10",
        finding: "unknown-capture",
        end: End::Contained,
        strike: |n, _, dice| {
            let pref = 3_000 + dice.roll(20_000);
            corp(n);
            n.add(&format!("rule {pref} not fwmark 0x29b lookup 7316"));
            true
        },
    },
    Fault {
        row: "R11",
        finding: "default-route-lost",
        end: End::Mended,
        strike: |n, b, _| {
            let Some(d) = default_of(n).filter(|_| by_default(b)) else { return false };
            // Another default stands by, or stands in: that is R20.
            if n.routes().filter(|r| r.family == d.family && r.dst.is_all()).count() > 1 {
                return false;
            }
            n.seen.routes.retain(|r| *r != d);
            true
        },
    },
    Fault {
        row: "R11-dead",
        finding: "default-route-lost",
        end: End::Mended,
        strike: |n, b, _| {
            let Some(d) = default_of(n).filter(|_| api_by_default(b)) else { return false };
            let dead = n
                .own
                .to_string()
                .rsplit_once('.')
                .map(|(h, _)| format!("{h}.77"))
                .and_then(|a| a.parse().ok());
            for r in n.seen.routes.iter_mut().filter(|r| **r == d) {
                for h in &mut r.hops {
                    h.via = dead;
                }
            }
            true
        },
    },
    Fault {
        row: "R11-metric",
        finding: "default-route-lost",
        end: End::Mended,
        strike: |n, b, _| {
            if !default_of(n).is_some_and(|d| d.metric > 50 && api_by_default(b)) {
                return false;
            }
            let dead = n
                .own
                .to_string()
                .rsplit_once('.')
                .map(|(h, _)| format!("{h}.77"))
                .unwrap_or_default();
            n.add(&format!("route main default via {dead} dev {} metric 10", n.uplink));
            true
        },
    },
    Fault {
        row: "R12",
        finding: "refusing-route",
        end: End::Mended,
        strike: |n, b, dice| {
            let kind = *dice.pick(&["blackhole", "unreachable", "prohibit"]);
            for e in b.expected.iter().filter(|e| e.role == lifeline_core::baseline::Role::Api) {
                let s = e.prefix.family().suffix();
                n.add(&format!("route{s} main {kind} {}", e.prefix));
            }
            true
        },
    },
    Fault {
        row: "R12-pods",
        finding: "refusing-route",
        end: End::Mended,
        strike: |n, _, dice| {
            let remotes = n.remotes();
            if remotes.is_empty() {
                return false;
            }
            let r = dice.pick(&remotes);
            n.seen.routes.retain(|x| x != r);
            n.add(&format!("route main unreachable {}", r.dst));
            true
        },
    },
    Fault {
        row: "R13",
        finding: "kernel-rule-missing",
        end: End::Mended,
        strike: |n, _, dice| {
            let pref = *dice.pick(&[32_766, 32_766, 32_767]);
            let family = if n.has6() && dice.roll(3) == 0 { Family::V6 } else { Family::V4 };
            let had = n.seen.rules.len();
            n.seen.rules.retain(|r| r.family != family || r.pref != pref || r.protocol != 2);
            n.seen.rules.len() < had
        },
    },
    Fault {
        row: "R14",
        finding: "unknown-capture",
        end: End::Contained,
        strike: |n, b, _| {
            if !uses(b, Family::V6) {
                return false;
            }
            corp(n);
            n.add("rule6 3307 lookup 7316");
            true
        },
    },
    Fault {
        row: "R15",
        finding: "route-lost",
        end: End::Mended,
        strike: |n, b, _| {
            let remotes = n.remotes();
            // One that is missing already is a node that left.
            if !b
                .routes
                .iter()
                .filter(|r| r.dev() == Some("flannel.1"))
                .all(|r| remotes.contains(r))
            {
                return false;
            }
            n.seen.routes.retain(|r| !remotes.contains(r));
            !remotes.is_empty()
        },
    },
    Fault {
        row: "R15-bridge",
        finding: "address-lost",
        end: End::Mended,
        strike: |n, _, _| bare(n, "cni0"),
    },
    Fault {
        row: "R15-overlay",
        finding: "address-lost",
        end: End::Mended,
        strike: |n, b, _| {
            let kept = b.routes.iter().filter(|r| r.dev() == Some("flannel.1"));
            kept.count() == n.remotes().len() && bare(n, "flannel.1")
        },
    },
    Fault {
        row: "R15-own",
        finding: "route-lost",
        end: End::Mended,
        strike: |n, _, _| {
            let had = n.seen.routes.len();
            n.seen.routes.retain(|r| r.dev() != Some("cni0") || r.kind != RouteKind::Unicast);
            n.seen.routes.len() < had
        },
    },
    Fault {
        row: "R15-lan",
        finding: "route-lost",
        end: End::Mended,
        strike: |n, _, _| {
            let (up, own) = (n.uplink.clone(), n.own);
            let had = n.seen.routes.len();
            n.seen.routes.retain(|r| {
                r.table != TABLE_MAIN || r.dev() != Some(up.as_str()) || r.src != Some(own)
            });
            n.seen.routes.len() < had
        },
    },
    Fault {
        row: "R15-device",
        finding: "link-lost",
        end: End::Mended,
        strike: |n, _, _| {
            let had = !n.remotes().is_empty();
            n.lose("flannel.1");
            had
        },
    },
    Fault {
        row: "R24-port",
        finding: "unknown-capture",
        end: End::Contained,
        strike: |n, b, dice| {
            corp(n);
            let pref = 3_000 + dice.roll(20_000);
            for family in Family::ALL.into_iter().filter(|f| uses(b, *f)) {
                n.add(&format!("rule{} {pref} ipproto 6 dport 6443 lookup 7316", family.suffix()));
            }
            true
        },
    },
    Fault {
        row: "R24-user",
        finding: "unknown-capture",
        end: End::Contained,
        strike: |n, _, dice| {
            corp(n);
            n.add(&format!("rule {} uid 0-0 lookup 7316", 3_000 + dice.roll(20_000)));
            true
        },
    },
    Fault {
        row: "R24-mark",
        finding: "unknown-capture",
        end: End::Contained,
        strike: |n, b, dice| {
            let Some(api) = n.seen.cluster.api.first().filter(|a| a.is_ipv4()).copied() else {
                return false;
            };
            if b.cluster.api.len() > 1 || api.port() != 6_443 {
                return false;
            }
            let Some(mangle) = n.seen.netfilter.iter_mut().find(|t| t.name == "mangle") else {
                return false;
            };
            let to = format!("-d {}/32 -p tcp -m tcp --dport 6443", api.ip());
            mangle.rules.push(NfRule {
                chain: "OUTPUT".into(),
                spec: format!("{to} -j MARK --set-xmark 0x87/0xffffffff"),
                handle: None,
            });
            n.stamp = Some(0x87);
            corp(n);
            n.add(&format!("rule {} fwmark 0x87 lookup 7316", 3_000 + dice.roll(20_000)));
            true
        },
    },
    Fault {
        row: "K1",
        finding: "kubelet-stuck",
        end: End::Mended,
        strike: |n, _, _| {
            for u in &mut n.seen.units {
                u.active = "failed".into();
                u.sub = "failed".into();
            }
            true
        },
    },
    Fault {
        row: "K4",
        finding: "kubelet-stuck",
        end: End::Mended,
        strike: |n, _, _| {
            n.stuck = true;
            n.silence = 60_000;
            let Some(api) = n.seen.cluster.api.first().copied() else { return false };
            if api.is_ipv4() {
                n.add(&format!("socket syn-sent 100.64.0.5:51022 {api}"));
            }
            true
        },
    },
];
