//! Nothing is left to do: how an incident ends.

use super::{ATTEMPTS, Climb, HOLD_MS, Incident, KUBELET_MS, LOOK_MS, since};
use crate::clock::Stamp;
use crate::diagnosis::{Diagnosis, Verdict};
use crate::engine::Ending;
use crate::threat::EXPIRY_MS;
use alloc::string::ToString;

/// The fault that tells of what a culprit left.
const REMNANT: &str = "tailscale-remnant";

/// Who could capture again comes and goes, and captures nothing.
const GUARD_STAYS: &str = "; our guard still stands as a precaution, against rules that could capture and do not, and goes by itself";

/// Nothing is left to do: is the node well, and has it been for long enough?
pub(super) fn finish(
    incident: &mut Incident,
    diag: &Diagnosis,
    now: &Stamp,
    spent: bool,
    remains: &str,
) -> Climb {
    match diag.verdict {
        Verdict::Healthy if incident.alone && incident.runs.is_empty() => {
            Climb::Close(Ending::Void, "it was gone before anything was done".to_string())
        }
        // Well, and what an operator wanted gone is still there: that is no recovery.
        Verdict::Healthy if spent => Climb::Close(
            Ending::Unwell,
            alloc::format!("{}; it was tried {ATTEMPTS} times to mend it, in vain", diag.summary),
        ),
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
            // The verdict is as if our guard were not there. It is given the time that a precaution takes to end; somebody who
            // renews one again and again must not hold the incident open, and the next one up.
            if diag.guarded && ms < incident.stability_ms.saturating_add(EXPIRY_MS) {
                return Climb::Watch(
                    LOOK_MS,
                    "well without our guard; the guard is being lowered".to_string(),
                );
            }
            if ms >= incident.stability_ms {
                let guard = if diag.guarded { GUARD_STAYS } else { "" };
                Climb::Close(Ending::Recovered, alloc::format!("{}{remains}{guard}", diag.summary))
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
                    "{}; each repair was tried {ATTEMPTS} times and it came back{remains}",
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
