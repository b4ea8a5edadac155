//! One incident from its first look to its end: look, judge, climb, run the rung, and again.

use crate::event;
use crate::runs::Inner;
use crate::runs::book::{self, Asked, Mark};
use crate::runs::node::Node;
use crate::runs::story::What;
use crate::runs::told::{End, Halt, Said, Told};
use crate::sight::{Glance, chain};
use lifeline_core::clock::Stamp;
use lifeline_core::engine::Ending;
use lifeline_core::incident::{Climb, Incident, Run};
use lifeline_core::metrics::ASK;
use lifeline_core::plan::{Consent, NodePlan, Rung};
use std::sync::Arc;
use std::time::Duration;

/// However it climbs, an incident ends: milliseconds of boot time.
const LONGEST_MS: u64 = 30 * 60 * 1_000;

impl<N: Node> Inner<N> {
    /// Conducts a new incident to its end.
    pub async fn conduct(self: Arc<Self>, mut told: Told, by: String, asked: Asked) {
        let end = match asked {
            Asked::Heal { consent, stability_ms, .. } => {
                let id = told.story.incident.clone();
                let incident = opened(id, self.clock.now(), by, consent, stability_ms);
                self.heal(&mut told, incident).await
            }
            Asked::Reboot { .. } => self.reboot(&mut told, by).await,
            Asked::Undo { run } => self.undo(&mut told, by, &run).await,
        };
        self.finish(told, end).await;
    }

    /// Writes the end down and frees the place for the next incident.
    pub async fn finish(&self, mut told: Told, end: Result<End, Halt>) {
        let incident = told.story.incident.clone();
        let end = match end {
            Ok(end) => end,
            Err(Halt::Leaving) => {
                tracing::info!("incident {incident} is left for the next start");
                return;
            }
            Err(why) => {
                tracing::error!("incident {incident}: {}", chain(&why));
                End::of(Ending::Held, format!("nothing more is done: {}", chain(&why)))
            }
        };
        let about = event::About {
            incident: Some(&incident),
            ending: Some(end.ending),
            ..event::About::default()
        };
        let words = format!("incident {incident} ended: {}: {}", end.ending, end.text);
        event::tell(&event::ENDED, about, &words);
        let ending = end.ending.to_string();
        let said = end.text.clone();
        let mark = Mark::Ended { ending: ending.clone(), text: end.text, lacks: end.lacks };
        let number = told.story.next();
        let line = match told.book.write(number, mark.clone()).await {
            Ok(line) => line,
            Err(why) => {
                // Watchers are told all the same; the next start finds it open and closes it.
                tracing::error!("incident {incident}: {}", chain(&why));
                book::Line { number, stamp: self.clock.now(), mark }
            }
        };
        {
            let mut state = self.state();
            if let Some(summary) = state.index.get_mut(&incident) {
                (summary.ending, summary.said) = (Some(ending), said);
            }
            state.live = None;
            state.tally.incident(end.ending);
        }
        // Told when the place is free: whoever hears the end may ask for the next at once.
        told.story.push(What::Mark(line));
        if let Err(why) = told.book.seal().await {
            tracing::debug!("{}", chain(&why));
        }
    }

    /// Climbs until the end. The guard may stand all the while.
    pub async fn heal(&self, told: &mut Told, incident: Incident) -> Result<End, Halt> {
        self.node.hold(true).await;
        let alone = incident.alone;
        let end = self.climb(told, incident).await;
        if !alone {
            self.node.forgive();
        }
        // Left for the next start: the guard stays until that has looked.
        if !matches!(end, Err(Halt::Leaving)) {
            self.node.hold(false).await;
        }
        end
    }

