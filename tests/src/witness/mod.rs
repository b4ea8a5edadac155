//! What a node looks like to tools that are not ours, and what has changed between two looks.
//!
//! Everything is read with `ip`, `iptables-save`, `nft`, `sysctl`'s files, `find` and `ps`, never with the product's own code. A look
//! that fails is told as such ("could not read"), never as an empty thing.
//!
//! What is made equal before comparing, because it changes by itself:
//! - packet and byte counters, handles of nft, dates and versions in the comments of iptables-save: they count, number and
//!   tell the time; the order of rules in a chain is kept, it has a meaning;
//! - `expires` and `cache` of IPv6 routes, and the metrics' `age`: router advertisements refresh them;
//! - interface indices: CNI's veths get new ones; interfaces are compared by name;
//! - IPv6 link-local addresses of devices without a link address of their own (`stable-privacy`): random per device. They
//!   only appear in tables `local` and are dropped there with their device named;
//! - processes: kernel threads, what the look itself runs, shells and what systemd (`TRANSIENT`) and sample pods (`ASKING`) run for a moment;
//!   pids are left out, so that a restarted unit is no difference but a missing one is;
//! - UDP sockets on ports that the kernel dealt: somebody waits for an answer there for a moment;
//! - a table or chain of iptables that is empty, built-in and accepts is the same as one that is not there: a tool's look makes it;
//! - legacy tables are read only when the kernel already has them, because `iptables-legacy-save` would make them.

mod diff;
mod lines;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::diff::{Change, Difference, count, diff};
use self::lines::{
    is_cut, link_line, nft_lines, plain_line, process_lines, route_line, rule_line, saved_lines,
};
use crate::{error::Result, faults::Place};

/// What a difference is about, as the incident's table counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Policy routing rules.
    Rules,
    /// Routes of every table.
    Routes,
    /// Devices and their addresses.
    Links,
    /// Chains and rules of the packet filter.
    Chains,
    /// Those of them that lead to pods' host ports.
    HostPorts,
    /// Kernel settings.
    Sysctls,
    /// Files.
    Files,
    /// Processes and what they listen on.
    Processes,
}

impl Kind {
    /// All kinds, in the order of the incident's table.
    pub const ALL: [Self; 8] = [
        Self::Rules,
        Self::Routes,
        Self::Links,
        Self::Chains,
        Self::HostPorts,
        Self::Sysctls,
        Self::Files,
        Self::Processes,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rules => "rules",
            Self::Routes => "routes",
            Self::Links => "links",
            Self::Chains => "chains",
            Self::HostPorts => "hostPort rules",
            Self::Sysctls => "sysctls",
            Self::Files => "files",
            Self::Processes => "processes",
        })
    }
}

/// Everything that was seen, as lines: kind, source (`rule4`, `nft`, …) and text. Equal lines count.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Snapshot {
    parts: BTreeMap<String, Part>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    kind: Kind,
    lines: Vec<String>,
}

/// Settings that say how packets are routed; every one below these names is read.
const SYSCTLS: &str = "find /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_forward -type f \
     \\( -name rp_filter -o -name src_valid_mark -o -name ip_forward -o -name forwarding -o -name disable_ipv6 -o -name accept_local \
     -o -name route_localnet -o -name arp_ignore \\) -exec grep -H . {} + | sort";

/// What listens. A UDP socket on a port the kernel dealt (ip_local_port_range) is a client's that waits for an answer, as
/// tailscaled's are when it measures its network; 41641 lies in that range and is WireGuard's own.
const LISTENING: &str = "ss -Hlntu | awk '{n = split($5, a, \":\"); p = a[n]; \
     if ($1 == \"udp\" && p >= 32768 && p <= 60999 && p != 41641) next; print $1, $5}' | sort";

/// Files whose content matters, and folders whose entries do.
const FILES: &str = "for f in /etc/resolv.conf /etc/resolv.* /etc/systemd/system/k3s-agent.service /var/lib/rancher/k3s/agent/etc/*.json; do \
       [ -L $f ] && echo \"$f -> $(readlink $f)\"; [ -e $f ] && echo \"$f $(sha256sum < $f | cut -c1-16)\"; done | sort -u; \
     ls -d /var/lib/tailscale* /run/tailscale* /var/run/tailscale* 2>/dev/null | sed 's/$/ (folder)/'; \
     find /var/lib/tailscale* /run/tailscale* /etc/rancher /etc/cni /var/lib/cni /var/lib/rancher/k3s /run/flannel -path /var/lib/rancher/k3s/agent/containerd -prune -o -type f -o -type l -o -type s 2>/dev/null | grep -v '^/var/lib/rancher/k3s/agent/containerd$' | sort -u";

