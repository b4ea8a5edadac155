//! The exhaustive crash test of the engine: every plan is cut at every instant and goes on; it ends recovered or as it was,
//! and nothing that was not ours has changed.
//!
//! Longer than most files: its node and its plans are what every cut is tried on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod world;

use lifeline_core::clock::Stamp;
use lifeline_core::diagnosis::Health;
use lifeline_core::engine::{self, Ending, Event, Journal};
use lifeline_core::net::Family;
use lifeline_core::observation::{
    Action, Backend, Chain, Dialect, Hop, Mark, Netns, NfRule, NfTable, Observation, Process,
    Resolv, Route, RouteKind, Rule,
};
use lifeline_core::op::{NodeOp, Prefs, ProcessId};
use lifeline_core::plan::{FORMAT, NodePlan, OnUnhealthy, Plan, Rung, Step};
use world::{
    Cut, Extra, Hands, Node, Shared, World, as_it_was, block_on, cuts, judge, open, resume, settled,
};

fn plan(rung: Rung, policy: OnUnhealthy, ops: Vec<NodeOp>) -> NodePlan {
    let steps = (0..)
        .zip(ops)
        .map(|(id, op)| Step {
            id,
            op,
            finding: "f".into(),
            because: "test".into(),
            on_unhealthy: policy,
            optional: false,
        })
        .collect();
    Plan {
        format: FORMAT,
        incident: "i".into(),
        rung,
        findings: vec!["f".into()],
        policy: "p".into(),
        steps,
        deadline_ms: 60_000,
    }
}

fn rule(pref: u32, mark: Option<(u32, u32)>, table: u32, protocol: u8) -> Rule {
    Rule {
        family: Family::V4,
        pref,
        not: false,
        from: None,
        to: None,
        iif: None,
        oif: None,
        mark: mark.map(|(value, mask)| Mark { value, mask }),
        ipproto: None,
        sport: None,
        dport: None,
        uids: None,
        action: Action::Lookup(table),
        suppress: None,
        protocol,
        exotic: false,
    }
}

fn plain_5270() -> Rule {
    rule(5270, None, 52, 0)
}

fn bypass_5210() -> Rule {
    rule(5210, Some((0x80000, 0xff0000)), 254, 0)
}

fn route(table: u32, dst: &str, dev: Option<&str>) -> Route {
    Route {
        family: Family::V4,
        table,
        kind: if dev.is_some() { RouteKind::Unicast } else { RouteKind::Throw },
        dst: dst.parse().unwrap(),
        hops: dev.map(|d| Hop { dev: Some(d.into()), ..Hop::default() }).into_iter().collect(),
        metric: 0,
        src: None,
        protocol: 3,
        scope: 0,
        exotic: false,
    }
}

fn sick() -> Node {
    let mut seen = Observation {
        rules: vec![
            rule(0, None, 255, 2),
            rule(77, Some((1, u32::MAX)), 52, 3),
            bypass_5210(),
            plain_5270(),
            rule(32766, None, 254, 2),
        ],
        routes: vec![
            route(52, "0.0.0.0/0", Some("tailscale0")),
            route(52, "127.0.0.0/8", None),
            route(254, "192.168.2.0/24", Some("eth0")),
        ]
        .into(),
        ..Observation::default()
    };
    seen.rules.sort();
    seen.routes.sort();
    seen.processes.push(Process {
        pid: 569,
        ppid: 1,
        start: 7,
        exe: "/bin/tailscaled".into(),
        inode: "1:2".into(),
        comm: "tailscaled".into(),
        netns: Netns::Host,
        cgroup: "/kubepods/x".into(),
        tuns: vec!["tailscale0".into()],
        socket: None,
        statedir: None,
        supervisor: None,
    });
    seen.netfilter.push(NfTable {
        backend: Backend::Nft,
        family: Family::V4,
        name: "filter".into(),
        dialect: Dialect::Iptables,
        chains: vec![
            Chain { name: "INPUT".into(), policy: Some("ACCEPT".into()), hook: None },
            Chain { name: "ts-input".into(), policy: None, hook: None },
        ]
        .into(),
        rules: vec![
            NfRule { chain: "INPUT".into(), spec: "-j ts-input".into(), handle: None },
            NfRule { chain: "INPUT".into(), spec: "-j KUBE-FIREWALL".into(), handle: None },
            NfRule {
                chain: "ts-input".into(),
                spec: "-i tailscale0 -j ACCEPT".into(),
                handle: None,
            },
        ]
        .into(),
    });
    seen.sysctls.insert("net.ipv4.conf.all.src_valid_mark".into(), "1".into());
    seen.resolv =
        Some(Resolv { text: "nameserver 100.100.100.100\n".into(), link: None, backup: None });
    seen.paths.push("/var/lib/tailscale-worker".into());
    let extra = Extra {
        prefs: [(569, Prefs { exit_node_id: "n1".into(), ..Prefs::default() })].into(),
        flows: 3,
        ..Extra::default()
    };
    Node { seen, extra }
}

