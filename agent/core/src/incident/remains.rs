//! Who lives on when an incident ends, and who keeps them.

use super::Incident;
use crate::evidence::Evidence;
use crate::faults::tailscale;
use crate::faults::tailscale_capture::is_kept;
use crate::observation::{Netns, Process};
use crate::plan::Rung;
use alloc::string::{String, ToString};

/// A culprit that was asked and obeys lives on, and one that was stopped is started again. Whoever reads the end has to know by
/// whom, for only they can end it for good.
pub(super) fn remains(incident: &Incident, e: &Evidence<'_>, how: &str) -> String {
    if incident.attempts(Rung::Quiet) == 0 {
        return String::new();
    }
    let kept = |p: &&Process| p.netns == Netns::Host && is_kept(p);
    let told = tailscale::live(e).into_iter().filter(kept).filter_map(|p| {
        let keeper = p.keeper()?;
        let name = p.exe.rsplit('/').next().unwrap_or(&p.exe).to_string();
        let (pid, good) = (p.pid, keeper.for_good());
        Some(alloc::format!("; {name} (pid {pid}) {how} {keeper}; for good: {good}"))
    });
    told.collect()
}
