//! One incident from its first look to its end: look, judge, climb, run the rung, and again.

use crate::event;
use crate::journal::{self, Disk, JournalError};
use crate::runs::Inner;
use crate::runs::body::{Body, Heard};
use crate::runs::book::{self, Asked, Book, Mark};
use crate::runs::node::Node;
use crate::runs::story::{Story, What};
use crate::sight::{Glance, chain};
use lifeline_core::clock::Stamp;
use lifeline_core::engine::{self, Ending};
use lifeline_core::incident::{Climb, Incident, Run};
use lifeline_core::metrics::ASK;
use lifeline_core::op::{NodeOp, Op, Seen};
use lifeline_core::plan::{Consent, NodePlan, Rung};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// However it climbs, an incident ends: milliseconds of boot time.
const LONGEST_MS: u64 = 30 * 60 * 1_000;

/// An incident's file and its listeners.
#[derive(Debug)]
pub struct Told {
    /// The file.
    pub book: Book,
    /// The listeners.
    pub story: Arc<Story>,
    /// Who asked to cancel.
    pub cancel: watch::Receiver<Option<String>>,
    /// Which run was confirmed, and by whom.
    pub confirm: watch::Receiver<Option<(String, String)>>,
}

/// How an incident ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// As the wire has it.
    pub ending: &'static str,
    /// For people.
    pub text: String,
    /// What the consent did not cover.
    pub lacks: Vec<String>,
}

impl End {
    /// An end that lacks nothing.
    pub fn of(ending: Ending, text: impl Into<String>) -> Self {
        Self { ending: ending.word(), text: text.into(), lacks: Vec::new() }
    }
}

