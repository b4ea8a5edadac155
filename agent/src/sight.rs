//! The last look and its judgement, kept fresh by a slow tick; what `Status` answers from, and what feeds the watchdog.
//!
//! Readers share looks: whoever asks while one is under way waits for the next, so that a hundred callers cost two looks. One that
//! hangs is not waited for.
//! No reader ever waits for a recovery.

use crate::aside::aside;
use crate::clock::Clock;
use crate::event;
use crate::lines;
use crate::runs::Node;
use crate::store::Store;
use lifeline_core::baseline::Baseline;
use lifeline_core::clock::Stamp;
use lifeline_core::diagnosis::{Diagnosis, Verdict};
use lifeline_core::observation::{Gap, Observation, Sense};
use lifeline_core::policy::Policy;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::Instant;

/// Between two looks.
const TICK: Duration = Duration::from_secs(5);
/// Longest time between two looks, however much one costs.
const SLOWEST: Duration = Duration::from_secs(30);
/// How long one look may take. It is bounded within, too; this is for what nobody thought of.
const DEADLINE: Duration = Duration::from_secs(30);

/// A look that is under way is waited for this long before one is begun beside it: many times what a look takes, and little beside
/// what a program may take that hangs in it.
const PATIENCE: Duration = Duration::from_millis(500);

/// A look that ended no longer ago than this is of now: between it and the incident that it opens, two lines are written to disk.
const JUST_NOW: Duration = Duration::from_millis(300);

/// Changes that come within this time are looked at once.
const COALESCE: Duration = Duration::from_millis(100);

/// How soon after a look the next may come.
#[derive(Debug, Default)]
struct Pace {
    /// Without a hint.
    rest: Duration,
    /// After a hint. It doubles while hints go on and change nothing, so that a pod that flaps a route costs what a tick costs.
    gap: Duration,
}

impl Pace {
    fn looked(&mut self, took: Duration, news: bool) {
        // A node with 100 000 routes is looked at less often: a look may take a twentieth of one processor.
        self.rest = (took * 20).clamp(TICK, SLOWEST);
        self.gap = if news { COALESCE } else { (self.gap * 2).clamp(COALESCE, self.rest) };
    }

    fn calm(&mut self) {
        self.gap = Duration::ZERO;
    }
}

/// One look, judged.
#[derive(Clone, Debug)]
pub struct Glance {
    /// What was seen.
    pub seen: Arc<Observation>,
    /// What it was compared with.
    pub base: Arc<Baseline>,
    /// What it means.
    pub diagnosis: Arc<Diagnosis>,
    /// When the look began.
    pub began: Instant,
    /// How long it took.
    pub took: Duration,
    /// The look did not end in time: this is no progress.
    pub late: bool,
}

/// Looks, and remembers the last look.
#[derive(Debug)]
pub struct Sight<N> {
    node: Arc<N>,
    store: Arc<Store>,
    policy: Arc<Policy>,
    clock: Clock,
    latest: watch::Sender<Option<Glance>>,
    /// Taken by the look that is shared, and by the one beside it when that hangs.
    seats: [Mutex<()>; 2],
    hint: Notify,
    looks: AtomicU64,
}

impl<N: Node> Sight<N> {
    /// Has not looked yet.
    pub fn new(node: Arc<N>, store: Arc<Store>, policy: Arc<Policy>, clock: Clock) -> Self {
        let (latest, seats, hint) = (watch::Sender::new(None), Default::default(), Notify::new());
        let looks = AtomicU64::new(0);
        Self { node, store, policy, clock, latest, seats, hint, looks }
    }

    /// How often it has looked.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// The last look, whoever took it.
    pub fn latest(&self) -> watch::Receiver<Option<Glance>> {
        self.latest.subscribe()
    }

    /// Something may have changed: the next look comes as soon as its rate allows.
    pub fn nudge(&self) {
        self.hint.notify_one();
    }