fn process() -> ProcessId {
    ProcessId {
        pid: 569,
        start: 7,
        exe: "/bin/tailscaled".into(),
        inode: "1:2".into(),
        cgroup: "/kubepods/x".into(),
    }
}

/// One plan for each rung, with every kind of op in it.
fn plans(policy: OnUnhealthy) -> Vec<NodePlan> {
    let node = sick();
    let stop = NodeOp::Stopped { process: process(), grace_ms: 3_000 };
    let ask = NodeOp::ExitNodeOff { process: process(), socket: "/run/ts".into() };
    let clean = vec![
        NodeOp::Rules {
            family: Family::V4,
            absent: vec![plain_5270(), bypass_5210()],
            present: vec![rule(32767, None, 253, 2)],
        },
        NodeOp::Routes {
            family: Family::V4,
            table: 52,
            absent: node.seen.routes.iter().filter(|r| r.table == 52).cloned().collect(),
            present: vec![],
        },
        NodeOp::Netfilter {
            backend: Backend::Nft,
            family: Family::V4,
            table: "filter".into(),
            dialect: Dialect::Iptables,
            absent: vec![NfRule {
                chain: "INPUT".into(),
                spec: "-j ts-input".into(),
                handle: None,
            }],
            absent_chains: vec!["ts-input".into()],
            present_chains: vec![],
            present: vec![],
        },
        NodeOp::Sysctl { key: "net.ipv4.conf.all.src_valid_mark".into(), value: "0".into() },
        NodeOp::ResolvConf {
            wanted: Resolv { text: "nameserver 192.168.2.1\n".into(), link: None, backup: None },
        },
        NodeOp::Quarantined { path: "/var/lib/tailscale-worker".into() },
    ];
    let reconnect = vec![
        NodeOp::FlowsGone { sources: vec![], dead_to: vec![] },
        NodeOp::Restarted { unit: "k3s-agent.service".into() },
    ];
    vec![
        plan(Rung::Quiet, policy, vec![ask, stop]),
        plan(Rung::Clean, policy, clean),
        plan(Rung::Reconnect, policy, reconnect),
    ]
}

/// Kernel state after a reboot: nothing of the culprit's, nothing of ours; the disk as it was.
fn reboot(world: &Shared) {
    let mut w = world.lock().unwrap();
    w.boot = "boot-2".into();
    w.ms = 5;
    let s = &mut w.node.seen;
    s.rules.retain(|r| r.protocol == 2);
    s.routes.retain(|r| r.table != 52);
    s.processes.clear();
    s.netfilter.clear();
    s.sysctls.insert("net.ipv4.conf.all.src_valid_mark".into(), "0".into());
    w.node.extra.flows = 0;
}

fn foreign_is_untouched(before: &Node, after: &Node) {
    let mine = |r: &&Rule| r.pref != 5210 && r.pref != 5270 && r.pref != 32767;
    let rules = |n: &Node| n.seen.rules.iter().filter(mine).cloned().collect::<Vec<_>>();
    assert_eq!(rules(before), rules(after), "rules of others");
    let routes =
        |n: &Node| n.seen.routes.iter().filter(|r| r.table != 52).cloned().collect::<Vec<_>>();
    assert_eq!(routes(before), routes(after), "routes of others");
    let chains = |n: &Node| {
        n.seen
            .netfilter
            .iter()
            .flat_map(|t| t.rules.to_vec())
            .filter(|r| !r.spec.contains("ts-") && r.chain != "ts-input")
            .collect::<Vec<_>>()
    };
    assert_eq!(chains(before), chains(after), "netfilter of others");
}

/// How long an undisturbed run is, in appends and acts.
fn length(plan: &NodePlan, refuse: Option<u32>) -> (u32, u32) {
    let world = World::new(sick(), judge(plan));
    world.lock().unwrap().refuse = refuse;
    let mut paper = open(&world, plan);
    block_on(engine::run(&mut Hands(world.clone()), &mut paper)).expect("no crash");
    let w = world.lock().unwrap();
    (w.appends, w.acts)
}

