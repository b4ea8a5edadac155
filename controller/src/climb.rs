//! From round to round: look, show the plan, ask, have it done, follow it, prove it.
//!
//! The agent climbs the ladder; here is only what an operator decides. Nothing is cancelled by walking away.

mod prove;

use crate::agent::{Agent, verdict};
use crate::ask;
use crate::cluster::Cluster;
use crate::consent::{UpTo, narrow};
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::follow::{Stopped, follow};
use crate::heal_view;
use crate::plan_view;
use crate::proof::Proof;
use crate::record::Record;
use crate::session::{self, Session};
use crate::sight::Sight;
use crate::verbs::watch;
use lifeline_core::diagnosis::{Diagnosis, Verdict};
use lifeline_core::plan::Consent;
use lifeline_proto::v1::{HealRequest, PlanReply, RungView};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tonic::Code;

/// How often a plan is shown before it is better to stop and think.
const ROUNDS: u32 = 6;
/// Between two attempts.
const BREATH: Duration = Duration::from_secs(1);

/// What the operator wants.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The node.
    pub node: &'a str,
    /// Agreed to beforehand.
    pub yes: bool,
    /// The lowest rung: that one alone.
    pub from: Option<UpTo>,
    /// The highest rung.
    pub up_to: Option<UpTo>,
    /// How long the node must stay well.
    pub stability: Duration,
    /// How long to follow at most.
    pub limit: Duration,
}

/// A heal under way.
#[derive(Debug)]
pub struct Heal<'a> {
    /// Where words go, and the way to the agent.
    pub session: &'a Session,
    wish: Wish<'a>,
    /// The agent, reached anew when the connection was lost.
    pub agent: Agent,
    cluster: Option<(Cluster, Option<Sight>)>,
    /// The boot the agent was in when the heal began.
    boot: String,
    /// Incidents that were followed.
    pub records: Vec<Record>,
    /// The last verdict.
    pub verdict: Option<Verdict>,
    /// Our guard stood at the last look.
    pub guarded: Option<bool>,
    /// The API server's view.
    pub proof: Option<Proof>,
    /// The incident that goes on at the node.
    pub running: Option<String>,
    /// When it began.
    pub started: Instant,
    /// When it had come to rest, where that was not so at once after the end.
    rested: Option<Instant>,
}

impl<'a> Heal<'a> {
    /// A heal that has not begun.
    pub fn new(
        session: &'a Session,
        wish: Wish<'a>,
        agent: Agent,
        cluster: Option<(Cluster, Option<Sight>)>,
    ) -> Self {
        Self {
            session,
            wish,
            boot: agent.status.boot_id.clone(),
            agent,
            cluster,
            records: Vec::new(),
            verdict: None,
            guarded: None,
            proof: None,
            running: None,
            started: Instant::now(),
            rested: None,
        }
    }

    /// When the last act was over at the latest, as it was seen from here; `None` when nothing was done, or it may go on.
    pub fn acted(&self) -> Option<Instant> {
        let ended = self.records.iter().all(|r| r.end.is_some());
        let last = self.records.iter().filter_map(|r| r.acted).max();
        last.max(self.rested).filter(|_| ended && self.running.is_none())
    }

