//! Whatever stands on a node that is not the culprit's is left alone: thousands of random strangers around healthy and broken nodes.
#![allow(clippy::unwrap_used, reason = "a test that cannot read its own case must fail")]

mod dice;

use dice::{Dice, seed};
use lifeline_core::baseline::{self, Baseline};
use lifeline_core::check::check;
use lifeline_core::judge::judge;
use lifeline_core::observation::{NfRule, NfTable, Observation, Route, Rule};
use lifeline_core::op::NodeOp;
use lifeline_core::plan::Rung;
use lifeline_core::planner::plan;
use lifeline_core::policy::Policy;
use lifeline_core::text;

const HEALTHY: &str = include_str!("golden/healthy/observation.txt");
/// Nodes the strangers are put on: well, captured, captured and guarded, cleaned half-way, connected by Tailscale on purpose.
const NODES: [(&str, &str); 9] = [
    ("healthy", HEALTHY),
    ("r1", include_str!("golden/r1-exit-node/observation.txt")),
    ("r1-guarded", include_str!("golden/r1-guarded/observation.txt")),
    ("r1-installed", include_str!("golden/r1-installed/observation.txt")),
    ("r3", include_str!("golden/r3-remnants/observation.txt")),
    ("r7", include_str!("golden/r7-orphan-tailscale/observation.txt")),
    ("r11", include_str!("golden/r11-dead-gateway/observation.txt")),
    ("r13", include_str!("golden/r13-main/observation.txt")),
    ("r16", include_str!("golden/r16-benign/observation.txt")),
];

fn learned() -> Baseline {
    let seen = text::read(HEALTHY).unwrap();
    let policy = Policy::default();
    let derived = baseline::derive(&seen);
    baseline::learn(&seen, &judge(&seen, &derived, &policy), None).unwrap()
}

/// Rules as others make them: at Tailscale's places, for its table, with its marks, but never all of that at once.
fn rule(dice: &mut Dice) -> String {
    let suffix = *dice.pick(&["", "", "6"]);
    let pref = *dice.pick(&[99, 1310, 5200, 5210, 5230, 5250, 5269, 5270, 5299, 20_000, 32_000]);
    let selector = match (dice.roll(6), suffix) {
        (0, _) => "fwmark 0x1/0xffffffff ".to_string(),
        (1, _) => "fwmark 0x80000/0xf0000 ".to_string(),
        (2, "") => "from 10.99.0.0/16 ".to_string(),
        (3, "") => "to 10.98.0.0/16 ".to_string(),
        (4, _) => "iif eth0 ".to_string(),
        _ => "uid 2000-3000 ".to_string(),
    };
    let action = *dice.pick(&["lookup 52", "lookup 100", "lookup main", "unreachable", "nop"]);
    let proto = *dice.pick(&["", " proto static", " proto boot"]);
    format!("rule{suffix} {pref} {selector}{action}{proto}")
}

fn route(dice: &mut Dice) -> String {
    let table = *dice.pick(&["52", "52", "100", "main", "77"]);
    let to = *dice.pick(&["10.99.0.0/16", "10.98.7.0/24", "172.31.0.0/16", "100.64.9.9"]);
    let by = *dice.pick(&["via 192.168.2.1 dev eth0", "dev corp0", "via 192.168.2.7 dev eth0"]);
    format!("route {table} {to} {by} proto static")
}

const CHAINS: [&str; 10] = [
    "ts-inputs",
    "ts-custom",
    "my-ts-input",
    "KUBE-SERVICES",
    "CNI-HOSTPORT-DNAT",
    "cali-INPUT",
    "DOCKER-USER",
    "ufw-user-input",
    "NETBIRD-RT-FWD",
    "corp",
];

fn netfilter(dice: &mut Dice, seen: &mut Observation) -> Vec<NfRule> {
    let mut mine = Vec::new();
    let places = ["INPUT", "FORWARD", "OUTPUT", "POSTROUTING", "PREROUTING"];
    for table in &mut seen.netfilter {
        for _ in 0..dice.roll(4) {
            let chain = (*dice.pick(&places)).to_string();
            let spec = match dice.roll(6) {
                0 => format!("-j {}", dice.pick(&CHAINS)),
                1 => "-i tailscale0 -p tcp -m tcp --dport 22 -j ACCEPT".to_string(),
                2 => "-m connmark ! --mark 0x0/0xff0000 -j CONNMARK --restore-mark".to_string(),
                3 => "-s 100.64.0.0/10 -j DROP".to_string(),
                // Somebody else leads into Tailscale's chain: it cannot be deleted then.
                4 => "-i corp0 -j ts-input".to_string(),
                _ => "-m mark --mark 0x40000/0xff0000 -j ACCEPT".to_string(),
            };
            let at = usize::try_from(dice.roll(table.rules.len() as u64 + 1)).unwrap_or(0);
            let rule = NfRule { chain, spec, handle: None };
            mine.push(rule.clone());
            table.rules.insert(at, rule);
        }
        let name = (*dice.pick(&CHAINS)).to_string();
        if !table.chains.iter().any(|c| c.name == name) {
            table.chains.push(lifeline_core::observation::Chain { name, policy: None, hook: None });
        }
    }
    mine
}

