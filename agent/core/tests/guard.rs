//! The guard's judgement: what stands, where, and what never happens.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use lifeline_core::baseline::{Baseline, Expected, Path, Role};
use lifeline_core::fib::{self, Answer, Flow, PROTOCOL, TABLE_MIRROR};
use lifeline_core::guard::{self, Stand, Tables, Wanted};
use lifeline_core::observation::{Action, Observation, Rule, TABLE_MAIN};
use lifeline_core::policy::Policy;
use lifeline_core::text;
use lifeline_core::threat::{EXPIRY_MS, LINGER_MS, PROVEN_MS, Threats, WARY_MS};
use std::net::IpAddr;

const HEALTHY: &str = "\
link lo index 1 up carrier
link eth0 index 2 kind veth up carrier
link cni0 index 3 kind bridge up carrier
link flannel.1 index 4 kind vxlan up carrier
rule 0 lookup local proto kernel
rule 32766 lookup main proto kernel
rule 32767 lookup default proto kernel
route main default via 192.168.2.1 dev eth0 proto boot
route main 192.168.2.0/24 dev eth0 proto kernel scope link src 192.168.2.80
route main 10.42.1.0/24 dev cni0 proto kernel scope link src 10.42.1.1
route main 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink proto boot
";

const TAILSCALE: &str = "\
rule 5210 fwmark 0x80000/0xff0000 lookup main
rule 5230 fwmark 0x80000/0xff0000 lookup default
rule 5250 fwmark 0x80000/0xff0000 unreachable
rule 5270 lookup 52
route 52 default dev tailscale0 proto boot
route 52 192.168.2.0/24 dev tailscale0 proto boot
route 52 10.42.1.0/24 dev tailscale0 proto boot
";

fn look(texts: &[&str]) -> Observation {
    let mut seen = text::read(&texts.concat()).unwrap();
    seen.rules.sort_by_key(|r| r.pref);
    seen
}

fn expected(role: Role, prefix: &str, ask: &str, dev: &str, via: Option<&str>) -> Expected {
    let path = Path { dev: dev.into(), via: via.map(|v| v.parse().unwrap()), table: TABLE_MAIN };
    Expected { role, prefix: prefix.parse().unwrap(), ask: ask.parse().unwrap(), path: Some(path) }
}

fn baseline() -> Baseline {
    let seen = look(&[HEALTHY]);
    Baseline {
        rules: seen.rules.clone(),
        routes: seen.routes,
        expected: vec![
            expected(Role::Api, "203.0.113.10", "203.0.113.10", "eth0", Some("192.168.2.1")),
            expected(Role::Gateway, "192.168.2.1", "192.168.2.1", "eth0", None),
            expected(Role::Lan, "192.168.2.0/24", "192.168.2.2", "eth0", None),
            expected(Role::OwnPods, "10.42.1.0/24", "10.42.1.2", "cni0", None),
            expected(Role::RemotePods, "10.42.2.0/24", "10.42.2.2", "flannel.1", Some("10.42.2.0")),
            expected(Role::Services, "10.43.0.0/16", "10.43.0.1", "eth0", Some("192.168.2.1")),
        ],
        ..Baseline::default()
    }
}

fn tables<'a>(seen: &'a Observation, threats: &'a [Rule]) -> Tables<'a> {
    Tables { rules: &seen.rules, routes: &seen.routes, links: &seen.links, threats, marks: &[] }
}

fn judge(seen: &Observation, stand: Stand) -> Wanted {
    let base = baseline();
    guard::wanted(tables(seen, &[]), &base, &base.routes, &Policy::default(), stand)
}

/// The node after the hands have done what is wanted.
fn apply(seen: &mut Observation, wanted: &Wanted) {
    let changes = guard::changes(&seen.rules, &seen.routes, wanted);
    seen.routes.extend(changes.add_routes);
    seen.rules.extend(changes.add_rules);
    seen.rules.retain(|r| !changes.delete_rules.contains(r));
    seen.routes.retain(|r| !changes.delete_routes.contains(r));
    // The kernel keeps the order of insertion among equal preferences.
    seen.rules.sort_by_key(|r| r.pref);
}