    async fn climb(&self, told: &mut Told, mut incident: Incident) -> Result<End, Halt> {
        let mut said = Said::default();
        // What the agent opens it for has just been seen, and the guard stood or was not wanted: on a node whose path is dead each
        // look waits a second for it.
        let seen = incident.alone && incident.runs.is_empty();
        let mut first = seen.then(|| self.sight.current());
        loop {
            if self.is_leaving() {
                return Err(Halt::Leaving);
            }
            if let Some(by) = told.cancelled() {
                return Ok(End::of(Ending::Cancelled, format!("cancelled by {by}")));
            }
            if self.clock.now().since(&incident.opened).is_none_or(|ms| ms > LONGEST_MS) {
                return Ok(End::of(Ending::Held, "it has taken half an hour: a human should look"));
            }
            let glance = match first.take() {
                Some(current) => current.await,
                None => self.sight.look().await,
            };
            let d = &glance.diagnosis;
            let verdict =
                format!("{}{}: {}", d.verdict, if d.guarded { ", guarded" } else { "" }, d.summary);
            said.verdict(told, verdict).await?;
            said.kept(told, d).await?;
            let next = self.node.climb(
                &mut incident,
                &glance.seen,
                &glance.base,
                &self.policy,
                &glance.diagnosis,
            );
            match next {
                Climb::Plan(plan) => {
                    if let Some(end) = self.objection(&plan, &glance, &incident) {
                        return Ok(end);
                    }
                    if plan.rung == Rung::Reboot
                        && let Err(why) = self.spend_reboot().await
                    {
                        return Ok(End::of(Ending::Held, format!("{}; {why}", d.summary)));
                    }
                    if let Some(end) = self.afford(told, &incident, &plan, &glance).await? {
                        return Ok(end);
                    }
                    let run = self.rung(told, &mut incident, plan, &glance).await?;
                    incident.runs.push(run);
                }
                Climb::Watch(ms, what) => {
                    said.wait(told, what).await?;
                    self.pause(told, ms).await;
                }
                Climb::Ask(plan, lacks) => {
                    let text = format!(
                        "rung {} ({}) needs consent: {}",
                        plan.rung.number(),
                        plan.rung.word(),
                        lacks.join(", ")
                    );
                    return Ok(End { ending: ASK, text, lacks });
                }
                Climb::Close(ending, text) => return Ok(End::of(ending, text)),
            }
        }
    }

    /// Writes the attempt down before it is made. The agent alone makes none that is not written down or not allowed; an
    /// operator is told, and decided already.
    async fn afford(
        &self,
        told: &mut Told,
        incident: &Incident,
        plan: &NodePlan,
        glance: &Glance,
    ) -> Result<Option<End>, Halt> {
        let accounts = lifeline_core::alone::accounts(plan, &glance.diagnosis, &glance.seen);
        let (rung, now) = (plan.rung.number(), self.clock.now());
        if let Some((account, ms)) = self.store.used_up(&accounts, rung, &now) {
            let held = lifeline_core::alone::exhausted(&account, ms);
            if incident.alone {
                let words = format!("incident {}: {}", incident.id, held.why);
                let about =
                    event::About { incident: Some(&incident.id), ..event::About::default() };
                event::tell(&event::HELD, about, &words);
                return Ok(Some(End::of(Ending::Unwell, held.why)));
            }
            told.note("budget", format!("the agent alone would wait: {}", held.why)).await?;
        }
        let store = self.store.clone();
        let spending = tokio::task::spawn_blocking(move || store.spend(&accounts, rung, &now));
        let why = match tokio::time::timeout(crate::lines::DEADLINE, spending).await {
            Ok(Ok(Ok(()))) => return Ok(None),
            Ok(Ok(Err(why))) => chain(&why),
            Ok(Err(why)) => why.to_string(),
            Err(_) => "the disk does not answer".to_string(),
        };
        if incident.alone {
            let text = format!("nothing is done, because it cannot be written down: {why}");
            return Ok(Some(End::of(Ending::Held, text)));
        }
        told.note("budget", format!("the attempt could not be counted: {why}")).await?;
        Ok(None)
    }

    /// Two second opinions before anything is touched: the consent's, and the plan checker's.
    fn objection(&self, plan: &NodePlan, glance: &Glance, incident: &Incident) -> Option<End> {
        let lacks = incident.consent.lacks(plan);
        if !lacks.is_empty() {
            let text = format!("rung {} needs consent: {}", plan.rung.number(), lacks.join(", "));
            return Some(End { ending: ASK, text, lacks });
        }
        let against = self.node.check(plan, &glance.seen, &glance.base);
        if against.is_empty() {
            return None;
        }
        tracing::error!(
            "the plan for rung {} is refused: {}",
            plan.rung.number(),
            against.join("; ")
        );
        Some(End::of(Ending::Held, format!("the plan was not safe: {}", against.join("; "))))
    }

    async fn pause(&self, told: &mut Told, ms: u64) {
        let mut leaving = self.leaving.subscribe();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(ms)) => {}
            Ok(_) = leaving.wait_for(|l| *l) => {}
            Ok(_) = told.cancel.wait_for(Option::is_some) => {}
        }
    }

    /// An incident as its file and its runs' journals tell it.
    pub fn remembered(
        &self,
        id: &str,
        by: &str,
        opened: Stamp,
        asked: &Asked,
        runs: Vec<Run>,
    ) -> Incident {
        let (consent, stability_ms) = Self::agreed(asked);
        let mut incident =
            self::opened(id.to_string(), opened, by.to_string(), consent, stability_ms);
        incident.runs = runs;
        incident
    }
}

/// An incident as whoever opened it may conduct it.
fn opened(id: String, at: Stamp, by: String, consent: Consent, stability_ms: u64) -> Incident {
    let alone = by == crate::alone::BY;
    let incident = Incident::new(id, at, by, consent, stability_ms);
    if alone { incident.by_itself() } else { incident }
}
