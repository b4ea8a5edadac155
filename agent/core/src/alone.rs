//! When the agent acts without being asked: which findings are its own to meet, for how long each must have been there, and
//! whether anything is left of its budget.
//!
//! Everything it would do is what an operator's heal would do; this only decides when, and how far.

use crate::baseline::Baseline;
use crate::budget::{self, Allowance, Budget};
use crate::clock::Stamp;
use crate::diagnosis::{Diagnosis, Finding, Verdict};
use crate::faults;
use crate::observation::Observation;
use crate::plan::{Consent, NodePlan, Rung};
use crate::planner;
use crate::policy::{Mode, Policy};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Since when each finding has been there, without a break.
#[derive(Clone, Debug, Default)]
pub struct Vigil {
    since: Vec<(String, Stamp)>,
}

/// What the agent does by itself after a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolve {
    /// Nothing: all is well, or what is wrong is not its own to meet.
    Rest,
    /// Look again so that the look has ended so many milliseconds after the last began: a finding has not been there for long
    /// enough.
    Look(u64),
    /// Open an incident with this consent, for these accounts.
    Open(Consent, Vec<String>),
    /// It would act and may not; the guard stays.
    Hold(Held),
}

/// Why it may not act, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// For people.
    pub why: String,
    /// How long at least, milliseconds; 0 when no time mends it.
    pub ms: u64,
}

/// Is this finding one that the agent meets alone?
pub fn is_own(finding: &Finding, policy: &Policy) -> bool {
    let Some(fault) = faults::by_id(&finding.fault) else { return false };
    match fault.consent {
        faults::Consent::Automatic => true,
        // What was left behind harms nobody: it can wait for somebody, unless the operator wants it otherwise.
        faults::Consent::Operator => policy.remnants_alone && finding.verdict == Verdict::Healthy,
    }
}

/// Is this finding covered by what an incident of the agent's own was opened for, or by what that turns into?
pub fn covers(consent: &Consent, finding: &Finding, policy: &Policy) -> bool {
    let turned = |key: &String| {
        let id = key.split('/').next().unwrap_or_default();
        faults::by_id(id).is_some_and(|f| f.becomes.contains(&finding.fault.as_str()))
    };
    is_own(finding, policy)
        || consent.findings.contains(&finding.key())
        || consent.findings.iter().any(turned)
}

/// An incident that has ended, as its file tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Its id, `calypso-7`.
    pub id: String,
    /// When it was opened.
    pub opened: Stamp,
    /// How it ended, as the wire has it; `None` while it is under way.
    pub ending: Option<String>,
    /// What was said of its end, for people.
    pub why: String,
    /// Keys of the findings it was opened for, or met.
    pub findings: Vec<String>,
}

/// How an incident can end without anything said of its findings: nothing was tried.
const UNTRIED: [&str; 3] = ["void", "ask", "cancelled"];

/// The incident that an operator has to look into before this finding is met alone again: the last that met it, in this boot, and
/// ended stuck. A run that could be neither finished nor undone is met by no second one; what an operator's heal has ended otherwise
/// is.
fn stuck<'p>(key: &str, past: &'p [Past], now: &Stamp) -> Option<&'p Past> {
    let of = |p: &&Past| p.opened.boot == now.boot && p.findings.iter().any(|f| f == key);
    let tried = |p: &&Past| p.ending.as_deref().is_some_and(|e| !UNTRIED.contains(&e));
    past.iter().filter(of).find(tried).filter(|p| p.ending.as_deref() == Some(STUCK))
}

/// As the wire has [`crate::engine::Ending::Stuck`].
const STUCK: &str = "stuck";

/// Takes from what is to be opened the findings whose last incident ended stuck; held when none is left.
///
/// `past` is every incident that is known, the newest first, whoever opened it.
pub fn heed(resolve: Resolve, past: &[Past], now: &Stamp) -> Resolve {
    let Resolve::Open(mut consent, accounts) = resolve else { return resolve };
    let mut held = None;
    let mut kept = (Vec::new(), Vec::new());
    for (key, account) in consent.findings.into_iter().zip(accounts) {
        match stuck(&key, past, now) {
            Some(last) => held = held.or_else(|| Some(stands_stuck(&key, last))),
            None => {
                kept.0.push(key);
                kept.1.push(account);
            }
        }
    }
    match held {
        Some(held) if kept.0.is_empty() => Resolve::Hold(held),
        _ => {
            consent.findings = kept.0;
            Resolve::Open(consent, kept.1)
        }
    }
}

fn stands_stuck(key: &str, last: &Past) -> Held {
    let (id, node) = (&last.id, last.id.rsplit_once('-').map_or("NODE", |(node, _)| node));
    let said = if last.why.is_empty() { "" } else { ": " };
    let why = format!(
        "incident {id}, which met {key}, ended stuck{said}{}; only the guard is kept until a human has looked: \
         `ctl report {node} {id}` says what was done, and after a `ctl heal {node}` that ends otherwise, or a reboot, it is met \
         alone again",
        last.why
    );
    Held { why, ms: 0 }
}

