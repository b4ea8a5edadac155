//! The captures of a real node with the real tailscaled, read by the same parsers as a live one, give exactly the observation
//! of the golden case that was made from them by other means.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must stop")]

mod iproute;

use lifeline_agent::netfilter::{parse_nft, parse_save};
use lifeline_agent::netlink::{LinkNames, route_from, rule_from, rule_message};
use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Dialect, NfTable, Observation, Route, Rule};
use lifeline_core::text;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn captures() -> Vec<PathBuf> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut all: Vec<PathBuf> = fs::read_dir(home).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.is_dir());
    all.sort();
    assert_eq!(all.len(), 13);
    all
}

fn golden(capture: &Path) -> Observation {
    let name = format!("capture-{}", capture.file_name().unwrap().to_string_lossy());
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("core/tests/golden").join(name);
    text::read(&fs::read_to_string(home.join("observation.txt")).unwrap()).unwrap()
}

/// What `ip rule save` and `ip route save` wrote: a magic number, then the kernel's messages as they came.
fn messages(path: &Path) -> Vec<RouteNetlinkMessage> {
    let bytes = fs::read(path).unwrap();
    let mut rest = bytes.get(4..).unwrap();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..len]).unwrap();
        if let NetlinkPayload::InnerMessage(inner) = message.payload {
            all.push(inner);
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

fn names(capture: &Path) -> LinkNames {
    let json = fs::read_to_string(capture.join("addr.json")).unwrap();
    let list: Vec<Value> = serde_json::from_str(&json).unwrap();
    list.iter()
        .filter_map(|l| {
            let index = u32::try_from(l["ifindex"].as_u64()?).ok()?;
            Some((index, l["ifname"].as_str()?.to_owned()))
        })
        .collect()
}

fn rules(capture: &Path, digit: u8) -> Vec<Rule> {
    let all = messages(&capture.join(format!("rule{digit}.netlink")));
    all.into_iter()
        .map(|m| match m {
            RouteNetlinkMessage::NewRule(rule) => rule_from(&rule),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn routes(capture: &Path, digit: u8) -> Vec<Route> {
    let names = names(capture);
    let all = messages(&capture.join(format!("route{digit}.netlink")));
    all.into_iter()
        .map(|m| match m {
            RouteNetlinkMessage::NewRoute(route) => route_from(&route, &names),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// As `nft -n -a -s` prints it: no counts, and a handle behind each rule. `nft list ruleset` had printed neither option's.
fn with_handles(listing: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in listing.lines() {
        let mut words: Vec<&str> = line.split(' ').collect();
        while let Some(at) = words.iter().position(|w| *w == "packets") {
            words.drain(at..at + 4);
        }
        let line = words.join(" ");
        let bare = line.trim();
        let rule = inside && !bare.is_empty() && bare != "}" && !bare.starts_with("type ");
        inside = bare.starts_with("chain ") || (inside && bare != "}");
        out.push_str(&line);
        out.push_str(if rule { " # handle 1\n" } else { "\n" });
    }
    out
}

/// One table out of a save of all, when it is there whole.
fn part(save: &str, table: &str) -> Option<String> {
    let from = save.find(&format!("*{table}\n"))?;
    let rest = &save[from..];
    rest.find("\nCOMMIT").map(|end| rest[..end + "\nCOMMIT\n".len()].to_owned())
}

fn netfilter(capture: &Path) -> Vec<NfTable> {
    let read = |name: &str| fs::read_to_string(capture.join(name)).unwrap();
    let listing = with_handles(&read("nft.txt"));
    let mut all = Vec::new();
    for (family, tool) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
        let legacy = read(&format!("{tool}-legacy-save.txt"));
        all.extend(parse_save(&legacy, Backend::Legacy, family).unwrap());
        // What went to stderr was captured into the same file, in the middle of a line too.
        let warning = format!(
            "# Warning: {tool}-legacy tables present, use {tool}-legacy-save to see them\n"
        );
        let save = read(&format!("{tool}-nft-save.txt")).replace(&warning, "");
        let cut = save.contains("rule failed");
        assert_eq!(parse_save(&save, Backend::Nft, family).is_err(), save.contains("incompatible"));
        let said = |table: &str| save.contains(&format!("# Table `{table}'"));
        for native in parse_nft(&listing, family).unwrap() {
            match part(&save, &native.name).filter(|_| !cut && !said(&native.name)) {
                Some(text) => all.extend(parse_save(&text, Backend::Nft, family).unwrap()),
                None => all.push(native),
            }
        }
    }
    all
}

/// What the two ways of reading may differ in: which table comes first, nft's handles (not in the listing), and the case in
/// which nft writes a policy.
fn comparable(mut seen: Observation) -> String {
    seen.netfilter.sort_by_key(|t| {
        let backend = if t.backend == Backend::Legacy { 0 } else { 1 };
        (backend, t.family, t.name.clone())
    });
    for table in seen.netfilter.iter_mut().filter(|t| t.dialect == Dialect::Nft) {
        for chain in &mut table.chains {
            chain.policy = chain.policy.take().map(|p| p.to_ascii_uppercase());
        }
        for rule in &mut table.rules {
            rule.handle = None;
        }
    }
    text::write(&seen)
}

#[test]
fn the_parsers_give_exactly_the_golden_observation() {
    for capture in captures() {
        let golden = golden(&capture);
        let ours = Observation {
            rules: [rules(&capture, 4), rules(&capture, 6)].concat(),
            routes: [routes(&capture, 4), routes(&capture, 6)].concat().into(),
            netfilter: netfilter(&capture),
            ..golden.clone()
        };
        let (ours, golden) = (comparable(ours), comparable(golden));
        for (a, b) in ours.lines().zip(golden.lines()) {
            assert_eq!(a, b, "{}", capture.display());
        }
        assert_eq!(ours, golden, "{}", capture.display());
    }
}

#[test]
fn messages_and_json_of_the_same_moment_say_the_same() {
    for capture in captures() {
        for (digit, family) in [(4, Family::V4), (6, Family::V6)] {
            let json = |what: &str| fs::read_to_string(capture.join(format!("{what}{digit}.json")));
            let theirs = iproute::rules(&json("rule").unwrap(), family);
            assert_eq!(rules(&capture, digit), theirs, "{}", capture.display());
            let theirs = iproute::routes(&json("route").unwrap(), family);
            assert_eq!(routes(&capture, digit), theirs, "{}", capture.display());
        }
    }
}

#[test]
fn a_rule_survives_being_written_as_a_message_and_read_again() {
    for capture in captures() {
        for rule in [rules(&capture, 4), rules(&capture, 6)].concat() {
            assert_eq!(rule_from(&rule_message(&rule)), rule);
        }
    }
}
