//! The self-heal loop: after each judged look in mode `heal` it opens an incident by itself, when a finding that needs no
//! operator has been there for long enough, the baseline is one that somebody or the node itself vouches for, and the
//! budget allows. What is then done is what an operator's heal does. Otherwise the guard stands, and it says why.

use crate::event;
use crate::runs::{Node, Refused, Runs};
use crate::sight::{Glance, Sight, chain};
use crate::store::{Store, disk};
use lifeline_core::alone::{self, Held, Resolve, Vigil};
use lifeline_core::budget;
use lifeline_core::plan::Consent;
use lifeline_core::policy::{Mode, Policy};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// As it is journalled. No operator is called so: theirs is `operator NAME`.
pub const BY: &str = "lifeline-agent";

/// How long the node must stay well at the end: longer than the slowest of a kubelet's first restarts of a container (0, 10 and
/// 20 s), so that a culprit that comes back is met in the same incident.
const STABILITY_MS: u64 = 30_000;

/// What is held back is said again after this long.
const REMIND: Duration = Duration::from_secs(600);

/// The loop.
#[derive(Debug)]
pub struct Alone<N> {
    runs: Runs<N>,
    sight: Arc<Sight<N>>,
    store: Arc<Store>,
    policy: Arc<Policy>,
    vigil: Vigil,
    said: Option<(String, Instant)>,
}

impl<N: Node> Alone<N> {
    /// Has seen nothing yet.
    pub fn new(
        runs: Runs<N>,
        sight: Arc<Sight<N>>,
        store: Arc<Store>,
        policy: Arc<Policy>,
    ) -> Self {
        Self { runs, sight, store, policy, vigil: Vigil::default(), said: None }
    }

    /// Goes by every look there is, whoever took it, for ever. Ends at once where the mode leaves nothing to it.
    pub async fn keep(mut self) {
        if self.policy.mode != Mode::Heal {
            return;
        }
        let mut latest = self.sight.latest();
        let mut due: Option<Instant> = None;
        loop {
            let wake = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                changed = latest.changed() => if changed.is_err() { return },
                () = sleep_until(wake), if due.is_some() => {
                    due = None;
                    self.sight.fresh().await;
                }
            }
            let glance = latest.borrow_and_update().clone();
            let Some(glance) = glance.filter(|g| !g.late) else { continue };
            // The next look is to have ended by then, and takes as long as this one.
            due = self
                .weigh(&glance)
                .await
                .map(|ms| glance.began + Duration::from_millis(ms).saturating_sub(glance.took));
        }
    }

    /// Acts on a look; says in how many milliseconds the next is wanted.
    async fn weigh(&mut self, glance: &Glance) -> Option<u64> {
        let now = &glance.seen.taken;
        let (budget, blind) = self.store.budget(now);
        let d = &glance.diagnosis;
        let took_ms = u64::try_from(glance.took.as_millis()).unwrap_or(u64::MAX);
        let seen = &glance.seen;
        let resolve = self.vigil.weigh(seen, took_ms, &glance.base, &self.policy, d, &budget);
        // One at a time: whoever asked for the present one is served first.
        if self.runs.under_way().is_some() {
            return None;
        }
        // Asked only when it matters: the past is a list of a hundred.
        let resolve = match resolve {
            Resolve::Open(..) => alone::heed(resolve, &self.runs.past(), now),
            other => other,
        };
        match resolve {
            Resolve::Rest => self.hold(None),
            Resolve::Look(ms) => return Some(ms),
            Resolve::Hold(held) => self.hold(Some(held)),
            Resolve::Open(..) if self.store.trouble().is_some() => {
                let why = self.store.trouble().unwrap_or_default();
                self.hold(Some(Held { why: disk::said(&why), ms: 0 }));
            }
            Resolve::Open(..) if blind > 0 => {
                let why = "what was repaired before this start is not known".to_owned();
                self.hold(Some(Held { why, ms: blind }));
            }
            Resolve::Open(consent, accounts) => self.open(consent, accounts, glance).await,
        }
        None
    }

    async fn open(&mut self, consent: Consent, accounts: Vec<String>, glance: &Glance) {
        let (store, now) = (self.store.clone(), glance.seen.taken.clone());
        let spending =
            tokio::task::spawn_blocking(move || store.spend(&accounts, budget::OPENING, &now));
        let spent = match tokio::time::timeout(crate::lines::DEADLINE, spending).await {
            Ok(Ok(spent)) => spent.map_err(|why| chain(&why)),
            Ok(Err(why)) => Err(why.to_string()),
            Err(_) => Err("the disk does not answer".to_owned()),
        };
        if let Err(why) = spent {
            let why =
                format!("it can guard and not repair, because nothing can be written down: {why}");
            self.hold(Some(Held { why, ms: 0 }));
            return;
        }
        self.hold(None);
        match self.runs.heal_alone(consent, STABILITY_MS).await {
            Ok(incident) => {
                tracing::warn!(%incident, "{}: met by the agent alone", glance.diagnosis.summary);
            }
            // An operator was faster.
            Err(Refused::Busy { .. } | Refused::Leaving) => {}
            Err(why) => {
                let why = format!("it can guard and not repair: {}", chain(&why));
                self.hold(Some(Held { why, ms: 0 }));
            }
        }
    }

    /// Keeps what `Status` tells, and says it aloud when it is new, and again now and then.
    fn hold(&mut self, held: Option<Held>) {
        let Some(held) = held else {
            if self.said.take().is_some() {
                tracing::info!("nothing is held back any more");
            }
            self.runs.hold_back(None);
            return;
        };
        // The time that is left changes with each look; what is said once is said with its first.
        let known = self.said.as_ref().is_some_and(|(_, at)| at.elapsed() < REMIND);
        if !known {
            let words = format!("held: {}", held.why);
            event::tell(&event::HELD, event::About::default(), &words);
            self.said = Some((held.why.clone(), Instant::now()));
        }
        self.runs.hold_back(Some(held.why));
    }
}
