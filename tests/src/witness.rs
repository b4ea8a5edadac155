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
//! - processes: kernel threads, what the look itself runs, shells and helpers of systemd that come and go (`TRANSIENT`);
//!   pids are left out, so that a restarted unit is no difference but a missing one is;
//! - a table or chain of iptables that is empty, built-in and accepts is the same as one that is not there: a tool's look makes it;
//! - legacy tables are read only when the kernel already has them, because `iptables-legacy-save` would make them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

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

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It was there and is not.
    Gone,
    /// It is there and was not.
    New,
    /// It is there as before, but before or behind others of its chain than it was.
    Moved,
}

/// One line that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Difference {
    /// What it is about.
    pub kind: Kind,
    /// Which look shows it.
    pub source: String,
    /// What became of it.
    pub change: Change,
    /// The line.
    pub line: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.change {
            Change::Gone => '-',
            Change::New => '+',
            Change::Moved => '~',
        };
        write!(f, "{} {sign} {}", self.source, self.line)
    }
}

/// Settings that say how packets are routed; every one below these names is read.
const SYSCTLS: &str = "find /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_forward -type f \
     \\( -name rp_filter -o -name src_valid_mark -o -name ip_forward -o -name forwarding -o -name disable_ipv6 -o -name accept_local \
     -o -name route_localnet -o -name arp_ignore \\) -exec grep -H . {} + | sort";

/// Files whose content matters, and folders whose entries do.
const FILES: &str = "for f in /etc/resolv.conf /etc/resolv.* /etc/systemd/system/k3s-agent.service; do \
       [ -L $f ] && echo \"$f -> $(readlink $f)\"; [ -e $f ] && echo \"$f $(sha256sum < $f | cut -c1-16)\"; done | sort -u; \
     ls -d /var/lib/tailscale* /run/tailscale* /var/run/tailscale* 2>/dev/null | sed 's/$/ (folder)/'; \
     find /var/lib/tailscale* /run/tailscale* /etc/rancher /etc/cni /var/lib/cni /var/lib/rancher/k3s /run/flannel -type f -o -type l -o -type s 2>/dev/null | sort -u";

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
        (Kind::Sysctls, "sysctl", SYSCTLS),
        (Kind::Files, "file", FILES),
        (Kind::Processes, "listen", "ss -Hlntu | awk '{print $1, $5}' | sort"),
        (Kind::Processes, "process", "ps -ww -e -o ppid=,args="),
    ] {
        let out = node.run(&["sh", "-c", script])?;
        let clean: fn(&str) -> Option<String> =
            if source == "process" { process_line } else { plain_line };
        seen.put(
            kind,
            source,
            out.stdout.lines().filter_map(clean).collect(),
            !out.stdout.is_empty(),
        );
    }
    let resolver = node.run(&["cat", "/etc/resolv.conf"])?;
    seen.put(
        Kind::Files,
        "resolv.conf",
        resolver.stdout.lines().map(str::to_owned).collect(),
        resolver.ok(),
    );
    Ok(seen)
}

/// What has changed.
#[must_use]
pub fn diff(before: &Snapshot, after: &Snapshot) -> Vec<Difference> {
    let sources: BTreeSet<&String> = before.parts.keys().chain(after.parts.keys()).collect();
    let mut found = Vec::new();
    for source in sources {
        let (was, is) = (before.parts.get(source), after.parts.get(source));
        let Some(kind) = is.or(was).map(|part| part.kind) else { continue };
        for (line, count) in changes(was, is) {
            let kind =
                if kind == Kind::Chains && is_host_port(&line) { Kind::HostPorts } else { kind };
            let change = if count > 0 { Change::New } else { Change::Gone };
            for _ in 0..count.unsigned_abs() {
                found.push(Difference { kind, source: source.clone(), change, line: line.clone() });
            }
        }
        for line in moved(was, is) {
            let kind =
                if kind == Kind::Chains && is_host_port(&line) { Kind::HostPorts } else { kind };
            found.push(Difference { kind, source: source.clone(), change: Change::Moved, line });
        }
    }
    found.sort();
    found
}

/// How many of the differences are of each kind.
#[must_use]
pub fn count(differences: &[Difference]) -> BTreeMap<Kind, usize> {
    let mut counts: BTreeMap<Kind, usize> = Kind::ALL.into_iter().map(|kind| (kind, 0)).collect();
    for difference in differences {
        *counts.entry(difference.kind).or_default() += 1;
    }
    counts
}

