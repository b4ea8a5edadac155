//! The guard's judgement: what stands, where, and what never happens.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod routing;

use lifeline_core::baseline::Path;
use lifeline_core::fib::{self, Answer, Flow, PROTOCOL, TABLE_MIRROR};
use lifeline_core::guard::{self, Stand, Wanted};
use lifeline_core::observation::{Action, Observation, Rule};
use lifeline_core::policy::Policy;
use routing::{HEALTHY, TAILSCALE, apply, baseline, leaves, look, tables};
use std::net::IpAddr;

fn judge(seen: &Observation, stand: Stand) -> Wanted {
    let base = baseline();
    guard::wanted(tables(seen, &[]), &base, &base.routes, &Policy::default(), stand)
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
    seen.routes.extend(look(&["route 51820 default dev wg0 proto boot\n"]).routes.to_vec());
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
