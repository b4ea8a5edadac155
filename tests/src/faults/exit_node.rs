//! Faults that a tailscaled in the node's network namespace makes, alive or dead.

use std::time::Duration;

use super::{
    Fault,
    daemon::{self, restore, wait_for_route},
    site::{Site, wait_for},
};
use crate::error::Result;

/// The faults of this family.
pub const FAULTS: &[Fault] = &[
    Fault {
        id: "R1",
        title: "exit node, live daemon, LAN not allowed",
        how: "a pod's tailscaled with an exit node, chains in iptables-legacy as its image has them; the route 3 s after the rules",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| exit_node(site, "--firewall legacy"),
        restore,
    },
    Fault {
        id: "R1-kept",
        title: "the same in a pod that its kubelet would start again",
        how: "R1 by a pod whose folder lies in /var/log/pods, under Restart=always",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            kept(site, "--exit-node 100.64.0.1 --firewall legacy", "default dev tailscale0")
        },
        restore,
    },
    Fault {
        id: "R1-nft",
        title: "the same with native nft expressions, which stop iptables-nft-save half-way",
        how: "tailscaled with an exit node and --firewall nft",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| exit_node(site, "--firewall nft"),
        restore,
    },
    Fault {
        id: "R1-ipt-nft",
        title: "a tailscaled installed on the node, iptables-nft beside kube-proxy's chains, resolver taken over",
        how: "a service with an exit node, --firewall iptables-nft and --accept-dns",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| installed(site, "--firewall iptables-nft --accept-dns"),
        restore,
    },
    Fault {
        id: "R2",
        title: "exit node, LAN allowed: other nodes' pods, services and the API server captured",
        how: "tailscaled with an exit node and LAN access: throw routes for the LAN and the node's own pods",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| exit_node(site, "--exit-node-allow-lan-access"),
        restore,
    },
    Fault {
        id: "R2-kept",
        title: "the same in a pod that its kubelet would start again",
        how: "R2 by a pod whose folder lies in /var/log/pods, under Restart=always",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            kept(
                site,
                "--exit-node 100.64.0.1 --exit-node-allow-lan-access",
                "default dev tailscale0",
            )
        },
        restore,
    },
    Fault {
        id: "R3",
        title: "remnants after SIGKILL: rules, a throw, chains, CONNMARK, resolv.conf, sysctl",
        how: "a service with an exit node, chains in iptables-legacy and the resolver, then kill -9",
        verdict: "Healthy",
        near_miss: false,
        ground: None,
        strike: |site| {
            installed(site, "--accept-dns")?;
            daemon::kill(site, daemon::INSTALLED)
        },
        restore,
    },
    Fault {
        id: "R4",
        title: "daemon that fights back: rules come again 250 ms after they went, and a policy keeps the exit node on",
        how: "R1 under a system policy: a PATCH of the exit node is answered with 200 and changes nothing",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| exit_node(site, "--policy-exit-node 100.64.0.1"),
        restore,
    },
    Fault {
        id: "R5",
        title: "re-infection: whoever keeps the daemon starts it again, and it captures again, whatever it is told",
        how: "R4 by a pod whose folder lies in /var/log/pods, under Restart=always",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            let flags = "--exit-node 100.64.0.1 --policy-exit-node 100.64.0.1";
            kept(site, flags, "default dev tailscale0")
        },
        restore,
    },
    Fault {
        id: "R5-unit",
        title: "the same by a systemd unit with Restart=always",
        how: "R4 by an installed tailscaled that systemd starts again after two seconds",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            let flags = "--firewall legacy --exit-node 100.64.0.1 --policy-exit-node 100.64.0.1";
            daemon::start_installed_kept(site, flags)?;
            wait_for_capture(site)
        },
        restore,
    },
    Fault {
        id: "R6",
        title: "accepted routes that overlap the LAN, services and other nodes' pods",
        how: "tailscaled without exit node, --accept-routes with those prefixes advertised by a peer",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            let other =
                site.facts.other_worker().map_or(String::new(), |other| format!(",{}", other.pods));
            daemon::start(
                site,
                &format!("--accept-routes --advertised 10.43.0.0/16,{}{other}", site.facts.lan),
            )?;
            wait_for_route(site, "10.43.0.0/16")
        },
        restore,
    },
    Fault {
        id: "R6-kept",
        title: "the same in a pod that its kubelet would start again",
        how: "R6 by a pod whose folder lies in /var/log/pods, under Restart=always",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            // Other nodes' pods among them: a leak of pods' traffic is proof of harm.
            let pods = site.facts.other_worker().map_or(String::new(), |o| format!(",{}", o.pods));
            let flags = format!("--accept-routes --advertised 10.43.0.0/16{pods}");
            kept(site, &flags, "10.43.0.0/16")
        },
        restore,
    },
    Fault {
        id: "R7",
        title: "persistent tun with a default route, no process",
        how: "ip tuntap add tailscale0, Tailscale's rules, table 52 with a default and every local prefix",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: persistent_tun,
        restore,
    },
    Fault {
        id: "R16",
        title: "live benign Tailscale: peers only",
        how: "tailscaled without exit node",
        verdict: "Healthy",
        near_miss: true,
        ground: None,
        strike: |site| {
            daemon::start(site, "")?;
            wait_for_route(site, "100.64.0.1")
        },
        restore,
    },
    Fault {
        id: "R23",
        title: "another node's address captured: the overlay's outer packets leave by the tun",
        how: "tailscaled with --accept-routes and that node's address advertised by a peer",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            let other = site.facts.other_worker().map_or(site.facts.api, |other| other.address);
            daemon::start(site, &format!("--accept-routes --advertised {other}/32"))?;
            wait_for_route(site, &other.to_string())
        },
        restore,
    },
];