#[test]
fn an_undisturbed_run_recovers() {
    for policy in [OnUnhealthy::Undo, OnUnhealthy::Hold] {
        for plan in plans(policy) {
            let world = World::new(sick(), judge(&plan));
            let (ending, entries) = resume(&world, open(&world, &plan).entries);
            assert_eq!(ending, Ending::Recovered, "{:?}", plan.rung);
            assert!(matches!(
                entries.last().unwrap().event,
                Event::Closed { ending: Ending::Recovered }
            ));
            foreign_is_untouched(&sick(), &world.lock().unwrap().node);
        }
    }
}

#[test]
fn a_run_that_is_killed_anywhere_ends_recovered_or_as_it_was() {
    let mut cases = 0;
    for policy in [OnUnhealthy::Undo, OnUnhealthy::Hold] {
        for plan in plans(policy) {
            for refuse in
                (0..=u32::try_from(plan.steps.len()).unwrap()).map(|n| (n > 0).then_some(n))
            {
                let (appends, acts) = length(&plan, refuse);
                for cut in cuts(appends, acts) {
                    cases += 1;
                    let world = World::new(sick(), judge(&plan));
                    {
                        let mut w = world.lock().unwrap();
                        w.refuse = refuse;
                        w.cut = cut;
                    }
                    let mut paper = open(&world, &plan);
                    let crashed =
                        block_on(engine::run(&mut Hands(world.clone()), &mut paper)).is_err();
                    assert!(crashed, "{cut:?} must have cut the run");
                    let (ending, entries) = resume(&world, paper.entries.clone());
                    let w = world.lock().unwrap();
                    let what = format!(
                        "{:?} {policy:?} refuse {refuse:?} {cut:?} → {ending:?}",
                        plan.rung
                    );
                    match ending {
                        Ending::Recovered => assert!((w.judge)(&w.node) == Health::Well, "{what}"),
                        Ending::RolledBack => {
                            as_it_was(&sick(), &w.node, &plan).unwrap_or_else(|why| {
                                // With Hold, whole steps stay on purpose; what is undone is the step that failed.
                                assert_eq!(policy, OnUnhealthy::Hold, "{what}: {why}");
                            });
                        }
                        // Only when a refusal left nothing to undo.
                        Ending::Unwell => assert!(refuse.is_some(), "{what}"),
                        // Only when the refused act was an undo.
                        Ending::Stuck => assert!(refuse.is_some(), "{what}"),
                        Ending::Held | Ending::Cancelled | Ending::Void => panic!("{what}"),
                    }
                    foreign_is_untouched(&sick(), &w.node);
                    drop(w);
                    let (again, after) = resume(&world, entries.clone());
                    assert_eq!(
                        (again, after.len()),
                        (ending, entries.len()),
                        "a closed run stays closed: {what}"
                    );
                }
            }
        }
    }
    println!("{cases} cuts");
    assert!(cases > 300, "the plans are not trivial: {cases}");
}

#[test]
fn a_power_cut_anywhere_leaves_the_disk_as_it_was_or_recovered() {
    let mut cases = 0;
    for plan in plans(OnUnhealthy::Undo) {
        let (appends, acts) = length(&plan, None);
        for cut in cuts(appends, acts) {
            cases += 1;
            let world = World::new(sick(), judge(&plan));
            world.lock().unwrap().cut = cut;
            let mut paper = open(&world, &plan);
            assert!(block_on(engine::run(&mut Hands(world.clone()), &mut paper)).is_err());
            reboot(&world);
            let (ending, _) = resume(&world, paper.entries.clone());
            let w = world.lock().unwrap();
            let (b, a) = (sick(), &w.node);
            let what = format!("{:?} {cut:?} → {ending:?}", plan.rung);
            match ending {
                Ending::Void | Ending::RolledBack => {
                    assert_eq!(b.seen.resolv, a.seen.resolv, "{what}");
                    assert_eq!(b.seen.paths, a.seen.paths, "{what}");
                    assert!(a.extra.quarantine.is_empty(), "{what}");
                }
                // The run had been closed before the power went.
                Ending::Recovered => assert!(
                    matches!(paper.entries.last().unwrap().event, Event::Closed { .. }),
                    "{what}"
                ),
                Ending::Held | Ending::Unwell | Ending::Cancelled | Ending::Stuck => {
                    panic!("{what}")
                }
            }
        }
    }
    println!("{cases} power cuts");
}