    /// Round by round until the node is well, or there is nothing to be done that was agreed to.
    pub async fn climb(&mut self) -> Outcome {
        let out = self.session.out;
        let mut agreed: Option<Consent> = None;
        for _ in 0..ROUNDS {
            let under_way = self.under_way().await?;
            let ours = under_way.is_empty();
            if ours {
                let mut plan = self.look().await?;
                if let Some(from) = self.wish.from {
                    // What is passed over is not shown either.
                    plan.rungs.retain(|r| r.number >= from.number());
                }
                let repairs = self.reached(&plan).next().is_some();
                // No repair is known, but the guard can keep the node's path open: worth asking for, once.
                let astray = matches!(verdict(plan.verdict), Verdict::Captured | Verdict::Lost);
                let guards = self.wish.from.is_none()
                    && astray
                    && agreed.is_none()
                    && plan.rungs.iter().any(|r| !r.steps.is_empty());
                if !repairs && !guards {
                    return self.nothing_to_do(&plan).await;
                }
                out.say(plan_view::render(&self.agent.node, &plan, self.wish.up_to, out.progress));
                out.say("");
                let Some(consent) = self.consent(&plan, agreed.as_ref())? else {
                    return Ok(Exit::Unhealthy);
                };
                let question = format!("Heal {} like this?", self.agent.node);
                // A last rung is agreed to by its name, and beforehand only by having named it.
                let last = plan_view::last_rungs(&plan).filter(|r| consent.rung >= r.number).last();
                let agrees = match last {
                    Some(r) => ask::named(out, self.wish.yes, &question, &r.name).await?,
                    None => ask::confirm(out, self.wish.yes, &question).await?,
                };
                if !agrees {
                    out.say("Nothing more was done.");
                    return Ok(Exit::Unhealthy);
                }
                let Some(incident) = self.begin(&plan, &consent).await? else {
                    sleep(BREATH).await;
                    continue;
                };
                self.running = Some(incident);
                agreed = Some(consent);
            } else {
                out.say(format!(
                    "Incident {under_way} is under way at {}; following it.",
                    self.agent.node
                ));
                self.running = Some(under_way);
            }
            let Some(ending) = self.follow().await? else { return Ok(Exit::TimedOut) };
            match ending.as_str() {
                "recovered" => return self.prove().await,
                "ask" => {
                    let lacks = self
                        .records
                        .last()
                        .and_then(|r| r.end.as_ref())
                        .map(|e| e.lacks.join(", "));
                    out.say(format!(
                        "It needs what was not agreed to: {}.",
                        lacks.unwrap_or_default()
                    ));
                }
                "void" => out.say("The node was rebooted meanwhile; looking again."),
                // Somebody else's attempt is no answer to what was asked here.
                "stuck" => return self.failed(Exit::Stuck).await,
                other if ours => return self.failed(watch::exit(Some(other))).await,
                other => out.say(format!("That ended: {other}. Looking again.")),
            }
        }
        out.say(format!(
            "After {ROUNDS} plans it is better to look: ctl diagnose {}",
            self.agent.node
        ));
        Ok(Exit::Unhealthy)
    }

    /// Follows an incident that was opened otherwise to its end, and proves the node well.
    pub async fn see_through(&mut self, incident: String) -> Outcome {
        self.running = Some(incident);
        let Some(ending) = self.follow().await? else { return Ok(Exit::TimedOut) };
        match ending.as_str() {
            "recovered" => self.prove().await,
            "stuck" => self.failed(Exit::Stuck).await,
            other => {
                let exit = watch::exit(Some(other));
                self.failed(exit).await
            }
        }
    }

