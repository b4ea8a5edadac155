//! Our route lookup and our idea of what a deletion takes, against the kernel that has the last word.
//!
//! The comparison makes rules and routes in a network namespace of its own, with `ip` alone, and needs root: without it, it says
//! so and passes, except under CI.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot read its own case must fail, and one that is skipped says so"
)]

mod dice;

use core::net::IpAddr;
use dice::{Dice, seed};
use lifeline_core::fib::{Answer, Flow, lookup, lookup_in, victim};
use lifeline_core::net::{Family, Prefix};
use lifeline_core::observation::{Action, Mark, Route, Rule};
use lifeline_core::text::{read, rule_line};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn seen(text: &str) -> (Vec<Rule>, Vec<Route>) {
    let seen = read(text).unwrap();
    (seen.rules, seen.routes.to_vec())
}

fn leaves(text: &str, flow: &Flow) -> String {
    let (rules, routes) = seen(text);
    match lookup(&rules, &routes, flow) {
        Answer::Leaves { dev, .. } => dev,
        other => format!("{other:?}").split([' ', '{']).next().unwrap_or_default().to_string(),
    }
}

const MAIN: &str = "rule 32766 lookup main\nroute main default dev eth0\n";

#[test]
fn a_throw_leaves_the_table_and_not_only_the_route() {
    let text = "rule 10 lookup 52\nroute 52 throw 192.168.2.0/24\nroute 52 default dev tun0\n";
    let flow = |to| Flow::tcp(ip(to), 443);
    assert_eq!(leaves(&format!("{text}{MAIN}"), &flow("192.168.2.9")), "eth0");
    assert_eq!(leaves(&format!("{text}{MAIN}"), &flow("192.168.3.9")), "tun0");
}

#[test]
fn suppress_counts_answers_and_not_refusals() {
    let text = "rule 10 lookup main suppress 0\nrule 20 lookup 7\nroute 7 default dev wg0\n";
    let flow = Flow::tcp(ip("203.0.113.10"), 6443);
    assert_eq!(leaves(&format!("{text}route main default dev eth0\n"), &flow), "wg0");
    assert_eq!(leaves(&format!("{text}route main 203.0.113.0/24 dev eth0\n"), &flow), "eth0");
    assert_eq!(leaves(&format!("{text}route main blackhole default\n"), &flow), "Refused");
}

#[test]
fn of_two_equal_routes_the_first_answers() {
    let text = "rule 10 lookup main\nroute main default dev eth0\nroute main default dev eth1\n";
    assert_eq!(leaves(text, &Flow::tcp(ip("1.1.1.1"), 443)), "eth0");
}

#[test]
fn several_lists_of_routes_are_one_and_the_first_of_them_is_in_front() {
    let (rules, a) = seen("rule 32766 lookup main\nroute main 10.0.0.0/8 dev a\n");
    let (_, b) = seen("route main 10.0.0.0/8 dev b\nroute main 10.1.0.0/16 dev c\n");
    let dev =
        |lists: &[&[Route]], dst: &str| match lookup_in(&rules, lists, &Flow::tcp(ip(dst), 443)) {
            Answer::Leaves { dev, .. } => dev,
            other => other.to_string(),
        };
    assert_eq!([dev(&[&a, &b], "10.2.0.1"), dev(&[&b, &a], "10.2.0.1")], ["a", "b"]);
    assert_eq!([dev(&[&a, &b], "10.1.0.1"), dev(&[&a], "10.1.0.1")], ["c", "a"]);
    assert_eq!(dev(&[&a, &b], "192.0.2.1"), "has no route");
}

#[test]
fn a_selector_nobody_models_makes_the_answer_unknown_only_where_it_matters() {
    let text = "rule 10 to 203.0.113.0/24 lookup 7 exotic\nroute 7 default dev wg0\n";
    assert_eq!(leaves(&format!("{text}{MAIN}"), &Flow::tcp(ip("203.0.113.10"), 443)), "Unknown");
    assert_eq!(leaves(&format!("{text}{MAIN}"), &Flow::tcp(ip("203.0.114.10"), 443)), "eth0");
    let text =
        "rule 10 sport 22 lookup 7\nrule 11 sport 33000-40000 lookup 7\nroute 7 default dev wg0\n";
    assert_eq!(leaves(&format!("{text}{MAIN}"), &Flow::tcp(ip("203.0.113.10"), 443)), "Unknown");
}