fn leaves(seen: &Observation, dst: &str, mark: u32) -> String {
    let dst: IpAddr = dst.parse().unwrap();
    match fib::lookup(&seen.rules, &seen.routes, &Flow::tcp(dst, 6443).marked(mark)) {
        Answer::Leaves { dev, .. } => dev,
        other => format!("{other:?}"),
    }
}

#[test]
fn a_healthy_node_carries_the_lifeline_path_and_no_guard() {
    let mut seen = look(&[HEALTHY]);
    let wanted = judge(&seen, Stand::Guard);
    assert!(!wanted.guarded && wanted.captors.is_empty());
    assert_eq!(wanted.mirror.len(), 4, "every main route is mirrored");
    apply(&mut seen, &wanted);
    assert_eq!(leaves(&seen, "203.0.113.10", 0x40), "eth0");
    assert!(
        guard::changes(&seen.rules, &seen.routes, &judge(&seen, Stand::Guard)).is_empty(),
        "it stands still"
    );
}

#[test]
fn an_exit_node_is_guarded_against_and_the_guard_can_be_seen_through() {
    let mut seen = look(&[HEALTHY, TAILSCALE]);
    let wanted = judge(&seen, Stand::Guard);
    assert!(wanted.guarded);
    apply(&mut seen, &wanted);
    for dst in ["203.0.113.10", "192.168.2.1", "192.168.2.50", "10.43.0.1"] {
        assert_eq!(leaves(&seen, dst, 0), "eth0", "{dst}");
        assert_eq!(leaves(&seen, dst, 0x1000), "tailscale0", "{dst} seen through the guard");
        assert_eq!(leaves(&seen, dst, 0x40), "eth0", "{dst} on the lifeline path");
    }
    assert_eq!(leaves(&seen, "10.42.2.2", 0), "flannel.1");
    assert_eq!(leaves(&seen, "10.42.1.2", 0), "cni0");
    assert_eq!(
        leaves(&seen, "8.8.8.8", 0),
        "tailscale0",
        "what is not critical is not ours to move"
    );
    assert!(
        wanted.rules.iter().all(|r| r.pref < 5200),
        "outside what tailscaled watches: {wanted:?}"
    );
}

#[test]
fn the_gateway_inside_the_lan_needs_no_rule_of_its_own() {
    let wanted = judge(&look(&[HEALTHY, TAILSCALE]), Stand::Guard);
    let to: Vec<String> = wanted.rules.iter().filter_map(|r| r.to).map(|p| p.to_string()).collect();
    assert_eq!(
        to,
        ["203.0.113.10", "192.168.2.0/24", "10.42.1.0/24", "10.42.2.0/24", "10.43.0.0/16"]
    );
}

#[test]
fn a_guard_goes_when_the_captor_has_gone() {
    let mut seen = look(&[HEALTHY, TAILSCALE]);
    let wanted = judge(&seen, Stand::Guard);
    apply(&mut seen, &wanted);
    seen.rules.retain(|r| !(5200..5300).contains(&r.pref));
    let wanted = judge(&seen, Stand::Guard);
    assert!(!wanted.guarded);
    apply(&mut seen, &wanted);
    assert!(seen.rules.iter().all(|r| r.to.is_none()));
    let wanted = judge(&seen, Stand::Nothing);
    apply(&mut seen, &wanted);
    assert!(seen.rules.iter().all(|r| r.protocol != PROTOCOL), "nothing of ours is left");
    assert!(seen.routes.iter().all(|r| r.table != TABLE_MIRROR));
}

/// What the kernel does with a rule that comes without a preference: just before the second rule (field guide K1).
fn without_pref(seen: &mut Observation, mut rule: Rule) {
    rule.pref = seen.rules[1].pref - 1;
    seen.rules.insert(1, rule);
}

