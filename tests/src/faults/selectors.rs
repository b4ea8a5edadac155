//! Captures that a plain `ip route get` does not show: by port, by user, by a mark of the packet filter, by an IPsec policy.

use super::{Fault, site::Site};
use crate::error::Result;

/// The faults of this family.
pub const FAULTS: &[Fault] = &[
    Fault {
        id: "R24-port",
        title: "only the API server's port is captured",
        how: "ip rule ipproto tcp dport 6443 to a table of no known tool, a default route through a tun",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            tunnel(site)?;
            site.node.must("ip rule add pref 3307 ipproto tcp dport 6443 lookup 7316").map(drop)
        },
        restore: down,
    },
    Fault {
        id: "R24-user",
        title: "what root sends is captured",
        how: "ip rule uidrange 0-0 to a table of no known tool",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            tunnel(site)?;
            site.node.must("ip rule add pref 3307 uidrange 0-0 lookup 7316").map(drop)
        },
        restore: down,
    },
    Fault {
        id: "R24-others",
        title: "what one other user sends is led into a tunnel of theirs",
        how: "ip rule uidrange 4000-4000 to a table of no known tool",
        verdict: "Healthy",
        near_miss: true,
        ground: None,
        strike: |site| {
            tunnel(site)?;
            site.node.must("ip rule add pref 3307 uidrange 4000-4000 lookup 7316").map(drop)
        },
        restore: down,
    },
    Fault {
        id: "R24-mark",
        title: "what goes to the API server is marked, and the mark is captured",
        how: "iptables-nft -t mangle -A OUTPUT -j MARK for port 6443; ip rule fwmark to a table of no known tool",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            tunnel(site)?;
            site.node.must("ip rule add pref 3307 fwmark 0x87 lookup 7316")?;
            site.node.must(&format!("iptables-nft -w -t mangle -A OUTPUT {}", mark(site))).map(drop)
        },
        restore: |site| {
            site.node.may(&format!("iptables-nft -w -t mangle -D OUTPUT {}", mark(site)))?;
            down(site)
        },
    },
    Fault {
        id: "R24-marked",
        title: "what goes to the API server is marked, and the mark leads where it leads anyway",
        how: "iptables-nft -t mangle -A OUTPUT -j MARK for port 6443; ip rule fwmark lookup main",
        verdict: "Healthy",
        near_miss: true,
        ground: None,
        strike: |site| {
            site.node.must("ip rule add pref 3307 fwmark 0x87 lookup main")?;
            site.node.must(&format!("iptables-nft -w -t mangle -A OUTPUT {}", mark(site))).map(drop)
        },
        restore: |site| {
            site.node.may(&format!("iptables-nft -w -t mangle -D OUTPUT {}", mark(site)))?;
            site.node.may("ip rule del pref 3307").map(drop)
        },
    },
    Fault {
        id: "R24-xfrm",
        title: "an IPsec policy blocks what is sent to the API server",
        how: "ip xfrm policy add dir out action block",
        verdict: "Filtered",
        near_miss: false,
        ground: None,
        strike: |site| {
            site.node
                .must(&format!("ip xfrm policy add dst {}/32 dir out action block", site.facts.api))
                .map(drop)
        },
        restore: |site| {
            site.node
                .may(&format!("ip xfrm policy delete dst {}/32 dir out", site.facts.api))
                .map(drop)
        },
    },
    Fault {
        id: "R24-bypass",
        title: "an IPsec policy for somebody's network, and one that lets the LAN pass",
        how: "ip xfrm policy add dir out for a network of theirs, and an allowing one for the LAN",
        verdict: "Healthy",
        near_miss: true,
        ground: None,
        strike: |site| {
            for policy in policies(site) {
                site.node.must(&format!("ip xfrm policy add {policy}"))?;
            }
            Ok(())
        },
        restore: |site| site.node.may("ip xfrm policy flush").map(drop),
    },
];

fn policies(site: &Site) -> [String; 2] {
    [
        format!("dst {} dir out priority 100 action allow", site.facts.lan),
        "dst 10.99.0.0/16 dir out priority 200 tmpl src 0.0.0.0 dst 198.51.100.9 proto esp reqid 7 mode tunnel"
            .to_owned(),
    ]
}

fn mark(site: &Site) -> String {
    format!("-d {} -p tcp --dport 6443 -j MARK --set-mark 0x87", site.facts.api)
}

/// A tunnel without anybody at its other end, and a table that leads into it.
fn tunnel(site: &Site) -> Result<()> {
    for line in [
        "ip tuntap add dev corp7 mode tun",
        "ip addr add 172.31.9.2/32 dev corp7",
        "ip link set corp7 up",
        "ip route add default dev corp7 table 7316",
    ] {
        site.node.must(line)?;
    }
    Ok(())
}

fn down(site: &Site) -> Result<()> {
    site.node.may("ip rule del pref 3307")?;
    site.node.may("ip link del corp7").map(drop)
}
