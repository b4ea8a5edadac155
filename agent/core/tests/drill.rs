//! The drill's judgement: which address is captured, that the real guard's code meets it, that nothing of it outlasts it, and
//! what counts as proof.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use lifeline_core::baseline::{Baseline, Expected};
use lifeline_core::diagnosis::{Diagnosis, Verdict};
use lifeline_core::drill::{self, Call, Capture, Ground, Outcome, Step, Trial, Warning};
use lifeline_core::fib::{self, Answer, Flow, TABLE_MIRROR};
use lifeline_core::guard::{self, Stand, Tables};
use lifeline_core::judge;
use lifeline_core::net::Family;
use lifeline_core::observation::{Action, Fate, Observation, Reach, Rule, TABLE_MAIN};
use lifeline_core::policy::{Mode, Policy};
use lifeline_core::text;
use lifeline_core::threat::Threats;
use std::net::IpAddr;

const HEALTHY: &str = "\
link lo index 1 up carrier
link eth0 index 2 kind veth up carrier
rule 0 lookup local proto kernel
rule 32766 lookup main proto kernel
rule 32767 lookup default proto kernel
rule6 0 lookup local proto kernel
rule6 32766 lookup main proto kernel
addr eth0 192.168.2.80/24
route main default via 192.168.2.1 dev eth0 proto boot
route main 192.168.2.0/24 dev eth0 proto kernel scope link src 192.168.2.80
route6 main default via fd00:2::1 dev eth0 proto boot
";

fn look(more: &str) -> Observation {
    let mut seen = text::read(&format!("{HEALTHY}{more}")).unwrap();
    seen.rules.sort_by_key(|r| r.pref);
    seen
}

fn base(seen: &Observation) -> Baseline {
    let rules = look("").rules;
    Baseline { rules, routes: seen.routes.to_vec(), ..Baseline::default() }
}

fn ground<'a>(seen: &'a Observation, base: &'a Baseline) -> Ground<'a> {
    Ground { rules: &seen.rules, routes: &seen.routes, addrs: &seen.addrs, base }
}

fn targets(seen: &Observation) -> Result<Vec<Expected>, String> {
    drill::targets(ground(seen, &base(seen)), 76)
}

fn asked(seen: &Observation) -> Vec<String> {
    targets(seen).unwrap().iter().map(|t| t.ask.to_string()).collect()
}

/// A node with the captor of a drill, and its route if it has come.
fn captured(routed: bool) -> (Observation, Vec<Expected>) {
    let mut seen = look("");
    let targets = targets(&seen).unwrap();
    for target in &targets {
        let (rule, route) = drill::captor(target, ground(&seen, &base(&seen))).unwrap();
        seen.rules.push(rule);
        seen.routes.extend(routed.then_some(route));
    }
    (seen, targets)
}

fn guards(seen: &Observation, targets: &[Expected], stand: Stand) -> Vec<Rule> {
    let tables = (seen.rules.as_slice(), seen.routes.as_slice(), seen.links.as_slice());
    let threats = &mut Threats::default();
    let (rules, no_room) =
        drill::guards(tables, &base(seen), targets, threats, (&Policy::default(), stand, 0));
    assert_eq!(no_room, None);
    rules
}

fn fate(seen: &Observation, dst: IpAddr, mark: u32) -> Answer {
    let mut rules = seen.rules.clone();
    rules.sort_by_key(|r| r.pref);
    fib::lookup(&rules, &seen.routes, &Flow::tcp(dst, 6443).marked(mark))
}

#[test]
fn one_address_of_each_family_is_captured_and_never_one_that_is_somebodys() {
    assert_eq!(asked(&look("")), ["192.0.2.77", "2001:db8::4d"]);
    // Somebody routes them, has a rule about them, or lives there.
    for more in [
        "route main 192.0.2.0/25 dev eth0 proto boot\n",
        "route 77 192.0.2.9 dev eth0 proto boot\n",
        "rule 100 to 192.0.0.0/16 lookup 77\n",
        "rule 100 from 192.0.2.4 lookup 77\n",
        "addr eth0 192.0.2.200/32\n",
    ] {
        assert_eq!(asked(&look(more))[0], "198.51.100.77", "{more}");
    }
    // A critical destination is never near.
    let seen = look("");
    let mut known = base(&seen);
    known.expected = targets(&seen).unwrap();
    known.expected[0].prefix = "192.0.2.10".parse().unwrap();
    let found = drill::targets(ground(&seen, &known), 0).unwrap();
    assert_eq!(found[0].ask.to_string(), "198.51.100.1");
}