#[test]
fn a_tool_without_preferences_that_lands_in_front_is_overtaken_again_and_again() {
    let mut seen = look(&[HEALTHY, TAILSCALE]);
    let wanted = judge(&seen, Stand::Guard);
    apply(&mut seen, &wanted);
    seen.routes.extend(look(&["route 51820 default dev wg0 proto boot\n"]).routes);
    let capture = look(&["rule 9 not fwmark 0xca6c lookup 51820\n"]).rules.remove(0);
    for round in 0..50 {
        without_pref(&mut seen, capture.clone());
        assert_eq!(leaves(&seen, "203.0.113.10", 0), "wg0", "round {round}: it is in front");
        let wanted = judge(&seen, Stand::Guard);
        assert_eq!(wanted.no_room, None);
        apply(&mut seen, &wanted);
        assert_eq!(leaves(&seen, "203.0.113.10", 0), "eth0", "round {round}");
        assert_eq!(leaves(&seen, "203.0.113.10", 0x40), "eth0", "round {round}: lifeline path");
        let own = leaves(&seen, "192.168.2.50", 0);
        assert_eq!(own, "eth0", "round {round}: the LAN never breaks");
    }
}

#[test]
fn the_guard_stands_behind_local_and_behind_the_healthy_nodes_own_rules() {
    // Cilium moves `local` to 100; a guard in front of it cut the node's own address off (field guide K1).
    let mut base = baseline();
    base.rules = look(&["rule 100 lookup local proto kernel\nrule 110 fwmark 0x200/0xf00 lookup 2004\nrule 32766 lookup main proto kernel\n"]).rules;
    let mut seen = look(&[HEALTHY, TAILSCALE]);
    seen.rules.retain(|r| r.pref != 0);
    seen.rules.splice(0..0, base.rules[..2].iter().cloned());
    let wanted =
        guard::wanted(tables(&seen, &[]), &base, &base.routes, &Policy::default(), Stand::Guard);
    assert!(wanted.guarded);
    assert!(wanted.rules.iter().all(|r| r.pref > 110), "{:?}", wanted.rules);
}

#[test]
fn no_room_in_front_of_a_captor_is_said() {
    let mut seen = look(&[HEALTHY, "rule 1 lookup 99\nroute 99 default dev tun9 proto boot\n"]);
    seen.rules.sort_by_key(|r| r.pref);
    let wanted = judge(&seen, Stand::Guard);
    assert!(!wanted.guarded);
    let why = wanted.no_room.expect("it is said");
    assert!(why.contains("rule at 1"), "{why}");
}

#[test]
fn a_destination_whose_healthy_path_is_a_tunnel_is_never_guarded() {
    let mut base = baseline();
    base.expected[0].path = Some(Path { dev: "tailscale0".into(), via: None, table: 52 });
    let seen = look(&[HEALTHY, TAILSCALE]);
    let wanted =
        guard::wanted(tables(&seen, &[]), &base, &base.routes, &Policy::default(), Stand::Guard);
    assert!(
        wanted.rules.iter().all(|r| r.to != Some("203.0.113.10".parse().unwrap())),
        "{:?}",
        wanted.rules
    );
}

#[test]
fn a_changed_gateway_in_main_is_not_guarded_against_by_a_quick_look() {
    let seen = look(&[&HEALTHY.replace("default via 192.168.2.1", "default via 192.168.2.254")]);
    assert!(!judge(&seen, Stand::Guard).guarded, "it may be on purpose");
    assert!(judge(&seen, Stand::GuardByMirror).guarded, "a full look has said it is not");
}

#[test]
fn a_lost_default_route_is_bridged_by_the_mirror() {
    let without: String =
        HEALTHY.lines().filter(|l| !l.contains("default via")).map(|l| format!("{l}\n")).collect();
    let mut seen = look(&[&without]);
    let wanted = judge(&seen, Stand::GuardByMirror);
    let by_mirror = |r: &&Rule| r.to.is_some() && r.action == Action::Lookup(TABLE_MIRROR);
    assert!(wanted.rules.iter().filter(by_mirror).count() >= 1);
    apply(&mut seen, &wanted);
    assert_eq!(leaves(&seen, "203.0.113.10", 0), "eth0");
}

