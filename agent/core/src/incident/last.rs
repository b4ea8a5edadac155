//! When nothing else is known: the rungs that do not ask what the trouble is.

use super::{Climb, Incident};
use crate::baseline::Baseline;
use crate::check;
use crate::diagnosis::Diagnosis;
use crate::engine::Ending;
use crate::observation::Observation;
use crate::plan::Rung;
use crate::planner;
use crate::policy::Policy;
use alloc::string::String;
use alloc::vec::Vec;

/// Each once, and only when the operator's consent reaches them.
pub(super) fn last_resort(
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
        if !named {
            continue;
        }
        // Each once: what it did not heal, or nobody confirmed, it will not heal the next time.
        if let Some(run) = incident.runs.iter().find(|r| r.rung == rung) {
            let how = match run.ending {
                Ending::RolledBack => "was undone",
                Ending::Recovered
                | Ending::Held
                | Ending::Unwell
                | Ending::Cancelled
                | Ending::Void
                | Ending::Stuck => "did not help",
            };
            why_not.push(alloc::format!("the {} {how}", rung.word()));
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
