//! The real node: looks, hands and guard behind the one trait that recoveries are written against.

mod drill;

use crate::act::{Hands, Paths};
use crate::children::Call;
use crate::guard::{Guard, Note, Order};
use crate::look::Look;
use crate::netlink::{Kernel, TcpSocket};
use crate::runs::Node;
use crate::sight::chain;
use lifeline_core::baseline::{self, Baseline};
use lifeline_core::diagnosis::{Diagnosis, Verdict};
use lifeline_core::drill::Trial;
use lifeline_core::engine::Failure;
use lifeline_core::filter::{self, Marked};
use lifeline_core::guard::Stand;
use lifeline_core::metrics;
use lifeline_core::observation::{Observation, Sense};
use lifeline_core::op::{NodeOp, Seen};
use lifeline_core::policy::{Mode, Policy};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// How long the guard may take to stand before a recovery goes on without it.
const GUARD: Duration = Duration::from_secs(5);

/// The node this process runs on.
#[derive(Debug)]
pub struct Worker {
    look: Look,
    guard: Guard,
    kernel: Kernel,
    paths: Paths,
    policy: Policy,
    told: Arc<Mutex<Told>>,
}

/// What the guard goes by.
#[derive(Debug, Default)]
struct Told {
    recovering: bool,
    /// An incident is under way.
    incident: bool,
    /// The last judgement said that the routing is not right.
    needed: bool,
    /// `main` itself is damaged, as a full look said.
    mirror: bool,
    moved: bool,
    base: Option<Arc<Baseline>>,
    /// How often an operator's recovery has ended.
    forgiven: u64,
    /// What the packet filter writes on critical calls.
    marks: Vec<Marked>,
    drill: drill::Seat,
}

impl Worker {
    /// Puts the parts together.
    pub fn new(
        look: Look,
        guard: Guard,
        kernel: Kernel,
        paths: Paths,
        policy: &Policy,
        base: Option<Arc<Baseline>>,
    ) -> Self {
        let told = Arc::new(Mutex::new(Told { base, ..Told::default() }));
        tokio::spawn(bury(guard.notes(), kernel.clone(), Arc::clone(&told)));
        Self { look, guard, kernel, paths, policy: policy.clone(), told }
    }

