//! Dumps of a node by the kernel's own tools, in the form of those that core's golden cases were made from.
//!
//! Compared with those (healthy; live without exit node; exit node with and without LAN access; after SIGKILL; the legacy backend;
//! overlapping routes; DNS accepted), dumps of this lab agree in every policy rule, in table 52, in every chain of Tailscale's,
//! kube-proxy's and the portmap plugin's, and in the settings; `iptables-nft-save` is cut short in the same place. They differ in this:
//!
//! - here is a `flannel.1` with the other nodes' pod routes and FLANNEL-* chains; the first ones had the chains' owner left out, so a
//!   truncated save has 40 lines instead of 36;
//! - here the uplink has IPv6: a default route and a LAN of its own, which an exit node takes too (a `throw` of it with LAN access);
//! - the first ones with the legacy backend and with accepted routes were made while no pod ran (no `cni0`) and forwarding was off;
//!   those with accepted routes by iptables-nft, here by native nft;
//! - here the tailnet hands out a resolver. Accepted, it changes the container's own `/etc/resolv.conf`, which the kubelet made, and
//!   never the node's: a DaemonSet's tailscaled takes a node's resolver only by systemd-resolved on the bus, which is not here.

use std::fs;
use std::path::Path;

use crate::error::{Doing, Result};
use crate::node::Node;

/// File, and what prints it. What a tool says on stderr is a part of it: some are cut short and say so only there.
const DUMPS: [(&str, &str); 19] = [
    ("rule4.json", "ip -j -d -4 rule show"),
    ("rule6.json", "ip -j -d -6 rule show"),
    ("route4.json", "ip -j -d -4 route show table all"),
    ("route6.json", "ip -j -d -6 route show table all"),
    ("addr.json", "ip -j -d addr show"),
    ("rule4.netlink", "ip -4 rule save"),
    ("rule6.netlink", "ip -6 rule save"),
    ("route4.netlink", "ip -4 route save table all"),
    ("route6.netlink", "ip -6 route save table all"),
    ("iptables-nft-save.txt", "iptables-nft-save 2>&1"),
    ("ip6tables-nft-save.txt", "ip6tables-nft-save 2>&1"),
    // A look with the legacy tool would make its tables.
    (
        "iptables-legacy-save.txt",
        "! grep -q . /proc/net/ip_tables_names || iptables-legacy-save 2>&1",
    ),
    (
        "ip6tables-legacy-save.txt",
        "! grep -q . /proc/net/ip6_tables_names || ip6tables-legacy-save 2>&1",
    ),
    ("nft.json", "nft -j list ruleset 2>/dev/null | jq -c ."),
    ("nft.txt", "nft -n list ruleset 2>&1"),
    (
        "sysctl.txt",
        "sysctl -a 2>/dev/null | grep -E 'rp_filter|src_valid_mark|ip_forward|forwarding|disable_ipv6'",
    ),
    ("resolv.txt", "ls -l /etc/resolv*; for f in /etc/resolv*; do echo \"== $f\"; cat $f; done"),
    ("ps.txt", "ps -ww -e -o pid=,ppid=,lstart=,args="),
    (
        "forwarding.txt",
        "for t in 203.0.113.10 192.168.2.1 10.43.0.1 10.42.2.2 8.8.8.8; do \
         echo \"$t plain: $(ip route get $t 2>&1 | head -1)\"; \
         echo \"$t mark: $(ip route get $t mark 0x80000 2>&1 | head -1)\"; done; ss -tnp",
    ),
];

/// Writes them all into a folder.
pub fn take(node: &Node, into: &Path) -> Result<()> {
    fs::create_dir_all(into).doing(|| format!("make {}", into.display()))?;
    for (name, look) in DUMPS {
        let file = into.join(name);
        let out = fs::File::create(&file).doing(|| format!("make {}", file.display()))?;
        let argv = ["timeout", "20", "sh", "-c", look];
        let mut command = node.command(&argv);
        // Raw messages are no text; a look that fails leaves what it said.
        let status = command.stdout(out).stderr(std::process::Stdio::inherit()).status();
        status.doing(|| format!("{}: {look}", node.name()))?;
    }
    Ok(())
}
