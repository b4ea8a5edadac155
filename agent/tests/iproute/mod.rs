//! What `ip -j -d` prints, as our nouns: a second, independent reading to compare ours with.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::or_fun_call,
    reason = "a test that cannot go on must stop"
)]

use lifeline_core::net::{Family, Prefix};
use lifeline_core::observation::{Action, Hop, Mark, Route, RouteKind, Rule};
use serde_json::Value;
use std::net::IpAddr;

fn text<'a>(v: &'a Value, key: &str) -> Option<&'a str> {
    v.get(key).and_then(Value::as_str)
}

fn number(v: &Value, key: &str) -> Option<u32> {
    let v = v.get(key)?;
    v.as_u64().and_then(|n| u32::try_from(n).ok()).or_else(|| hex(v.as_str()?))
}

fn hex(s: &str) -> Option<u32> {
    match s.strip_prefix("0x") {
        Some(h) => u32::from_str_radix(h, 16).ok(),
        None => s.parse().ok(),
    }
}

fn table(name: &str) -> u32 {
    match name {
        "local" => 255,
        "main" => 254,
        "default" => 253,
        n => n.parse().unwrap(),
    }
}

fn protocol(name: &str) -> u8 {
    match name {
        "unspec" => 0,
        "redirect" => 1,
        "kernel" => 2,
        "boot" => 3,
        "static" => 4,
        "ra" => 9,
        "dhcp" => 16,
        n => n.parse().unwrap(),
    }
}

fn scope(name: &str) -> u8 {
    match name {
        "global" => 0,
        "link" => 253,
        "host" => 254,
        n => n.parse().unwrap(),
    }
}

fn range<T: TryFrom<u32>>(v: &Value, key: &str) -> Option<(T, T)> {
    let pair = |a: u32, b: u32| Some((T::try_from(a).ok()?, T::try_from(b).ok()?));
    match number(v, key) {
        Some(n) => pair(n, n),
        None => pair(number(v, &format!("{key}_start"))?, number(v, &format!("{key}_end"))?),
    }
}

fn selector(v: &Value, key: &str, family: Family) -> Option<Prefix> {
    let addr: IpAddr = text(v, key)?.parse().ok()?;
    let len = number(v, &format!("{key}len")).map_or(family.bits(), |l| u8::try_from(l).unwrap());
    Some(Prefix::new(addr, len))
}

/// `ip -j -d rule`.
pub fn rules(json: &str, family: Family) -> Vec<Rule> {
    let list: Vec<Value> = serde_json::from_str(json).unwrap();
    list.iter()
        .map(|v| Rule {
            family,
            pref: number(v, "priority").unwrap_or(0),
            not: v.get("not").is_some(),
            from: selector(v, "src", family),
            to: selector(v, "dst", family),
            iif: text(v, "iif").map(str::to_owned),
            oif: text(v, "oif").map(str::to_owned),
            mark: number(v, "fwmark")
                .map(|value| Mark { value, mask: number(v, "fwmask").unwrap_or(u32::MAX) }),
            ipproto: text(v, "ipproto").map(|p| match p {
                "tcp" => 6,
                "udp" => 17,
                n => n.parse().unwrap(),
            }),
            sport: range(v, "sport"),
            dport: range(v, "dport"),
            uids: range(v, "uid"),
            action: match (text(v, "action"), number(v, "goto")) {
                (_, Some(pref)) => Action::Goto(pref),
                _ if v.get("nop").is_some() => Action::Nop,
                (None | Some("to_tbl"), None) => Action::Lookup(table(text(v, "table").unwrap())),
                (Some("blackhole"), None) => Action::Blackhole,
                (Some("unreachable"), None) => Action::Unreachable,
                (Some("prohibit"), None) => Action::Prohibit,
                (Some("nop"), None) => Action::Nop,
                (Some(other), None) => panic!("rule action {other}"),
            },
            suppress: number(v, "suppress_prefixlen"),
            protocol: protocol(text(v, "protocol").unwrap()),
            exotic: ["tos", "dsfield", "l3mdev", "realms", "tun_id", "suppress_ifgroup"]
                .iter()
                .any(|k| v.get(k).is_some()),
        })
        .collect()
}

/// `ip -j -d route show table all`.
pub fn routes(json: &str, family: Family) -> Vec<Route> {
    let list: Vec<Value> = serde_json::from_str(json).unwrap();
    list.iter().map(|v| route(v, family)).collect()
}

fn route(v: &Value, family: Family) -> Route {
    let kind = match text(v, "type").unwrap_or("unicast") {
        "unicast" => RouteKind::Unicast,
        "local" => RouteKind::Local,
        "broadcast" => RouteKind::Broadcast,
        "anycast" => RouteKind::Anycast,
        "multicast" => RouteKind::Multicast,
        "blackhole" => RouteKind::Blackhole,
        "unreachable" => RouteKind::Unreachable,
        "prohibit" => RouteKind::Prohibit,
        "throw" => RouteKind::Throw,
        other => panic!("route type {other}"),
    };
    let hops = match (v.get("nexthops").and_then(Value::as_array), kind) {
        (Some(hops), _) => hops.iter().map(hop).collect(),
        (
            None,
            RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw,
        ) => Vec::new(),
        (None, _) => vec![hop(v)],
    };
    Route {
        family,
        table: text(v, "table").map_or(254, table),
        kind,
        dst: match text(v, "dst").unwrap() {
            "default" => Prefix::all(family),
            dst => dst.parse().unwrap(),
        },
        hops,
        metric: number(v, "metric").unwrap_or(0),
        src: text(v, "prefsrc").map(|a| a.parse().unwrap()),
        protocol: protocol(text(v, "protocol").unwrap()),
        scope: scope(text(v, "scope").unwrap()),
        exotic: ["metrics", "encap", "nhid", "from", "tos", "realms"]
            .iter()
            .any(|k| v.get(k).is_some()),
    }
}

fn hop(v: &Value) -> Hop {
    let flags: Vec<&str> = v["flags"]
        .as_array()
        .map(|f| f.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let via = text(v, "gateway").or_else(|| text(v.get("via")?, "host"));
    Hop {
        via: via.map(|a| a.parse().unwrap()),
        dev: text(v, "dev").map(Into::into),
        onlink: flags.contains(&"onlink"),
        dead: flags.contains(&"dead"),
        weight: number(v, "weight").map_or(0, |w| u16::try_from(w).unwrap()),
    }
}