    /// Looks now.
    pub async fn look(&self) -> Glance {
        let began = Instant::now();
        let base = self.store.baseline();
        let (seen, late) = match tokio::time::timeout(DEADLINE, self.node.look(base.clone())).await
        {
            Ok(seen) => (seen, false),
            Err(_) => (blind(self.clock.now(), "the look did not end in time"), true),
        };
        let (node, policy) = (self.node.clone(), self.policy.clone());
        let (seen, base, diagnosis) = aside(move || {
            // A baseline made from what is there permits guards only.
            let base = base.unwrap_or_else(|| Arc::new(node.derive(&seen)));
            let diagnosis = node.judge(&seen, &base, &policy);
            (Arc::new(seen), base, diagnosis)
        })
        .await;
        let glance = Glance {
            seen,
            base,
            diagnosis: Arc::new(diagnosis),
            began,
            took: began.elapsed(),
            late,
        };
        self.looks.fetch_add(1, Ordering::Relaxed);
        // Looks overlap: one that began earlier and ended later does not speak over a newer one.
        let known = self.latest.borrow().as_ref().map(|known| known.began);
        if known.is_none_or(|known| known <= glance.began) {
            self.node.heed(&glance.seen, &glance.diagnosis, &glance.base);
            self.latest.send_replace(Some(glance.clone()));
        }
        glance
    }

    /// The last look, if it has ended just now, or one more: who acts on a look has asked for nothing else meanwhile, and looks at each
    /// thing again before it is touched.
    pub async fn current(&self) -> Glance {
        let latest = self.latest.borrow().clone();
        match latest {
            Some(glance) if !glance.late && glance.began.elapsed() < glance.took + JUST_NOW => {
                glance
            }
            _ => self.look().await,
        }
    }

    /// A look that began after this call did.
    pub async fn fresh(&self) -> Glance {
        let asked = Instant::now();
        let [shared, beside] = &self.seats;
        // One that hangs ends by its own limit, and ours does not come on top of that.
        let _seat = match tokio::time::timeout(PATIENCE, shared.lock()).await {
            Ok(seat) => seat,
            Err(_) => beside.lock().await,
        };
        let newest = self.latest.borrow().clone();
        match newest {
            Some(glance) if glance.began >= asked => glance,
            _ => self.look().await,
        }
    }

    /// Looks for ever, learns the baseline, and calls `progress` after each look that ended.
    pub async fn keep_looking(&self, mut progress: impl FnMut()) {
        let (mut said, mut pace) = (None, Pace::default());
        loop {
            let began = Instant::now();
            let glance = self.fresh().await;
            if !glance.late {
                progress();
            }
            let now = (glance.diagnosis.verdict, glance.diagnosis.guarded);
            let news = said.replace(now) != Some(now);
            if news {
                let d = &glance.diagnosis;
                let (verdict, guarded) =
                    (d.verdict.to_string(), if d.guarded { ", guarded" } else { "" });
                let about = event::About {
                    verdict: Some(&verdict),
                    fault: d.findings.first().map(|f| f.fault.as_str()),
                    ..event::About::default()
                };
                event::tell(&event::VERDICT, about, &format!("{verdict}{guarded}: {}", d.summary));
            }
            self.learn(&glance).await;
            pace.looked(began.elapsed(), news);
            let hint = async {
                self.hint.notified().await;
                // Changes come in bursts.
                tokio::time::sleep(COALESCE.max(pace.gap)).await;
            };
            tokio::select! {
                () = tokio::time::sleep(pace.rest) => pace.calm(),
                () = hint => {}
            }
        }
    }

    /// Only a node that is well by itself teaches what well is.
    async fn learn(&self, glance: &Glance) {
        if glance.diagnosis.verdict != Verdict::Healthy || glance.diagnosis.guarded {
            return;
        }
        match self.node.learn(&glance.seen, &glance.diagnosis, &glance.base) {
            // Kept only when it says something new: a disk is not written to every five seconds for nothing.
            Ok(learned) if !same(&learned, self.store.baseline().as_deref()) => {
                self.keep(learned).await;
            }
            Ok(_) => {}
            Err(why) => tracing::debug!("nothing is learnt: {why}"),
        }
    }

