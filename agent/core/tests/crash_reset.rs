//! A reset under the exhaustive crash test: one that nobody confirms leaves no trace but what was declared irreversible, whoever
//! dies when.
//!
//! Longer than most files: every case stands on one sick node.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod world;

use lifeline_core::clock::Stamp;
use lifeline_core::diagnosis::{Diagnosis, Finding, Health, Severity, Verdict};
use lifeline_core::engine::{self, Ending, Entry, Event, Failure, Host, Judgement, is_overdue};
use lifeline_core::net::Family;
use lifeline_core::observation::{
    Backend, Chain, Dialect, NfRule, NfTable, Observation, Sense, Unit,
};
use lifeline_core::op::{NodeOp, Seen};
use lifeline_core::plan::{Consent, NodePlan, Rung};
use lifeline_core::planner::{MARGIN_MS, last_resort};
use lifeline_core::policy::Policy;
use lifeline_core::{baseline, check};
use world::{Cut, Extra, Hands, Node, Paper, Shared, World, block_on, cuts, open};

fn table(backend: Backend, family: Family, name: &str, policy: &str) -> NfTable {
    let rule =
        |chain: &str, spec: &str| NfRule { chain: chain.into(), spec: spec.into(), handle: None };
    let chain = |name: &str, policy: Option<&str>| Chain {
        name: name.into(),
        policy: policy.map(Into::into),
        hook: None,
    };
    NfTable {
        backend,
        family,
        name: name.into(),
        dialect: Dialect::Iptables,
        chains: vec![
            chain("OUTPUT", Some(policy)),
            chain("KUBE-SERVICES", None),
            chain("CNI-DN-1", None),
        ]
        .into(),
        rules: vec![
            rule("OUTPUT", "-d 192.168.2.10/32 -j DROP"),
            rule("OUTPUT", "-j KUBE-SERVICES"),
            rule("KUBE-SERVICES", "-d 10.43.0.1/32 -j ACCEPT"),
            rule("CNI-DN-1", "-p tcp -j DNAT --to-destination 10.42.0.7:80"),
        ]
        .into(),
    }
}

fn sick() -> Node {
    let seen = Observation {
        netfilter: vec![
            table(Backend::Nft, Family::V4, "filter", "DROP"),
            table(Backend::Nft, Family::V4, "nat", "ACCEPT"),
            table(Backend::Nft, Family::V6, "filter", "DROP"),
            table(Backend::Legacy, Family::V4, "mangle", "ACCEPT"),
            table(Backend::Nft, Family::V4, "raw", "ACCEPT"),
        ],
        units: vec![Unit {
            name: "k3s-agent.service".into(),
            load: "loaded".into(),
            active: "active".into(),
            ..Unit::default()
        }],
        ..Observation::default()
    };
    Node { seen, extra: Extra { cache: 3, ..Extra::default() } }
}

fn filtered() -> Diagnosis {
    let finding = Finding {
        fault: "local-filter".into(),
        verdict: Verdict::Filtered,
        severity: Severity::Critical,
        culprit: None,
        harm: true,
        evidence: vec![],
    };
    Diagnosis {
        taken: Stamp::default(),
        verdict: Verdict::Filtered,
        health: Health::Unwell,
        guarded: false,
        summary: String::new(),
        findings: vec![finding],
        held: vec![],
        forwarding: vec![],
    }
}

fn reset() -> NodePlan {
    last_resort(&sick().seen, &Policy::default(), &filtered(), Rung::Reset, "i").unwrap()
}

/// A run of a reset, with an operator who confirms after that many appends, or never.
fn reset_world(well: bool) -> Shared {
    World::new(sick(), move |_: &Node| if well { Health::Well } else { Health::Unwell })
}

/// But for a restart and what the kernel had learnt, which no undo brings back.
fn assert_as_it_was(node: &Node, what: &str) {
    let (b, a) = (sick(), node);
    assert_eq!(b.seen, a.seen, "{what}");
    assert!(!a.extra.armed, "the timer is gone: {what}");
}

fn confirm(world: &Shared, entries: &mut Vec<Entry<NodeOp>>) {
    let stamp = Stamp { boot: "boot-1".into(), ms: world.lock().unwrap().ms, wall_ms: 0 };
    let (seq, event) = (entries.len() as u64, Event::Confirmed { by: "alice".into() });
    entries.push(Entry { seq, stamp, event });
}

fn length(plan: &NodePlan, refuse: Option<u32>) -> (u32, u32) {
    let world = reset_world(true);
    world.lock().unwrap().refuse = refuse;
    block_on(engine::run(&mut Hands(world.clone()), &mut open(&world, plan))).expect("no crash");
    let w = world.lock().unwrap();
    (w.appends, w.acts)
}

