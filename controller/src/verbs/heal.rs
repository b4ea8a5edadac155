//! `ctl heal`: reach, look, show the plan, ask, have it done, follow it, prove it, tell it.
//!
//! The agent climbs the ladder; here is only what an operator decides. Nothing is cancelled by walking away.

use crate::agent::{Agent, verdict};
use crate::ask;
use crate::cluster::{self, Cluster, Limits, Proof, Sight};
use crate::consent::{UpTo, narrow};
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::files::{self, Present};
use crate::follow::{Stopped, follow};
use crate::heal_view::{self, Told};
use crate::interrupt::interruptible;
use crate::plan_view;
use crate::record::Record;
use crate::session::{self, Session};
use crate::verbs::watch;
use crate::words;
use lifeline_core::diagnosis::{Diagnosis, Verdict};
use lifeline_core::plan::Consent;
use lifeline_proto::v1::{HealRequest, PlanReply};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tonic::Code;

const HELP: &str = "Examples:
  ctl heal calypso                         shows the plan and asks
  ctl heal calypso --up-to clean           never restarts the kubelet
  ctl heal calypso --yes --report out.md   for scripts
  ctl --socket /run/lifeline/agent.sock heal calypso     on the node itself, as root

The agent acts rung by rung, cheapest repair first, and looks again after each. What it did not expect when you agreed
is shown and asked anew. Ctrl-C stops the watching, never the agent; run it again to go on.

Exit codes:
  0  healthy, without our guard
  1  failed
  2  usage, or nobody to ask and no --yes
  3  not healthy, rolled back, or not agreed to
  4  stuck: needs a human
  5  a time limit passed, or Ctrl-C: run it again to go on";

/// How often a plan is shown before it is better to stop and think.
const ROUNDS: u32 = 6;
/// After the agent is done: its guard is to go, and a fresh look is to say healthy.
const SETTLE: Duration = Duration::from_secs(60);

/// Arguments of `ctl heal`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// Agree beforehand to what is shown, as far as --up-to reaches
    #[arg(long)]
    yes: bool,
    /// The highest rung the agent may climb to [default: as far as the plan reaches]
    #[arg(long, value_enum, value_name = "RUNG")]
    up_to: Option<UpTo>,
    /// How long the node must stay well at the end, at most 10m
    #[arg(long, default_value = "30s", value_parser = stability, value_name = "SPAN")]
    stability: Duration,
    /// How long to follow at most; the agent goes on by itself
    #[arg(long, default_value = "15m", value_parser = words::span, value_name = "SPAN")]
    limit: Duration,
    /// Write the report as Markdown to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn stability(text: &str) -> Result<Duration, String> {
    words::span(text).and_then(|s| match s.as_secs() {
        0..=600 => Ok(s),
        _ => Err("it must be at most 10m".into()),
    })
}

/// Runs `ctl heal`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    session.may_act(&format!("heal {}", args.node))?;
    let out = session.out;
    // An agent that cannot be reached is said at once, whatever the API server does.
    let seen = async { Ok(before(args, session).await) };
    let looked = async { tokio::try_join!(session.agent(&args.node), seen) };
    let Some(looked) = interruptible(looked).await else {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    };
    let (agent, seen) = looked?;
    let mut heal = Heal {
        args,
        session,
        agent,
        cluster: seen,
        records: Vec::new(),
        verdict: None,
        guarded: None,
        proof: None,
        running: None,
        started: Instant::now(),
    };
    let climbed = interruptible(heal.climb()).await;
    let exit = match climbed {
        Some(Ok(exit)) => exit,
        Some(Err(error)) => return Err(heal.hinted(error)),
        None => heal.interrupted(),
    };
    heal.tell(exit)
}

async fn before(args: &Args, session: &Session) -> Option<(Cluster, Option<Sight>)> {
    let config = session.config.as_ref()?;
    let cluster = match Cluster::open(config.kubeconfig.as_ref()?, config.context.as_deref()).await
    {
        Ok(cluster) => cluster,
        Err(e) => {
            session.out.say(format!("The API server is not asked: {}", crate::obstacle::chain(&e)));
            return None;
        }
    };
    match cluster.look(&args.node).await {
        Ok(sight) => {
            session.out.say(format!("The API server sees {} {}.", args.node, sight.words()));
            Some((cluster, Some(sight)))
        }
        Err(e) => {
            session
                .out
                .say(format!("The API server could not be asked: {}", crate::obstacle::chain(&e)));
            Some((cluster, None))
        }
    }
}

/// A heal under way.
struct Heal<'a> {
    args: &'a Args,
    session: &'a Session,
    agent: Agent,
    cluster: Option<(Cluster, Option<Sight>)>,
    records: Vec<Record>,
    verdict: Option<Verdict>,
    guarded: Option<bool>,
    proof: Option<Proof>,
    /// The incident that goes on at the node.
    running: Option<String>,
    started: Instant,
}

