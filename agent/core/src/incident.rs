//! From rung to rung: what a recovery does next, judged afresh after each rung.
//!
//! A rung is climbed only when a fresh judgement still contains a finding it can meet, and only as far as the consent
//! reaches. "Unknown" and "not this node's fault" mean wait: an API server that dies in the middle of a recovery must not
//! push a healthy node up the ladder.

mod finish;
mod last;
mod remains;

use crate::alone;
use crate::baseline::Baseline;
use crate::check;
use crate::clock::Stamp;
use crate::diagnosis::{Diagnosis, Finding, Verdict};
use crate::engine::Ending;
use crate::evidence::Evidence;
use crate::observation::Observation;
use crate::plan::{Consent, NodePlan, Rung};
use crate::planner;
use crate::policy::Policy;
use alloc::borrow::Cow;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use finish::finish;
use last::last_resort;
use remains::remains;
use serde::{Deserialize, Serialize};

/// How often one rung may be tried within an incident: a culprit that comes back is met again, but not for ever.
pub const ATTEMPTS: u32 = 3;

/// How long "unknown" or "upstream" is waited out before the incident is held, milliseconds.
pub const HOLD_MS: u64 = 30_000;

/// How long the kubelet may take to come back by itself once its path is right, milliseconds: a lease attempt every 10 s,
/// and up to 7 s of back-off between them (field guide §C).
pub const KUBELET_MS: u64 = 17_000;

/// What was done takes a moment to be seen: the same rung is tried again only after so many milliseconds. tailscaled takes its
/// routes back within a second of being asked.
pub const AGAIN_MS: u64 = 2_000;

/// Between two looks while waiting, milliseconds.
pub const LOOK_MS: u64 = 500;

/// What was started anew writes its packet filter rules when it has read the cluster: kube-proxy some seconds after k3s, portmap when
/// the kubelet has made the new sandbox, which waits for its next look at its pods.
pub const REWRITE_MS: u64 = 45_000;

/// A finished run of this incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Its rung.
    pub rung: Rung,
    /// How it ended.
    pub ending: Ending,
    /// When.
    pub at: Stamp,
}

/// What is going on, across rungs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Its id.
    pub id: String,
    /// When it was opened.
    pub opened: Stamp,
    /// Who asked.
    pub by: String,
    /// What they agreed to; of the agent itself, what it was opened for and what that has turned into.
    pub consent: Consent,
    /// Nobody asked: the agent opened it by itself.
    #[serde(default)]
    pub alone: bool,
    /// How long the node must stay well at the end, milliseconds.
    pub stability_ms: u64,
    /// Runs so far, in order.
    pub runs: Vec<Run>,
    /// Since when the node has been seen well without a break.
    pub well_since: Option<Stamp>,
    /// Since when nothing could be said.
    pub blind_since: Option<Stamp>,
    /// Since when it could not be seen whether anything was left behind.
    #[serde(default)]
    pub held_since: Option<Stamp>,
    /// Since when the only trouble is a kubelet that has not come back yet.
    pub kubelet_since: Option<Stamp>,
    /// Culprits that a run was aimed at, by pid and start: one that was started since is met as gently as the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub met: Vec<(u32, u64)>,
}

/// What a recovery does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Climb {
    /// Run this plan.
    Plan(NodePlan),
    /// Look again after this many milliseconds; the text says what is waited for.
    Watch(u64, String),
    /// The plan goes beyond the consent: ask.
    Ask(NodePlan, Vec<String>),
    /// The end; the text says why.
    Close(Ending, String),
}

impl Incident {
    /// Opens one.
    pub fn new(id: String, opened: Stamp, by: String, consent: Consent, stability_ms: u64) -> Self {
        Self {
            id,
            opened,
            by,
            consent,
            alone: false,
            stability_ms,
            runs: Vec::new(),
            well_since: None,
            blind_since: None,
            held_since: None,
            kubelet_since: None,
            met: Vec::new(),
        }
    }

