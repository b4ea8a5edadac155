//! Every plan the golden cases give, cut at every instant: it ends recovered or as it was, and what the plan does not name is
//! untouched.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod case;
mod world;

use lifeline_core::engine::{self, Ending};
use lifeline_core::judge::judge as diagnose;
use lifeline_core::observation::Observation;
use lifeline_core::op::{NodeOp, Prefs};
use lifeline_core::plan::{NodePlan, OnUnhealthy, Rung};
use lifeline_core::planner::plan;
use lifeline_core::policy::Policy;
use std::path::{Path, PathBuf};
use world::{Extra, Hands, Node, World, as_it_was, block_on, cuts, judge, open, resume};

fn cases() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut all: Vec<PathBuf> = std::fs::read_dir(golden)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("observation.txt").is_file())
        .collect();
    all.sort();
    all
}

/// The plans of a case, all rungs, with the node they are for.
fn plans(case: &Path) -> Vec<(Node, NodePlan)> {
    let mut seen: Observation = case::observation(case).unwrap();
    let base = case::baseline_of(case).unwrap();
    // The engine's model of the kernel keeps its tables in order.
    seen.rules.sort();
    seen.routes.sort();
    seen.paths.sort();
    let policy = Policy::default();
    let diag = diagnose(&seen, &base, &policy);
    let exit_node = Prefs { exit_node_id: "n1".into(), ..Prefs::default() };
    let extra = Extra {
        prefs: seen.processes.iter().map(|p| (p.pid, exit_node.clone())).collect(),
        flows: 2,
        ..Extra::default()
    };
    let node = Node { seen: seen.clone(), extra };
    Rung::ENGINE
        .into_iter()
        .flat_map(|rung| (0..2).map(move |attempt| (rung, attempt)))
        .filter_map(|(rung, attempt)| plan(&seen, &base, &policy, &diag, rung, "incident", attempt))
        .map(|p| (node.clone(), p))
        .collect()
}

/// Everything but the objects the plan names.
fn rest(node: &Node, plan: &NodePlan) -> Observation {
    let mut seen = node.seen.clone();
    for step in &plan.steps {
        match &step.op {
            NodeOp::Rules { absent, present, .. } => {
                seen.rules.retain(|r| !absent.contains(r) && !present.contains(r));
            }
            NodeOp::Routes { absent, present, .. } => {
                seen.routes.retain(|r| !absent.contains(r) && !present.contains(r));
            }
            NodeOp::Netfilter { backend, family, table, absent, absent_chains, .. } => {
                let mine = |t: &&mut lifeline_core::observation::NfTable| {
                    t.backend == *backend && t.family == *family && t.name == *table
                };
                for t in seen.netfilter.iter_mut().filter(mine) {
                    t.rules.retain(|r| !absent_chains.contains(&r.chain) && !absent.contains(r));
                    t.chains.retain(|c| !absent_chains.contains(&c.name));
                    // Their order among themselves has no meaning.
                    t.chains.sort();
                }
            }
            NodeOp::Policies { backend, family, table, wanted, .. } => {
                let mine = |t: &&mut lifeline_core::observation::NfTable| {
                    t.backend == *backend && t.family == *family && t.name == *table
                };
                for c in seen.netfilter.iter_mut().filter(mine).flat_map(|t| &mut t.chains) {
                    if wanted.iter().any(|w| w.chain == c.name) {
                        c.policy = None;
                    }
                }
            }
            NodeOp::Stopped { process, .. } => seen.processes.retain(|p| p.pid != process.pid),
            NodeOp::Addrs { absent, present, .. } => {
                seen.addrs.retain(|a| !absent.contains(a) && !present.contains(a));
                seen.addrs.sort();
            }
            NodeOp::LinkGone { name, .. } => seen.links.retain(|l| l.name != *name),
            NodeOp::ResolvConf { .. } => seen.resolv = None,
            NodeOp::Sysctl { key, .. } => {
                seen.sysctls.remove(key);
            }
            NodeOp::Quarantined { path } => seen.paths.retain(|p| p != path),
            NodeOp::SandboxStopped { id, .. } => seen.host_ports.retain(|h| h.sandbox != *id),
            NodeOp::ExitNodeOff { .. }
            | NodeOp::ExitNodeOn { .. }
            | NodeOp::Released { .. }
            | NodeOp::FlowsGone { .. }
            | NodeOp::Restarted { .. }
            | NodeOp::Armed { .. }
            | NodeOp::Disarmed
            | NodeOp::Flushed { .. }
            | NodeOp::Refilled { .. }
            | NodeOp::CacheFlushed
            | NodeOp::Rebooted => {}
        }
    }
    seen
}

#[test]
fn every_plan_of_every_golden_case_survives_every_cut() {
    let (mut plans_seen, mut cuts_seen) = (0, 0);
    for case in cases() {
        for (node, plan) in plans(&case) {
            plans_seen += 1;
            let name = format!("{} {:?}", case.file_name().unwrap().to_string_lossy(), plan.rung);
            for refuse in
                (0..=u32::try_from(plan.steps.len()).unwrap()).map(|n| (n > 0).then_some(n))
            {
                let (appends, acts) = {
                    let world = World::new(node.clone(), judge(&plan));
                    world.lock().unwrap().refuse = refuse;
                    let mut paper = open(&world, &plan);
                    block_on(engine::run(&mut Hands(world.clone()), &mut paper)).expect("no crash");
                    let w = world.lock().unwrap();
                    (w.appends, w.acts)
                };
                for cut in cuts(appends, acts) {
                    cuts_seen += 1;
                    let world = World::new(node.clone(), judge(&plan));
                    {
                        let mut w = world.lock().unwrap();
                        w.refuse = refuse;
                        w.cut = cut;
                        w.findings.clone_from(&plan.findings);
                    }
                    let mut paper = open(&world, &plan);
                    assert!(block_on(engine::run(&mut Hands(world.clone()), &mut paper)).is_err());
                    let (ending, _) = resume(&world, paper.entries.clone());
                    let w = world.lock().unwrap();
                    let what = format!("{name} refuse {refuse:?} {cut:?} → {ending:?}");
                    assert_eq!(
                        rest(&node, &plan),
                        rest(&w.node, &plan),
                        "{what}: something else changed"
                    );
                    match ending {
                        Ending::Recovered | Ending::Unwell | Ending::Stuck => {}
                        Ending::RolledBack => {
                            let holds =
                                plan.steps.iter().any(|s| s.on_unhealthy == OnUnhealthy::Hold);
                            let was = as_it_was(&node, &w.node, &plan);
                            assert!(holds || was.is_ok(), "{what}: {was:?}");
                        }
                        Ending::Held | Ending::Cancelled | Ending::Void => panic!("{what}"),
                    }
                    if refuse.is_none() {
                        assert_eq!(ending, Ending::Recovered, "{what}: nothing was refused");
                    }
                }
            }
        }
    }
    println!("{plans_seen} plans, {cuts_seen} cuts");
    assert!(plans_seen >= 8, "the golden cases give plans: {plans_seen}");
}
