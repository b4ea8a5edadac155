//! Faults in the machine's own rules and in its table `main`.

use super::{Fault, site::Site};
use crate::error::Result;

/// The faults of this family.
pub const FAULTS: &[Fault] = &[
    Fault {
        id: "R9",
        title: "split default in main, as OpenVPN's def1 makes it",
        how: "ip route add 0.0.0.0/1 and 128.0.0.0/1 through a tun",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            site.node.must("ip tuntap add dev tun0 mode tun")?;
            site.node.must("ip addr add 10.8.0.2/24 dev tun0")?;
            site.node.must("ip link set tun0 up")?;
            site.node.must("ip route add 0.0.0.0/1 via 10.8.0.1 dev tun0")?;
            site.node.must("ip route add 128.0.0.0/1 via 10.8.0.1 dev tun0").map(drop)
        },
        restore: |site| site.node.may("ip link del tun0").map(drop),
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
