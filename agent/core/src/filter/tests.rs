#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::observation::Observation;
use alloc::vec;

const API: Call<'static> = Call {
    peer: IpAddr::V4(core::net::Ipv4Addr::new(203, 0, 113, 10)),
    port: 6443,
    dev: Some("eth0"),
};

fn table(dialect: Dialect, rules: &[(&str, &str)]) -> NfTable {
    let chain = |name: &str, hook: Option<&str>| Chain {
        name: name.into(),
        policy: hook.map(|_| "ACCEPT".into()),
        hook: hook.map(Into::into).filter(|_| dialect == Dialect::Nft),
    };
    NfTable {
        backend: Backend::Nft,
        family: crate::net::Family::V4,
        name: "filter".into(),
        dialect,
        chains: vec![
            chain("INPUT", Some("type filter hook input priority 0")),
            chain("FORWARD", Some("type filter hook forward priority 0")),
            chain("OUTPUT", Some("type filter hook output priority 0")),
            chain("corp", None),
        ]
        .into(),
        rules: rules
            .iter()
            .map(|(c, s)| NfRule { chain: (*c).into(), spec: (*s).into(), handle: None })
            .collect(),
    }
}

/// How sure it is that the last rule refuses the call: certain, named, or not at all.
fn verdict(dialect: Dialect, rules: &[(&str, &str)]) -> &'static str {
    let table = table(dialect, rules);
    let last = table.rules.last().unwrap();
    match refusals(&table, &API).iter().find(|r| r.rule == last) {
        Some(r) if r.certain => "certain",
        Some(_) => "perhaps",
        None => "no",
    }
}

