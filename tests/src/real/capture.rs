//! Dumps of a node by the kernel's own tools, in the form in which the first ones were made: golden inputs, and their comparison.

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
    ("iptables-legacy-save.txt", "[ ! -s /proc/net/ip_tables_names ] || iptables-legacy-save 2>&1"),
    (
        "ip6tables-legacy-save.txt",
        "[ ! -s /proc/net/ip6_tables_names ] || ip6tables-legacy-save 2>&1",
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
