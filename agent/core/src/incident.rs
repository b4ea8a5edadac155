//! From rung to rung: what a recovery does next, judged afresh after each rung.
//!
//! A rung is climbed only when a fresh judgement still contains a finding it can meet, and only as far as the consent
//! reaches. "Unknown" and "not this node's fault" mean wait: an API server that dies in the middle of a recovery must not
//! push a healthy node up the ladder.

use crate::baseline::Baseline;
use crate::check;
use crate::clock::Stamp;
use crate::diagnosis::{Diagnosis, Verdict};
use crate::engine::Ending;
use crate::observation::Observation;
use crate::plan::{Consent, NodePlan, Rung};
use crate::planner;
use crate::policy::Policy;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How often one rung may be tried within an incident: a culprit that comes back is met again, but not for ever.
pub const ATTEMPTS: u32 = 3;

/// How long "unknown" or "upstream" is waited out before the incident is held, milliseconds.
pub const HOLD_MS: u64 = 30_000;

/// How long the kubelet may take to come back by itself once its path is right, milliseconds: a lease attempt every 10 s,
/// and up to 7 s of back-off between them (field guide §C).
pub const KUBELET_MS: u64 = 17_000;

/// The fault that tells of what a culprit left.
const REMNANT: &str = "tailscale-remnant";

/// Between two looks while waiting, milliseconds.
pub const LOOK_MS: u64 = 500;

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
    /// What they agreed to.
    pub consent: Consent,
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
            stability_ms,
            runs: Vec::new(),
            well_since: None,
            blind_since: None,
            held_since: None,
            kubelet_since: None,
        }
    }

    fn attempts(&self, rung: Rung) -> u32 {
        let n = self.runs.iter().filter(|r| r.rung == rung && r.ending != Ending::Void).count();
        u32::try_from(n).unwrap_or(u32::MAX)
    }
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
    // Its path is right again and only the kubelet has not noticed: it is given the time it normally takes.
    let kubelet = diag.verdict == Verdict::KubeletStuck && !incident.runs.is_empty();
    let kubelet_ms = since(&mut incident.kubelet_since, kubelet, now);
    if kubelet && kubelet_ms < KUBELET_MS && incident.attempts(Rung::Reconnect) == 0 {
        incident.well_since = None;
        return Climb::Watch(
            LOOK_MS,
            "the path is right; waiting for the kubelet to renew its lease".to_string(),
        );
    }
    let mut spent = false;
    for rung in Rung::ENGINE {
        if rung.number() < incident.consent.from {
            continue;
        }
        let attempt = incident.attempts(rung);
        let Some(plan) = planner::plan(seen, base, policy, diag, rung, &incident.id, attempt)
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
        let objections = check::check(&plan, seen, base);
        if let Some(first) = objections.first() {
            let why = alloc::format!(
                "the plan for rung {} was refused by the checker: {first}",
                rung.number()
            );
            return Climb::Close(Ending::Stuck, why);
        }
        let lacks = incident.consent.lacks(&plan);
        return if lacks.is_empty() { Climb::Plan(plan) } else { Climb::Ask(plan, lacks) };
    }
    let end = finish(incident, diag, now, spent);
    match end {
        Climb::Close(Ending::Unwell, text) => last_resort(incident, seen, base, policy, diag)
            .unwrap_or_else(|why| {
                let text = if why.is_empty() { text } else { alloc::format!("{text}; {why}") };
                Climb::Close(Ending::Unwell, text)
            }),
        other => other,
    }
}

/// Nothing else is known: the rungs that do not ask what it is, each once, and only when the operator's consent reaches them.
fn last_resort(
    incident: &mut Incident,
    seen: &Observation,
    base: &Baseline,
    policy: &Policy,
    diag: &Diagnosis,
) -> Result<Climb, String> {
    let mut why_not = Vec::new();
    for rung in Rung::LAST {
        let consent = &incident.consent;
        let named = (consent.from..=consent.rung).contains(&rung.number());
        if !named || incident.attempts(rung) > 0 {
            continue;
        }
        let plan = match planner::last_resort(seen, policy, diag, rung, &incident.id) {
            Ok(plan) => plan,
            Err(why) => {
                why_not.push(alloc::format!("no {}: {why}", rung.word()));
                continue;
            }
        };
        if let Some(first) = check::check(&plan, seen, base).first() {
            why_not.push(alloc::format!("no {}: the checker refused it: {first}", rung.word()));
            continue;
        }
        let lacks = incident.consent.lacks(&plan);
        return Ok(if lacks.is_empty() { Climb::Plan(plan) } else { Climb::Ask(plan, lacks) });
    }
    Err(why_not.join("; "))
}

/// Nothing is left to do: is the node well, and has it been for long enough?
fn finish(incident: &mut Incident, diag: &Diagnosis, now: &Stamp, spent: bool) -> Climb {
    match diag.verdict {
        Verdict::Healthy => {
            // "Could not read" is never "nothing there": whether something was left behind cannot be said.
            let held = diag.held.iter().find(|h| h.fault == REMNANT);
            let held_ms = since(&mut incident.held_since, held.is_some(), now);
            if let Some(held) = held {
                incident.well_since = None;
                let why =
                    alloc::format!("well, but what was left behind is not known: {}", held.why);
                return if held_ms >= HOLD_MS {
                    Climb::Close(Ending::Held, why)
                } else {
                    Climb::Watch(LOOK_MS, why)
                };
            }
            let ms = since(&mut incident.well_since, true, now);
            if diag.guarded {
                return Climb::Watch(
                    LOOK_MS,
                    "well without our guard; the guard is being lowered".to_string(),
                );
            }
            if ms >= incident.stability_ms {
                Climb::Close(Ending::Recovered, diag.summary.clone())
            } else {
                // No countdown: a note is written for each new text, and one says it all.
                let whole = incident.stability_ms.div_ceil(1_000);
                Climb::Watch(
                    LOOK_MS,
                    alloc::format!("healthy; watching that it stays so for {whole} s"),
                )
            }
        }
        // Works, and differs: an operator's decision, never ours.
        Verdict::Moved => Climb::Close(Ending::Held, diag.summary.clone()),
        Verdict::Captured | Verdict::Lost | Verdict::Filtered | Verdict::KubeletStuck if spent => {
            Climb::Close(
                Ending::Unwell,
                alloc::format!(
                    "{}; each repair was tried {ATTEMPTS} times and it came back",
                    diag.summary
                ),
            )
        }
        Verdict::KubeletStuck
            if !incident.runs.is_empty()
                && incident
                    .kubelet_since
                    .as_ref()
                    .and_then(|k| now.since(k))
                    .is_none_or(|ms| ms < 3 * KUBELET_MS) =>
        {
            Climb::Watch(LOOK_MS, "k3s-agent was restarted; waiting for its lease".to_string())
        }
        Verdict::Captured | Verdict::Lost | Verdict::Filtered | Verdict::KubeletStuck => {
            Climb::Close(
                Ending::Unwell,
                alloc::format!("{}; no repair is known for it", diag.summary),
            )
        }
        Verdict::Unknown | Verdict::Upstream => Climb::Close(Ending::Held, diag.summary.clone()),
    }
}