#[test]
fn a_rule_refuses_a_call_for_certain_perhaps_or_not() {
    let ipt = Dialect::Iptables;
    for (wanted, rules) in [
        (
            "certain",
            &[(
                "OUTPUT",
                "-d 203.0.113.10/32 -p tcp -m tcp --dport 6443 -m comment --comment \"corp policy 7\" -j REJECT --reject-with tcp-reset",
            )][..],
        ),
        ("certain", &[("OUTPUT", "-p tcp -m multiport --dports 22,6443 -j DROP")]),
        ("certain", &[("OUTPUT", "-j DROP")]),
        ("certain", &[("INPUT", "-s 203.0.113.0/24 -j DROP")]),
        ("certain", &[("OUTPUT", "-o eth+ -m conntrack --ctstate NEW -j DROP")]),
        (
            "certain",
            &[("OUTPUT", "-j corp"), ("corp", "-d 10.0.0.0/8 -j DROP"), ("OUTPUT", "-j DROP")],
        ),
        // Somebody in front of it may let the call through.
        (
            "no",
            &[
                ("INPUT", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
                ("INPUT", "-j DROP"),
            ],
        ),
        ("no", &[("OUTPUT", "-j corp"), ("corp", "-j ACCEPT"), ("OUTPUT", "-j DROP")]),
        // A chain that others lead to, or a condition we have no words for.
        ("perhaps", &[("corp", "-d 203.0.113.10/32 -j DROP")]),
        ("perhaps", &[("OUTPUT", "-d 203.0.113.10/32 -m owner --uid-owner 0 -j DROP")]),
        ("no", &[("OUTPUT", "-m owner --uid-owner 1000 -j DROP")]),
        // Others' traffic.
        ("no", &[("OUTPUT", "! -d 203.0.113.10/32 -j DROP")]),
        ("no", &[("OUTPUT", "-d 203.0.113.10/32 -p udp -j DROP")]),
        ("no", &[("OUTPUT", "-d 198.51.100.0/24 -j REJECT --reject-with icmp-port-unreachable")]),
        ("no", &[("OUTPUT", "-o tun0 -j DROP")]),
        ("no", &[("INPUT", "-p tcp -m conntrack --ctstate NEW -j DROP")]),
        ("no", &[("FORWARD", "-d 203.0.113.10/32 -j DROP")]),
        ("no", &[("OUTPUT", "-m comment --comment \"-j DROP\" -j ACCEPT")]),
    ] {
        assert_eq!(verdict(ipt, rules), wanted, "{rules:?}");
    }
    for (wanted, rules) in [
        (
            "certain",
            &[("OUTPUT", "ip daddr 203.0.113.10 tcp dport 6443 counter reject with tcp reset")][..],
        ),
        ("certain", &[("OUTPUT", "counter drop")]),
        ("certain", &[("INPUT", "ip saddr 203.0.113.10 drop")]),
        ("perhaps", &[("OUTPUT", "ip daddr 203.0.113.10 meta mark 0x1 drop")]),
        ("no", &[("OUTPUT", "ip daddr { 1.1.1.1, 2.2.2.2 } drop")]),
        ("no", &[("OUTPUT", "ip daddr 203.0.113.10 udp dport 53 drop")]),
        ("no", &[("OUTPUT", "ct state established,related accept"), ("OUTPUT", "drop")]),
        ("no", &[("OUTPUT", "oifname != \"eth0\" drop")]),
    ] {
        assert_eq!(verdict(Dialect::Nft, rules), wanted, "{rules:?}");
    }
}

#[test]
fn a_chain_accepts_nothing_when_neither_it_nor_what_it_leads_to_does() {
    let rules = [("INPUT", "-j corp"), ("corp", "-s 10.0.0.0/8 -j DROP")];
    assert!(!may_accept(&table(Dialect::Iptables, &rules), "INPUT"));
    let rules = [("INPUT", "-j corp"), ("corp", "-s 10.0.0.0/8 -j ACCEPT")];
    assert!(may_accept(&table(Dialect::Iptables, &rules), "INPUT"));
    let round = [("INPUT", "-j corp"), ("corp", "-j corp")];
    assert!(may_accept(&table(Dialect::Iptables, &round), "INPUT"), "nobody can say");
}

#[test]
fn where_a_rule_leads_is_not_read_from_its_comment() {
    let to = |spec| leads_to(Dialect::Iptables, spec);
    assert_eq!(
        to("-m comment --comment \"-j KUBE-X\" -j KUBE-SERVICES").as_deref(),
        Some("KUBE-SERVICES")
    );
    assert_eq!(to("-m comment --comment \"-j KUBE-X\" -j ACCEPT"), None);
    assert_eq!(
        leads_to(Dialect::Nft, "counter jump KUBE-SERVICES").as_deref(),
        Some("KUBE-SERVICES")
    );
}

#[test]
fn a_rule_that_sends_all_that_comes_elsewhere_is_told_from_a_port_forwarding() {
    use super::spec::diverts;
    for (wanted, rule) in [
        (true, "! -i tailscale0 -j DNAT --to-destination 100.64.0.9"),
        (true, "-i eth0 -m comment --comment \"-p tcp\" -j DNAT --to-destination 10.0.0.9"),
        (true, "-j DNAT --to-destination 10.0.0.9"),
        (false, "-p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.9"),
        (false, "-d 192.168.2.80/32 -j DNAT --to-destination 10.0.0.9"),
        (false, "-m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT"),
        (false, "-i lo -j DNAT --to-destination 10.0.0.9"),
        (false, "-j REDIRECT"),
    ] {
        assert_eq!(diverts(Dialect::Iptables, rule), wanted, "{rule}");
    }
    assert!(diverts(Dialect::Nft, "iifname != \"tailscale0\" counter dnat to 100.64.0.9"));
    assert!(!diverts(Dialect::Nft, "tcp dport 80 dnat to 10.0.0.9"));
}

/// The mark a call leaves with, and how many rules made it so.
fn mark(dialect: Dialect, hook: &str, rules: &[(&str, &str)]) -> (u32, usize) {
    let mut table = table(dialect, rules);
    table.name = "mangle".into();
    table.chains[2].hook = Some(hook.into()).filter(|_| dialect == Dialect::Nft);
    let mut seen = Observation { netfilter: vec![table], ..Observation::default() };
    seen.cluster.api = vec![core::net::SocketAddr::new(API.peer, API.port)];
    let all = marks(&seen);
    let by = Marked::of(&all, API.peer).map_or(0, |m| m.by.len());
    (Marked::mark(&all, API.peer, 0x1000), by)
}

#[test]
fn a_mark_is_written_on_a_call_for_certain_or_it_counts_for_nothing() {
    fn ipt(rules: &[(&str, &str)]) -> (u32, usize) {
        mark(Dialect::Iptables, "", rules)
    }
    let set = "-d 203.0.113.10/32 -p tcp -m tcp --dport 6443 -j MARK --set-xmark 0x77/0xffffffff";
    assert_eq!(ipt(&[("OUTPUT", set)]), (0x77, 1));
    assert_eq!(ipt(&[("OUTPUT", "-j MARK --set-xmark 0x77/0xff")]), (0x1077, 1));
    assert_eq!(ipt(&[("OUTPUT", "-j corp"), ("corp", set)]), (0x77, 1));
    assert_eq!(ipt(&[("OUTPUT", set), ("OUTPUT", "-j MARK --set-xmark 0x100/0x100")]), (0x177, 2));
    for nothing in [
        &[("OUTPUT", "-p udp -j MARK --set-xmark 0x77/0xffffffff")][..],
        &[("OUTPUT", "-d 203.0.113.11/32 -j MARK --set-xmark 0x77/0xffffffff")],
        &[("OUTPUT", "-m owner --uid-owner 4000 -j MARK --set-xmark 0x77/0xffffffff")],
        &[("INPUT", set)],
        &[("corp", set)],
        &[("OUTPUT", "-j ACCEPT"), ("OUTPUT", set)],
        &[
            ("OUTPUT", "-m owner --uid-owner 0 -j RETURN"),
            ("OUTPUT", "-j MARK --set-xmark 0x77/0xff"),
        ],
        &[("OUTPUT", "-j corp"), ("corp", "-j RETURN"), ("corp", set)],
        &[("OUTPUT", "-j MARK --set-xmark 0x77/0xff"), ("OUTPUT", "-j CONNMARK --restore-mark")],
    ] {
        assert_eq!(ipt(nothing), (0x1000, 0), "{nothing:?}");
    }
    let nft = |hook, rule| mark(Dialect::Nft, hook, &[("OUTPUT", rule)]);
    let rule = "ip daddr 203.0.113.10 tcp dport 6443 counter meta mark set 0x00000077";
    assert_eq!(nft("type route hook output priority -150", rule), (0x77, 1));
    assert_eq!(nft("type filter hook output priority -150", rule), (0x1000, 0), "nobody asks anew");
}