#[test]
fn what_does_not_go_by_mains_default_route_is_not_captured_and_it_is_said_why() {
    let mut seen = look("rule 100 lookup 77\nroute 77 default dev eth0 proto boot\n");
    assert_eq!(asked(&seen), ["2001:db8::4d"], "another table has IPv4");
    seen.routes.retain(|r| r.family == Family::V4);
    let why = targets(&seen).unwrap_err();
    assert!(why.contains("192.0.2.0/24 does not go by main's default route"), "{why}");
    assert!(why.contains("table 77") && why.contains("2001:db8::/32"), "{why}");
}

#[test]
fn a_rule_that_decides_before_it_is_found_out_before_anything_is_done() {
    let seen = look("rule 50 lookup main proto static\n");
    let target = &targets(&seen).unwrap()[0];
    let why = drill::captor(target, ground(&seen, &base(&seen))).unwrap_err();
    assert!(why.contains("decides about it already"), "{why}");
}

#[test]
fn its_guard_is_placed_by_the_real_judgement_and_is_seen_through() {
    for routed in [true, false] {
        let (mut seen, targets) = captured(routed);
        for target in targets.iter().filter(|_| routed) {
            let caught = fate(&seen, target.ask, 0);
            assert!(matches!(caught, Answer::Refused { table: Some(drill::TABLE), .. }));
        }
        let rules = guards(&seen, &targets, Stand::Guard);
        assert_eq!(rules.len(), 2, "{rules:?}");
        assert!(rules.iter().all(|r| drill::is_rule(r) && r.pref == guard::USUAL_PREF));
        seen.rules.extend(rules);
        for target in &targets {
            let plain = fate(&seen, target.ask, 0);
            assert!(fib::same(&plain, target.path.as_ref().unwrap()), "{plain}");
            let through = fate(&seen, target.ask, 0x1000);
            assert_eq!(matches!(through, Answer::Refused { .. }), routed, "{through}");
        }
        // It stands still, although a threat is a threat anew to whoever looks for the first time.
        let again = guards(&seen, &targets, Stand::Guard);
        let changes = drill::changes(&seen.rules, &seen.routes, &again, true);
        assert!(changes.is_empty(), "{changes:?}");
    }
}

#[test]
fn where_the_mode_places_no_guard_none_is_drilled() {
    let (seen, targets) = captured(true);
    assert_eq!(guards(&seen, &targets, Stand::Lifeline), []);
}

fn tables<'a>(seen: &'a Observation, rules: &'a [Rule]) -> Tables<'a> {
    Tables { rules, routes: &seen.routes, links: &seen.links, threats: &[], marks: &[] }
}

#[test]
fn the_real_guard_sees_nothing_of_it_and_it_nothing_of_the_real_guards_destinations() {
    let api = "203.0.113.10".parse().unwrap();
    let (mut seen, targets) = captured(true);
    let mut known = base(&seen);
    known.expected =
        vec![Expected { prefix: "203.0.113.10".parse().unwrap(), ask: api, ..targets[0].clone() }];
    let own: Vec<Rule> = seen.rules.iter().filter(|r| !drill::is_rule(r)).cloned().collect();
    let policy = Policy::default();
    let wanted = guard::wanted(tables(&seen, &own), &known, &known.routes, &policy, Stand::Guard);
    let without = look("");
    let as_ever = guard::wanted(
        tables(&without, &without.rules),
        &known,
        &known.routes,
        &policy,
        Stand::Guard,
    );
    assert!(!wanted.guarded);
    assert_eq!(wanted, as_ever, "the lifeline path stands where it stands without a drill");
    // Now the real thing comes as well.
    seen.rules.extend(guards(&seen, &targets, Stand::Guard));
    let foreign =
        text::read("rule 5270 lookup 52\nroute 52 default dev tun0 proto boot\n").unwrap();
    let with_both = [own, foreign.rules].concat();
    let mut routes = seen.routes.clone();
    routes.extend(foreign.routes.to_vec());
    let real = guard::wanted(
        Tables { routes: &routes, ..tables(&seen, &with_both) },
        &known,
        &known.routes,
        &policy,
        Stand::Guard,
    );
    assert!(real.guarded);
    assert!(real.rules.iter().all(|r| fib::is_ours(r) && r.to.is_none_or(|to| to.contains(api))));
}