    fn hands(&self, run: &str) -> Hands {
        Hands::new(self.kernel.clone(), self.paths.clone(), run)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What should stand, by all that has been told.
    fn order(&self) -> Order {
        let told = self.told();
        let stand = match (self.policy.mode, told.recovering) {
            (Mode::Observe, false) => Stand::Lifeline,
            // Somebody changed it on purpose and it works: nothing of ours is put in its way.
            _ if told.moved => Stand::Lifeline,
            _ if told.mirror => Stand::GuardByMirror,
            _ => Stand::Guard,
        };
        Order {
            stand,
            base: told.base.clone(),
            moved: told.moved,
            forgiven: told.forgiven,
            marks: told.marks.clone(),
            drill: told.drill.order.clone(),
        }
    }
}

/// Closes what died with the capture as soon as the guard stands: a socket that was dialled meanwhile keeps the captor's
/// source address and stays dead for minutes, although its path is right again. Only towards what the guard protects: an
/// operator's session over the captor's own network lives.
async fn bury(mut notes: Receiver<Note>, kernel: Kernel, told: Arc<Mutex<Told>>) {
    loop {
        let sources = match notes.recv().await {
            Ok(Note::Raised { sources, .. }) if !sources.is_empty() => sources,
            Ok(_) | Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        let base = told.lock().unwrap_or_else(PoisonError::into_inner).base.clone();
        let Some(base) = base else { continue };
        let sockets = match tokio::time::timeout(GUARD, kernel.tcp_sockets()).await {
            Ok(Ok(sockets)) => sockets,
            Ok(Err(why)) => {
                tracing::warn!("find what died with the capture: {}", chain(&why));
                continue;
            }
            Err(_) => continue,
        };
        let dead = |s: &&TcpSocket| {
            let (src, dst) = (s.socket.src.ip(), s.socket.dst.ip());
            sources.contains(&src) && base.expected.iter().any(|e| e.prefix.contains(dst))
        };
        for socket in sockets.iter().filter(dead) {
            let (src, dst) = (socket.socket.src, socket.socket.dst);
            match kernel.destroy_socket(socket).await {
                Ok(_) => tracing::info!("the dead connection {src} to {dst} was closed"),
                Err(why) => {
                    tracing::warn!("close the dead connection {src} to {dst}: {}", chain(&why));
                }
            }
        }
    }
}

impl Node for Worker {
    async fn look(&self, base: Option<Arc<Baseline>>) -> Observation {
        if let Some(base) = base {
            self.look.expect(base.expected.clone());
        }
        self.look.full().await
    }

    async fn see(&self, run: &str, op: &NodeOp) -> Result<Seen, String> {
        self.hands(run).look(op).await
    }

    async fn act(&self, run: &str, op: &NodeOp, before: &Seen) -> Result<(), Failure> {
        self.hands(run).act(op, before).await
    }

    async fn testify(&self) -> Vec<(&'static str, Vec<u8>)> {
        let tail = Call::new("journalctl")
            .args([
                "-u",
                self.policy.unit.as_str(),
                "-n",
                "500",
                "--no-pager",
                "-o",
                "short-iso-precise",
            ])
            .limit(Duration::from_secs(3));
        let said = match tail.run().await.and_then(crate::children::Ran::checked) {
            Ok(ran) => ran.stdout,
            Err(why) => format!("could not be read: {}\n", chain(&why)).into_bytes(),
        };
        vec![("unit.log", said)]
    }

    fn learn(
        &self,
        seen: &Observation,
        diagnosis: &Diagnosis,
        old: &Baseline,
    ) -> Result<Baseline, String> {
        // Well by what a recovery has just done, and may take back, is not what this node is like.
        if self.told().incident {
            return Err("an incident is under way".to_string());
        }
        baseline::learn(seen, diagnosis, Some(old))
    }

    async fn hold(&self, recovering: bool) {
        {
            let mut told = self.told();
            told.incident = recovering;
            // A recovery that ends without success leaves its guard: the operator asked for help, and a node that is
            // contained is better than one that is cut off. It goes when a look says that it is not needed.
            told.recovering = recovering || told.needed;
            if recovering {
                told.drill.break_off("a recovery has begun");
            }
        }
        self.guard.order(self.order());
        self.guard.settled(GUARD).await;
    }

    async fn drill(&self, base: Arc<Baseline>) -> Result<Trial, String> {
        drill::run(self, &base).await
    }

    async fn end_drill(&self, why: &str) {
        self.told().drill.break_off(why);
        self.guard.order(self.order());
        self.guard.settled(GUARD).await;
    }

    fn forgive(&self) {
        self.told().forgiven += 1;
    }

    fn guard(&self) -> metrics::Guard {
        let state = self.guard.state();
        metrics::Guard {
            standing: state.guarded,
            helpless: state.no_room.is_some() || state.trouble.is_some(),
            raised: state.raised,
        }
    }

    fn heed(&self, seen: &Observation, diagnosis: &Diagnosis, base: &Arc<Baseline>) {
        let before = self.order();
        {
            let mut told = self.told();
            match diagnosis.verdict {
                Verdict::Moved => (told.moved, told.mirror) = (true, false),
                Verdict::Captured | Verdict::Lost => {
                    (told.moved, told.mirror) = (false, base.is_trusted());
                }
                Verdict::Healthy => (told.moved, told.mirror) = (false, false),
                // These say nothing about the routing: what was, stays.
                Verdict::Filtered
                | Verdict::KubeletStuck
                | Verdict::Upstream
                | Verdict::Unknown => {}
            }
            match diagnosis.verdict {
                Verdict::Captured | Verdict::Lost => told.needed = true,
                Verdict::Healthy | Verdict::Moved => {
                    told.needed = false;
                    told.recovering &= told.incident;
                }
                Verdict::Filtered
                | Verdict::KubeletStuck
                | Verdict::Upstream
                | Verdict::Unknown => {}
            }
            if diagnosis.verdict != Verdict::Healthy {
                told.drill.break_off(&format!("the node is {}", diagnosis.verdict));
            }
            told.base = Some(base.clone());
            // What could not be read is not gone.
            let filters =
                [Sense::Legacy4, Sense::Legacy6, Sense::Nft4, Sense::Nft6, Sense::Cluster];
            if !filters.into_iter().any(|s| seen.has_gap(s)) {
                told.marks = filter::marks(seen);
            }
        }
        let after = self.order();
        let same = before.stand == after.stand
            && before.moved == after.moved
            && before.base.as_deref() == after.base.as_deref()
            && before.marks == after.marks
            && before.drill == after.drill;
        if !same {
            self.guard.order(after);
        }
    }
}
