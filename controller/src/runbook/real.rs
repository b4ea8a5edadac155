//! The hands of a recovery: agents, the API server, the provider, `git`, and the operator at the terminal.
//!
//! Longer than most files: the hands of every op stand in three matches, and the compiler says where one is missing.

use super::book::Book;
use super::card::because;
use super::check::{self, Checked};
use super::conduct::Desk as Wanted;
use super::consent::{Consent, console};
use super::hold::Hold;
use super::lease::Looks;
use super::leg::{Leg, World, all_so};
use super::missed::Missed;
use super::op::{RunbookOp, Seen};
use super::opened::Opened;
use super::record::Papers;
use super::run::Shelf;
use super::side::Side;
use super::spare::{self, Spare};
use super::{proof, verify};
use crate::ask;
use crate::climb::{Heal, Wish};
use crate::cluster::Cluster;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::kept::Kept;
use crate::obstacle::chain;
use crate::proof::Act;
use crate::session::Session;
use crate::sight::Sight;
use crate::ssh;
use crate::verbs::vps::desk::Desk;
use crate::verbs::vps::restart;
use crate::words;
use lifeline_core::engine::{Failure, Judgement};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// The provider may take this long, and the node to boot as long again.
const RESTART: Duration = Duration::from_secs(300);

/// An agent that was started answers within this.
const ANSWERS: Duration = Duration::from_secs(30);

/// The hands.
#[derive(Debug)]
pub struct Real<'a> {
    /// The way to agents, and where words go.
    pub session: &'a Session,
    /// The API server, to be looked at.
    pub cluster: Option<&'a Cluster>,
    /// The API server, to act through; or why that is not possible.
    pub side: Result<Side<'a>, String>,
    /// The provider, or why it cannot be asked.
    pub provider: Result<Desk, String>,
    /// That nobody else is at it.
    pub hold: &'a Hold<'a>,
    /// Where it is written down.
    pub book: &'a Book,
    /// How it began.
    pub opened: &'a Opened,
    /// What was agreed to beforehand.
    pub consent: Consent,
    /// How the API server saw each node in the beginning.
    pub before: BTreeMap<String, Sight>,
    /// Report, commit, comments.
    pub papers: Papers<'a>,
    /// One question at a time.
    pub asking: Mutex<()>,
    /// What the last check of the whole cluster found.
    pub checked: Mutex<Option<Result<Checked, String>>>,
    /// Agents that could not be reached a moment ago.
    pub missed: Missed,
    /// Renewals of a node's lease that were seen while its agent was at work.
    pub renewals: Mutex<BTreeMap<String, (u32, Option<String>)>>,
}

fn failed(error: &CommandError) -> Failure {
    Failure { why: error.to_string(), retryable: error.exit() == Exit::TimedOut }
}

