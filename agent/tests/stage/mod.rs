//! A node of golden cases under the real service: the judgement is real, the disk is real, only the machine is an
//! observation that acts change. It can stop in the middle of anything, as a killed process does.
#![allow(dead_code, reason = "shared by several test files, each of which uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../core/tests/case/mod.rs"]
mod case;
#[path = "../../core/tests/world/mod.rs"]
pub mod world;

use lifeline_agent::alone::Alone;
use lifeline_agent::clock::Clock;
use lifeline_agent::runs::book::Asked;
use lifeline_agent::runs::{Node, Parts, Request, Runs};
use lifeline_agent::sight::Sight;
use lifeline_agent::store::Store;
use lifeline_core::baseline::Baseline;
use lifeline_core::engine::Failure;
use lifeline_core::judge::judge;
use lifeline_core::observation::{Action, Observation};
use lifeline_core::op::{NodeOp, Prefs, Seen};
use lifeline_core::plan::Consent;
use lifeline_core::planner::forecast;
use lifeline_core::policy::{Mode, Policy};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// When, within the n-th call of the hands, the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Before(u32),
    Half(u32),
    After(u32),
}

#[derive(Debug)]
pub struct Stage {
    pub node: Mutex<world::Node>,
    pub base: Baseline,
    healthy: Observation,
    clock: Clock,
    pub calls: Mutex<u32>,
    pub cut: Mutex<Option<Cut>>,
    pub died: Notify,
    /// What the guard was told.
    pub held: Mutex<Vec<bool>>,
    /// What acts wait for, when they are to be slow.
    pub gate: Mutex<Option<Arc<Notify>>>,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("core/tests/golden").join(name)
}

impl Stage {
    /// A node as a golden case has it, this very boot.
    pub fn of(name: &str, clock: &Clock) -> Self {
        let mut seen = case::observation(&golden(name)).unwrap();
        seen.rules.sort();
        seen.routes.sort();
        let exit_node = Prefs { exit_node_id: "n1".into(), ..Prefs::default() };
        let prefs = seen.processes.iter().map(|p| (p.pid, exit_node.clone())).collect();
        let extra = world::Extra { prefs, flows: 2, ..world::Extra::default() };
        Self {
            node: Mutex::new(world::Node { seen, extra }),
            base: case::baseline_of(&golden(name)).unwrap(),
            healthy: case::observation(&golden("healthy")).unwrap(),
            clock: clock.clone(),
            calls: Mutex::new(0),
            cut: Mutex::new(None),
            died: Notify::new(),
            held: Mutex::default(),
            gate: Mutex::new(None),
        }
    }

    /// The same machine, seen by the next process.
    pub fn next_process(&self, clock: &Clock) -> Self {
        Self {
            node: Mutex::new(self.node.lock().unwrap().clone()),
            base: self.base.clone(),
            healthy: self.healthy.clone(),
            clock: clock.clone(),
            calls: Mutex::new(0),
            cut: Mutex::new(None),
            died: Notify::new(),
            held: Mutex::default(),
            gate: Mutex::new(None),
        }
    }

    /// Does a rule of the culprit's take everything?
    pub fn is_captured(&self) -> bool {
        captured(&self.node.lock().unwrap().seen)
    }

    /// What the world answers follows from whether it is captured.
    pub fn observe(&self) -> Observation {
        let mut seen = self.node.lock().unwrap().seen.clone();
        if !captured(&seen) {
            seen.lookups.clone_from(&self.healthy.lookups);
            seen.probes.clone_from(&self.healthy.probes);
            seen.sockets.clone_from(&self.healthy.sockets);
            seen.lease.clone_from(&self.healthy.lease);
        }
        seen.taken = self.clock.now();
        seen
    }

    /// All that may be agreed to now.
    pub fn consent(&self) -> Consent {
        let (seen, policy) = (self.observe(), Policy::default());
        let plans = forecast(&seen, &self.base, &policy, &judge(&seen, &self.base, &policy));
        lifeline_agent::serve::views::consent(&plans)
    }

    fn count(&self) -> u32 {
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        *calls
    }

    async fn die(&self) {
        self.died.notify_one();
        std::future::pending::<()>().await;
    }
}

