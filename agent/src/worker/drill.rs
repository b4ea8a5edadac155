//! A drill on the real node: puts the captor into the kernel, watches what becomes of it, and has all of it taken away.
//!
//! Taking away is the guard's: it does so whenever no drill is ordered, so that a kill in the middle, a panic or a hung call
//! leaves nothing that outlasts the next start or the drill's own deadline. Whatever is real comes first: a recovery that begins, a
//! verdict that is not Healthy, or the real guard rising breaks the drill off.

use super::{GUARD, Worker};
use crate::guard::Drill;
use crate::netlink::{LinkNames, NetlinkError};
use crate::sight::chain;
use lifeline_core::baseline::{Baseline, Expected};
use lifeline_core::drill::{self, Call, Capture, Ground, Trial, Warning};
use lifeline_core::net::Family;
use lifeline_core::observation::{Fate, Route, Rule, Shared};
use lifeline_core::policy::Mode;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Nothing of a drill stands for longer, whatever happens.
const LONGEST: Duration = Duration::from_secs(30);
/// The part in which something is captured has to be done within this.
const LIMIT: Duration = Duration::from_secs(20);
/// The guard has come to rest after an order or a change, as on a quiet day.
const REST: Duration = Duration::from_millis(150);
/// How long each thing is waited for: twice what T1 allows.
const PATIENCE: Duration = Duration::from_secs(2);
/// After the route has come behind its warning, the kernel is asked so often, so far apart.
const ASKED: (u32, Duration) = (30, Duration::from_millis(10));

/// Who drills, as far as the worker knows: one at a time.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// Taken until then.
    until: Option<Instant>,
    /// What is captured now.
    pub order: Option<Drill>,
    broken: Option<String>,
    rounds: u64,
}

impl Seat {
    fn take(&mut self) -> Result<(), String> {
        if self.until.is_some_and(|until| until > Instant::now()) {
            return Err("another drill is under way".to_owned());
        }
        *self =
            Self { until: Some(Instant::now() + LONGEST), rounds: self.rounds, ..Self::default() };
        Ok(())
    }

    /// Ends it, if there is one.
    pub fn break_off(&mut self, why: &str) {
        if self.until.is_some() {
            self.broken.get_or_insert_with(|| why.to_owned());
            self.order = None;
        }
    }
}

/// What a drill needs at each step.
struct Field<'a> {
    worker: &'a Worker,
    names: LinkNames,
    targets: Vec<Expected>,
    captors: Vec<(Rule, Route)>,
    before: Vec<Fate>,
}

/// Drills.
pub(super) async fn run(worker: &Worker, base: &Baseline) -> Result<Trial, String> {
    {
        let mut told = worker.told();
        if told.incident {
            return Err("a recovery is under way".to_owned());
        }
        told.drill.take()?;
    }
    let done = prepared(worker, base).await;
    // Also when the order is gone already: the seat is given back when nothing of it stands.
    clear(worker).await;
    worker.told().drill.until = None;
    done
}

async fn prepared(worker: &Worker, base: &Baseline) -> Result<Trial, String> {
    let told = |why: NetlinkError| chain(&why);
    let names = worker.kernel.names().await.map_err(told)?;
    let (rules, routes) = tables(worker, &names).await.map_err(told)?;
    let addrs = worker.kernel.addrs(&names).await.map_err(told)?;
    let ground = Ground { rules: &rules, routes: &routes, addrs: &addrs, base };
    // Any number will do; another process drills another address.
    let targets = drill::targets(ground, std::process::id())
        .map_err(|why| format!("no address is free to be captured: {why}"))?;
    let captors: Vec<_> =
        targets.iter().map(|t| drill::captor(t, ground)).collect::<Result<_, _>>()?;
    let mut field = Field { worker, names, targets, captors, before: Vec::new() };
    field.before = field.ask(0).await.map_err(told)?;
    let mut trial = Trial { mode: worker.policy.mode, ..Trial::default() };
    let tried = tokio::time::timeout(LIMIT, field.captures(&mut trial, base)).await;
    trial.broken = match tried {
        Ok(Ok(())) => None,
        Ok(Err(why)) => Some(why),
        Err(_) => Some(format!("not done within {} s", LIMIT.as_secs())),
    };
    let begun = Instant::now();
    clear(worker).await;
    trial.cleared_us = Some(micros(begun.elapsed()));
    match tables(worker, &field.names).await {
        Ok((rules_now, routes_now)) => {
            trial.left = drill::of_drill(&rules_now, &routes_now);
            trial.changed =
                Some(Ok(drill::differences((&rules, &routes), (&rules_now, &routes_now))));
        }
        Err(why) => trial.changed = Some(Err(chain(&why))),
    }
    Ok(trial)
}

/// Has everything of a drill taken away, and waits until it is.
async fn clear(worker: &Worker) {
    worker.told().drill.order = None;
    worker.guard.order(worker.order());
    worker.guard.settled(GUARD).await;
}

async fn tables(
    worker: &Worker,
    names: &LinkNames,
) -> Result<(Vec<Rule>, Shared<Route>), NetlinkError> {
    let mut rules = Vec::new();
    for family in Family::ALL {
        rules.extend(worker.kernel.rules(family).await?.into_iter().map(|(rule, _)| rule));
    }
    Ok((rules, worker.kernel.bare_routes(names).await?))
}

