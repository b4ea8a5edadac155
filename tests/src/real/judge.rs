//! Whether the three acts on the real cluster show what they must, and what their rows are called.

use super::view::Way;
use crate::incident::Act;
use crate::trial::is_tailscales;
use crate::witness::{Difference, Kind};

pub(super) const CAPTURE: &str = "seconds from DaemonSet to capture";
pub(super) const CAPTURES: &str = "times the exit node took the default route";
pub(super) const LOST: &str = "probes of the API server lost, of 100 a second";
pub(super) const READY: &str = "seconds from first command to node Ready";
pub(super) const PODS: &str = "pods of the node not ready";
pub(super) const OWN: &str = "incidents that the agents opened themselves";
pub(super) const REPORT: &str = "culprit and deed in the report";
pub(super) const KUBE: &str = "differences that are kube-proxy's own";
pub(super) const KEPT: &str = "folders that the workload keeps";
pub(super) const MORNING: &str = "left behind after the report's advice";
/// A cell that has no meaning in that act.
pub(super) const NONE: &str = "–";

/// By hand there are marks; by operator none but for what kube-proxy itself re-wrote; by itself nothing was ever missed, and what is
/// there is the living culprit's or our guard's. And after the last two the cluster works.
pub fn judge(acts: &[Act]) -> Result<(), String> {
    let [hand, operator, itself] = acts else {
        return Err(format!("three acts were to be told, {} were", acts.len()));
    };
    let mut wrong = Vec::new();
    if hand.left.is_empty() {
        wrong.push("by hand left no mark: the comparison shows nothing".to_owned());
    }
    let strange = operator.left.iter().filter(|d| !is_rewritten(d) && !super::faults::is_kept(d));
    wrong.extend(strange.map(|d| format!("by operator differs from before: {d}")));
    wrong.extend(dead(operator));
    wrong.extend(judge_itself(itself).err());
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// The act in which nobody does anything, alone.
pub fn judge_itself(itself: &Act) -> Result<(), String> {
    let ours = |d: &Difference| d.to_string().contains("proto 213");
    let own = |d: &Difference| is_the_culprits(d) || is_rewritten(d) || ours(d);
    let strange = itself.left.iter().filter(|d| !own(d));
    let mut wrong: Vec<_> =
        strange.map(|d| format!("by itself differs from before: {d}")).collect();
    if itself.missed > 0 || itself.not_ready {
        wrong.push(format!(
            "by itself {} leases were missed, NotReady: {}",
            itself.missed, itself.not_ready
        ));
    }
    wrong.extend(dead(itself));
    for (what, is) in &itself.cluster {
        // One capture is the incident; the second is the workload that keeps trying.
        let once = *what == CAPTURES && ["0", "1"].contains(&is.as_str());
        if once || [LOST, MORNING].contains(what) && is != "0" {
            wrong.push(format!("by itself, {what}: {is}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// What of the cluster does not work in the end, and what the report should say and does not.
fn dead(act: &Act) -> impl Iterator<Item = String> {
    let bad = |(what, is): &&(&str, String)| {
        let works = Way::ALL.iter().any(|w| w.told() == *what);
        *what == PODS && is != "0"
            || works && is != "works"
            || *what == REPORT && is != NONE && is != "yes"
    };
    act.cluster.iter().filter(bad).map(|(what, is)| format!("{}, {what}: {is}", act.name))
}

/// What a living culprit keeps: Tailscale's rules, its marks as nft shows them, and its pod's processes.
fn is_the_culprits(d: &Difference) -> bool {
    let mark = d.line.contains("16711680");
    let base = d.line.starts_with("chain ip mangle ") || d.line.starts_with("chain ip6 mangle ");
    let pods = ["containerd-shim-runc-v2", "/bin/sleep 2147483647"];
    let process = d.kind == Kind::Processes && pods.iter().any(|p| d.line.contains(p));
    is_tailscales(d) || process || (d.source == "nft" && (mark || base))
}

/// A look that was cut short is no look: iptables stops at a rule of nft's own, and nft's look shows them all.
pub(super) fn readable(left: Vec<Difference>) -> Vec<Difference> {
    let short = |d: &&Difference| d.line.contains("could not be read whole");
    let cut: Vec<String> = left.iter().filter(short).map(|d| d.source.clone()).collect();
    left.into_iter().filter(|d| !cut.contains(&d.source)).collect()
}

/// Rules that kube-proxy itself writes anew. It follows pods' addresses, which a rebooted node deals anew; a difference it is all
/// the same, and is shown.
pub(crate) fn is_rewritten(difference: &Difference) -> bool {
    let own = ["KUBE-SEP-", "KUBE-SVC-", "KUBE-SERVICES"];
    own.iter().any(|chain| difference.line.contains(chain))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::witness::Change;

    fn act(name: &'static str, left: &[&str], cluster: &[(&'static str, &str)]) -> Act {
        let line = |l: &&str| Difference {
            kind: Kind::Rules,
            source: "rule4".to_owned(),
            change: Change::New,
            line: (*l).to_owned(),
        };
        Act {
            name,
            outage: Duration::ZERO,
            acting: None,
            missed: 0,
            not_ready: false,
            typed: 0,
            left: left.iter().map(line).collect(),
            cluster: cluster.iter().map(|(what, is)| (*what, (*is).to_owned())).collect(),
        }
    }

    fn judged(left: &[&str], cluster: &[(&'static str, &str)]) -> Result<(), String> {
        let marks = act("by hand", &["chain X"], &[]);
        judge(&[marks, act("by operator", &[], &[]), act("by itself", left, cluster)])
    }

    #[test]
    fn a_living_culprit_and_our_guard_may_stand_and_nothing_else() {
        assert_eq!(
            judged(&["5270: from all lookup 52", "from all lookup main proto 213"], &[]),
            Ok(())
        );
        assert!(judged(&["100: from all lookup 7"], &[]).is_err());
    }

    #[test]
    fn a_look_that_was_cut_short_counts_for_nothing() {
        let mut left = act("", &["(could not be read whole)", "chain X"], &[]).left;
        left.push(Difference { source: "nft".to_owned(), ..left[1].clone() });
        let readable = readable(left);
        assert_eq!(readable.iter().map(|d| d.source.as_str()).collect::<Vec<_>>(), ["nft"]);
    }

    #[test]
    fn one_lost_probe_or_one_dead_way_is_too_much() {
        let well = [(LOST, "0"), (CAPTURES, "3"), (REPORT, "yes"), (MORNING, "0")];
        assert_eq!(judged(&[], &well), Ok(()));
        for bad in [
            (LOST, "1"),
            (CAPTURES, "1"),
            (REPORT, "no"),
            (MORNING, "2"),
            (Way::Dns.told(), "dead"),
        ] {
            assert!(judged(&[], &[bad]).is_err(), "{bad:?}");
        }
    }
}