    /// The rungs with something to do that the operator's words reach.
    fn reached<'p>(&self, plan: &'p PlanReply) -> impl Iterator<Item = &'p RungView> + use<'p> {
        let from = self.wish.from.map_or(0, UpTo::number);
        let up_to = self.wish.up_to.map_or(0, UpTo::number);
        let last = plan_view::last_rungs(plan).filter(move |r| r.number <= up_to);
        plan_view::engine_rungs(plan)
            .chain(last)
            .filter(move |r| r.number >= from && !r.steps.is_empty())
    }

    /// The incident under way, asked of an agent that may just be starting again.
    async fn under_way(&mut self) -> Result<String, CommandError> {
        for _ in 0..5 {
            match self.agent.status().await {
                Ok(status) => return Ok(status.incident),
                Err(e) if e.is_lost() => self.again().await,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(self.agent.status().await?.incident)
    }

    /// Reaches the agent anew, if it can be reached.
    async fn again(&mut self) {
        sleep(BREATH).await;
        if let Ok(again) = self.session.agent(self.wish.node).await {
            self.agent = again;
        }
    }

    /// It did not work; how the node is now is said all the same, as far as it can be.
    async fn failed(&mut self, exit: Exit) -> Outcome {
        if let Ok(d) = self.agent.diagnose().await {
            (self.verdict, self.guarded) = (Some(d.verdict), Some(d.guarded));
        }
        Ok(exit)
    }

    /// Has the agent look afresh; what it found is shown with the plan.
    async fn look(&mut self) -> Result<PlanReply, CommandError> {
        let out = self.session.out;
        out.say(format!("Looking at {} by {} …", self.agent.node, self.agent.via));
        let plan = self.plan().await?;
        self.verdict = Some(verdict(plan.verdict));
        if !plan.diagnosis.is_empty() {
            let d: Diagnosis = self.agent.read("plan", &plan.diagnosis)?;
            self.guarded = Some(d.guarded);
            heal_view::found(&d, out.progress).iter().for_each(|line| out.say(line));
        }
        Ok(plan)
    }

    /// What the agent would do. A look changes nothing: over a connection that breaks it is asked for again.
    async fn plan(&mut self) -> Result<PlanReply, CommandError> {
        for _ in 0..3 {
            match self.agent.plan().await {
                // One that does not answer in time has had its time.
                Err(why) if why.is_lost() && why.code().is_some() => {
                    self.session.out.say(format!("{why}; asking again."));
                    self.again().await;
                }
                answer => return Ok(answer?),
            }
        }
        Ok(self.agent.plan().await?)
    }

    async fn nothing_to_do(&mut self, plan: &PlanReply) -> Outcome {
        let out = self.session.out;
        let node = &self.agent.node;
        match verdict(plan.verdict) {
            Verdict::Healthy => self.prove().await,
            Verdict::Moved => {
                out.say(format!(
                    "Nothing is to be done: it works. If it is meant so: ctl baseline accept {node}"
                ));
                Ok(Exit::Done)
            }
            v => {
                let why = if plan.summary.is_empty() { v.word() } else { &plan.summary };
                out.say(format!("Nothing can be done here for {node}: {why}"));
                for line in plan_view::offers(node, plan, self.wish.up_to) {
                    out.say(line);
                }
                Ok(Exit::Unhealthy)
            }
        }
    }

    /// What is agreed to; `None` when asking would lead nowhere.
    fn consent(
        &self,
        plan: &PlanReply,
        agreed: Option<&Consent>,
    ) -> Result<Option<Consent>, CommandError> {
        let out = self.session.out;
        let offered: Consent = self.agent.read("plan", &plan.consent)?;
        let mut consent = narrow(offered, plan, self.wish.up_to);
        consent.from = self.wish.from.map_or(0, UpTo::number);
        let first = self.reached(plan).next().map_or(0, |r| r.number);
        if consent.rung < first {
            let limit = self.wish.up_to.map_or("the agent's consent", UpTo::word);
            out.say(format!("It now needs rung {first}, and {limit} does not reach that far. Nothing more was done."));
            return Ok(None);
        }
        if agreed == Some(&consent) {
            out.say("That was agreed to already and did not suffice. Nothing more was done.");
            return Ok(None);
        }
        Ok(Some(consent))
    }

    /// Asks the agent to heal; `None` when it wants another consent, or another run was faster.
    async fn begin(
        &mut self,
        plan: &PlanReply,
        consent: &Consent,
    ) -> Result<Option<String>, CommandError> {
        let out = self.session.out;
        let digest = self.reached(plan).next().map(|r| r.digest.clone());
        let request = HealRequest {
            request_id: session::request_id()?,
            consent: serde_json::to_string(consent).map_err(CommandError::failed)?,
            digest: digest.unwrap_or_default(),
            stability_s: u32::try_from(self.wish.stability.as_secs()).unwrap_or(600),
        };
        let mut tries = 0;
        loop {
            match self.agent.heal(request.clone()).await {
                Ok(reply) => {
                    out.say(format!("Incident {} is opened.", reply.incident));
                    return Ok(Some(reply.incident));
                }
                // The same request id: if the first one arrived, this is the same incident.
                Err(e) if e.is_lost() && tries < 5 => {
                    tries += 1;
                    out.say(format!("{e}; asking again"));
                    self.again().await;
                }
                Err(e)
                    if matches!(
                        e.code(),
                        Some(Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted)
                    ) =>
                {
                    out.say(format!("{} says: {e}", self.agent.node));
                    return Ok(None);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Follows the running incident; `None` when it did not end in time.
    async fn follow(&mut self) -> Result<Option<String>, CommandError> {
        let out = self.session.out;
        let Some(incident) = self.running.clone() else { return Ok(None) };
        self.records.push(Record::new(&incident));
        let Some(record) = self.records.last_mut() else { return Ok(None) };
        let live = |line: &crate::record::Line| out.say(watch::show(line, out.progress));
        let stopped = follow(self.session, &mut self.agent, record, self.wish.limit, live).await?;
        if stopped != Stopped::Ended {
            out.say(format!(
                "It goes on at {0}. Follow it: ctl watch {0} {incident}",
                self.agent.node
            ));
            return Ok(None);
        }
        self.running = None;
        Ok(record.ending().map(Into::into))
    }
}