impl Field<'_> {
    /// Both captures, and the calls while the second stands.
    async fn captures(&self, trial: &mut Trial, base: &Baseline) -> Result<(), String> {
        if trial.mode != Mode::Observe {
            trial.warning = Some(self.warned().await?);
            clear(self.worker).await;
        }
        self.sound()?;
        self.captured(trial).await?;
        self.sound()?;
        trial.calls = Some(self.call(base).await?);
        self.sound()
    }

    /// Says when it has been broken off.
    fn sound(&self) -> Result<(), String> {
        if let Some(why) = self.worker.told().drill.broken.clone() {
            return Err(why);
        }
        match self.worker.guard.state().guarded {
            true => Err("the guard rose against a real captor".to_owned()),
            false => Ok(()),
        }
    }

    /// Orders the guard to meet a capture that is about to come, and lets it come to rest.
    async fn order(&self) -> Result<u64, String> {
        self.sound()?;
        let round = {
            let mut told = self.worker.told();
            told.drill.rounds += 1;
            let (round, until) = (told.drill.rounds, told.drill.until);
            let until = until.unwrap_or_else(Instant::now);
            told.drill.order = Some(Drill { round, targets: self.targets.clone(), until });
            round
        };
        self.worker.guard.order(self.worker.order());
        self.worker.guard.settled(GUARD).await;
        sleep(REST).await;
        Ok(round)
    }

    async fn warned(&self) -> Result<Warning, String> {
        let round = self.order().await?;
        let begun = self.add_rules().await?;
        let stands = |s: &crate::guard::State| s.drill.round == round && s.drill.stands;
        if !self.worker.guard.wait(PATIENCE, stands).await {
            return Ok(Warning::default());
        }
        let stood_us = Some(micros(begun.elapsed()));
        self.add_routes().await?;
        let (mut lost, (asked, apart)) = (0, ASKED);
        for _ in 0..asked {
            let now = self.ask(0).await.map_err(|why| chain(&why))?;
            lost += u32::from(now != self.before);
            self.sound()?;
            sleep(apart).await;
        }
        Ok(Warning { stood_us, asked, lost })
    }

    async fn captured(&self, trial: &mut Trial) -> Result<(), String> {
        let told = |why: NetlinkError| chain(&why);
        let round = self.order().await?;
        self.add_routes().await?;
        sleep(REST).await;
        let begun = self.add_rules().await?;
        let mut freed_us = None;
        while trial.mode != Mode::Observe && begun.elapsed() < PATIENCE {
            // Asked before the clock is read: an answer is never older than its time.
            let now = self.ask(0).await.map_err(told)?;
            if now == self.before {
                freed_us = Some(micros(begun.elapsed()));
                break;
            }
            self.sound()?;
            sleep(Duration::from_millis(1)).await;
        }
        let heard = |s: &crate::guard::State| s.drill.round == round && s.drill.heard.is_some();
        self.worker.guard.wait(PATIENCE, heard).await;
        let heard = self.worker.guard.state().drill.heard;
        trial.no_room = self.worker.guard.state().drill.no_room;
        let (plain, through) = (self.ask(0).await, self.ask(self.worker.policy.see_through).await);
        let (plain, through) = (plain.map_err(told)?, through.map_err(told)?);
        let answers = self.targets.iter().zip(&self.before).zip(plain.into_iter().zip(through));
        trial.capture = Some(Capture {
            heard_us: heard.map(|at| micros(at.saturating_duration_since(begun))),
            freed_us,
            answers: answers
                .map(|((t, before), (plain, through))| (t.ask, before.clone(), plain, through))
                .collect(),
        });
        Ok(())
    }

    async fn call(&self, base: &Baseline) -> Result<Vec<Call>, String> {
        let own = |ip: IpAddr| ip.is_loopback();
        let apis: Vec<_> = base.cluster.api.iter().copied().filter(|a| !own(a.ip())).collect();
        let mut calls = Vec::new();
        for called in self.worker.look.call_by_lifeline(&apis).await? {
            let (ip, port) = (called.api.ip(), called.api.port());
            let mark = self.worker.policy.lifeline;
            let kernel = &self.worker.kernel;
            let fate = kernel.lookup(&self.names, ip, mark, (6, port), 0, None).await;
            calls.push(Call {
                api: called.api,
                fate: fate.ok(),
                reach: called.reach,
                us: micros(called.took),
            });
        }
        Ok(calls)
    }

    /// Since when the first of them captures, if its route is there.
    async fn add_rules(&self) -> Result<Instant, String> {
        let begun = Instant::now();
        for (rule, _) in &self.captors {
            self.worker.kernel.add_rule(rule).await.map_err(|why| chain(&why))?;
        }
        Ok(begun)
    }

    async fn add_routes(&self) -> Result<(), String> {
        for (_, route) in &self.captors {
            self.worker.kernel.add_route(route, &self.names).await.map_err(|why| chain(&why))?;
        }
        Ok(())
    }

    /// Where each target leaves, by a mark.
    async fn ask(&self, mark: u32) -> Result<Vec<Fate>, NetlinkError> {
        let mut fates = Vec::new();
        for target in &self.targets {
            let kernel = &self.worker.kernel;
            fates.push(kernel.lookup(&self.names, target.ask, mark, (0, 0), 0, None).await?);
        }
        Ok(fates)
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