#[test]
fn a_reset_opens_the_filters_first_and_is_armed_before_anything() {
    let plan = reset();
    let kinds: Vec<String> = plan.steps.iter().map(|s| s.op.to_string()).collect();
    assert_eq!(
        kinds,
        [
            "arm a timer that undoes all of this after 75 s unless it is confirmed",
            "netfilter nft (IPv4) table filter: policies to ACCEPT, flush and delete its chains",
            "netfilter nft (IPv6) table filter: policies to ACCEPT, flush and delete its chains",
            "netfilter nft (IPv4) table nat: policies to ACCEPT, flush and delete its chains",
            "netfilter legacy (IPv4) table mangle: policies to ACCEPT, flush and delete its chains",
            "flush the route caches",
            "restart k3s-agent.service",
        ]
    );
    let base = baseline::derive(&sick().seen);
    assert_eq!(check::check(&plan, &sick().seen, &base), [], "the checker agrees");
    // The checker's own mind: each of these breaks one invariant.
    let refused = |change: &dyn Fn(&mut NodePlan), words: &str| {
        let mut plan = reset();
        change(&mut plan);
        let said: Vec<String> =
            check::check(&plan, &sick().seen, &base).iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|s| s.contains(words)), "{words}: {said:?}");
    };
    refused(&|p| drop(p.steps.remove(0)), "begins with a timer");
    refused(&|p| p.deadline_ms = 90_000, "begins with a timer");
    refused(&|p| p.steps.swap(1, 3), "the filters are opened before");
    refused(&|p| p.rung = Rung::Clean, "belongs to reset");
    refused(
        &|p| {
            let NodeOp::Flushed { table, .. } = &mut p.steps[1].op else { panic!() };
            *table = "raw".into();
        },
        "not one that is flushed",
    );
}

#[test]
fn a_last_resort_is_refused_where_the_trouble_is_elsewhere_or_unseen() {
    let policy = Policy::default();
    for (verdict, why) in [
        (Verdict::Healthy, "healthy"),
        (Verdict::Upstream, "not this node's"),
        (Verdict::Unknown, "could not be judged"),
        (Verdict::Moved, "works"),
    ] {
        for rung in Rung::LAST {
            let diag = Diagnosis { verdict, ..filtered() };
            let e = last_resort(&sick().seen, &policy, &diag, rung, "i").unwrap_err();
            assert!(e.contains(why), "{verdict:?}: {e}");
        }
    }
    let mut blind = sick().seen;
    blind.gaps.push(lifeline_core::observation::Gap { what: Sense::Nft6, why: "no tool".into() });
    let e = last_resort(&blind, &policy, &filtered(), Rung::Reset, "i").unwrap_err();
    assert_eq!(e, "what cannot be read cannot be put back: no tool");
    let none = Observation { netfilter: vec![], ..sick().seen };
    assert!(last_resort(&none, &policy, &filtered(), Rung::Reset, "i").is_err());
}

#[test]
fn consent_to_all_ordinary_rungs_covers_no_reset_and_no_reboot() {
    for rung in Rung::LAST {
        let plan = last_resort(&sick().seen, &Policy::default(), &filtered(), rung, "i").unwrap();
        let kinds = plan.steps.iter().map(|s| s.op.kind().to_string()).collect::<Vec<_>>();
        let all =
            Consent { findings: plan.findings.clone(), rung: 4, kinds: kinds.clone(), from: 0 };
        assert!(!all.lacks(&plan).is_empty(), "{rung:?} needs its own number");
        let unnamed = Consent { rung: 6, kinds: vec!["restarted".into()], ..all.clone() };
        assert!(!unnamed.lacks(&plan).is_empty(), "{rung:?} needs its own kinds");
        assert!(Consent { rung: 6, ..all }.lacks(&plan).is_empty());
    }
}

#[test]
fn a_reset_that_nobody_confirms_is_undone_even_though_the_node_is_well() {
    for well in [true, false] {
        let world = reset_world(well);
        let plan = reset();
        let ending = block_on(engine::run(&mut Hands(world.clone()), &mut open(&world, &plan)));
        assert_eq!(ending.expect("no crash"), Ending::RolledBack);
        let w = world.lock().unwrap();
        assert!(w.ms > 60_000 && w.ms < 60_000 + MARGIN_MS, "undone at the deadline: {} ms", w.ms);
        assert_as_it_was(&w.node, "unconfirmed");
        assert_eq!(w.node.extra.invocations, 1, "the restart was real");
    }
}