/// Looks at a node.
pub fn look(node: &dyn Place) -> Result<Snapshot> {
    let mut seen = Snapshot::default();
    for family in ["4", "6"] {
        let rules = node.run(&["ip", &format!("-{family}"), "-j", "-d", "rule"])?;
        seen.json(Kind::Rules, &format!("rule{family}"), &rules.stdout, rules.ok(), rule_line);
        let routes =
            node.run(&["ip", &format!("-{family}"), "-j", "-d", "route", "show", "table", "all"])?;
        seen.json(Kind::Routes, &format!("route{family}"), &routes.stdout, routes.ok(), route_line);
    }
    let links = node.run(&["ip", "-j", "-d", "addr"])?;
    seen.json(Kind::Links, "link", &links.stdout, links.ok(), link_line);
    for (tool, names) in [
        ("iptables-legacy-save", Some("/proc/net/ip_tables_names")),
        ("ip6tables-legacy-save", Some("/proc/net/ip6_tables_names")),
        ("iptables-nft-save", None),
        ("ip6tables-nft-save", None),
    ] {
        // Asked first, because the look itself would make the tables.
        if let Some(names) = names
            && node.run(&["cat", names])?.stdout.trim().is_empty()
        {
            continue;
        }
        let saved = node.run(&[tool])?;
        seen.saved(tool.trim_end_matches("-save"), &saved.stdout, saved.ok());
    }
    let ruleset = node.run(&["nft", "-j", "list", "ruleset"])?;
    seen.json(Kind::Chains, "nft", &ruleset.stdout, ruleset.ok(), |_| None);
    seen.nft(&ruleset.stdout);
    for (kind, source, script) in [
        // Without any policy nothing is printed; the last line says that it was read.
        (Kind::Rules, "xfrm", "ip xfrm policy && ip xfrm state && echo read"),
        (Kind::Sysctls, "sysctl", SYSCTLS),
        (Kind::Files, "file", FILES),
        (Kind::Processes, "listen", LISTENING),
    ] {
        let out = node.run(&["sh", "-c", script])?;
        let lines = out.stdout.lines().filter_map(plain_line).collect();
        seen.put(kind, source, lines, !out.stdout.is_empty());
    }
    let out = node.run(&["ps", "-ww", "-e", "-o", "pid=,ppid=,args="])?;
    seen.put(Kind::Processes, "process", process_lines(&out.stdout), !out.stdout.is_empty());
    let resolver = node.run(&["cat", "/etc/resolv.conf"])?;
    seen.put(
        Kind::Files,
        "resolv.conf",
        resolver.stdout.lines().map(str::to_owned).collect(),
        resolver.ok(),
    );
    Ok(seen)
}

impl Snapshot {
    fn put(&mut self, kind: Kind, source: &str, mut lines: Vec<String>, read: bool) {
        if !read {
            lines.push("(could not be read whole)".to_owned());
        }
        self.parts
            .entry(source.to_owned())
            .or_insert_with(|| Part { kind, lines: Vec::new() })
            .lines
            .extend(lines);
    }

    fn json(
        &mut self,
        kind: Kind,
        source: &str,
        text: &str,
        read: bool,
        line: fn(&Value) -> Option<String>,
    ) {
        let parsed: Option<Value> = serde_json::from_str(text).ok();
        let lines = parsed
            .iter()
            .flat_map(|all| all.as_array().into_iter().flatten())
            .filter_map(line)
            .collect();
        self.put(kind, source, lines, read && parsed.is_some());
    }

    /// A dump of iptables-save. One that says a table is incompatible has been cut short and says so here too: depending on the
    /// rule of nft's own that it meets, iptables ends with an error or, having left out the table, well.
    fn saved(&mut self, source: &str, text: &str, read: bool) {
        self.put(Kind::Chains, source, saved_lines(text), read && !is_cut(text));
    }

    /// A ruleset of `nft -j`.
    fn nft(&mut self, text: &str) {
        let parsed: Value = serde_json::from_str(text).unwrap_or_default();
        let objects = parsed["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        self.put(Kind::Chains, "nft", nft_lines(objects), true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_that_leaves_out_a_table_and_ends_well_was_not_read_whole() {
        let mut seen = Snapshot::default();
        seen.saved("ip6tables-nft", "# Table `mangle' is incompatible, use 'nft' tool.\n", true);
        seen.saved("iptables-nft", "*mangle\n:X - [0:0]\nCOMMIT\n", true);
        let cut = |source: &str| {
            seen.parts[source].lines.iter().any(|l| l.contains("could not be read whole"))
        };
        assert!(cut("ip6tables-nft"));
        assert!(!cut("iptables-nft"));
    }
}