fn changes(was: Option<&Part>, is: Option<&Part>) -> BTreeMap<String, i64> {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for line in is.into_iter().flat_map(|part| &part.lines) {
        *counts.entry(line.clone()).or_default() += 1;
    }
    for line in was.into_iter().flat_map(|part| &part.lines) {
        *counts.entry(line.clone()).or_default() -= 1;
    }
    counts.retain(|_, count| *count != 0);
    counts
}

/// The chain in which a line's place has a meaning: rules of one chain, and the policy rules of a family.
fn chain(kind: Kind, line: &str) -> Option<String> {
    let head = |words: usize| line.split(' ').take(words).collect::<Vec<_>>().join(" ");
    match kind {
        Kind::Rules => Some(String::new()),
        Kind::Chains if line.starts_with("rule ") => Some(head(4)),
        Kind::Chains if line.split(' ').nth(1) == Some("-A") => Some(head(3)),
        _ => None,
    }
}

/// Lines that are in both looks, but in another order. A chain too long to compare is left to the count of its lines.
fn moved(was: Option<&Part>, is: Option<&Part>) -> Vec<String> {
    const LONGEST: usize = 2000;
    let (Some(was), Some(is)) = (was, is) else { return Vec::new() };
    let chains = |part: &Part| {
        let mut chains: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in &part.lines {
            if let Some(name) = chain(part.kind, line) {
                chains.entry(name).or_default().push(line.clone());
            }
        }
        chains
    };
    let (was, is) = (chains(was), chains(is));
    let mut found = Vec::new();
    for (name, now) in &is {
        let Some(then) = was.get(name) else { continue };
        let then: Vec<&String> = then.iter().filter(|line| now.contains(line)).collect();
        let now: Vec<&String> = now.iter().filter(|line| then.contains(line)).collect();
        if then.len() == now.len() && then != now && now.len() <= LONGEST {
            found.extend(out_of_order(&then, &now));
        }
    }
    found
}