fn exit_node(site: &Site, flags: &str) -> Result<()> {
    daemon::start(site, &format!("--exit-node 100.64.0.1 {flags}"))?;
    wait_for_capture(site)
}

fn kept(site: &Site, flags: &str, route: &str) -> Result<()> {
    daemon::start_kept(site, flags)?;
    if route.starts_with("default") { wait_for_capture(site) } else { wait_for_route(site, route) }
}

fn installed(site: &Site, flags: &str) -> Result<()> {
    daemon::start_installed(site, &format!("--exit-node 100.64.0.1 {flags}"))?;
    wait_for_capture(site)
}

fn wait_for_capture(site: &Site) -> Result<()> {
    wait_for_route(site, "default dev tailscale0")?;
    // The addresses come last; a node between routes and addresses is a state nobody stays in.
    wait_for("the tun has its address", Duration::from_secs(5), || {
        Ok(site.node.may("ip -4 addr show tailscale0")?.stdout.contains("100.64.0.5"))
    })
}

fn persistent_tun(site: &Site) -> Result<()> {
    for line in [
        "ip tuntap add dev tailscale0 mode tun",
        "ip link set tailscale0 mtu 1280 up",
        "ip addr add 100.64.0.5/32 dev tailscale0",
        "ip addr add fd7a:115c:a1e0:ab12:4843:cd96:6240:5/128 dev tailscale0",
        "ip route add throw 127.0.0.0/8 table 52",
        "ip route add default dev tailscale0 scope global table 52",
        "ip -6 route add default dev tailscale0 table 52",
        &format!("ip route add {} dev tailscale0 scope global table 52", site.facts.lan),
        &format!("ip route add {} dev tailscale0 scope global table 52", site.facts.pods),
    ] {
        site.node.must(line)?;
    }
    for family in ["-4", "-6"] {
        for rule in [
            "pref 5210 fwmark 0x80000/0xff0000 lookup main",
            "pref 5230 fwmark 0x80000/0xff0000 lookup default",
            "pref 5250 fwmark 0x80000/0xff0000 unreachable",
            "pref 5270 lookup 52",
        ] {
            site.node.must(&format!("ip {family} rule add {rule} protocol 0"))?;
        }
    }
    Ok(())
}
