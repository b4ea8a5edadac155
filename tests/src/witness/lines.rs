//! One line for each thing that was seen, made so that what changes by itself does not show; pure.

use std::collections::BTreeSet;

use serde_json::Value;

pub fn plain_line(line: &str) -> Option<String> {
    Some(line.trim_start_matches("/proc/sys/net/").to_owned())
}

fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object[key].as_str().filter(|text| !text.is_empty())
}

/// `5270: from all lookup 52`, as `ip rule` says it, with every selector of the JSON form.
pub fn rule_line(rule: &Value) -> Option<String> {
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

pub fn route_line(route: &Value) -> Option<String> {
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

pub fn link_line(link: &Value) -> Option<String> {
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
pub fn saved_lines(text: &str) -> Vec<String> {
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
        } else if is_cut(line) {
            lines.push(line.trim_start_matches("# ").to_owned());
        } else if line.starts_with("-A ") {
            lines.push(format!("{table} {line}"));
        }
    }
    lines
}

/// Whether iptables-save left something out that only nft can show.
pub fn is_cut(dump: &str) -> bool {
    dump.lines().any(|line| line.starts_with('#') && line.contains("incompatible"))
}

/// Tables, chains and rules of a ruleset; a base chain that is empty and accepts, and a table of nothing else, are left out.
pub fn nft_lines(objects: &[Value]) -> Vec<String> {
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

/// What the sample pods run for a moment, once a second.
const ASKING: [&str; 7] = ["nslookup", "nc", "sed", "head", "grep", "sleep 1", "sleep 5"];

/// Processes by their command lines. What the agent has run for a moment is its own senses' work: the look cannot be taken
/// between two of them.
pub fn process_lines(seen: &str) -> Vec<String> {
    let all: Vec<_> = seen.lines().filter_map(columns).collect();
    let of_the_agent = |parent: &str| {
        all.iter().any(|(pid, above, args)| {
            *pid == parent && *above == "1" && args.starts_with("/usr/local/bin/lifeline-agent")
        })
    };
    let lasting = all.iter().filter(|(_, parent, _)| !of_the_agent(parent));
    lasting.filter_map(|(_, parent, args)| process_line(parent, args)).collect()
}

/// A process's id, its parent's, and its command line.
fn columns(line: &str) -> Option<(&str, &str, &str)> {
    let (pid, rest) = line.trim_start().split_once(' ')?;
    let (parent, args) = rest.trim_start().split_once(' ')?;
    Some((pid, parent, args.trim()))
}

/// A process by its command line; kernel threads have an empty one in brackets, shells are people.
fn process_line(parent: &str, args: &str) -> Option<String> {
    let program = args.split(' ').next()?.rsplit('/').next()?;
    let passing = TRANSIENT.contains(&program) || program.contains("bash") || args.starts_with('(');
    let asks = ASKING.iter().any(|a| program == *a || args == *a);
    let passing = passing || asks;
    // A process that was let in from outside has no parent here.
    (!passing && !args.starts_with('[') && parent != "0" || parent == "0" && args.contains("init"))
        .then(|| args.to_owned())
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
        let seen = "\
      1       0 /sbin/init
     17       1 /usr/local/bin/k3s agent
     18       2 [kworker/0:1]
     19       0 ps -ww -e
     20      17 sh -c ps
     21      17 sleep 1
     22      17 /bin/sleep 2147483647
";
        assert_eq!(
            process_lines(seen),
            ["/sbin/init", "/usr/local/bin/k3s agent", "/bin/sleep 2147483647"]
        );
    }

    #[test]
    fn what_the_agent_runs_for_a_moment_is_no_process_of_the_nodes() {
        let seen = "\
    250       1 /usr/local/bin/lifeline-agent --config /etc/lifeline/agent.toml
    251     250 /usr/sbin/iptables-legacy-save -t nat
    252     250 /usr/local/bin/lifeline-agent --config /etc/lifeline/agent.toml
    253       1 /usr/sbin/iptables-legacy-save -t nat
";
        assert_eq!(
            process_lines(seen),
            [
                "/usr/local/bin/lifeline-agent --config /etc/lifeline/agent.toml",
                "/usr/sbin/iptables-legacy-save -t nat"
            ]
        );
    }
}
