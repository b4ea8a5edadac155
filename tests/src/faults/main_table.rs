//! Faults in the machine's own rules and in its table `main`.

use std::time::Duration;

use super::{
    Fault,
    site::{Site, wait_for},
};
use crate::error::Result;

/// The unit of the VPN that is not Tailscale's.
const VPN_UNIT: &str = "work-vpn.service";
/// They refuse, and nothing critical.
const HARMLESS: [&str; 3] =
    ["unreachable 198.51.100.7", "blackhole 10.42.0.0/16", "prohibit default metric 4096"];

/// The faults of this family.
pub const FAULTS: &[Fault] = &[
    Fault {
        id: "R9",
        title: "split default in main, as OpenVPN's def1 makes it, into a tunnel whose server does not answer",
        how: "a process with a tun; ip route add 0.0.0.0/1 and 128.0.0.0/1 through it",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            let line = format!(
                "systemd-run -q --collect --unit={VPN_UNIT} -- /usr/local/bin/lab standin tailnet-peer --listen 0.0.0.0:1194 \
                 --tun tun0 --address 10.8.0.2 --routes 10.8.0.1 --to {}:1194",
                site.facts.nobody
            );
            site.node.must(&line)?;
            wait_for("the VPN has its tunnel", Duration::from_secs(5), || {
                Ok(site.node.may("ip route show 10.8.0.1")?.stdout.contains("tun0"))
            })?;
            site.node.must("ip route add 0.0.0.0/1 via 10.8.0.1 dev tun0")?;
            site.node.must("ip route add 128.0.0.0/1 via 10.8.0.1 dev tun0").map(drop)
        },
        restore: |site| site.node.may(&format!("systemctl stop {VPN_UNIT}")).map(drop),
    },
    Fault {
        id: "R9-replaced",
        title: "the same without def1: the tunnel's default route in the place of the healthy one",
        how: "ip route replace default through a tun",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            let split = FAULTS.iter().find(|fault| fault.id == "R9");
            split.map_or(Ok(()), |fault| (fault.strike)(site))?;
            site.node.must("ip route replace default via 10.8.0.1 dev tun0")?;
            site.node.must("ip route del 0.0.0.0/1")?;
            site.node.must("ip route del 128.0.0.0/1").map(drop)
        },
        restore: |site| {
            site.node.may(&format!("systemctl stop {VPN_UNIT}"))?;
            default_back(site)
        },
    },
    Fault {
        id: "R10",
        title: "unknown VPN: table, preference and mark of its own",
        how: "ip rule and a table of no known tool, a default route through a tun",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            site.node.must("ip tuntap add dev corp7 mode tun")?;
            site.node.must("ip addr add 172.31.9.2/32 dev corp7")?;
            site.node.must("ip link set corp7 up")?;
            site.node.must("ip route add default dev corp7 table 7316")?;
            site.node.must("ip rule add pref 3307 not fwmark 0x29a lookup 7316").map(drop)
        },
        restore: |site| {
            site.node.may("ip rule del pref 3307")?;
            site.node.may("ip link del corp7").map(drop)
        },
    },
    Fault {
        id: "R11",
        title: "default route deleted",
        how: "ip route del default",
        verdict: "Lost",
        near_miss: false,
        ground: None,
        strike: |site| site.node.must("ip route del default").map(drop),
        restore: default_back,
    },
    Fault {
        id: "R11-dead",
        title: "default route through a gateway that nobody is",
        how: "ip route replace default via an unused address",
        verdict: "Lost",
        near_miss: false,
        ground: None,
        strike: |site| {
            let Site { facts, node, .. } = site;
            node.must(&format!(
                "ip route replace default via {} dev {}",
                facts.nobody, facts.device
            ))
            .map(drop)
        },
        restore: default_back,
    },
    Fault {
        id: "R11-metric",
        title: "default route out-ranked by one of lower metric through a gateway that nobody is",
        how: "ground: the default gets metric 100, as DHCP gives it; then ip route add default via an unused address metric 10",
        verdict: "Captured",
        near_miss: false,
        ground: Some(default_with_metric),
        strike: |site| {
            let Site { facts, node, .. } = site;
            node.must(&format!(
                "ip route add default via {} dev {} metric 10",
                facts.nobody, facts.device
            ))
            .map(drop)
        },
        restore: default_back,
    },
    Fault {
        id: "R12",
        title: "blackhole for the API server in main",
        how: "ip route add blackhole",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            site.node.must(&format!("ip route add blackhole {}", site.facts.api)).map(drop)
        },
        restore: |site| {
            site.node.may(&format!("ip route del blackhole {}", site.facts.api)).map(drop)
        },
    },
    Fault {
        id: "R12-pods",
        title: "another node's pods are refused, in the place of flannel's route",
        how: "ip route replace unreachable",
        verdict: "Lost",
        near_miss: false,
        ground: None,
        strike: |site| {
            let Some(other) = site.facts.other_worker() else { return Ok(()) };
            site.node.must(&format!("ip route del {}", other.pods))?;
            site.node.must(&format!("ip route add unreachable {}", other.pods)).map(drop)
        },
        restore: |site| {
            let Some(other) = site.facts.other_worker() else { return Ok(()) };
            site.node.may(&format!("ip route del unreachable {}", other.pods))?;
            super::overlay::route_back(site, other)
        },
    },
    Fault {
        id: "R12-elsewhere",
        title: "a ban tool refuses an address of nobody's, and a null route stands behind what is better",
        how: "ip route add unreachable for an address on the Internet, blackhole for all pods, prohibit default of a high metric",
        verdict: "Healthy",
        near_miss: true,
        ground: None,
        strike: |site| {
            for route in HARMLESS {
                site.node.must(&format!("ip route add {route}"))?;
            }
            Ok(())
        },
        restore: |site| {
            for route in HARMLESS {
                site.node.may(&format!("ip route del {route}"))?;
            }
            Ok(())
        },
    },
    Fault {
        id: "R13-main",
        title: "rule 32766, which looks into main, is missing",
        how: "ip rule del pref 32766",
        verdict: "Lost",
        near_miss: false,
        ground: None,
        strike: |site| site.node.must("ip rule del pref 32766").map(drop),
        restore: |site| rule_back(site, "-4", "32766", "main"),
    },
    Fault {
        id: "R13-default",
        title: "rule 32767, which looks into default, is missing",
        how: "ip rule del pref 32767",
        verdict: "Lost",
        near_miss: false,
        ground: None,
        strike: |site| site.node.must("ip rule del pref 32767").map(drop),
        restore: |site| rule_back(site, "-4", "32767", "default"),
    },
    Fault {
        id: "R13-main6",
        title: "the same for IPv6",
        how: "ip -6 rule del pref 32766",
        verdict: "Lost",
        near_miss: false,
        ground: None,
        strike: |site| site.node.must("ip -6 rule del pref 32766").map(drop),
        restore: |site| rule_back(site, "-6", "32766", "main"),
    },
];

/// One default route as the lab's wires have it, and no other.
pub fn default_back(site: &Site) -> Result<()> {
    let Site { facts, node, .. } = site;
    node.must(&format!("ip route replace default via {} dev {}", facts.gateway, facts.device))?;
    for metric in ["10", "50", "100"] {
        node.may(&format!("ip route del default metric {metric}"))?;
    }
    Ok(())
}

/// The default route with the metric that a DHCP client gives it.
pub fn default_with_metric(site: &Site) -> Result<()> {
    let Site { facts, node, .. } = site;
    node.must(&format!(
        "ip route add default via {} dev {} metric 100",
        facts.gateway, facts.device
    ))?;
    node.must(&format!("ip route del default via {} dev {} metric 0", facts.gateway, facts.device))
        .map(drop)
}

/// A rule of the kernel's own, with the kernel's protocol.
fn rule_back(site: &Site, family: &str, pref: &str, table: &str) -> Result<()> {
    if site.node.must(&format!("ip {family} rule show pref {pref}"))?.stdout.trim().is_empty() {
        site.node
            .must(&format!("ip {family} rule add pref {pref} lookup {table} protocol kernel"))?;
    }
    Ok(())
}