#[test]
fn a_port_a_uid_and_a_mark_are_seen() {
    let text = "rule 10 ipproto 6 dport 6443 lookup 7\nrule 11 fwmark 0x40/0x40 lookup 8\nrule 12 uid 1000-2000 lookup 9\n\
                route 7 default dev a\nroute 8 default dev b\nroute 9 default dev c\n";
    let text = format!("{text}{MAIN}");
    assert_eq!(leaves(&text, &Flow::tcp(ip("1.1.1.1"), 6443)), "a");
    assert_eq!(leaves(&text, &Flow::tcp(ip("1.1.1.1"), 443)), "eth0");
    assert_eq!(leaves(&text, &Flow::tcp(ip("1.1.1.1"), 443).marked(0x1040)), "b");
    assert_eq!(leaves(&text, &Flow { uid: 1500, ..Flow::tcp(ip("1.1.1.1"), 443) }), "c");
}

/// The field guide's K3: echoing the plain rule deletes the foreign one in front of it.
#[test]
fn deleting_a_plain_rule_takes_the_first_that_matches() {
    let (rules, _) = seen(
        "rule 5270 fwmark 0x1/0xffffffff lookup 52 proto static\nrule 5270 lookup 52\nrule 32766 lookup main proto kernel\n",
    );
    assert_eq!(victim(&rules, &rules[1]), Some(&rules[0]));
    assert_eq!(victim(&rules, &rules[0]), Some(&rules[0]));
    assert_eq!(victim(&rules, &rules[2]), Some(&rules[2]));
    // With the foreign one behind it, it is itself.
    let (behind, _) = seen("rule 5270 lookup 52\nrule 5270 fwmark 0x1/0xffffffff lookup 52\n");
    assert_eq!(victim(&behind, &behind[0]), Some(&behind[0]));
    assert_eq!(victim(&behind, &Rule { pref: 5271, ..behind[0].clone() }), None);
    // `not` is not compared at all.
    let (not, _) = seen("rule 9 not fwmark 0x1/0xff lookup 7\nrule 9 fwmark 0x1/0xff lookup 7\n");
    assert_eq!(victim(&not, &not[1]), Some(&not[0]));
    // Another family is another list.
    let (six, _) = seen("rule6 5270 lookup 52\nrule 5270 lookup 52\n");
    assert_eq!(victim(&six, &six[1]), Some(&six[1]));
}

/// Each makes a network namespace.
const ROUNDS: u32 = 12;

const TO: [&str; 6] =
    ["10.1.0.0/16", "10.1.2.0/24", "10.1.2.3", "10.0.0.0/8", "0.0.0.0/1", "0.0.0.0/0"];
const DEVS: [&str; 3] = ["d0", "d1", "d2"];
const TABLES: [u32; 4] = [254, 52, 100, 101];

fn random_rule(dice: &mut Dice) -> Rule {
    let pref = u32::try_from(100 + dice.roll(6)).unwrap_or(100);
    let action = match dice.roll(12) {
        0 => Action::Unreachable,
        1 => Action::Blackhole,
        2 => Action::Prohibit,
        3 => Action::Goto(pref + 2),
        _ => Action::Lookup(*dice.pick(&TABLES)),
    };
    let mut r = Rule::bare(Family::V4, pref, action);
    r.not = dice.roll(6) == 0;
    if dice.roll(3) == 0 {
        r.to = Some(dice.pick(&TO[..4]).parse().unwrap());
    }
    if dice.roll(8) == 0 {
        r.from = Some(Prefix::host(ip("172.16.0.1")));
    }
    if dice.roll(3) == 0 {
        let mask = *dice.pick(&[0xffu32, 0xff_0000, u32::MAX]);
        r.mark = Some(Mark { value: *dice.pick(&[0x1u32, 0x8_0000]) & mask, mask });
    }
    if dice.roll(8) == 0 {
        r.dport = Some((6443, 6443));
        r.ipproto = Some(6);
    }
    if dice.roll(8) == 0 {
        r.iif = Some((*dice.pick(&["lo", "d0"])).to_string());
    }
    if dice.roll(10) == 0 {
        r.uids = Some((0, u32::try_from(dice.roll(2) * 1000).unwrap_or(0)));
    }
    if matches!(action, Action::Lookup(_)) && dice.roll(4) == 0 {
        r.suppress = Some(u32::try_from(dice.roll(3) * 8).unwrap_or(0));
    }
    r.protocol = *dice.pick(&[0u8, 4, 213]);
    r
}