const STRANGERS: &str = "\
link corp0 index 40 kind tun up carrier
addr corp0 10.99.0.2/24
process 6001 corpvpnd ppid 1 start 500 exe /opt/corp/vpnd inode 1:1 netns host cgroup /system.slice/corp.service tun corp0
process 6002 tailscaled ppid 2 start 501 exe /usr/local/bin/tailscaled inode 1:2 netns other cgroup /kubepods/burstable/pod1 tun tailscale0 socket /tmp/tailscaled.sock statedir /var/lib/tailscale
process 6003 sshd ppid 1 start 502 exe /usr/sbin/sshd inode 1:3 netns host cgroup /system.slice/ssh.service
path /var/lib/tailscale-of-somebody
path /etc/rancher
";

#[test]
fn strangers_are_left_alone() {
    let seed = seed();
    let mut dice = Dice(seed);
    let (base, policy) = (learned(), Policy::default());
    let mut planned = 0u32;
    for round in 0..1_200 {
        let (name, node) = dice.pick(&NODES);
        let mut seen = text::read(node).unwrap();
        let strangers = text::read(STRANGERS).unwrap();
        let lines = |n: u64, f: fn(&mut Dice) -> String, dice: &mut Dice| -> String {
            (0..dice.roll(n)).map(|_| format!("{}\n", f(dice))).collect()
        };
        let theirs = format!("{}{}", lines(5, rule, &mut dice), lines(5, route, &mut dice));
        let theirs = text::read(&theirs).unwrap();
        // In front of the others of the same preference, or behind.
        let front = dice.roll(2) == 0;
        let put = |all: &mut Vec<Rule>, more: &[Rule]| {
            if front {
                all.splice(0..0, more.iter().cloned());
            } else {
                all.extend(more.iter().cloned());
            }
            all.sort_by_key(|r| (r.family, r.pref));
        };
        put(&mut seen.rules, &theirs.rules);
        seen.routes.extend(theirs.routes.iter().cloned());
        seen.links.extend(strangers.links.iter().cloned());
        seen.addrs.extend(strangers.addrs.iter().cloned());
        seen.processes.extend(strangers.processes.iter().cloned());
        // A pod's volume by Tailscale's name is told from a stranger's only by its culprit: only without one is it foreign.
        let no_pod = !seen.processes.iter().any(|p| p.pid == 4711 && p.cgroup.contains("kubepods"));
        if no_pod {
            seen.paths.extend(strangers.paths.iter().cloned());
        }
        let filters = netfilter(&mut dice, &mut seen);
        // The kernel's answers were another network's now.
        seen.lookups.clear();
        if dice.roll(4) == 0 {
            seen.probes
                .iter_mut()
                .for_each(|p| p.reach = lifeline_core::observation::Reach::Silent);
        }
        let diag = judge(&seen, &base, &policy);
        for (rung, attempt) in [(Rung::Quiet, 0), (Rung::Clean, 0), (Rung::Reconnect, 1)] {
            let Some(plan) = plan(&seen, &base, &policy, &diag, rung, "run", attempt) else {
                continue;
            };
            planned += 1;
            let told = || {
                format!(
                    "seed {seed}, round {round} ({name}), {}:\n{plan:#?}\n{}",
                    diag.summary,
                    text::write(&seen)
                )
            };
            for step in &plan.steps {
                let touched = touches(&step.op, &seen, &theirs.rules, &theirs.routes, &filters);
                assert!(touched.is_none(), "{touched:?} is a stranger's; {}", told());
            }
            let objections = check(&plan, &seen, &base);
            assert!(objections.is_empty(), "{objections:?}; {}", told());
        }
    }
    assert!(planned > 100, "seed {seed}: only {planned} plans: nothing was tried");
    println!("seed {seed}: {planned} plans");
}