impl Real<'_> {
    async fn healed(&self, node: &str) -> Result<Seen, String> {
        let agent = self.missed.agent(self.session, node).await?;
        let seen = agent.diagnose().await.map_err(|e| chain(&e))?;
        let guard = if seen.guarded { ", behind our guard" } else { "" };
        let words = format!("{node}: its agent says {}{guard}", seen.verdict.word());
        let so = words::is_fine(seen.verdict) && !seen.guarded;
        Ok(Seen::is(so, words).known_by(agent.status.boot_id))
    }

    async fn heal(&self, node: &str) -> Result<(), Failure> {
        let agent = self.session.agent(node).await.map_err(|e| failed(&e))?;
        let wish = Wish {
            node,
            // A recovery's plan was agreed to as a whole.
            yes: self.consent.yes || !self.consent.heal,
            from: self.consent.from,
            up_to: self.consent.up_to,
            stability: self.consent.stability,
            limit: self.consent.limit,
        };
        // Proof by the API server is the judgement's, and once is enough.
        let mut heal = Heal::new(self.session, wish, agent, None);
        let looks = Looks::default();
        let climbed = tokio::select! {
            climbed = heal.climb() => climbed,
            never = looks.watch(self.cluster, node) => match never {},
        };
        // It stays with this process: a run that is gone on with watches for itself. What may still go on proves nothing.
        if let (Ok(Exit::Done), Some(acted)) = (&climbed, heal.acted()) {
            self.renewals.lock().await.insert(node.to_owned(), looks.since(acted));
        }
        for record in &heal.records {
            let kept = Kept::of(node, record);
            self.book.keep(&kept).map_err(|e| Failure { why: chain(&e), retryable: false })?;
        }
        match climbed {
            Ok(Exit::Done) => Ok(()),
            Ok(exit) => {
                let verdict =
                    heal.verdict.map_or("unknown", lifeline_core::diagnosis::Verdict::word);
                let last = heal.records.last().and_then(|r| r.end.as_ref());
                let end = last.map_or_else(String::new, |e| format!(": {} {}", e.ending, e.text));
                let why = format!("heal {node}: it is {verdict}{end}");
                Err(Failure { why, retryable: exit == Exit::TimedOut })
            }
            Err(error) => Err(failed(&error)),
        }
    }

    fn ssh(&self, node: &str) -> &str {
        self.session.config.as_ref().and_then(|c| c.ssh(node)).unwrap_or_default()
    }

    /// Starts the agent's unit, and waits until the agent answers.
    async fn start(&self, node: &str) -> Result<(), Failure> {
        let target = self.ssh(node);
        let fail =
            |why: String| Failure { why: format!("start {node}'s agent: {why}"), retryable: true };
        ssh::start_agent(target).await.map_err(|e| fail(e.to_string()))?;
        self.answers(node).await.map_err(fail)
    }

    /// Lends the node an agent, and waits until it answers.
    async fn lend(&self, node: &str) -> Result<(), Failure> {
        let fail =
            |why: String| Failure { why: format!("lend {node} an agent: {why}"), retryable: false };
        let cluster = &self.opened.cluster;
        let lent = ssh::lend::lend(self.ssh(node), cluster, node).await;
        let which = lent.map_err(|e| fail(e.to_string()))?;
        self.session.out.say(format!("{node}: an agent is lent to it: {which}"));
        self.answers(node).await.map_err(fail)
    }

    async fn answers(&self, node: &str) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match self.session.agent(node).await {
                Ok(_) => return Ok(()),
                Err(e) if begun.elapsed() > ANSWERS => return Err(e.to_string()),
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    /// The boot a node is in, by whoever can say.
    async fn boot(&self, node: &str) -> Result<Seen, String> {
        let agent =
            async { Some(self.missed.agent(self.session, node).await.ok()?.status.boot_id) };
        let cluster = async { self.cluster?.look(node).await.ok()?.boot_id };
        let (agent, cluster) = tokio::join!(agent, cluster);
        match agent.filter(|b| !b.is_empty()).or(cluster) {
            Some(boot) => Ok(Seen::is(false, format!("{node} is in boot {boot}")).known_by(boot)),
            None => Ok(Seen::is(false, format!("{node}: nobody can say in which boot it is"))),
        }
    }

    /// Its machine is off, by the word of whoever runs it. A machine that is not heard may run all the same.
    async fn is_off(&self, node: &str) -> Result<(), String> {
        let provider = self.provider.as_ref().map_err(Clone::clone)?;
        let machine = provider.find(node).await.map_err(|e| e.to_string())?.machine;
        match machine.state() {
            "stopped" => Ok(()),
            state => Err(format!("{node}'s machine is not known to be off: it is {state}")),
        }
    }

    async fn restart(&self, node: &str) -> Result<(), Failure> {
        let provider =
            self.provider.as_ref().map_err(|why| Failure { why: why.clone(), retryable: false })?;
        restart::off_and_on(provider, node, RESTART).await.map(drop).map_err(|e| failed(&e))
    }

    async fn verify(&self) -> Result<(), Failure> {
        let checked = self.verified().await;
        *self.checked.lock().await = Some(checked.clone());
        let why = match checked {
            Ok(checked) if checked.well => return Ok(()),
            Ok(checked) => checked.words,
            Err(why) => why,
        };
        Err(Failure { why, retryable: true })
    }

    async fn verified(&self) -> Result<Checked, String> {
        let ours = self.opened.nodes.iter().filter(|n| !n.left_alone());
        let nodes: Vec<String> = ours.map(|n| n.name.clone()).collect();
        let pods = self.before.values().flat_map(|s| &s.pods);
        let unwell: Vec<String> =
            pods.filter(|p| !p.ready && !p.ready_by_kubelet).map(|p| p.uid.clone()).collect();
        // Where nothing was begun, nothing has to settle.
        let done = self.book.runs().map_err(|e| chain(&e))?;
        let patient = done.iter().any(|run| run.as_str() < "08-");
        let began = self.opened.wall_ms;
        let mut checked =
            check::settle(self.session, self.cluster, &nodes, &unwell, (began, patient)).await?;
        // What the API server has forgotten may run on.
        if let Ok(side) = &self.side
            && let Some(words) = proof::ended(self.session, &self.missed, self.book, side).await
        {
            checked.well = false;
            checked.words = format!("{}; {words}", checked.words);
        }
        // What is left of the namespace wakes up with the next one of its name.
        if let (Ok(side), Some(_)) = (&self.side, &self.opened.namespace) {
            let left = side.remnants().await?;
            checked.well &= left.is_empty();
            left.iter().for_each(|l| checked.words = format!("{}; {l}", checked.words));
        }
        Ok(checked)
    }

    async fn node_well(&self, node: &str, booted: bool) -> Judgement {
        let was = self.opened.nodes.iter().find(|n| n.name == node);
        let boot = was.and_then(|n| n.boot.clone()).unwrap_or_default();
        let kept = self.book.kept().unwrap_or_default();
        let restarted = kept.iter().filter(|k| k.node == node).filter_map(Kept::restarted_ms).max();
        let restarted = restarted.and_then(|ms| i64::try_from(ms).ok());
        let act = Act {
            before: self.before.get(node).cloned(),
            restarted: restarted.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()),
            boots: (boot, String::new()),
            renewals: self
                .renewals
                .lock()
                .await
                .remove(node)
                .filter(|_| !booted)
                .unwrap_or_default(),
        };
        verify::node(self.session, self.cluster, node, act, booted).await
    }
}