#[test]
fn the_number_alone_hides_nobody() {
    let taken = |to: Option<&str>| {
        let rule = Rule::bare(Family::V4, 5_320, Action::Lookup(drill::TABLE));
        Rule { to: to.map(|p| p.parse().unwrap()), protocol: drill::PROTOCOL, ..rule }
    };
    assert!(drill::is_rule(&taken(Some("192.0.2.7/32"))));
    for to in [None, Some("0.0.0.0/0"), Some("10.43.0.0/16"), Some("192.0.0.0/16")] {
        assert!(!drill::is_rule(&taken(to)), "{to:?}");
    }
}

#[test]
fn without_a_drill_under_way_all_of_it_goes_and_nothing_else() {
    let (mut seen, targets) = captured(true);
    seen.rules.extend(guards(&seen, &targets, Stand::Guard));
    // Somebody else's route in our number's table stays.
    let foreign = text::read("route 21301 10.9.0.0/16 dev eth0 proto boot\n").unwrap();
    seen.routes.extend(foreign.routes.to_vec());
    assert_eq!(drill::of_drill(&seen.rules, &seen.routes).len(), 6);
    let changes = drill::changes(&seen.rules, &seen.routes, &[], false);
    assert!(changes.add_rules.is_empty() && changes.add_routes.is_empty());
    assert!(drill::is_captor(&changes.delete_rules[0]), "the captor goes first");
    seen.rules.retain(|r| !changes.delete_rules.contains(r));
    seen.routes.retain(|r| !changes.delete_routes.contains(r));
    let before = look("");
    assert_eq!(seen.rules, before.rules);
    assert_eq!(seen.routes, [before.routes.to_vec(), foreign.routes.to_vec()].concat().into());
}

#[test]
fn a_change_is_named_and_another_order_is_one() {
    let (a, b) = (look(""), look("rule 9 lookup 7\n"));
    let diff = drill::differences((&a.rules, &a.routes), (&b.rules, &b.routes));
    assert_eq!(diff.len(), 1);
    assert!(diff[0].starts_with("+ rule 9 "), "{diff:?}");
    let mut turned = a.rules.clone();
    turned.reverse();
    let diff = drill::differences((&a.rules, &a.routes), (&turned, &a.routes));
    assert_eq!(diff, ["the same rules and routes in another order or number"]);
    assert_eq!(drill::differences((&a.rules, &a.routes), (&a.rules, &a.routes)), [""; 0]);
}

#[test]
fn only_a_node_that_is_well_and_at_rest_is_drilled() {
    let seen = look("");
    let judged = judge::judge(&seen, &base(&seen), &Policy::default());
    let of = |verdict| Diagnosis { verdict, guarded: false, ..judged.clone() };
    assert_eq!(drill::refusal(&of(Verdict::Healthy), None), None);
    let why = drill::refusal(&of(Verdict::Healthy), Some("calypso-7")).unwrap();
    assert!(why.contains("calypso-7"), "{why}");
    for sick in [Verdict::Captured, Verdict::Moved, Verdict::Upstream, Verdict::Unknown] {
        assert!(drill::refusal(&of(sick), None).unwrap().contains(&sick.to_string()));
    }
    let guarded = Diagnosis { guarded: true, ..of(Verdict::Healthy) };
    assert!(drill::refusal(&guarded, None).is_some());
}

fn good() -> Trial {
    let dst = "192.0.2.77".parse().unwrap();
    let way = |table| Fate::Leaves { dev: "eth0".into(), via: None, table, src: None };
    Trial {
        mode: Mode::Heal,
        warning: Some(Warning { stood_us: Some(9_000), asked: 30, lost: 0 }),
        capture: Some(Capture {
            heard_us: Some(400),
            freed_us: Some(11_000),
            answers: vec![(dst, way(TABLE_MAIN), way(TABLE_MAIN), Fate::Refused(113))],
        }),
        calls: Some(vec![Call {
            api: "203.0.113.10:6443".parse().unwrap(),
            fate: Some(way(TABLE_MIRROR)),
            reach: Reach::Tls,
            us: 4_000,
        }]),
        changed: Some(Ok(Vec::new())),
        cleared_us: Some(8_000),
        ..Trial::default()
    }
}