/// Why an incident cannot go on in this process.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// The agent is being stopped; the next one goes on.
    #[error("the agent is being stopped")]
    Leaving,
    /// A run's journal.
    #[error("the run cannot be journalled")]
    Journal(#[source] JournalError),
    /// The incident's file.
    #[error("the incident cannot be written down")]
    Book(#[from] book::BookError),
}

impl From<JournalError> for Halt {
    fn from(why: JournalError) -> Self {
        match why {
            JournalError::Leaving { .. } => Self::Leaving,
            other => Self::Journal(other),
        }
    }
}

impl Told {
    /// Writes a mark, then tells it.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn mark(&mut self, mark: Mark) -> Result<(), Halt> {
        let line = self.book.write(self.story.next(), mark).await?;
        self.story.push(What::Mark(line));
        Ok(())
    }

    /// Writes a note.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn note(&mut self, kind: &str, text: impl Into<String>) -> Result<(), Halt> {
        self.mark(Mark::Note { kind: kind.to_string(), text: text.into() }).await
    }

    /// Who asked to cancel, if anybody has.
    pub fn cancelled(&self) -> Option<String> {
        self.cancel.borrow().clone()
    }
}

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
                summary.ending = Some(ending);
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
        let end = self.climb(told, incident).await;
        // Left for the next start: the guard stays until that has looked.
        if !matches!(end, Err(Halt::Leaving)) {
            self.node.hold(false).await;
        }
        end
    }

    async fn climb(&self, told: &mut Told, mut incident: Incident) -> Result<End, Halt> {
        let mut said = Said::default();
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
            let glance = self.sight.look().await;
            let d = &glance.diagnosis;
            let verdict =
                format!("{}{}: {}", d.verdict, if d.guarded { ", guarded" } else { "" }, d.summary);
            said.verdict(told, verdict).await?;
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
                tracing::error!("incident {}: {}", incident.id, held.why);
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

    async fn rung(
        &self,
        told: &mut Told,
        incident: &mut Incident,
        plan: NodePlan,
        glance: &Glance,
    ) -> Result<Run, Halt> {
        if incident.runs.is_empty() {
            self.bundle(told, glance).await?;
        }
        let run = format!("{}.{}-{}", incident.id, incident.runs.len() + 1, plan.rung.word());
        let by = incident.by.clone();
        self.open_run(told, &run, &run, plan, by).await
    }

    /// Opens a run's journal and runs it to its end, with the hands of that run or of the one that it undoes.
    pub async fn open_run(
        &self,
        told: &mut Told,
        run: &str,
        hands: &str,
        plan: NodePlan,
        by: String,
    ) -> Result<Run, Halt> {
        // The mark comes first: a run that is marked and has no journal has done nothing.
        let mark =
            Mark::Run { run: run.to_string(), rung: plan.rung, findings: plan.findings.clone() };
        told.mark(mark).await?;
        if let Some(s) = self.state().index.get_mut(&told.story.incident) {
            s.runs.push(run.to_string());
            for f in &plan.findings {
                if !s.findings.contains(f) {
                    s.findings.push(f.clone());
                }
            }
        }
        let disk = Disk::create(&self.dir, run, self.clock.now(), plan.clone(), by).await?;
        let about = event::About {
            incident: Some(&told.story.incident),
            run: Some(run),
            rung: Some(plan.rung.word()),
            fault: plan.findings.first().map(String::as_str),
            ..event::About::default()
        };
        let (rung, n) = (plan.rung.word(), plan.steps.len());
        event::tell(&event::RUN, about, &format!("run {run} opened: rung {rung}, {n} steps"));
        let heard = self.heard(told, disk, plan);
        heard.tell_last();
        self.drive(heard, hands).await
    }

    fn heard<'a>(&self, told: &'a Told, disk: Disk, plan: NodePlan) -> Heard<'a> {
        let (cancel, confirm) = (told.cancel.clone(), told.confirm.clone());
        Heard { disk, plan, story: &told.story, cancel, confirm, leaving: self.leaving.subscribe() }
    }

    /// Goes on with a run that was left.
    pub async fn go_on(&self, told: &Told, disk: Disk, hands: &str) -> Result<Run, Halt> {
        let plan = journal::plan(engine::Journal::entries(&disk)).cloned();
        // Opening checks that the first entry holds the plan.
        let Some(plan) = plan else { return Err(Halt::Leaving) };
        self.drive(self.heard(told, disk, plan), hands).await
    }

    async fn drive(&self, mut heard: Heard<'_>, hands: &str) -> Result<Run, Halt> {
        let leaving = self.leaving.subscribe();
        let run = hands.to_string();
        let mut body = Body {
            node: &*self.node,
            sight: &self.sight,
            clock: &self.clock,
            run,
            leaving,
            cancel: heard.cancel.clone(),
            confirm: heard.confirm.clone(),
        };
        let ending = engine::run(&mut body, &mut heard).await?;
        // The timer outside finds a run that has ended and does nothing; but nobody should wonder what it waits for.
        if heard.plan.steps.iter().any(|s| s.op.asks())
            && let Err(why) =
                self.node.act(hands, &NodeOp::Disarmed, &Seen::Timer { armed: true }).await
        {
            tracing::warn!("{}", why.why);
        }
        if let Err(why) = heard.disk.seal().await {
            tracing::warn!("{}", chain(&why));
        }
        let (id, rung) = (heard.disk.run().to_string(), heard.plan.rung);
        let about = event::About {
            incident: Some(&heard.story.incident),
            run: Some(&id),
            rung: Some(rung.word()),
            ending: Some(ending.word()),
            ..event::About::default()
        };
        self.state().tally.run(rung, ending);
        event::tell(&event::RAN, about, &format!("run {id} ended: {}", ending.word()));
        Ok(Run { id, rung, ending, at: self.clock.now() })
    }

    /// What was seen, kept before the first change; a disk that takes no evidence takes no journal either, so this is no
    /// reason to stop.
    pub async fn bundle(&self, told: &mut Told, glance: &Glance) -> Result<(), Halt> {
        let mut files = vec![
            ("observation.json", serde_json::to_vec_pretty(&*glance.seen).unwrap_or_default()),
            ("baseline.json", serde_json::to_vec_pretty(&*glance.base).unwrap_or_default()),
            ("diagnosis.json", serde_json::to_vec_pretty(&*glance.diagnosis).unwrap_or_default()),
        ];
        files.extend(self.node.testify().await);
        let (store, incident) = (self.store.clone(), told.story.incident.clone());
        let kept = tokio::task::spawn_blocking(move || store.bundle(&incident, &files));
        match tokio::time::timeout(crate::lines::DEADLINE, kept).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(why))) => told.note("evidence", format!("not kept: {}", chain(&why))).await,
            Ok(Err(why)) => told.note("evidence", format!("not kept: {why}")).await,
            Err(_) => told.note("evidence", "not kept: the disk does not answer").await,
        }
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

/// What was said last, of each kind: a wait of a minute is one line, not sixty.
#[derive(Debug, Default)]
struct Said {
    verdict: String,
    wait: String,
}

impl Said {
    async fn verdict(&mut self, told: &mut Told, text: String) -> Result<(), Halt> {
        if self.verdict != text {
            told.note("verdict", text.clone()).await?;
            self.verdict = text;
        }
        Ok(())
    }

    async fn wait(&mut self, told: &mut Told, text: String) -> Result<(), Halt> {
        if self.wait != text {
            told.note("wait", text.clone()).await?;
            self.wait = text;
        }
        Ok(())
    }
}
