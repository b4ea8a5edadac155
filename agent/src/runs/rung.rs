//! One rung of an incident: evidence first, then the run's journal, then the engine to its end.

use crate::event;
use crate::journal::{self, Disk};
use crate::runs::Inner;
use crate::runs::body::{Body, Heard};
use crate::runs::book::Mark;
use crate::runs::node::Node;
use crate::runs::told::{Halt, Told};
use crate::sight::{Glance, chain};
use lifeline_core::engine;
use lifeline_core::incident::{Incident, Run};
use lifeline_core::op::{NodeOp, Op, Seen};
use lifeline_core::plan::NodePlan;

impl<N: Node> Inner<N> {
    /// Runs a plan of the incident; the first comes after the evidence.
    pub(super) async fn rung(
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
}
