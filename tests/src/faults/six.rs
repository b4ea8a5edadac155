//! Captures of IPv6 alone.

use super::{Fault, daemon, site::Site};
use crate::error::Result;

/// The faults of this family.
pub const FAULTS: &[Fault] = &[
    Fault {
        id: "R14",
        title: "IPv6 only, and the cluster does not use it: rules and a default route that a dead Tailscale left",
        how: "ip -6: Tailscale's rules, table 52 with a default through a persistent tailscale0",
        verdict: "Healthy",
        near_miss: false,
        ground: None,
        strike: capture,
        restore: daemon::restore,
    },
    Fault {
        id: "R14-api",
        title: "IPv6 only, and the API server is reached by it",
        how: "ground: k3s-agent's endpoint is the server's IPv6 address; then as R14",
        verdict: "Captured",
        near_miss: false,
        ground: Some(|site| super::moved::rehome(site, &format!("[{}]", site.facts.api6))),
        strike: capture,
        restore: |site| {
            daemon::restore(site)?;
            super::moved::rehome(site, &site.facts.api.to_string())
        },
    },
];

fn capture(site: &Site) -> Result<()> {
    for line in [
        "ip tuntap add dev tailscale0 mode tun",
        "ip link set tailscale0 mtu 1280 up",
        "ip addr add fd7a:115c:a1e0:ab12:4843:cd96:6240:5/128 dev tailscale0",
        "ip -6 route add default dev tailscale0 table 52",
    ] {
        site.node.must(line)?;
    }
    for rule in [
        "pref 5210 fwmark 0x80000/0xff0000 lookup main",
        "pref 5230 fwmark 0x80000/0xff0000 lookup default",
        "pref 5250 fwmark 0x80000/0xff0000 unreachable",
        "pref 5270 lookup 52",
    ] {
        site.node.must(&format!("ip -6 rule add {rule} protocol 0"))?;
    }
    Ok(())
}