/// What of a stranger's does the step touch?
fn touches(
    op: &NodeOp,
    seen: &Observation,
    rules: &[Rule],
    routes: &[Route],
    filters: &[NfRule],
) -> Option<String> {
    match op {
        NodeOp::Stopped { process, .. } | NodeOp::ExitNodeOff { process, .. } => {
            (process.pid >= 6000).then(|| process.exe.clone())
        }
        NodeOp::Rules { absent, .. } => {
            absent.iter().find(|r| rules.contains(r)).map(text::rule_line)
        }
        NodeOp::Routes { absent, .. } => {
            absent.iter().find(|r| routes.contains(r)).map(text::route_line)
        }
        NodeOp::Netfilter { backend, family, table, absent, absent_chains, .. } => {
            // A chain somebody else leads into stays.
            let is_it =
                |t: &&NfTable| t.backend == *backend && t.family == *family && t.name == *table;
            let there = seen.netfilter.iter().filter(is_it).flat_map(|t| &t.rules);
            let led =
                there.filter(|r| filters.contains(r)).filter_map(|r| r.spec.split("-j ").nth(1));
            if let Some(chain) = led.into_iter().find(|to| absent_chains.iter().any(|c| c == to)) {
                return Some(chain.to_string());
            }
            let rule = absent.iter().find(|r| filters.contains(r)).map(|r| r.spec.clone());
            let own = ["ts-input", "ts-forward", "ts-postrouting"];
            rule.or_else(|| absent_chains.iter().find(|c| !own.contains(&c.as_str())).cloned())
        }
        // Only a policy that was another in the healthy node is set, and no stranger here has one.
        NodeOp::Policies { table, .. } => Some(format!("a policy of {table}")),
        NodeOp::Addrs { dev, .. } => Some(format!("an address of {dev}")),
        NodeOp::LinkGone { name, .. } => (name != "tailscale0").then(|| name.clone()),
        NodeOp::Quarantined { path } => {
            (path.ends_with("somebody") || path.starts_with("/etc")).then(|| path.clone())
        }
        NodeOp::FlowsGone { sources, .. } => {
            sources.iter().find(|s| s.to_string().starts_with("10.")).map(ToString::to_string)
        }
        NodeOp::ExitNodeOn { .. }
        | NodeOp::Released { .. }
        | NodeOp::ResolvConf { .. }
        | NodeOp::Sysctl { .. }
        | NodeOp::Restarted { .. }
        | NodeOp::SandboxStopped { .. }
        | NodeOp::Armed { .. }
        | NodeOp::Disarmed
        | NodeOp::Flushed { .. }
        | NodeOp::Refilled { .. }
        | NodeOp::CacheFlushed
        | NodeOp::Rebooted => None,
    }
}

#[test]
fn an_outage_for_everybody_brings_no_plan_to_a_healthy_node() {
    let (base, policy) = (learned(), Policy::default());
    let mut seen = text::read(HEALTHY).unwrap();
    seen.probes.iter_mut().for_each(|p| p.reach = lifeline_core::observation::Reach::Silent);
    // Fifteen minutes without a lease, and counting (U1).
    for seconds in (0..900).step_by(10) {
        if let Some(lease) = &mut seen.lease {
            lease.age_ms = seconds * 1000;
        }
        let diag = judge(&seen, &base, &policy);
        assert_eq!(diag.verdict.word(), "Upstream", "after {seconds} s");
        for rung in Rung::ENGINE {
            assert_eq!(plan(&seen, &base, &policy, &diag, rung, "run", 9), None);
        }
    }
}

#[test]
fn nothing_is_learnt_from_a_sick_or_guarded_node_and_nothing_captured_is_ever_healthy() {
    let (base, policy) = (learned(), Policy::default());
    for (name, node) in &NODES[1..] {
        let seen = text::read(node).unwrap();
        let diag = judge(&seen, &base, &policy);
        let learnt = baseline::learn(&seen, &diag, Some(&base));
        if *name == "r16" {
            // A benign Tailscale is part of a healthy node, but not of its baseline.
            let learnt = learnt.unwrap();
            assert!(
                learnt.rules.iter().all(|r| r.pref < 5200 || r.pref > 5299),
                "{:?}",
                learnt.rules
            );
            assert_eq!(
                learnt.sysctls.get("net.ipv4.conf.all.src_valid_mark").map(String::as_str),
                Some("0")
            );
            assert!(learnt.links.iter().all(|l| l.name != "tailscale0"));
        } else {
            assert!(learnt.is_err(), "{name} was learnt from");
        }
        if diag.guarded {
            assert!(baseline::accept(&seen, &diag, Some(&base)).is_err(), "{name} was accepted");
        }
    }
}

#[test]
fn what_an_operator_accepted_is_not_replaced_by_looking_again() {
    let seen = text::read(HEALTHY).unwrap();
    let (base, policy) = (learned(), Policy::default());
    let diag = judge(&seen, &base, &policy);
    let accepted = baseline::accept(&seen, &diag, Some(&base)).unwrap();
    assert_eq!(accepted.generation, 2);
    assert_eq!(baseline::learn(&seen, &diag, Some(&accepted)).unwrap(), accepted);
    assert!(baseline::differences(&accepted, &seen).is_empty());
    let moved = text::read(include_str!("golden/r20-gateway/observation.txt")).unwrap();
    let told = baseline::differences(&accepted, &moved);
    assert_eq!(
        told,
        [
            "missing: route main default via 192.168.2.1 dev eth0",
            "new: route main default via 192.168.2.254 dev eth0"
        ]
    );
}