#[test]
fn what_somebody_else_changed_after_a_crash_is_left_to_them() {
    let plan = plans(OnUnhealthy::Undo).remove(1);
    let (appends, acts) = length(&plan, None);
    for cut in cuts(appends, acts) {
        let world = World::new(sick(), judge(&plan));
        world.lock().unwrap().cut = cut;
        let mut paper = open(&world, &plan);
        assert!(block_on(engine::run(&mut Hands(world.clone()), &mut paper)).is_err());
        let theirs = Resolv { text: "nameserver 9.9.9.9\n".into(), link: None, backup: None };
        {
            let mut w = world.lock().unwrap();
            w.node.seen.resolv = Some(theirs.clone());
            w.node.seen.sysctls.insert("net.ipv4.conf.all.src_valid_mark".into(), "2".into());
        }
        let (_, entries) = resume(&world, paper.entries.clone());
        let w = world.lock().unwrap();
        // Before the step began, their state is simply what we find: a plan that still wants another acts on it, and its
        // pre-image is theirs. Once it has begun, a third state is theirs to keep.
        let began = |id: u32| {
            paper.entries.iter().any(|e| matches!(e.event, Event::Began { step, .. } if step == id))
        };
        if began(4) {
            assert_eq!(w.node.seen.resolv.as_ref(), Some(&theirs), "{cut:?}: {entries:#?}");
        }
        if began(3) {
            assert_eq!(w.node.seen.sysctls["net.ipv4.conf.all.src_valid_mark"], "2", "{cut:?}");
        }
    }
}

#[test]
fn an_entry_of_a_newer_version_makes_a_run_stuck() {
    let plan = plans(OnUnhealthy::Undo).remove(0);
    let world = World::new(sick(), judge(&plan));
    let mut paper = open(&world, &plan);
    block_on(paper.append(Stamp::default(), Event::Unknown)).unwrap();
    let (ending, _) = resume(&world, paper.entries.clone());
    assert_eq!(ending, Ending::Stuck);
    assert_eq!(world.lock().unwrap().node, sick(), "nothing was touched");
}

#[test]
fn a_cancelled_run_is_undone() {
    let plan = plans(OnUnhealthy::Hold).remove(1);
    let world = World::new(sick(), judge(&plan));
    world.lock().unwrap().cut = Cut::Kept(7);
    let mut paper = open(&world, &plan);
    assert!(block_on(engine::run(&mut Hands(world.clone()), &mut paper)).is_err());
    world.lock().unwrap().dead = false;
    block_on(paper.append(Stamp::default(), Event::Cancelled { by: "alice".into() })).unwrap();
    let (ending, _) = resume(&world, paper.entries.clone());
    assert_eq!(ending, Ending::Cancelled);
    as_it_was(&sick(), &world.lock().unwrap().node, &plan).unwrap();
}

#[test]
fn an_optional_step_that_fails_does_not_stop_the_rung() {
    let mut plan = plans(OnUnhealthy::Hold).remove(0);
    plan.steps[0].optional = true;
    let stop = plan.steps[1].op.clone();
    let world =
        World::new(
            sick(),
            move |node: &Node| if settled(node, &stop) { Health::Well } else { Health::Unwell },
        );
    world.lock().unwrap().refuse = Some(1);
    let (ending, _) = resume(&world, open(&world, &plan).entries);
    assert_eq!(ending, Ending::Recovered);
    assert!(world.lock().unwrap().node.seen.processes.is_empty());
}

#[test]
fn a_rung_that_does_not_help_is_undone_when_its_steps_say_so() {
    let plan = plans(OnUnhealthy::Undo).remove(1);
    let world = World::new(sick(), |_: &Node| Health::Unwell);
    let (ending, _) = resume(&world, open(&world, &plan).entries);
    assert_eq!(ending, Ending::RolledBack);
    as_it_was(&sick(), &world.lock().unwrap().node, &plan).unwrap();
}

#[test]
fn when_nothing_can_be_said_the_run_waits_until_its_deadline_and_is_held() {
    let plan = plans(OnUnhealthy::Undo).remove(1);
    let world = World::new(sick(), |_: &Node| Health::Unknown);
    let (ending, _) = resume(&world, open(&world, &plan).entries);
    assert_eq!(ending, Ending::Held);
    let w = world.lock().unwrap();
    assert!(w.ms > plan.deadline_ms, "it waited {} ms", w.ms);
    assert!(plan.steps.iter().all(|s| settled(&w.node, &s.op)), "what was done stays");
}

#[test]
fn a_rung_whose_finding_has_gone_is_kept_although_another_trouble_shows() {
    let plan = plans(OnUnhealthy::Undo).remove(1);
    let world = World::new(sick(), |_: &Node| Health::Contained);
    world.lock().unwrap().findings = vec!["another".into()];
    let (ending, _) = resume(&world, open(&world, &plan).entries);
    assert_eq!(ending, Ending::Unwell, "the next rung's turn");
    let w = world.lock().unwrap();
    assert!(plan.steps.iter().all(|s| settled(&w.node, &s.op)), "nothing was undone");
}