#[test]
fn an_empty_mirror_does_not_leak_into_the_capture() {
    let mut seen = look(&[HEALTHY, TAILSCALE]);
    let wanted = judge(&seen, Stand::Guard);
    apply(&mut seen, &wanted);
    seen.routes.retain(|r| r.table != TABLE_MIRROR);
    let dst: IpAddr = "203.0.113.10".parse().unwrap();
    let answer = fib::lookup(&seen.rules, &seen.routes, &Flow::tcp(dst, 6443).marked(0x40));
    assert!(matches!(answer, Answer::Refused { .. }), "{answer:?}");
}

#[test]
fn a_tunnel_that_was_harmless_when_the_baseline_was_learnt_is_guarded_against_all_the_same() {
    let mut base = baseline();
    let seen = look(&[HEALTHY, TAILSCALE]);
    base.rules = seen.rules.clone();
    let wanted =
        guard::wanted(tables(&seen, &[]), &base, &base.routes, &Policy::default(), Stand::Guard);
    assert!(wanted.guarded);
    assert!(wanted.rules.iter().filter(|r| r.to.is_some()).all(|r| r.pref < 5270), "{wanted:?}");
}

#[test]
fn a_missing_main_rule_is_stood_in_for() {
    let mut seen = look(&[HEALTHY]);
    seen.rules.retain(|r| r.pref != 32_766);
    let wanted = judge(&seen, Stand::Guard);
    assert!(wanted.guarded);
    apply(&mut seen, &wanted);
    assert_eq!(leaves(&seen, "203.0.113.10", 0), "eth0");
}

/// tailscaled's rules, and no route in its table yet.
const RULES_ONLY: &str = "\
rule 5210 fwmark 0x80000/0xff0000 lookup main
rule 5230 fwmark 0x80000/0xff0000 lookup default
rule 5250 fwmark 0x80000/0xff0000 unreachable
rule 5270 lookup 52
";

fn fresh(threats: &mut Threats, seen: &Observation, base: &Baseline, now_ms: u64) -> Vec<u32> {
    let caught = guard::captured(&seen.rules, &seen.routes, base, &[]);
    threats.fresh(&seen.rules, base, &caught, false, now_ms).iter().map(|r| r.pref).collect()
}

#[test]
fn the_guard_stands_before_the_route_that_captures_comes() {
    let (base, mut threats) = (baseline(), Threats::default());
    let mut seen = look(&[HEALTHY, RULES_ONLY]);
    assert_eq!(fresh(&mut threats, &seen, &base, 0), [5_270], "only the rule that could capture");
    let threat: Vec<Rule> = seen.rules.iter().filter(|r| r.pref == 5_270).cloned().collect();
    let wary = |stand| {
        guard::wanted(tables(&seen, &threat), &base, &base.routes, &Policy::default(), stand)
    };
    assert!(!wary(Stand::Lifeline).guarded, "where only the lifeline may stand nothing else does");
    let wanted = wary(Stand::Guard);
    assert!(wanted.guarded && wanted.captors[0].contains("precaution"), "{wanted:?}");
    apply(&mut seen, &wanted);
    let route: String = "route 52 default dev tailscale0 proto boot\n".into();
    seen.routes.extend(text::read(&route).unwrap().routes);
    assert_eq!(leaves(&seen, "203.0.113.10", 0), "eth0", "not one packet is lost");
    assert_eq!(leaves(&seen, "203.0.113.10", 0x1000), "tailscale0");
}