    /// Keeps a baseline; the disk is given its time on another thread.
    pub async fn keep(&self, baseline: Baseline) -> Arc<Baseline> {
        let (store, fallback) = (self.store.clone(), baseline.clone());
        let keeping = tokio::task::spawn_blocking(move || store.keep(baseline));
        // A disk that hangs must not stop the looking.
        let why = match tokio::time::timeout(lines::DEADLINE, keeping).await {
            Ok(Ok(Ok(kept))) => {
                tracing::info!("baseline {} kept", kept.generation);
                return kept;
            }
            Ok(Ok(Err(why))) => chain(&why),
            Ok(Err(why)) => why.to_string(),
            Err(_) => "the disk does not answer".to_string(),
        };
        tracing::warn!("the baseline will not outlive this process: {why}");
        self.store.baseline().unwrap_or_else(|| Arc::new(fallback))
    }
}

/// Says the same, whenever it was taken.
fn same(new: &Baseline, old: Option<&Baseline>) -> bool {
    old.is_some_and(|old| {
        let dated =
            Baseline { taken: old.taken.clone(), generation: old.generation, ..new.clone() };
        dated == *old
    })
}

/// Nothing could be seen.
pub fn blind(taken: Stamp, why: &str) -> Observation {
    Observation {
        taken,
        gaps: Sense::ALL.iter().map(|what| Gap { what: *what, why: why.to_string() }).collect(),
        ..Observation::default()
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeline_core::engine::Failure;
    use lifeline_core::op::{NodeOp, Seen};

    /// A node whose first look takes this long, and whose others take no time.
    #[derive(Debug)]
    struct Slow(Duration, AtomicU64);

    impl Node for Slow {
        async fn look(&self, _: Option<Arc<Baseline>>) -> Observation {
            if self.1.fetch_add(1, Ordering::Relaxed) == 0 {
                tokio::time::sleep(self.0).await;
            }
            Observation::default()
        }

        async fn see(&self, _: &str, _: &NodeOp) -> Result<Seen, String> {
            Err("nothing is looked at".to_string())
        }

        async fn act(&self, _: &str, op: &NodeOp, _: &Seen) -> Result<(), Failure> {
            unreachable!("{op:?} is asked of nobody")
        }

        async fn hold(&self, _: bool) {}
    }

    fn sight(first: Duration) -> (tempfile::TempDir, Arc<Sight<Slow>>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).0);
        let node = Arc::new(Slow(first, AtomicU64::new(0)));
        let sight = Sight::new(node, store, Arc::default(), Clock::read().unwrap());
        (dir, Arc::new(sight))
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_not_waited_for() {
        let (_dir, sight) = sight(Duration::from_secs(20));
        let hanging = tokio::spawn({
            let sight = sight.clone();
            async move { sight.fresh().await }
        });
        tokio::task::yield_now().await;
        let fresh = tokio::time::timeout(PATIENCE * 4, sight.fresh()).await;
        assert!(fresh.is_ok() && !hanging.is_finished());
        hanging.abort();
    }

    #[tokio::test]
    async fn a_look_that_has_just_ended_is_current_and_an_older_one_is_not() {
        let (_dir, sight) = sight(Duration::from_millis(500));
        let first = sight.current().await;
        assert!(first.took > JUST_NOW, "it counts from its end");
        assert_eq!(sight.current().await.began, first.began);
        tokio::time::sleep(JUST_NOW).await;
        assert!(sight.current().await.began > first.began && sight.looks() == 2);
    }

    #[tokio::test]
    async fn a_look_that_ends_late_does_not_speak_over_a_newer_one() {
        let (_dir, sight) = sight(Duration::from_millis(200));
        let late = tokio::spawn({
            let sight = sight.clone();
            async move { sight.look().await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let newer = sight.look().await;
        let late = late.await.unwrap();
        assert!(late.began < newer.began && sight.looks() == 2);
        let known = sight.latest().borrow().as_ref().map(|g| g.began);
        assert_eq!(known, Some(newer.began));
    }
}