#[test]
fn a_reset_that_is_killed_anywhere_and_never_confirmed_ends_as_it_was() {
    let plan = reset();
    let mut cases = 0;
    for refuse in (0..=u32::try_from(plan.steps.len()).unwrap()).map(|n| (n > 0).then_some(n)) {
        let (appends, acts) = length(&plan, refuse);
        for cut in cuts(appends, acts) {
            cases += 1;
            let world = reset_world(true);
            {
                let mut w = world.lock().unwrap();
                (w.refuse, w.cut) = (refuse, cut);
            }
            let mut paper = open(&world, &plan);
            assert!(block_on(engine::run(&mut Hands(world.clone()), &mut paper)).is_err());
            let (ending, _) = world::resume(&world, paper.entries.clone());
            let w = world.lock().unwrap();
            let what = format!("refuse {refuse:?} {cut:?} → {ending:?}");
            // A refused undo is said, and everything else is put back all the same; the test refuses one act only.
            if ending == Ending::Stuck {
                assert!(refuse.is_some(), "{what}");
                let was = sick().seen.netfilter;
                let differs = was.iter().zip(&w.node.seen.netfilter).filter(|(b, a)| b != a);
                assert!(differs.count() <= 1, "{what}");
                continue;
            }
            assert_eq!(ending, Ending::RolledBack, "{what}");
            assert_as_it_was(&w.node, &what);
        }
    }
    println!("{cases} cuts");
    assert!(cases > 400, "{cases}");
}

#[test]
fn a_confirmation_at_any_moment_either_keeps_all_of_it_or_comes_too_late() {
    let plan = reset();
    let (appends, acts) = length(&plan, None);
    let (mut kept, mut late) = (0, 0);
    for well in [true, false] {
        for cut in cuts(appends, acts) {
            let world = reset_world(well);
            world.lock().unwrap().cut = cut;
            let mut paper = open(&world, &plan);
            assert!(block_on(engine::run(&mut Hands(world.clone()), &mut paper)).is_err());
            let closed = matches!(paper.entries.last().unwrap().event, Event::Closed { .. });
            if closed {
                continue;
            }
            confirm(&world, &mut paper.entries);
            let (ending, _) = world::resume(&world, paper.entries.clone());
            let w = world.lock().unwrap();
            let what = format!("{cut:?} → {ending:?}");
            match ending {
                Ending::Recovered | Ending::Unwell => {
                    kept += 1;
                    assert_eq!(ending == Ending::Recovered, well, "{what}");
                    let full = |t: &&NfTable| t.name != "raw" && !t.rules.is_empty();
                    assert_eq!(w.node.seen.netfilter.iter().find(full), None, "{what}");
                }
                Ending::RolledBack => {
                    late += 1;
                    assert_as_it_was(&w.node, &what);
                }
                Ending::Held | Ending::Cancelled | Ending::Void | Ending::Stuck => panic!("{what}"),
            }
        }
    }
    assert!(kept > 20 && late > 20, "{kept} kept, {late} too late");
}

#[test]
fn what_the_cluster_and_others_wrote_after_the_flush_stays_when_it_is_undone() {
    let plan = reset();
    let (appends, acts) = length(&plan, None);
    for cut in cuts(appends, acts) {
        let world = reset_world(true);
        world.lock().unwrap().cut = cut;
        let mut paper = open(&world, &plan);
        assert!(block_on(engine::run(&mut Hands(world.clone()), &mut paper)).is_err());
        let undone = paper.entries.iter().any(|e| matches!(e.event, Event::UndoBegan { .. }));
        let filter_flushed = {
            let mut w = world.lock().unwrap();
            let t = &mut w.node.seen.netfilter[0];
            let flushed = lifeline_core::ruleset::is_flushed(t);
            if flushed {
                // kube-proxy is back with a newer service, and somebody adds a rule.
                t.chains.push(Chain { name: "KUBE-SERVICES".into(), policy: None, hook: None });
                for (chain, spec) in [
                    ("OUTPUT", "-j KUBE-SERVICES"),
                    ("OUTPUT", "-d 10.9.9.9/32 -j REJECT"),
                    ("KUBE-SERVICES", "-d 10.43.0.99/32 -j ACCEPT"),
                ] {
                    t.rules.push(NfRule { chain: chain.into(), spec: spec.into(), handle: None });
                }
            }
            flushed
        };
        // Cut off between two steps, the redo of a flush that is done would empty what came since: it must not be begun again.
        let redone = paper.entries.iter().any(|e| matches!(e.event, Event::Began { step: 1, .. }))
            && !paper.entries.iter().any(|e| matches!(e.event, Event::Ended { step: 1, .. }));
        if !filter_flushed || undone || redone {
            continue;
        }
        let (ending, _) = world::resume(&world, paper.entries.clone());
        assert_eq!(ending, Ending::RolledBack, "{cut:?}");
        let w = world.lock().unwrap();
        let t = &w.node.seen.netfilter[0];
        let of = |chain: &str| {
            t.rules.iter().filter(|r| r.chain == chain).map(|r| r.spec.clone()).collect::<Vec<_>>()
        };
        assert_eq!(of("KUBE-SERVICES"), ["-d 10.43.0.99/32 -j ACCEPT"], "{cut:?}");
        assert_eq!(
            of("OUTPUT"),
            ["-d 10.9.9.9/32 -j REJECT", "-d 192.168.2.10/32 -j DROP", "-j KUBE-SERVICES"],
            "{cut:?}"
        );
        assert_eq!(of("CNI-DN-1").len(), 1, "{cut:?}");
        assert_eq!(t.chains[0].policy.as_deref(), Some("DROP"), "{cut:?}");
    }
}