impl World for Real<'_> {
    async fn look(&self, op: &RunbookOp) -> Result<Seen, String> {
        match op {
            RunbookOp::NodeHealed { node } => self.healed(node).await,
            RunbookOp::AgentReturned { node } => match ssh::lend::is_lent(self.ssh(node)).await {
                Ok(true) => Ok(Seen::is(false, format!("{node}: an agent is lent to it"))),
                Ok(false) => Ok(Seen::is(true, format!("{node}: nothing is lent to it"))),
                Err(e) => Err(e.to_string()),
            },
            RunbookOp::AgentStarted { node } | RunbookOp::AgentLent { node } => {
                // What comes after this is for good: here it is asked afresh, beside SSH.
                let ways = (self.session.agent(node), ssh::leads(self.ssh(node)));
                match tokio::join!(ways.0, ways.1) {
                    (Ok(agent), _) => {
                        self.missed.forget(node);
                        Ok(Seen::is(true, format!("{node}: its agent answers by {}", agent.via)))
                    }
                    (Err(_), Ok(())) => Ok(Seen::is(
                        false,
                        format!("{node}: its agent does not answer, and SSH leads there"),
                    )),
                    // Where SSH leads nowhere there is nothing to start it by.
                    (Err(_), Err(e)) => Err(e.to_string()),
                }
            }
            RunbookOp::MachineRestarted { node } => self.boot(node).await,
            RunbookOp::OutOfService { node, .. } => {
                self.is_off(node).await?;
                self.side.as_ref().map_err(Clone::clone)?.look(op).await
            }
            RunbookOp::ClusterVerified => match &*self.checked.lock().await {
                Some(Ok(checked)) => Ok(Seen::is(checked.well, checked.words.clone())),
                Some(Err(why)) => Err(why.clone()),
                None => Ok(Seen::is(false, String::new())),
            },
            RunbookOp::ReportWritten { .. }
            | RunbookOp::Committed { .. }
            | RunbookOp::Pushed { .. }
            | RunbookOp::Commented { .. }
            | RunbookOp::IssueLeft { .. } => self.papers.look(op).await,
            _ => self.side.as_ref().map_err(Clone::clone)?.look(op).await,
        }
    }

    async fn act(&self, op: &RunbookOp, _: &Seen) -> Result<(), Failure> {
        self.hold.turn().await;
        if let Some(node) = op.node() {
            self.missed.forget(node);
            self.renewals.lock().await.remove(node);
        }
        match op {
            RunbookOp::NodeHealed { node } => self.heal(node).await,
            RunbookOp::AgentStarted { node } => self.start(node).await,
            RunbookOp::AgentLent { node } => self.lend(node).await,
            RunbookOp::AgentReturned { node } => {
                let back = ssh::lend::take_back(self.ssh(node)).await;
                back.map_err(|e| Failure { why: e.to_string(), retryable: true })
            }
            RunbookOp::ClusterVerified => self.verify().await,
            RunbookOp::MachineRestarted { node } => self.restart(node).await,
            RunbookOp::ReportWritten { .. }
            | RunbookOp::Committed { .. }
            | RunbookOp::Pushed { .. }
            | RunbookOp::Commented { .. }
            | RunbookOp::IssueLeft { .. } => {
                self.papers.act(op).await.map_err(|why| Failure { why, retryable: true })
            }
            _ => match &self.side {
                Ok(side) => {
                    let done = side.act(op).await;
                    proof::doubt(self.session, self.book, side);
                    done
                }
                Err(why) => Err(Failure { why: why.clone(), retryable: true }),
            },
        }
    }

    async fn judge(&self, leg: &Leg) -> Judgement {
        match leg.ops.first() {
            Some(RunbookOp::NodeHealed { node }) => self.node_well(node, false).await,
            Some(RunbookOp::MachineRestarted { node }) => self.node_well(node, true).await,
            Some(RunbookOp::ClusterVerified) => {
                // A run that was cut off after its act remembers nothing of it: looked at again, and said by the look.
                if self.checked.lock().await.is_none() {
                    drop(self.verify().await);
                }
                all_so(self, leg).await
            }
            _ => all_so(self, leg).await,
        }
    }

    async fn agrees(&self, op: &RunbookOp) -> Result<bool, CommandError> {
        let _one = self.asking.lock().await;
        let out = self.session.out;
        let seen = self.look(op).await.map(|s| s.words).unwrap_or_default();
        let typed = op.typed();
        if let Some(name) = &typed {
            if self.consent.confirmed.contains(name) {
                out.say(format!("{op}: confirmed beforehand (--confirm {name:?})"));
                return Ok(true);
            }
            if !out.interactive {
                out.say(format!("Not done: {op}. It cannot be undone; agree to it beforehand: --confirm {name:?}"));
                return Ok(false);
            }
            out.say(format!("To {op} cannot be undone. {}. {seen}", capital(because(op))));
            return ask::typed(out, None, name).await;
        }
        let agreed = self.consent.covers(op);
        if !agreed && !out.interactive {
            let how = self.consent.lacks(op);
            out.say(format!("Not done: {op}; {how}."));
            return Ok(false);
        }
        let seen = if seen.is_empty() { String::new() } else { format!(" ({seen})") };
        out.say(format!("Why to {op}: {}.", because(op)));
        ask::confirm(out, agreed, &capital(&format!("{op}{seen}?"))).await
    }

    async fn turn(&self) {
        self.hold.turn().await;
    }

    async fn wait(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    fn say(&self, line: &str) {
        self.session.out.say(line);
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

impl Wanted for Real<'_> {
    fn startable(&self, node: &str) -> Result<(), String> {
        let config = self.session.config.as_ref();
        match config.and_then(|c| c.ssh(node)) {
            Some(_) => Ok(()),
            None => Err(format!("no [nodes.{node}] ssh is configured")),
        }
    }

    fn restartable(&self, node: &str) -> Result<(), String> {
        let provider = self.provider.as_ref().map_err(Clone::clone)?;
        provider.config.vps(node).map(drop).map_err(|e| e.to_string())
    }

    async fn spared(&self, node: &str) -> Spare {
        spare::machine(self.session, &self.missed, self.cluster, node).await
    }

    async fn upstream(&self, node: &str) -> Option<String> {
        spare::upstream(self.session, &self.missed, node).await
    }

    fn wiped(&self, node: &str) -> bool {
        self.consent.wiped.iter().any(|w| w == node)
    }

    async fn belongs(&self, node: &str) -> Option<String> {
        spare::member(self.cluster, node).await
    }

    fn console(&self, node: &str) -> String {
        console(node)
    }

    fn record(&self, _: &Opened) -> Vec<RunbookOp> {
        self.papers.ops()
    }
}