fn random_route(dice: &mut Dice) -> String {
    let table = dice.pick(&TABLES);
    let to = dice.pick(&TO);
    let metric = dice.roll(3) * 10;
    let what = match dice.roll(10) {
        0 => format!("throw {to}"),
        1 => format!("blackhole {to}"),
        2 => format!("unreachable {to}"),
        _ => format!("{to} dev {}", dice.pick(&DEVS)),
    };
    let metric = if metric > 0 { format!(" metric {metric}") } else { String::new() };
    format!("{what}{metric} table {table}")
}

/// The words `ip rule add` takes are nearly those of the text form.
fn for_ip(r: &Rule) -> String {
    let line = rule_line(r);
    let line = line.trim_start_matches("rule ").replacen(' ', "\u{1}", 1);
    let (pref, rest) = line.split_once('\u{1}').unwrap_or((&line, ""));
    let rest = rest
        .replace("suppress ", "suppress_prefixlength ")
        .replace("uid ", "uidrange ")
        .replace(" proto ", " protocol ");
    let rest = match r.uids {
        Some((a, b)) if a == b => {
            rest.replace(&format!("uidrange {a}"), &format!("uidrange {a}-{b}"))
        }
        _ => rest,
    };
    format!("pref {pref} {rest}")
}

struct Kernel(Option<&'static str>);

impl Kernel {
    /// Runs a script in a fresh network namespace.
    fn run(&self, script: &str) -> String {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-e"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}\n{script}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn here() -> Self {
        let able = Command::new("unshare").args(["--net", "ip", "link"]).output();
        match able {
            Ok(out) if out.status.success() => Self(None),
            _ => Self(Some("needs root, unshare and ip")),
        }
    }

    /// True when it can be asked; otherwise says so, and fails under CI.
    fn can_be_asked(&self) -> bool {
        if let Some(why) = self.0 {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{why}");
            println!("skipped: {why}");
        }
        self.0.is_none()
    }
}

const SETUP: &str = "ip link set lo up\nfor d in 0 1 2; do ip link add d$d type veth peer name p$d; ip link set d$d up; ip link set p$d up; done\n\
                     ip addr add 172.16.0.1/32 dev lo\n";

/// What `ip route get` said, in the words of our own answer.
fn said(line: &str) -> String {
    match line.split_once(" dev ") {
        Some((_, rest)) if !line.starts_with("RTNETLINK") => {
            rest.split(' ').next().unwrap_or_default().to_string()
        }
        _ => "refused".to_string(),
    }
}

#[test]
fn our_lookup_agrees_with_the_kernels() {
    let kernel = Kernel::here();
    if !kernel.can_be_asked() {
        return;
    }
    let seed = seed();
    let mut dice = Dice(seed);
    let mut compared = 0;
    for round in 0..ROUNDS {
        let drawn: Vec<Rule> = (0..6).map(|_| random_rule(&mut dice)).collect();
        let lines: Vec<String> = (0..10).map(|_| random_route(&mut dice)).collect();
        let mut script = SETUP.to_string();
        for (n, r) in drawn.iter().enumerate() {
            // The kernel refuses what it takes for a double, and a narrower rule will do for that: then it is not there for
            // us either.
            let rule = for_ip(r);
            let _ = writeln!(script, "ip rule add {rule} 2>/dev/null && echo 'rule {n}' || true");
        }
        for l in &lines {
            // A doubled route is refused: the first stays.
            let _ = writeln!(script, "ip route add {l} 2>/dev/null && echo 'route {l}' || true");
        }
        let flows: Vec<Flow> =
            ["10.1.2.3", "10.1.2.4", "10.1.9.9", "10.9.9.9", "99.1.1.1", "203.0.113.1"]
                .into_iter()
                .flat_map(|to| {
                    [0u32, 0x1, 0x8_0000].map(|mark| Flow {
                        src: Some(ip("172.16.0.1")),
                        ..Flow::tcp(ip(to), 6443).marked(mark)
                    })
                })
                .collect();
        for f in &flows {
            let _ = writeln!(
                script,
                "echo \"get $(ip route get {} from 172.16.0.1 mark {} ipproto tcp dport 6443 uid 0 2>&1 | head -1)\"",
                f.dst, f.mark
            );
        }
        let out = kernel.run(&script);
        let routes: Vec<Route> = out
            .lines()
            .filter_map(|l| l.strip_prefix("route "))
            .map(|l| {
                let (what, table) = l.split_once(" table ").unwrap();
                let what = what.replace("0.0.0.0/0", "default");
                seen(&format!("route {table} {what}\n")).1.remove(0)
            })
            .collect();
        let mut rules: Vec<Rule> = out
            .lines()
            .filter_map(|l| l.strip_prefix("rule "))
            .map(|n| drawn[n.parse::<usize>().unwrap()].clone())
            .collect();
        // The kernel sorts by preference; rules of one preference stay in the order they were added.
        rules.sort_by_key(|r| r.pref);
        rules.insert(0, Rule::bare(Family::V4, 0, Action::Lookup(255)));
        rules.push(Rule::bare(Family::V4, 32_766, Action::Lookup(254)));
        rules.push(Rule::bare(Family::V4, 32_767, Action::Lookup(253)));
        for (flow, got) in flows.iter().zip(out.lines().filter_map(|l| l.strip_prefix("get "))) {
            let ours = match lookup(&rules, &routes, flow) {
                Answer::Leaves { dev, .. } => dev,
                Answer::Refused { .. } | Answer::NoRoute => "refused".to_string(),
                other => format!("{other:?}"),
            };
            compared += 1;
            assert_eq!(
                ours,
                said(got),
                "seed {seed}, round {round}: {} mark {:#x}; the kernel: {got}\n{}\n{}",
                flow.dst,
                flow.mark,
                rules.iter().map(rule_line).collect::<Vec<_>>().join("\n"),
                routes.iter().map(lifeline_core::text::route_line).collect::<Vec<_>>().join("\n"),
            );
        }
    }
    assert_eq!(compared, ROUNDS * 18, "every question was answered");
    println!("seed {seed}: {compared} answers compared");
}

#[test]
fn our_victim_is_the_one_the_kernel_takes() {
    let kernel = Kernel::here();
    if !kernel.can_be_asked() {
        return;
    }
    let seed = seed();
    let mut dice = Dice(seed ^ 0x5eed);
    let (mut others, mut compared) = (0, 0);
    for round in 0..3 * ROUNDS {
        let mut rules: Vec<Rule> = Vec::new();
        while rules.len() < 8 {
            let mut r = random_rule(&mut dice);
            // Few preferences and tables, so that many rules resemble each other.
            r.pref = 100 + r.pref % 2;
            r.action = match r.action {
                Action::Lookup(_) => Action::Lookup(52),
                Action::Goto(_) => Action::Goto(200),
                other => other,
            };
            if !rules.contains(&r) {
                rules.push(r);
            }
        }
        let wanted = dice.pick(&rules).clone();
        let mut script = SETUP.to_string();
        let _ = writeln!(script, "ip rule add pref 200 lookup 100");
        for r in &rules {
            // The kernel refuses what it takes for a double (`rule_exists`): then it is not there for us either.
            let _ = writeln!(script, "ip rule add {} 2>/dev/null || true", for_ip(r));
        }
        let _ = writeln!(script, "ip rule | sed 's/^/A /'");
        let _ = writeln!(script, "ip rule del {} || true", for_ip(&wanted));
        let _ = writeln!(script, "ip rule | sed 's/^/B /'");
        let out = kernel.run(&script);
        let list = |mark: &str| -> Vec<String> {
            out.lines().filter_map(|l| l.strip_prefix(mark).map(str::to_string)).collect()
        };
        let (before, after) = (list("A "), list("B "));
        if before.len() != rules.len() + 4 {
            continue;
        }
        let gone = (0..before.len())
            .find(|i| after.get(*i) != Some(&before[*i]))
            .expect("one rule is gone");
        // In front stands `local`; then ours in the kernel's order.
        rules.sort_by_key(|r| r.pref);
        let ours = victim(&rules, &wanted).and_then(|v| rules.iter().position(|r| r == v));
        compared += 1;
        others += u32::from(rules.get(gone - 1) != Some(&wanted));
        assert_eq!(
            ours,
            Some(gone - 1),
            "seed {seed}, round {round}: deleting {} took {:?} of\n{}",
            rule_line(&wanted),
            before.get(gone),
            before.join("\n")
        );
    }
    assert!(compared >= ROUNDS, "seed {seed}: too few deletions were tried");
    println!(
        "seed {seed}: {compared} deletions compared, {others} took another rule than the one named"
    );
}
