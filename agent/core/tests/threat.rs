//! Whom the guard is raised against before anything is captured, for how long, and how often in vain.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod routing;

use lifeline_core::baseline::{Baseline, Path};
use lifeline_core::guard::{self, Stand};
use lifeline_core::observation::{Observation, Rule};
use lifeline_core::policy::Policy;
use lifeline_core::text;
use lifeline_core::threat::{
    EXPIRY_MS, LINGER_MS, PROVEN_MS, Threats, VAIN_ALL, VAIN_EACH, VAIN_MS, WARY_MS,
};
use routing::{HEALTHY, RULES_ONLY, TAILSCALE, apply, baseline, leaves, look, tables};

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
    seen.routes.extend(text::read(&route).unwrap().routes.to_vec());
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

/// A rule is there and gone in turns, twice a second, for this long; how many of those milliseconds it was feared.
fn flapping(
    threats: &mut Threats,
    from_ms: u64,
    lasts_ms: u64,
    rule: impl Fn(u64) -> String,
) -> u64 {
    let base = baseline();
    let mut feared = 0;
    for n in 0..lasts_ms / 500 {
        let now = from_ms + n * 500;
        let with = rule(n);
        let seen = if n % 2 == 0 { look(&[HEALTHY, &with]) } else { look(&[HEALTHY]) };
        // It goes and comes between two looks as well.
        feared += if fresh(threats, &seen, &base, now).is_empty() { 0 } else { 1_000 };
    }
    feared
}

#[test]
fn whoever_flaps_a_rule_that_never_captures_is_feared_three_times_in_ten_minutes() {
    let mut threats = Threats::default();
    let rule = |_| "rule 5209 lookup 4343\n".to_string();
    let feared = flapping(&mut threats, 0, VAIN_MS, rule);
    let most = VAIN_EACH as u64 * EXPIRY_MS;
    assert!((EXPIRY_MS..=most).contains(&feared), "{feared} ms of {VAIN_MS}");
    // In the next ten minutes, too, and at another place.
    let moved = |n| format!("rule {} lookup 4343\n", 1_000 + n % 4_000);
    let feared = flapping(&mut threats, VAIN_MS, VAIN_MS, moved);
    assert!(feared <= most, "{feared} ms of {VAIN_MS}");
}

#[test]
fn whoever_flaps_another_rule_each_time_holds_the_guard_up_for_a_third_of_the_time_at_most() {
    let mut threats = Threats::default();
    let rule = |n| format!("rule 5209 lookup {}\n", 4_000 + n);
    let feared = flapping(&mut threats, 0, VAIN_MS, rule);
    assert!(feared <= VAIN_ALL as u64 * EXPIRY_MS, "{feared} ms of {VAIN_MS}");
    assert!(format!("{threats:?}").len() < 100_000, "what is remembered is bounded");
}

#[test]
fn a_precaution_that_was_right_is_not_counted_and_who_is_feared_no_more_is_still_a_captor() {
    let (base, mut threats) = (baseline(), Threats::default());
    let (quiet, gone) = (look(&[HEALTHY, RULES_ONLY]), look(&[HEALTHY]));
    let captures = look(&[HEALTHY, TAILSCALE]);
    // A daemon that captures after each of its starts, ten minutes apart: forgotten as a captor, and feared each time.
    for n in 0..10 {
        let now = n * (PROVEN_MS + 10_000);
        assert_eq!(fresh(&mut threats, &quiet, &base, now), [5_270], "start {n}");
        fresh(&mut threats, &captures, &base, now + 3_000);
        fresh(&mut threats, &gone, &base, now + 9_000);
    }
    let mut threats = Threats::default();
    for n in 0..VAIN_EACH as u64 {
        assert_eq!(fresh(&mut threats, &quiet, &base, n * EXPIRY_MS), [5_270]);
        fresh(&mut threats, &gone, &base, n * EXPIRY_MS + 1_000);
    }
    let later = VAIN_EACH as u64 * EXPIRY_MS;
    assert!(fresh(&mut threats, &quiet, &base, later).is_empty(), "three times in vain");
    fresh(&mut threats, &captures, &base, later + 1_000);
    fresh(&mut threats, &gone, &base, later + 2_000);
    assert_eq!(fresh(&mut threats, &quiet, &base, later + 3_000), [5_270], "it did capture");
}

/// A rule comes and goes; is it feared while it is there?
fn is_feared(threats: &mut Threats, base: &Baseline, rule: &str, now_ms: u64) -> bool {
    let feared = fresh(threats, &look(&[HEALTHY, rule]), base, now_ms);
    assert!(fresh(threats, &look(&[HEALTHY]), base, now_ms + 500).is_empty());
    !feared.is_empty()
}

#[test]
fn whoever_was_feared_in_vain_too_often_is_feared_again_once_that_is_ten_minutes_ago() {
    let (base, mut threats) = (baseline(), Threats::default());
    let rule = "rule 5209 lookup 4343\n";
    let each = VAIN_EACH as u64;
    for n in 0..each {
        assert!(is_feared(&mut threats, &base, rule, n * EXPIRY_MS), "time {n}");
    }
    // Feared no more, until the first of those is forgotten; from then on once for each that is.
    assert!(!is_feared(&mut threats, &base, rule, each * EXPIRY_MS));
    assert!(!is_feared(&mut threats, &base, rule, VAIN_MS - 1_000));
    for n in 0..each {
        let forgotten = VAIN_MS + n * EXPIRY_MS;
        assert!(is_feared(&mut threats, &base, rule, forgotten), "ten minutes after time {n}");
    }
    assert!(!is_feared(&mut threats, &base, rule, VAIN_MS + each * EXPIRY_MS));
    // A quarter of an hour of peace, and nothing is held against anybody.
    let later = VAIN_MS + each * EXPIRY_MS + 15 * 60_000;
    for n in 0..each {
        assert!(is_feared(&mut threats, &base, rule, later + n * EXPIRY_MS), "anew, time {n}");
    }
}

#[test]
fn when_too_many_strangers_were_feared_in_vain_the_next_is_feared_ten_minutes_later() {
    let (base, mut threats) = (baseline(), Threats::default());
    let rule = |n: u64| format!("rule 5209 lookup {}\n", 4_000 + n);
    let all = VAIN_ALL as u64;
    for n in 0..all {
        assert!(is_feared(&mut threats, &base, &rule(n), n * EXPIRY_MS), "stranger {n}");
    }
    assert!(!is_feared(&mut threats, &base, &rule(all), all * EXPIRY_MS));
    assert!(!is_feared(&mut threats, &base, &rule(all), VAIN_MS - 1_000));
    assert!(is_feared(&mut threats, &base, &rule(all), VAIN_MS));
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