#[test]
fn a_power_cut_voids_a_reset() {
    let plan = reset();
    let (appends, acts) = length(&plan, None);
    for cut in cuts(appends, acts) {
        let world = reset_world(true);
        world.lock().unwrap().cut = cut;
        let mut paper = open(&world, &plan);
        assert!(block_on(engine::run(&mut Hands(world.clone()), &mut paper)).is_err());
        {
            let mut w = world.lock().unwrap();
            (w.boot, w.ms) = ("boot-2".into(), 5);
            w.node.seen.netfilter.clear();
        }
        let (ending, _) = world::resume(&world, paper.entries.clone());
        assert!(matches!(ending, Ending::Void | Ending::RolledBack), "{cut:?}: {ending:?}");
        assert!(
            world.lock().unwrap().node.seen.netfilter.is_empty(),
            "{cut:?}: nothing is put back"
        );
    }
}

/// The timer outside the process has hands and no judgement.
struct Timer(Hands);

impl Host<NodeOp> for Timer {
    fn now(&mut self) -> Stamp {
        self.0.now()
    }
    async fn wait(&mut self, ms: u64) {
        self.0.wait(ms).await;
    }
    async fn look(&mut self, op: &NodeOp) -> Result<Seen, String> {
        self.0.look(op).await
    }
    async fn act(&mut self, op: &NodeOp, before: &Seen) -> Result<(), Failure> {
        self.0.act(op, before).await
    }
    async fn judge(&mut self) -> Judgement {
        Judgement { health: Health::Unknown, findings: vec![], summary: "not judged".into() }
    }
}

#[test]
fn when_the_daemon_never_comes_back_the_timer_undoes_what_it_left() {
    let plan = reset();
    let (appends, acts) = length(&plan, None);
    let mut undone = 0;
    for cut in cuts(appends, acts) {
        let world = reset_world(true);
        world.lock().unwrap().cut = cut;
        let mut paper = open(&world, &plan);
        assert!(block_on(engine::run(&mut Hands(world.clone()), &mut paper)).is_err());
        let armed = {
            let mut w = world.lock().unwrap();
            (w.dead, w.cut) = (false, Cut::Never);
            w.ms += 60_000 + MARGIN_MS;
            w.node.extra.armed
        };
        let here = Stamp { boot: "boot-1".into(), ms: world.lock().unwrap().ms, wall_ms: 0 };
        let closed = matches!(paper.entries.last().unwrap().event, Event::Closed { .. });
        if closed {
            continue;
        }
        assert!(is_overdue(&paper.entries, &here), "{cut:?}");
        let touched = world.lock().unwrap().node.seen != sick().seen;
        assert!(armed || !touched, "{cut:?}: nothing is touched unless the timer is armed");
        let mut paper = Paper { world: world.clone(), entries: paper.entries };
        let ending = block_on(engine::run(&mut Timer(Hands(world.clone())), &mut paper)).unwrap();
        // Armed and dead before a word of it was written: nothing was done, and nothing is to be undone.
        let began = paper.entries.iter().any(|e| matches!(e.event, Event::Began { .. }));
        assert_eq!(ending, if began { Ending::RolledBack } else { Ending::Held }, "{cut:?}");
        assert_eq!(world.lock().unwrap().node.seen, sick().seen, "{cut:?}");
        undone += 1;
    }
    assert!(undone > 30, "{undone}");
}

#[test]
fn a_confirmed_run_is_not_the_timers_affair() {
    let world = reset_world(true);
    world.lock().unwrap().cut = Cut::Kept(16);
    let mut paper = open(&world, &reset());
    assert!(block_on(engine::run(&mut Hands(world.clone()), &mut paper)).is_err());
    let here = Stamp { boot: "boot-1".into(), ms: 90_000, wall_ms: 0 };
    assert!(is_overdue(&paper.entries, &here));
    assert!(!is_overdue(&paper.entries, &Stamp { ms: 30_000, ..here.clone() }), "not yet");
    let other = Stamp { boot: "boot-2".into(), ms: 90_000, wall_ms: 0 };
    assert!(!is_overdue(&paper.entries, &other));
    confirm(&world, &mut paper.entries);
    assert!(!is_overdue(&paper.entries, &here));
}