impl Heal<'_> {
    /// Round by round until the node is well, or there is nothing to be done that was agreed to.
    async fn climb(&mut self) -> Outcome {
        let out = self.session.out;
        let mut agreed: Option<Consent> = None;
        for _ in 0..ROUNDS {
            let under_way = self.agent.status().await?.incident;
            if under_way.is_empty() {
                let plan = self.look().await?;
                if plan_view::engine_rungs(&plan).all(|r| r.steps.is_empty()) {
                    return self.nothing_to_do(&plan).await;
                }
                out.say(plan_view::render(&self.agent.node, &plan, self.args.up_to, out.progress));
                out.say("");
                let Some(consent) = self.consent(&plan, agreed.as_ref())? else {
                    return Ok(Exit::Unhealthy);
                };
                let question = format!("Heal {} like this?", self.agent.node);
                if !ask::confirm(out, self.args.yes, &question).await? {
                    out.say("Nothing more was done.");
                    return Ok(Exit::Unhealthy);
                }
                agreed = Some(consent.clone());
                match self.begin(&plan, &consent).await? {
                    Some(incident) => self.running = Some(incident),
                    None => continue,
                }
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
                other => return Ok(watch::exit(Some(other))),
            }
        }
        out.say(format!(
            "After {ROUNDS} plans it is better to look: ctl diagnose {}",
            self.agent.node
        ));
        Ok(Exit::Unhealthy)
    }

    /// Has the agent look afresh; what it found is shown with the plan.
    async fn look(&mut self) -> Result<PlanReply, CommandError> {
        let out = self.session.out;
        out.say(format!("Looking at {} by {} …", self.agent.node, self.agent.via));
        let plan = self.agent.plan().await?;
        self.verdict = Some(verdict(plan.verdict));
        if !plan.diagnosis.is_empty() {
            let d: Diagnosis = self.agent.read("plan", &plan.diagnosis)?;
            self.guarded = Some(d.guarded);
            out.say(heal_view::found(&d, out.progress));
        }
        Ok(plan)
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
        let consent = narrow(offered, plan, self.args.up_to);
        let first =
            plan_view::engine_rungs(plan).find(|r| !r.steps.is_empty()).map_or(0, |r| r.number);
        if consent.rung < first {
            let limit = self.args.up_to.map_or("the agent's consent", UpTo::word);
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
        let digest =
            plan_view::engine_rungs(plan).find(|r| !r.steps.is_empty()).map(|r| r.digest.clone());
        let request = HealRequest {
            request_id: session::request_id()?,
            consent: serde_json::to_string(consent).map_err(CommandError::failed)?,
            digest: digest.unwrap_or_default(),
            stability_s: u32::try_from(self.args.stability.as_secs()).unwrap_or(600),
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
                    sleep(Duration::from_secs(1)).await;
                    if let Ok(again) = self.session.agent(&self.args.node).await {
                        self.agent = again;
                    }
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
        let stopped = follow(self.session, &mut self.agent, record, self.args.limit, live).await?;
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

    /// Healthy by a fresh look, our guard gone, and the API server sees it: all of it, each within its limit.
    async fn prove(&mut self) -> Outcome {
        let out = self.session.out;
        let deadline = Instant::now() + SETTLE;
        let mut said = false;
        loop {
            match self.agent.diagnose().await {
                Ok(d) => {
                    (self.verdict, self.guarded) = (Some(d.verdict), Some(d.guarded));
                    if words::is_fine(d.verdict) && !d.guarded {
                        break;
                    }
                }
                Err(e) if e.is_lost() => {
                    if let Ok(again) = self.session.agent(&self.args.node).await {
                        self.agent = again;
                    }
                }
                Err(e) => return Err(e.into()),
            }
            if Instant::now() > deadline {
                let fine = self.verdict.is_some_and(words::is_fine);
                return Ok(if fine { Exit::TimedOut } else { Exit::Unhealthy });
            }
            if !said {
                out.say("Waiting until a fresh look says healthy and the guard is gone …");
                said = true;
            }
            sleep(Duration::from_secs(2)).await;
        }
        // A node that was well from the start, and that nobody touched, needs no proof from elsewhere.
        let Some((cluster, before)) = self.cluster.take().filter(|_| !self.records.is_empty())
        else {
            return Ok(Exit::Done);
        };
        out.say("Waiting until the API server sees two lease renewals and Ready …");
        let proof = cluster::prove(
            async || cluster.look(&self.agent.node).await,
            before,
            Limits::default(),
        )
        .await;
        let exit = if proof.proven { Exit::Done } else { Exit::TimedOut };
        self.proof = Some(proof);
        Ok(exit)
    }

    fn hinted(&self, error: CommandError) -> CommandError {
        match &self.running {
            Some(i) => error.hinted(format!(
                "the heal goes on at {0}; follow it: ctl watch {0} {i}",
                self.agent.node
            )),
            None => error,
        }
    }

    fn interrupted(&self) -> Exit {
        let (out, node) = (self.session.out, &self.agent.node);
        out.say("");
        match &self.running {
            Some(i) => {
                out.say(format!("Stopped watching. The heal goes on at {node} by itself."));
                out.say(format!("  follow it:           ctl watch {node} {i}"));
                out.say(format!("  follow and prove it: ctl heal {node}"));
                out.say(format!("  stop and undo it:    ctl undo {node} {i}"));
                Exit::TimedOut
            }
            None if self.records.is_empty() => {
                out.say("Nothing was done.");
                Exit::Unhealthy
            }
            None => {
                out.say(format!("Nothing goes on at {node}; it was not proven healthy. Run it again: ctl heal {node}"));
                Exit::TimedOut
            }
        }
    }

    fn tell(&self, exit: Exit) -> Outcome {
        let out = self.session.out;
        let mut path = None;
        if let (Some(file), Some(_)) = (&self.args.report, self.records.last()) {
            let proof = self.proof.as_ref().map(Proof::lines).unwrap_or_default();
            let pages = self.records.iter().map(|r| r.markdown(&self.agent.node, &proof));
            files::write(file, &pages.collect::<Vec<_>>().join("\n"), 0o644, Present::Replace)?;
            path = Some(file.display().to_string());
        }
        let told = Told {
            node: &self.agent.node,
            via: &self.agent.via,
            exit,
            verdict: self.verdict,
            guarded: self.guarded,
            records: &self.records,
            proof: self.proof.as_ref(),
            report: path,
            took: self.started.elapsed(),
        };
        out.print(heal_view::summary(&told, out.result));
        out.json(&heal_view::json(&told))?;
        Ok(exit)
    }
}
