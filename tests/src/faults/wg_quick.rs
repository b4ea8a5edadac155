//! Faults that wg-quick makes: a full tunnel by two rules without a preference.
//!
//! The commands are those that `wg-quick up` prints, in its order (`wireguard-tools src/wg-quick/linux.bash add_default`). The
//! device is a tun, because the kernel at hand may have no WireGuard; it has no process behind it.

use std::time::Duration;

use super::{
    Fault, exit_node,
    site::{Site, wait_for},
};
use crate::error::Result;

/// The faults of this family.
pub const FAULTS: &[Fault] = &[
    Fault {
        id: "R8",
        title: "wg-quick's full tunnel",
        how: "ip rule add not fwmark 0xca6c lookup 51820; lookup main suppress_prefixlength 0; a default in 51820; its nft table",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: up,
        restore: down,
    },
    Fault {
        id: "R22",
        title: "a tool without preferences lands in front of our guard",
        how: "R2; when a guard stands (at most 10 s later), wg-quick up: a rule without a preference goes before the second rule",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            let lan_allowed = exit_node::FAULTS.iter().find(|fault| fault.id == "R2");
            lan_allowed.map_or(Ok(()), |fault| (fault.strike)(site))?;
            // Without an agent no guard ever comes, and the fault is made all the same.
            // The lifeline path's own rules have no destination.
            let ours = |l: &str| l.contains("proto 213") && l.contains(" to ");
            let guarded = || Ok(site.node.must("ip rule")?.stdout.lines().any(ours));
            wait_for("a guard stands", Duration::from_secs(10), guarded).or(Ok(()))?;
            up(site)
        },
        restore: |site| {
            down(site)?;
            super::daemon::restore(site)
        },
    },
];

const FILTER: &str = "table ip wg-quick-wg0 {
  chain preraw { type filter hook prerouting priority -300; iifname != \"wg0\" ip daddr 10.66.0.2 fib saddr type != local drop; }
  chain premangle { type filter hook prerouting priority -150; meta l4proto udp meta mark set ct mark; }
  chain postmangle { type filter hook postrouting priority -150; meta l4proto udp meta mark 51820 ct mark set meta mark; }
}
";

fn up(site: &Site) -> Result<()> {
    for line in [
        "ip tuntap add dev wg0 mode tun",
        "ip -4 address add 10.66.0.2/32 dev wg0",
        "ip link set mtu 1420 up dev wg0",
        "ip -4 route add 0.0.0.0/0 dev wg0 table 51820",
        "ip -4 rule add not fwmark 51820 table 51820",
        "ip -4 rule add table main suppress_prefixlength 0",
        "sysctl -q net.ipv4.conf.all.src_valid_mark=1",
    ] {
        site.node.must(line)?;
    }
    site.node.write("/run/wg-quick-wg0.nft", FILTER)?;
    site.node.must("nft -f /run/wg-quick-wg0.nft")?;
    site.node.must("rm /run/wg-quick-wg0.nft").map(drop)
}

/// `wg-quick down`.
fn down(site: &Site) -> Result<()> {
    for line in [
        "ip -4 rule del table 51820",
        "ip -4 rule del table main suppress_prefixlength 0",
        "ip link delete dev wg0",
        "nft delete table ip wg-quick-wg0",
        "sysctl -q net.ipv4.conf.all.src_valid_mark=0",
    ] {
        site.node.may(line)?;
    }
    Ok(())
}