/// What has to be taken out of `now` for the rest to be in the order of `then`: all but a longest common subsequence.
fn out_of_order(then: &[&String], now: &[&String]) -> Vec<String> {
    let mut length = vec![vec![0_usize; now.len() + 1]; then.len() + 1];
    for (i, a) in then.iter().enumerate().rev() {
        for (j, b) in now.iter().enumerate().rev() {
            length[i][j] = if a == b {
                length[i + 1][j + 1] + 1
            } else {
                length[i + 1][j].max(length[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut found) = (0, 0, Vec::new());
    while j < now.len() {
        if i < then.len() && then[i] == now[j] {
            (i, j) = (i + 1, j + 1);
        } else if i < then.len() && length[i + 1][j] >= length[i][j + 1] {
            i += 1;
        } else {
            found.push(now[j].clone());
            j += 1;
        }
    }
    found
}

/// portmap's chains and the jumps into them.
fn is_host_port(line: &str) -> bool {
    line.contains("CNI-HOSTPORT-") || line.contains("CNI-DN-")
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

    /// A dump of iptables-save. One that says a table is incompatible has been cut short and says so here too.
    fn saved(&mut self, source: &str, text: &str, read: bool) {
        self.put(Kind::Chains, source, saved_lines(text), read);
    }

    /// A ruleset of `nft -j`.
    fn nft(&mut self, text: &str) {
        let parsed: Value = serde_json::from_str(text).unwrap_or_default();
        let objects = parsed["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        self.put(Kind::Chains, "nft", nft_lines(objects), true);
    }
}

fn plain_line(line: &str) -> Option<String> {
    Some(line.trim_start_matches("/proc/sys/net/").to_owned())
}

fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object[key].as_str().filter(|text| !text.is_empty())
}

/// `5270: from all lookup 52`, as `ip rule` says it, with every selector of the JSON form.
fn rule_line(rule: &Value) -> Option<String> {
    let number = |key: &str| {
        rule[key]
            .as_u64()
            .map(|number| number.to_string())
            .or_else(|| text(rule, key).map(str::to_owned))
    };
    let mut line = format!("{}:", number("priority")?);
    if rule.get("not").is_some() {
        line += " not";
    }
    let with_len = |address: &str, len: &str| match (text(rule, address), rule[len].as_u64()) {
        (Some(address), Some(len)) => Some(format!("{address}/{len}")),
        (address, _) => address.map(str::to_owned),
    };
    line += &format!(" from {}", with_len("src", "srclen").unwrap_or_else(|| "all".to_owned()));
    if let Some(to) = with_len("dst", "dstlen") {
        line += &format!(" to {to}");
    }
    if let Some(mark) = number("fwmark") {
        line += &format!(" fwmark {mark}");
        if let Some(mask) = number("fwmask") {
            line += &format!("/{mask}");
        }
    }
    for (key, word) in [
        ("iif", "iif"),
        ("oif", "oif"),
        ("uid_start", "uidrange"),
        ("uid_end", "-"),
        ("ipproto", "ipproto"),
        ("sport", "sport"),
        ("dport", "dport"),
        ("tos", "tos"),
        ("table", "lookup"),
        ("suppress_prefixlen", "suppress_prefixlength"),
        ("action", ""),
        ("goto", "goto"),
    ] {
        if let Some(value) = number(key) {
            line += &format!(" {word} {value}").replace("  ", " ");
        }
    }
    if let Some(protocol) = text(rule, "protocol").filter(|protocol| *protocol != "kernel") {
        line += &format!(" proto {protocol}");
    }
    Some(line)
}

fn route_line(route: &Value) -> Option<String> {
    let local = text(route, "table") == Some("local");
    if local && text(route, "dst").is_some_and(|to| to.starts_with("fe80:")) {
        return Some(format!("local fe80:* dev {} table local", text(route, "dev")?));
    }
    let mut line = String::new();
    if let Some(kind) = text(route, "type").filter(|kind| *kind != "unicast") {
        line += &format!("{kind} ");
    }
    line += text(route, "dst")?;
    for (key, word) in [
        ("gateway", "via"),
        ("dev", "dev"),
        ("table", "table"),
        ("protocol", "proto"),
        ("scope", "scope"),
        ("prefsrc", "src"),
    ] {
        if let Some(value) = text(route, key) {
            line += &format!(" {word} {value}");
        }
    }
    if let Some(via) = route.get("via") {
        line += &format!(" via {}", text(via, "host").unwrap_or_default());
    }
    if let Some(metric) = route["metric"].as_u64().filter(|metric| *metric != 0) {
        line += &format!(" metric {metric}");
    }
    for flag in route["flags"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        line += &format!(" {flag}");
    }
    for hop in route["nexthops"].as_array().into_iter().flatten() {
        line += &format!(
            " nexthop {} {}",
            text(hop, "gateway").unwrap_or_default(),
            text(hop, "dev").unwrap_or_default()
        );
    }
    Some(line)
}

fn link_line(link: &Value) -> Option<String> {
    let mut line = format!(
        "{} mtu {} {}",
        text(link, "ifname")?,
        link["mtu"],
        text(link, "operstate").unwrap_or_default()
    );
    if let Some(master) = text(link, "master") {
        line += &format!(" master {master}");
    }
    for address in link["addr_info"].as_array().into_iter().flatten() {
        // Random per device.
        if text(address, "scope") != Some("link") {
            line += &format!(
                " {}/{}",
                text(address, "local").unwrap_or_default(),
                address["prefixlen"]
            );
        }
    }
    Some(line)
}

/// The lines of iptables-save with their table in front; without dates, counters, and built-in chains that say nothing.
fn saved_lines(text: &str) -> Vec<String> {
    let mut table = "";
    let mut lines = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(chain) = line.strip_prefix(':') {
            let words: Vec<&str> = chain.split(' ').take(2).collect();
            if words.get(1) != Some(&"ACCEPT") {
                lines.push(format!("{table} chain {}", words.join(" ").trim_end_matches(" -")));
            }
        } else if line.contains("is incompatible") {
            lines.push(line.trim_start_matches("# ").to_owned());
        } else if line.starts_with("-A ") {
            lines.push(format!("{table} {line}"));
        }
    }
    lines
}

/// Tables, chains and rules of a ruleset; a base chain that is empty and accepts, and a table of nothing else, are left out.
fn nft_lines(objects: &[Value]) -> Vec<String> {
    let place = |of: &Value| {
        let name = of.get("chain").or_else(|| of.get("name"));
        format!(
            "{} {} {}",
            text(of, "family").unwrap_or_default(),
            text(of, "table").unwrap_or_default(),
            name.and_then(Value::as_str).unwrap_or_default()
        )
    };
    let filled: BTreeSet<String> =
        objects.iter().filter_map(|object| object.get("rule")).map(place).collect();
    let mut lines = Vec::new();
    for object in objects {
        if let Some(chain) = object.get("chain") {
            let policy = text(chain, "policy");
            if policy != Some("accept") || filled.contains(&place(chain)) {
                let hook = text(chain, "hook").map(|hook| {
                    format!(" hook {hook} prio {} policy {}", chain["prio"], policy.unwrap_or("-"))
                });
                lines.push(format!("chain {}{}", place(chain), hook.unwrap_or_default()));
            }
        } else if let Some(rule) = object.get("rule") {
            let mut expressions = rule["expr"].clone();
            without_counters(&mut expressions);
            let comment =
                text(rule, "comment").map(|comment| format!(" # {comment}")).unwrap_or_default();
            lines.push(format!("rule {} {expressions}{comment}", place(rule)));
        } else if let Some((kind, other)) =
            object.as_object().and_then(|object| object.iter().next())
            && kind != "metainfo"
            && kind != "table"
        {
            let mut other = other.clone();
            if let Some(other) = other.as_object_mut() {
                other.remove("handle");
            }
            lines.push(format!("{kind} {other}"));
        }
    }
    lines
}

fn without_counters(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(counter) = object.get_mut("counter") {
                *counter = Value::Null;
            }
            object.values_mut().for_each(without_counters);
        }
        Value::Array(all) => all.iter_mut().for_each(without_counters),
        _ => {}
    }
}

/// Programs that come and go on an idle node.
const TRANSIENT: [&str; 8] = [
    "ps",
    "sh",
    "timeout",
    "nsenter",
    "systemd-run",
    "(sd-pam)",
    "systemd-cgroups-agent",
    "systemd-tmpfiles",
];

/// A process by its command line; kernel threads have an empty one in brackets, shells are people.
fn process_line(line: &str) -> Option<String> {
    let (parent, args) = line.trim_start().split_once(' ')?;
    let program = args.split(' ').next()?.rsplit('/').next()?;
    let passing = TRANSIENT.contains(&program) || program.contains("bash") || args.starts_with('(');
    // A process that was let in from outside has no parent here.
    (!passing && !args.starts_with('[') && parent != "0" || parent == "0" && args.contains("init"))
        .then(|| args.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_read_as_ip_rule_says_them() {
        let line = |rule: Value| rule_line(&rule).unwrap();
        assert_eq!(
            line(json!({"priority":5270,"src":"all","table":"52","protocol":"unspec"})),
            "5270: from all lookup 52 proto unspec"
        );
        assert_eq!(
            line(
                json!({"priority":5250,"src":"all","fwmark":"0x80000","fwmask":"0xff0000","action":"unreachable","protocol":"unspec"})
            ),
            "5250: from all fwmark 0x80000/0xff0000 unreachable proto unspec"
        );
        assert_eq!(
            line(
                json!({"priority":32764,"src":"all","table":"main","suppress_prefixlen":0,"protocol":"boot"})
            ),
            "32764: from all lookup main suppress_prefixlength 0 proto boot"
        );
        assert_eq!(
            line(
                json!({"priority":99,"not":null,"src":"10.0.0.0","srclen":8,"dst":"203.0.113.10","table":"7"})
            ),
            "99: not from 10.0.0.0/8 to 203.0.113.10 lookup 7"
        );
    }

    #[test]
    fn routes_tell_table_and_flags_and_forget_random_link_locals() {
        let line = |route: Value| route_line(&route).unwrap();
        assert_eq!(
            line(
                json!({"type":"throw","dst":"127.0.0.0/8","table":"52","protocol":"boot","scope":"global","flags":[]})
            ),
            "throw 127.0.0.0/8 table 52 proto boot scope global"
        );
        assert_eq!(
            line(
                json!({"type":"unicast","dst":"10.42.2.0/24","gateway":"10.42.2.0","dev":"flannel.1","flags":["onlink"]})
            ),
            "10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink"
        );
        let local = |address: &str| {
            line(json!({"type":"local","dst":address,"dev":"tun0","table":"local"}))
        };
        assert_eq!(local("fe80::1"), local("fe80::2"));
    }

    #[test]
    fn dumps_are_equal_whatever_the_counters_and_the_date() {
        let dump = |packets: u32, date: &str| {
            format!(
                "# Generated by iptables-nft-save v1.8.9 on {date}\n*filter\n:INPUT ACCEPT [{packets}:1]\n:ts-input - [0:{packets}]\n-A INPUT -j ts-input\nCOMMIT\n# Completed on {date}\n"
            )
        };
        let lines = saved_lines(&dump(1, "Mon"));
        assert_eq!(lines, saved_lines(&dump(99, "Tue")));
        assert_eq!(lines, ["filter chain ts-input", "filter -A INPUT -j ts-input"]);
        assert_eq!(saved_lines(":INPUT DROP [0:0]"), [" chain INPUT DROP"]);
    }

    #[test]
    fn a_dump_that_is_cut_short_says_so() {
        assert_eq!(
            saved_lines("# Table `mangle' is incompatible, use 'nft' tool.\n"),
            ["Table `mangle' is incompatible, use 'nft' tool."]
        );
    }

    #[test]
    fn nft_rules_lose_handles_and_counters_and_empty_base_chains() {
        let ruleset = |handle: u32, packets: u32| {
            vec![
                json!({"chain":{"family":"ip","table":"mangle","name":"OUTPUT","handle":handle,"type":"filter","hook":"output","prio":-150,"policy":"accept"}}),
                json!({"chain":{"family":"ip","table":"filter","name":"INPUT","handle":handle,"type":"filter","hook":"input","prio":0,"policy":"accept"}}),
                json!({"rule":{"family":"ip","table":"filter","chain":"INPUT","handle":handle,"expr":[{"counter":{"packets":packets,"bytes":9}},{"jump":{"target":"ts-input"}}]}}),
            ]
        };
        let lines = nft_lines(&ruleset(1, 2));
        assert_eq!(lines, nft_lines(&ruleset(7, 8)));
        assert_eq!(lines.len(), 2, "{lines:?}");
    }

    #[test]
    fn processes_are_told_by_their_command_line() {
        assert_eq!(
            process_line("    1 /usr/local/bin/k3s agent").as_deref(),
            Some("/usr/local/bin/k3s agent")
        );
        assert_eq!(process_line("    0 /sbin/init").as_deref(), Some("/sbin/init"));
        assert_eq!(process_line("    2 [kworker/0:1]"), None);
        assert_eq!(process_line("    0 ps -ww -e"), None);
        assert_eq!(process_line("   17 sh -c ps"), None);
    }

    fn snapshot(source: &str, kind: Kind, lines: &[&str]) -> Snapshot {
        let mut made = Snapshot::default();
        made.put(kind, source, lines.iter().map(|line| (*line).to_owned()).collect(), true);
        made
    }

    #[test]
    fn a_difference_reads_like_a_line_of_a_patch() {
        let before = snapshot("rule4", Kind::Rules, &["0: from all lookup local"]);
        let after = snapshot(
            "rule4",
            Kind::Rules,
            &["0: from all lookup local", "5270: from all lookup 52"],
        );
        let found = diff(&before, &after);
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["rule4 + 5270: from all lookup 52"]
        );
        assert_eq!(diff(&after, &before)[0].to_string(), "rule4 - 5270: from all lookup 52");
        assert_eq!(diff(&after, &after), []);
        assert_eq!(count(&found)[&Kind::Rules], 1);
        assert_eq!(count(&found)[&Kind::Files], 0);
    }

    #[test]
    fn a_rule_that_moved_within_its_chain_is_a_difference_and_a_route_is_not() {
        let lines =
            ["nat -A OUTPUT -j A", "nat -A OUTPUT -j B", "nat -A OUTPUT -j C", "nat -A INPUT -j D"];
        let moved =
            ["nat -A INPUT -j D", "nat -A OUTPUT -j B", "nat -A OUTPUT -j C", "nat -A OUTPUT -j A"];
        let found =
            diff(&snapshot("x", Kind::Chains, &lines), &snapshot("x", Kind::Chains, &moved));
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["x ~ nat -A OUTPUT -j A"]
        );
        let same = diff(&snapshot("x", Kind::Routes, &lines), &snapshot("x", Kind::Routes, &moved));
        assert_eq!(same, []);
    }

    #[test]
    fn a_line_that_is_doubled_is_a_difference() {
        let once = snapshot("rule4", Kind::Rules, &["5270: from all lookup 52"]);
        let twice = snapshot(
            "rule4",
            Kind::Rules,
            &["5270: from all lookup 52", "5270: from all lookup 52"],
        );
        assert_eq!(diff(&once, &twice).len(), 1);
    }

    #[test]
    fn rules_for_host_ports_are_counted_apart() {
        let before = snapshot(
            "iptables-nft",
            Kind::Chains,
            &["nat -A OUTPUT -j CNI-HOSTPORT-DNAT", "nat -A OUTPUT -j KUBE-SERVICES"],
        );
        let counts = count(&diff(&before, &Snapshot::default()));
        assert_eq!((counts[&Kind::HostPorts], counts[&Kind::Chains]), (1, 1));
    }

    #[test]
    fn what_could_not_be_read_is_not_the_same_as_nothing() {
        let mut failed = Snapshot::default();
        failed.json(Kind::Rules, "rule4", "", false, rule_line);
        let empty = snapshot("rule4", Kind::Rules, &[]);
        assert_eq!(diff(&empty, &failed)[0].to_string(), "rule4 + (could not be read whole)");
    }
}