impl Vigil {
    /// Weighs a judged look that took so many milliseconds.
    ///
    /// A finding that an earlier look had, too, has been there until this look ended: where a look waits a second for what is
    /// dead, that second counts. One look alone never does, however long it took.
    pub fn weigh(
        &mut self,
        seen: &Observation,
        took_ms: u64,
        base: &Baseline,
        policy: &Policy,
        diag: &Diagnosis,
        budget: &Budget,
    ) -> Resolve {
        if policy.mode != Mode::Heal {
            return Resolve::Rest;
        }
        let now = &seen.taken;
        // A look that could not tell is no sign that anything has gone, and no reason to act.
        if diag.verdict == Verdict::Unknown {
            return Resolve::Rest;
        }
        let own: Vec<&Finding> = diag.findings.iter().filter(|f| is_own(f, policy)).collect();
        self.since
            .retain(|(key, at)| now.since(at).is_some() && own.iter().any(|f| f.key() == *key));
        for finding in &own {
            let key = finding.key();
            if !self.since.iter().any(|(k, _)| *k == key) {
                self.since.push((key, now.clone()));
            }
        }
        let own: Vec<&Finding> =
            own.into_iter().filter(|f| has_remedy(f, seen, base, policy, diag)).collect();
        if own.is_empty() {
            return Resolve::Rest;
        }
        if !base.is_trusted() {
            let why = "how this node looks when it is well has not been learnt yet: it is guarded, \
                       and repaired when an operator asks (`ctl heal`) or accepts it as it is \
                       (`ctl baseline accept`)";
            return Resolve::Hold(Held { why: why.to_string(), ms: 0 });
        }
        let left = |f: &Finding| {
            let waits = faults::by_id(&f.fault).map_or(0, |fault| fault.debounce_ms);
            waits.saturating_sub(self.age(f, now))
        };
        let is_due = |f: &Finding| match self.age(f, now) {
            0 => left(f) == 0,
            _ => left(f) <= took_ms,
        };
        let due: Vec<&Finding> = own.iter().copied().filter(|f| is_due(f)).collect();
        if due.is_empty() {
            return Resolve::Look(own.iter().map(|f| left(f)).min().unwrap_or(0).max(1));
        }
        open(&due, seen, policy, budget)
    }

    fn age(&self, finding: &Finding, now: &Stamp) -> u64 {
        let key = finding.key();
        let since = self.since.iter().find(|(k, _)| *k == key);
        since.and_then(|(_, at)| now.since(at)).unwrap_or(0)
    }
}

/// Opens for all that may still be tried; held when nothing may.
fn open(due: &[&Finding], seen: &Observation, policy: &Policy, budget: &Budget) -> Resolve {
    let (mut consent, mut accounts) = (Consent::default(), Vec::new());
    let mut held: Option<Held> = None;
    for finding in due {
        let account = budget::account(finding, seen);
        match budget.may_open(&account, &seen.taken) {
            Allowance::Yes => {
                consent.findings.push(finding.key());
                accounts.push(account);
            }
            Allowance::After(ms) => {
                if held.as_ref().is_none_or(|h| ms < h.ms) {
                    held = Some(exhausted(&account, ms));
                }
            }
        }
    }
    if accounts.is_empty() {
        return held.map_or(Resolve::Rest, Resolve::Hold);
    }
    consent.rung = policy.max_rung;
    Resolve::Open(consent, accounts)
}

/// What is said when an account is used up.
pub fn exhausted(account: &str, ms: u64) -> Held {
    let minutes = ms.div_ceil(60_000);
    let why = format!(
        "{account} was met as often as is allowed and came back: only the guard is kept for {minutes} min more; \
         whoever brings it back has to be stopped"
    );
    Held { why, ms }
}

/// Is there anything at all that could be done about it, as far as the agent may go?
fn has_remedy(
    finding: &Finding,
    seen: &Observation,
    base: &Baseline,
    policy: &Policy,
    diag: &Diagnosis,
) -> bool {
    let only = Diagnosis { findings: [finding.clone()].into(), ..diag.clone() };
    Rung::ENGINE
        .into_iter()
        .filter(|rung| rung.number() <= policy.max_rung)
        .any(|rung| planner::plan(seen, base, policy, &only, rung, "", 0).is_some())
}

/// The accounts a plan of the agent's own is written to.
///
/// # Errors
/// When one of them is used up: then nothing of the plan is done.
pub fn afford(
    plan: &NodePlan,
    diag: &Diagnosis,
    seen: &Observation,
    budget: &Budget,
) -> Result<Vec<String>, Held> {
    let accounts = accounts(plan, diag, seen);
    for account in &accounts {
        if let Allowance::After(ms) = budget.ask(account, plan.rung.number(), &seen.taken) {
            return Err(exhausted(account, ms));
        }
    }
    Ok(accounts)
}

/// The accounts of the findings a plan meets.
pub fn accounts(plan: &NodePlan, diag: &Diagnosis, seen: &Observation) -> Vec<String> {
    let met = |f: &&Finding| plan.findings.contains(&f.key());
    diag.findings.iter().filter(met).map(|f| budget::account(f, seen)).collect()
}
