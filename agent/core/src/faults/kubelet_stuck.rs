//! The API server can be reached, and the kubelet does not reach it.

use super::{Consent, Fault, Found, Want};
use crate::diagnosis::{Finding, Severity, Verdict};
use crate::evidence::Evidence;
use crate::judge::{kubelet_trouble, unit};
use crate::observation::{Sense, Socket, Unit};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "kubelet-stuck",
    rows: &["K1", "K2", "K3", "K4"],
    title: "the kubelet does not reach the API server",
    why: "The path is right and the API server answers, but the kubelet does not renew its lease: its connections died while \
          the path was broken and hang in retransmission, or its unit is not running. First the dead connections are \
          closed, which makes it dial again at once; only if that does not help is its unit restarted. Pods keep \
          running. A unit that fails by itself is started anew once, and then left, with what it said: a broken configuration is not \
          mended by starting. A masked unit is somebody's will, and is not started.",
    needs: &[Sense::Rules, Sense::Routes, Sense::Links, Sense::Probes, Sense::Lease, Sense::Units],
    debounce_ms: 15_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Automatic,
    becomes: &[],
};

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    // While the way is not right, the kubelet's trouble is a consequence.
    let right = e.strays.is_empty() && e.missing_kernel_rules().is_empty();
    let trouble = kubelet_trouble(e).filter(|_| right && e.api_works() == Some(true));
    let Some(trouble) = trouble else { return Vec::new() };
    let mut evidence = [trouble].to_vec();
    if let Some(u) = unit(e).filter(|u| u.load == "masked") {
        evidence.push(format!("{} is masked, which is somebody's will: systemctl unmask", u.name));
    }
    if let Some(u) = unit(e).filter(|u| fails(u)) {
        if !u.result.is_empty() {
            let times = if u.restarts == 1 { "time" } else { "times" };
            let line = format!(
                "systemd started it anew {} {times}; it ended with {}",
                u.restarts, u.result
            );
            evidence.push(line);
        }
        evidence.extend(u.said.iter().map(|line| format!("it said: {line}")));
    }
    evidence
        .extend(sockets(e).map(|s| format!("connection {} from {} to {}", s.state, s.src, s.dst)));
    [Found { verdict: Verdict::KubeletStuck, severity: None, culprit: None, harm: true, evidence }]
        .into()
}

/// Does it end by itself, as opposed to one that runs and is stuck, or was stopped? Between two of systemd's own restarts it
/// is being started for a moment, too.
fn fails(u: &Unit) -> bool {
    u.active == "failed" || u.sub == "auto-restart" || (u.active == "activating" && u.restarts > 0)
}

fn sockets<'e>(e: &'e Evidence<'_>) -> impl Iterator<Item = &'e Socket> {
    e.seen.sockets.iter().filter(|s| s.mark == 0 && e.expected.iter().any(|x| x.ask == s.dst.ip()))
}

fn remedy(e: &Evidence<'_>, _: &Finding, rung: Rung, attempt: u32) -> Vec<Want> {
    if rung != Rung::Reconnect {
        return Vec::new();
    }
    let mut out = Vec::new();
    let mut dead_to: Vec<_> = e
        .expected
        .iter()
        .filter(|x| sockets(e).any(|s| s.dst.ip() == x.ask))
        .map(|x| x.ask)
        .collect();
    dead_to.dedup();
    if !dead_to.is_empty() {
        let op = NodeOp::FlowsGone { sources: Vec::new(), dead_to };
        out.push(Want::must(op, "connections that died with the path are dialled again at once"));
    }
    let unit = unit(e);
    // Masked is somebody's will: nobody starts it but a person.
    let may = unit.is_some_and(|u| u.load != "masked");
    let down = unit.is_some_and(|u| matches!(u.active.as_str(), "failed" | "inactive"));
    // What fails by itself will fail again: once is enough to see that.
    let again = attempt == 0 || !unit.is_some_and(fails);
    if may && again && (down || attempt > 0 || out.is_empty()) {
        let because = match (down, attempt) {
            (true, _) => "it is not running",
            (false, 0) => "it renews no lease, and has no connection that could be closed",
            (false, _) => "closing its connections was not enough",
        };
        out.push(Want::must(NodeOp::Restarted { unit: e.policy.unit.clone() }, because));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_is_being_started_again_by_systemd_fails_and_one_that_hangs_does_not() {
        let unit = |active: &str, sub: &str, restarts| Unit {
            active: active.into(),
            sub: sub.into(),
            restarts,
            ..Unit::default()
        };
        assert!(fails(&unit("activating", "auto-restart", 1)));
        assert!(fails(&unit("activating", "start", 1)));
        assert!(!fails(&unit("activating", "start", 0)), "it was started by somebody, and hangs");
        assert!(!fails(&unit("active", "running", 3)), "it came up in the end");
    }
}
