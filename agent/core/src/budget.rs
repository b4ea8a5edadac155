//! How often the agent meets the same trouble by itself before it only holds the guard.
//!
//! Accounts are per fault and culprit, and a culprit is named by who keeps it: a pod that flaps a rule spends its own account
//! and nobody else's, however often it is deleted and made anew.

use crate::clock::Stamp;
use crate::diagnosis::Finding;
use crate::observation::Observation;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Attempts before the first pause: as many as one incident makes at one rung.
///
/// A kubelet restarts a container after 0, 10, 20, 40… s, up to 300 s (its back-off's cap): a culprit that it brings back is met
/// three times within the first minute, which is enough to show that it will go on.
pub const ATTEMPTS: u32 = 3;

/// The first pause, milliseconds: what a kubelet takes to forget that a container crashed (twice its back-off's cap of 5 min).
/// A culprit that ran for so long without doing harm again is a new case to the kubelet too.
pub const PAUSE_MS: u64 = 10 * 60 * 1_000;

/// The longest pause, milliseconds. Attempts stay at one an hour, 24 a day, and somebody who mended the cause waits no
/// longer than that for the agent to clean up.
pub const LONGEST_MS: u64 = 60 * 60 * 1_000;

/// Accounts kept. The one unused for the longest time goes first: whoever floods this list gets others a fresh account, and
/// never uses one up.
pub const ACCOUNTS: usize = 64;

/// Longest name of an account, bytes.
const NAME: usize = 240;

/// What opening an incident counts as, beside the rungs 2 to 6.
pub const OPENING: u32 = 0;

/// All accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    accounts: Vec<Account>,
}

/// One fault by one culprit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    name: String,
    /// How often each rung was tried in this round.
    tried: Vec<(u32, u32)>,
    /// Rounds that were used up without a long enough peace between them.
    round: u32,
    /// The last attempt.
    last: Stamp,
}

/// May it be tried?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Yes.
    Yes,
    /// Not before so many milliseconds have passed.
    After(u64),
}

impl Account {
    fn tried(&self, rung: u32) -> u32 {
        self.tried.iter().find(|(r, _)| *r == rung).map_or(0, |(_, n)| *n)
    }

    fn is_used_up(&self) -> bool {
        self.tried.iter().any(|(_, n)| *n >= self.limit())
    }

    /// Three attempts in the first round, one in each after it.
    fn limit(&self) -> u32 {
        if self.round == 0 { ATTEMPTS } else { 1 }
    }

    /// 10, 20, 40, 60, 60… minutes.
    fn pause(&self) -> u64 {
        PAUSE_MS.saturating_mul(1 << self.round.min(8)).min(LONGEST_MS)
    }

    /// Since the last attempt. What lies in another boot counts as a moment ago: a reboot is no way round the budget, and the
    /// wall clock, which anybody may set, is not believed.
    fn peace(&self, now: &Stamp) -> u64 {
        now.since(&self.last).unwrap_or(0)
    }

    fn is_forgotten(&self, now: &Stamp) -> bool {
        self.peace(now) > self.pause().saturating_mul(2)
    }
}

impl Budget {
    /// May this rung be tried for this account now?
    pub fn ask(&self, name: &str, rung: u32, now: &Stamp) -> Allowance {
        let name = cut(name);
        let Some(account) = self.accounts.iter().find(|a| a.name == name) else {
            return Allowance::Yes;
        };
        let (peace, pause) = (account.peace(now), account.pause());
        if account.tried(rung) < account.limit() || peace >= pause {
            Allowance::Yes
        } else {
            Allowance::After(pause - peace)
        }
    }

    /// May anything be begun for this account now? Not when any of its rungs is used up, for the same would come of it.
    pub fn may_open(&self, name: &str, now: &Stamp) -> Allowance {
        let name = cut(name);
        let account = self.accounts.iter().find(|a| a.name == name);
        let rungs = account.into_iter().flat_map(|a| a.tried.iter().map(|(rung, _)| *rung));
        let worst = rungs.map(|rung| self.ask(name, rung, now)).find(|a| *a != Allowance::Yes);
        worst.unwrap_or(Allowance::Yes)
    }

    /// Writes an attempt down, whether it was allowed or an operator asked for it.
    pub fn spend(&mut self, name: &str, rung: u32, now: &Stamp) {
        let name = cut(name);
        if !self.accounts.iter().any(|a| a.name == name) {
            self.make_room(now);
            let (tried, last) = (Vec::new(), now.clone());
            self.accounts.push(Account { name: name.to_string(), tried, round: 0, last });
        }
        let Some(account) = self.accounts.iter_mut().find(|a| a.name == name) else { return };
        if account.is_forgotten(now) {
            (account.tried, account.round) = (Vec::new(), 0);
        } else if account.tried(rung) >= account.limit()
            // The pause is over: whatever comes first begins the next round, for all rungs.
            || (account.is_used_up() && account.peace(now) >= account.pause())
        {
            account.tried = Vec::new();
            account.round = account.round.saturating_add(1);
        }
        match account.tried.iter_mut().find(|(r, _)| *r == rung) {
            Some((_, n)) => *n += 1,
            None => account.tried.push((rung, 1)),
        }
        account.last = now.clone();
    }

    /// How often this account has been tried in its present round, whatever the rung.
    pub fn met(&self, name: &str) -> u32 {
        let name = cut(name);
        let account = self.accounts.iter().find(|a| a.name == name);
        account.and_then(|a| a.tried.iter().map(|(_, n)| *n).max()).unwrap_or(0)
    }

    /// After a start: pauses that were begun in another boot begin anew in this one.
    pub fn arrive(&mut self, now: &Stamp) {
        for account in &mut self.accounts {
            if now.since(&account.last).is_none() {
                account.last = now.clone();
            }
        }
    }

    fn make_room(&mut self, now: &Stamp) {
        while self.accounts.len() >= ACCOUNTS {
            let peace = |a: &Account| a.peace(now);
            let Some((oldest, _)) = self.accounts.iter().enumerate().max_by_key(|(_, a)| peace(a))
            else {
                return;
            };
            self.accounts.remove(oldest);
        }
    }
}

/// The account of a finding: the fault, and who does it or keeps who does it. No pid, no device, no container's id.
pub fn account(finding: &Finding, seen: &Observation) -> String {
    let process = finding.culprit.as_ref().and_then(|c| c.process.as_ref());
    let Some(process) = process else { return finding.key() };
    let running = seen.processes.iter().find(|p| p.pid == process.pid && p.start == process.start);
    match running.and_then(|p| p.keeper()) {
        Some(keeper) => format!("{} by {}", finding.key(), keeper.identity()),
        None => format!("{} by {}", finding.key(), process.exe),
    }
}

/// Names come from outside, and lie on a disk.
fn cut(name: &str) -> &str {
    let mut end = name.len().min(NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}