    /// As [`Self::new`], by the agent itself.
    #[must_use]
    pub fn by_itself(self) -> Self {
        Self { alone: true, ..self }
    }

    /// What the agent may meet alone: a fault that needs an operator is none of this incident's.
    fn own<'d>(&self, diag: &'d Diagnosis, policy: &Policy) -> Cow<'d, Diagnosis> {
        if !self.alone || diag.findings.iter().all(|f| alone::covers(&self.consent, f, policy)) {
            return Cow::Borrowed(diag);
        }
        let own = |f: &&Finding| alone::covers(&self.consent, f, policy);
        let findings = diag.findings.iter().filter(own).cloned().collect();
        Cow::Owned(Diagnosis { findings, ..diag.clone() })
    }

    /// The agent's own consent follows the plan, within the policy: it was decided when the incident was opened.
    fn widen(&mut self, plan: &NodePlan, policy: &Policy) {
        if !self.alone {
            return;
        }
        self.consent.rung = policy.max_rung;
        let kinds = plan.steps.iter().map(|s| s.op.kind().to_string());
        for kind in kinds.filter(|k| !self.consent.kinds.contains(k)).collect::<Vec<_>>() {
            self.consent.kinds.push(kind);
        }
        let found = plan.findings.iter().filter(|f| !self.consent.findings.contains(f));
        let found: Vec<String> = found.cloned().collect();
        self.consent.findings.extend(found);
    }

    /// Whoever captures now was started after the last run that was aimed at somebody.
    fn knows_none_of(&self, diag: &Diagnosis) -> bool {
        let mut named = culprits(diag).peekable();
        named.peek().is_some() && named.all(|c| !self.met.contains(&c))
    }

    fn attempts(&self, rung: Rung) -> u32 {
        let n = self.runs.iter().filter(|r| r.rung == rung && r.ending != Ending::Void).count();
        u32::try_from(n).unwrap_or(u32::MAX)
    }
}

/// Who the findings name, by pid and start.
fn culprits(diag: &Diagnosis) -> impl Iterator<Item = (u32, u64)> {
    let named = diag.findings.iter().filter_map(|f| f.culprit.as_ref()?.process.as_ref());
    named.map(|p| (p.pid, p.start))
}

/// Since when a condition has held: kept while it does, forgotten when it does not. A reboot forgets it too.
fn since(kept: &mut Option<Stamp>, holds: bool, now: &Stamp) -> u64 {
    if !holds {
        *kept = None;
        return 0;
    }
    match kept.as_ref().and_then(|k| now.since(k)) {
        Some(ms) => ms,
        None => {
            *kept = Some(now.clone());
            0
        }
    }
}