fn failed(trial: &Trial) -> Vec<&'static str> {
    let steps = drill::steps(trial);
    let bad: Vec<_> =
        steps.iter().filter(|s| s.outcome == Outcome::Failed).map(|s| s.name).collect();
    assert_eq!(bad.is_empty(), drill::is_proven(&steps), "{steps:?}");
    bad
}

#[test]
fn all_that_was_seen_is_proof_and_each_thing_that_was_not_is_none() {
    let steps = drill::steps(&good());
    let names: Vec<_> = steps.iter().map(|s| s.name).collect();
    let all = ["warning", "detection", "guard", "see-through", "lifeline", "as-before"];
    assert_eq!(names, all);
    assert!(steps.iter().all(
        |s: &Step| s.outcome == Outcome::Passed && s.us.is_some() != (s.name == "see-through")
    ));
    let with = |change: fn(&mut Trial)| {
        let mut trial = good();
        change(&mut trial);
        failed(&trial)
    };
    let capture = |t: &mut Trial| t.capture.clone().unwrap();
    assert_eq!(with(|t| t.warning = Some(Warning::default())), ["warning"]);
    assert_eq!(with(|t| t.warning.as_mut().unwrap().lost = 1), ["warning"]);
    assert_eq!(with(|t| t.capture.as_mut().unwrap().heard_us = None), ["detection"]);
    assert_eq!(with(|t| t.capture.as_mut().unwrap().freed_us = None), ["guard"]);
    assert_eq!(with(|t| t.capture.as_mut().unwrap().freed_us = Some(1_000_001)), ["guard"]);
    let same = capture(&mut good()).answers[0].1.clone();
    let mut unseen = good();
    unseen.capture.as_mut().unwrap().answers[0].3 = same;
    assert_eq!(failed(&unseen), ["see-through"], "the capture was not real");
    assert_eq!(
        with(|t| t.capture.as_mut().unwrap().answers[0].2 = Fate::Refused(113)),
        ["see-through"]
    );
    assert_eq!(with(|t| t.calls.as_mut().unwrap()[0].reach = Reach::TcpOnly), ["lifeline"]);
    assert_eq!(with(|t| t.calls.as_mut().unwrap()[0].fate = None), ["lifeline"]);
    assert_eq!(with(|t| t.calls = Some(Vec::new())), ["lifeline"]);
    assert_eq!(with(|t| t.left = vec!["rule 5310".into()]), ["as-before"]);
    assert_eq!(with(|t| t.changed = Some(Ok(vec!["+ rule 9".into()]))), ["as-before"]);
    assert_eq!(with(|t| t.changed = Some(Err("late".into()))), ["as-before"]);
}

#[test]
fn in_mode_observe_what_can_be_drilled_is_and_the_rest_says_why_not() {
    let mut trial = good();
    (trial.mode, trial.warning) = (Mode::Observe, None);
    let capture = trial.capture.as_mut().unwrap();
    (capture.freed_us, capture.answers[0].2) = (None, Fate::Refused(113));
    assert_eq!(failed(&trial), [""; 0]);
    let steps = drill::steps(&trial);
    let skipped: Vec<_> = steps.iter().filter(|s| s.outcome == Outcome::Skipped).collect();
    assert_eq!(skipped.iter().map(|s| s.name).collect::<Vec<_>>(), ["warning", "guard"]);
    assert!(skipped.iter().all(|s| s.seen.contains("mode observe")), "{skipped:?}");
}

#[test]
fn one_that_was_broken_off_says_why_where_it_was_and_is_no_proof() {
    let mut trial = good();
    trial.broken = Some("a recovery has begun".into());
    (trial.capture, trial.calls) = (None, None);
    assert_eq!(failed(&trial), ["detection"]);
    let steps = drill::steps(&trial);
    assert!(steps[1].seen.contains("broken off: a recovery has begun"), "{steps:?}");
    assert!(steps[2..5].iter().all(|s| s.outcome == Outcome::Skipped), "{steps:?}");
    assert_eq!(steps[5].outcome, Outcome::Passed, "what it had put there is gone all the same");
}