fn captured(seen: &Observation) -> bool {
    seen.rules.iter().any(|r| r.action == Action::Lookup(52) && r.mark.is_none())
        && seen.routes.iter().any(|r| r.table == 52 && r.dst.is_all())
}

impl Node for Stage {
    async fn look(&self, _: Option<Arc<Baseline>>) -> Observation {
        self.observe()
    }

    async fn see(&self, _: &str, op: &NodeOp) -> Result<Seen, String> {
        let n = self.count();
        let cut = *self.cut.lock().unwrap();
        if cut.is_some_and(
            |c| matches!(c, Cut::Before(at) | Cut::Half(at) | Cut::After(at) if at == n),
        ) {
            self.die().await;
        }
        Ok(self.node.lock().unwrap().look(op))
    }

    async fn act(&self, _: &str, op: &NodeOp, _: &Seen) -> Result<(), Failure> {
        let n = self.count();
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.notified().await;
        }
        let cut = *self.cut.lock().unwrap();
        if cut == Some(Cut::Before(n)) {
            self.die().await;
        }
        {
            let mut node = self.node.lock().unwrap();
            node.act(op, cut == Some(Cut::Half(n)));
            // A tun that was not made to persist goes with its process, and with it what leads there.
            if !node.seen.processes.iter().any(|p| p.tuns.iter().any(|t| t == "tailscale0")) {
                node.seen.links.retain(|l| l.name != "tailscale0" || l.persist);
                node.seen.addrs.retain(|a| a.dev != "tailscale0");
                node.seen.routes.retain(|r| r.dev() != Some("tailscale0"));
            }
        }
        if matches!(cut, Some(Cut::Half(at) | Cut::After(at)) if at == n) {
            self.die().await;
        }
        Ok(())
    }

    async fn hold(&self, recovering: bool) {
        self.held.lock().unwrap().push(recovering);
    }
}

/// The agent's recoveries over a stage and a state directory, as after a start.
pub async fn start(stage: &Arc<Stage>, dir: &Path, clock: &Clock) -> Runs<Stage> {
    start_by(Policy::default(), stage, dir, clock).await.0
}

/// The same by a policy, with what acts alone; it does so when its loop is run.
pub async fn start_by(
    policy: Policy,
    stage: &Arc<Stage>,
    dir: &Path,
    clock: &Clock,
) -> (Runs<Stage>, Alone<Stage>) {
    let (store, trouble) = Store::open(dir);
    assert!(trouble.is_none(), "{trouble:?}");
    if store.baseline().is_none() {
        store.keep(stage.base.clone()).unwrap();
    }
    store.load_budget(clock);
    let (store, policy) = (Arc::new(store), Arc::new(policy));
    let sight = Arc::new(Sight::new(stage.clone(), store.clone(), policy.clone(), clock.clone()));
    let runs = Runs::open(Parts {
        node: stage.clone(),
        sight: sight.clone(),
        store: store.clone(),
        policy: policy.clone(),
        clock: clock.clone(),
        name: "calypso".to_string(),
    })
    .await;
    let alone = Alone::new(runs.clone(), sight.clone(), store, policy.clone());
    if policy.mode == Mode::Heal {
        // Looks come by themselves, as in the daemon.
        tokio::spawn(async move { sight.keep_looking(|| {}).await });
    }
    (runs, alone)
}

/// A request to heal.
pub fn heal(id: &str, consent: Consent) -> Request {
    let asked = Asked::Heal { consent, digest: String::new(), stability_ms: 0 };
    Request { id: id.to_string(), asked }
}

/// Waits until an incident has ended; gives how, and what was said.
pub async fn ended(runs: &Runs<Stage>, incident: &str) -> (String, String) {
    let story = runs.story(incident).await.unwrap();
    let mut grew = story.grew();
    loop {
        if let Some(end) = story.ended() {
            assert!(
                runs.under_way().is_none(),
                "whoever hears the end may ask for the next at once"
            );
            return end;
        }
        tokio::time::timeout(std::time::Duration::from_secs(60), grew.changed())
            .await
            .unwrap()
            .unwrap();
    }
}