#[test]
fn a_precaution_ends_by_itself_and_is_not_renewed_without_a_change() {
    let (base, mut threats) = (baseline(), Threats::default());
    let seen = look(&[HEALTHY, RULES_ONLY]);
    assert_eq!(fresh(&mut threats, &seen, &base, 1_000).len(), 1);
    assert_eq!(fresh(&mut threats, &seen, &base, 1_000 + EXPIRY_MS - 1).len(), 1);
    for later in [0, 1, 1_000, 900_000] {
        let none = fresh(&mut threats, &seen, &base, 1_000 + EXPIRY_MS + later);
        assert!(none.is_empty(), "a benign tailscaled keeps no guard: {none:?}");
    }
    assert!(fresh(&mut threats, &look(&[HEALTHY]), &base, 2_000_000).is_empty());
    assert_eq!(fresh(&mut threats, &seen, &base, 2_000_001).len(), 1, "it was gone and came back");
}

#[test]
fn a_captor_that_lets_go_is_no_threat_any_more() {
    let (base, mut threats) = (baseline(), Threats::default());
    assert!(fresh(&mut threats, &look(&[HEALTHY, TAILSCALE]), &base, 0).is_empty());
    let asked = look(&[HEALTHY, RULES_ONLY]);
    assert!(fresh(&mut threats, &asked, &base, 1_000).is_empty(), "its guard goes at once");
}

#[test]
fn a_captor_whose_rule_still_stands_is_not_trusted_and_one_that_came_back_even_less() {
    let (base, mut threats) = (baseline(), Threats::default());
    let (captures, quiet, gone) =
        (look(&[HEALTHY, TAILSCALE]), look(&[HEALTHY, RULES_ONLY]), look(&[HEALTHY]));
    fresh(&mut threats, &quiet, &base, 0);
    assert_eq!(threats.linger_ms(0), LINGER_MS, "it has not captured yet");
    fresh(&mut threats, &captures, &base, 1_000);
    fresh(&mut threats, &captures, &base, 2_000);
    fresh(&mut threats, &quiet, &base, 3_000);
    assert_eq!(threats.linger_ms(3_000), WARY_MS, "it captured once, and its rule stands");
    fresh(&mut threats, &captures, &base, 4_000);
    fresh(&mut threats, &quiet, &base, 5_000);
    assert_eq!(threats.linger_ms(5_000), PROVEN_MS, "it did it again without a warning");
    fresh(&mut threats, &gone, &base, 6_000);
    assert_eq!(threats.linger_ms(6_000), LINGER_MS, "without its rule it cannot");
    let back = fresh(&mut threats, &quiet, &base, 7_000);
    assert_eq!(back, [5_270], "a rule that is put back is a threat");
    assert_eq!(threats.linger_ms(7_000), PROVEN_MS, "by one that is remembered");
    let later = 4_000 + PROVEN_MS;
    fresh(&mut threats, &quiet, &base, later);
    assert_eq!(threats.linger_ms(later), LINGER_MS, "not for ever");
}

#[test]
fn who_was_dealt_with_by_an_operator_is_not_held_to_do_it_again() {
    let (base, mut threats) = (baseline(), Threats::default());
    for (now, captured) in
        [(0, TAILSCALE), (1_000, RULES_ONLY), (2_000, TAILSCALE), (3_000, RULES_ONLY)]
    {
        fresh(&mut threats, &look(&[HEALTHY, captured]), &base, now);
    }
    assert_eq!(threats.linger_ms(3_000), PROVEN_MS);
    threats.forgive();
    assert_eq!(threats.linger_ms(3_000), LINGER_MS);
    fresh(&mut threats, &look(&[HEALTHY, TAILSCALE]), &base, 4_000);
    fresh(&mut threats, &look(&[HEALTHY, RULES_ONLY]), &base, 5_000);
    assert_eq!(threats.linger_ms(5_000), WARY_MS, "but watched from there on");
}