/// Decides what comes next. Remembers in `incident` since when what has been so.
pub fn climb(
    incident: &mut Incident,
    seen: &Observation,
    base: &Baseline,
    policy: &Policy,
    diag: &Diagnosis,
) -> Climb {
    let now = &seen.taken;
    if let Some(stuck) = incident.runs.iter().find(|r| r.ending == Ending::Stuck) {
        return Climb::Close(Ending::Stuck, alloc::format!("run {} needs a human", stuck.id));
    }
    if incident.runs.last().is_some_and(|r| r.ending == Ending::Cancelled) {
        return Climb::Close(
            Ending::Cancelled,
            "cancelled; what could be undone has been undone".to_string(),
        );
    }
    let blind = matches!(diag.verdict, Verdict::Unknown | Verdict::Upstream);
    let blind_ms = since(&mut incident.blind_since, blind, now);
    if blind {
        incident.well_since = None;
        return if blind_ms >= HOLD_MS {
            Climb::Close(Ending::Held, diag.summary.clone())
        } else {
            Climb::Watch(LOOK_MS, diag.summary.clone())
        };
    }
    // Its path is right again and only the kubelet has not noticed: it is given the time it normally takes. So it is when its
    // connections were closed, or its unit was started anew: who is restarted every two seconds never renews a lease.
    let kubelet = diag.verdict == Verdict::KubeletStuck && !incident.runs.is_empty();
    let kubelet_ms = since(&mut incident.kubelet_since, kubelet, now);
    let dials = match incident.runs.last().filter(|r| r.rung == Rung::Reconnect) {
        Some(last) => now.since(&last.at).is_some_and(|ms| ms < KUBELET_MS),
        None => kubelet_ms < KUBELET_MS && incident.attempts(Rung::Reconnect) == 0,
    };
    if kubelet && dials {
        incident.well_since = None;
        return Climb::Watch(
            LOOK_MS,
            "the path is right; waiting for the kubelet to renew its lease".to_string(),
        );
    }
    // A baseline nobody vouches for permits guards only.
    if incident.alone && !base.is_trusted() {
        let why =
            "how this node looks when it is well is not known for certain: an operator decides";
        return Climb::Close(Ending::Held, why.to_string());
    }
    let own = incident.own(diag, policy).into_owned();
    let mut spent = false;
    for rung in Rung::ENGINE {
        if rung.number() < incident.consent.from {
            continue;
        }
        let attempt = incident.attempts(rung);
        let newcomers = rung == Rung::Quiet && incident.knows_none_of(&own);
        let firmness = if newcomers { 0 } else { attempt };
        let Some(plan) = planner::plan(seen, base, policy, &own, rung, &incident.id, firmness)
        else {
            continue;
        };
        if plan.steps.is_empty() {
            continue;
        }
        if attempt >= ATTEMPTS {
            spent = true;
            continue;
        }
        incident.well_since = None;
        let last = incident.runs.last().filter(|r| r.rung == rung);
        if last.and_then(|r| now.since(&r.at)).is_some_and(|ms| ms < AGAIN_MS) {
            let why = "what was done takes a moment to be seen; looking again";
            return Climb::Watch(LOOK_MS, why.to_string());
        }
        incident.widen(&plan, policy);
        let objections = check::check(&plan, seen, base);
        if let Some(first) = objections.first() {
            let why = alloc::format!(
                "the plan for rung {} was refused by the checker: {first}",
                rung.number()
            );
            return Climb::Close(Ending::Stuck, why);
        }
        let lacks = incident.consent.lacks(&plan);
        if !lacks.is_empty() {
            return Climb::Ask(plan, lacks);
        }
        if rung == Rung::Quiet {
            incident.met.extend(culprits(&own));
        }
        return Climb::Plan(plan);
    }
    if let Some(wait) = rewriting(incident, seen, diag) {
        incident.well_since = None;
        return wait;
    }
    let how = if diag.verdict == Verdict::Healthy {
        "was asked, lets go and still runs, kept by"
    } else {
        "is kept by"
    };
    let remains = remains(incident, &Evidence::of(seen, base, policy), how);
    let end = finish(incident, diag, now, spent, &remains);
    let Climb::Close(Ending::Unwell, text) = end else { return end };
    last_resort(incident, seen, base, policy, diag).unwrap_or_else(|why| {
        let text = if why.is_empty() { text } else { alloc::format!("{text}; {why}") };
        Climb::Close(Ending::Unwell, text)
    })
}

/// Rules that those write again who were just started anew: not there yet is no end.
fn rewriting(incident: &Incident, seen: &Observation, diag: &Diagnosis) -> Option<Climb> {
    let last = incident.runs.last().filter(|r| r.rung == Rung::Reconnect)?;
    seen.taken.since(&last.at).filter(|ms| *ms < REWRITE_MS)?;
    let coming = |f: &Finding| match f.fault.as_str() {
        "proxy-rules-lost" => true,
        // Nobody was started anew whose sandbox is not known.
        "host-ports-lost" => !seen.host_ports.is_empty(),
        _ => false,
    };
    let what = match diag.findings.iter().find(|f| coming(f))?.fault.as_str() {
        "host-ports-lost" => "the rules of host ports",
        _ => "kube-proxy's rules",
    };
    Some(Climb::Watch(LOOK_MS, alloc::format!("waiting until {what} are written anew")))
}