#[test]
fn a_rule_that_was_put_back_between_two_looks_is_a_threat_anew() {
    let (base, mut threats) = (baseline(), Threats::default());
    let quiet = look(&[HEALTHY, RULES_ONLY]);
    fresh(&mut threats, &look(&[HEALTHY, TAILSCALE]), &base, 0);
    assert!(fresh(&mut threats, &quiet, &base, EXPIRY_MS).is_empty());
    let none = guard::captured(&quiet.rules, &quiet.routes, &base, &[]);
    let anew = threats.fresh(&quiet.rules, &base, &none, true, EXPIRY_MS + 1);
    assert_eq!(anew.len(), 1, "somebody added a rule: a daemon that starts again does so");
    assert!(fresh(&mut threats, &quiet, &base, EXPIRY_MS * 2 + 1).is_empty(), "for a while");
}

#[test]
fn rules_that_somebody_adds_all_day_renew_no_precaution_against_one_that_never_captured() {
    let (base, mut threats) = (baseline(), Threats::default());
    let quiet = look(&[HEALTHY, RULES_ONLY]);
    let none = guard::captured(&quiet.rules, &quiet.routes, &base, &[]);
    let mut anew = |now| threats.fresh(&quiet.rules, &base, &none, true, now).len();
    assert_eq!((anew(0), anew(EXPIRY_MS - 1), anew(EXPIRY_MS)), (1, 1, 0));
}

#[test]
fn a_hundred_rules_that_stand_are_no_news_at_each_look() {
    let (base, mut threats) = (baseline(), Threats::default());
    let rules: String = (0..100).map(|n| format!("rule {} lookup 52\n", 1_000 + n)).collect();
    let seen = look(&[HEALTHY, &rules]);
    assert_eq!(fresh(&mut threats, &seen, &base, 0).len(), 100);
    for later in [1, 2, 3] {
        assert!(fresh(&mut threats, &seen, &base, EXPIRY_MS + later).is_empty());
    }
}

#[test]
fn only_so_many_captors_are_remembered() {
    let (base, mut threats) = (baseline(), Threats::default());
    for n in 0..200u64 {
        let rule = format!("rule {} lookup 52\n", 1_000 + n);
        let seen = look(&[HEALTHY, "route 52 default dev tailscale0 proto boot\n", &rule]);
        fresh(&mut threats, &seen, &base, n);
        fresh(&mut threats, &look(&[HEALTHY]), &base, n);
    }
    assert!(format!("{threats:?}").matches("last_ms").count() <= 64);
}

#[test]
fn a_rule_that_cannot_take_critical_traffic_is_no_threat() {
    let mut base = baseline();
    let mut threats = Threats::default();
    for harmless in [
        "rule 5270 to 100.64.0.0/10 lookup 52\n",
        "rule 5270 fwmark 0x80000/0xff0000 lookup 52\n",
        "rule 5270 iif cni0 lookup 52\n",
        "rule 5270 lookup main\n",
        "rule 40000 lookup 52\n",
    ] {
        let seen = look(&[HEALTHY, harmless]);
        assert!(fresh(&mut threats, &seen, &base, 0).is_empty(), "{harmless}");
    }
    let seen = look(&[HEALTHY, RULES_ONLY]);
    base.rules = seen.rules.clone();
    assert!(fresh(&mut threats, &seen, &base, 0).is_empty(), "the healthy node had it too");
    let none = Baseline::default();
    assert!(fresh(&mut threats, &seen, &none, 0).is_empty(), "never without a baseline");
    let mut over = baseline();
    for e in &mut over.expected {
        e.path = Some(Path { dev: "tailscale0".into(), via: None, table: 52 });
    }
    assert!(fresh(&mut threats, &seen, &over, 0).is_empty(), "never for a healthy tunnel (R17)");
}

#[test]
fn wg_quick_is_seen_coming_too() {
    let (base, mut threats) = (baseline(), Threats::default());
    let seen = look(&[
        HEALTHY,
        "rule 32764 lookup main suppress 0\nrule 32765 not fwmark 0xca6c/0xffffffff lookup 51820\n",
    ]);
    assert_eq!(fresh(&mut threats, &seen, &base, 0), [32_765]);
}
