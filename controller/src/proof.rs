//! What the API server must show after a heal before the node is called healed, each within its limit.
//!
//! Renewals of the lease are *seen to happen*: a changed renewal is proof where a fresh age compares two clocks. After a restart
//! of the kubelet or a reboot, Ready is believed when the kubelet said it after the act, by the node's own clock on both sides
//! ("Ready" alone lied for up to 115 s after a power cycle), of the boot the agent runs in.

use crate::obstacle::chain;
use crate::sight::{PodSight, Sight};
use jiff::Timestamp;
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// What was done, as far as it decides what may be believed.
#[derive(Clone, Debug, Default)]
pub struct Act {
    /// The API server's view before; `None` when it could not be seen.
    pub before: Option<Sight>,
    /// When the kubelet's restart began, by the node's clock; `None` when it was not restarted.
    pub restarted: Option<Timestamp>,
    /// The boot the agent was in before, and the one it is in now.
    pub boots: (String, String),
    /// Renewals that somebody saw happen after the act already, and the last of them.
    pub renewals: (u32, Option<String>),
}

impl Act {
    fn rebooted(&self) -> bool {
        self.boots.0 != self.boots.1
    }

    /// The view before, if it is of the boot before. Who goes on with what was cut off may look first when the kubelet of the new
    /// boot has spoken already, and that says the same for five minutes.
    fn of_boot_before(&self) -> Option<&Sight> {
        let old = |s: &&Sight| !self.rebooted() || s.boot_id.as_ref() != Some(&self.boots.1);
        self.before.as_ref().filter(old)
    }

    /// Whether Ready was said after the act. The heartbeat is cut off to whole seconds.
    fn heard(&self, now: &Sight) -> bool {
        let changed = self.of_boot_before().is_none_or(|b| b.heartbeat != now.heartbeat);
        match (self.restarted, now.heartbeat) {
            (Some(act), Some(said)) => {
                let (act, said) = (act.as_second(), said.as_second());
                said > act || (changed && said == act)
            }
            (Some(_), None) => false,
            (None, _) => changed || !self.rebooted(),
        }
    }

    /// Pods that must be ready and are not. What did not run before by the kubelet's own word is no damage of this incident.
    fn waiting<'s>(&self, now: &'s Sight) -> Vec<&'s str> {
        let broken = |pod: &PodSight| {
            let before = self.before.iter().flat_map(|b| &b.pods).find(|p| p.uid == pod.uid);
            before.is_some_and(|p| !p.ready && !p.ready_by_kubelet)
        };
        // Of the boot before, whatever the condition says: the kubelet has not looked at it yet.
        let of_old = |pod: &PodSight| {
            self.rebooted()
                && pod.started.is_none_or(|at| {
                    self.of_boot_before().is_some_and(|b| {
                        b.pods.iter().any(|p| p.uid == pod.uid && p.started == Some(at))
                    })
                })
        };
        let lacks = |pod: &&PodSight| (!pod.ready || of_old(pod)) && !broken(pod);
        now.pods.iter().filter(lacks).map(|p| p.name.as_str()).collect()
    }
}

/// What the API server showed after a heal.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Proof {
    /// Before the heal; `null` when it could not be seen.
    pub before: Option<Sight>,
    /// At the end of the watch.
    pub after: Option<Sight>,
    /// Renewals of the lease that were seen to happen.
    pub renewals: u32,
    /// Two renewals, Ready, the boot, no taint and the pods, each within its limit.
    pub proven: bool,
    /// What was missing, or the last error.
    pub lacks: Option<String>,
    /// Pods that are not ready and were not before, by the kubelet's own word.
    pub unready_before: Vec<String>,
}

impl Proof {
    /// For the report.
    pub fn lines(&self) -> Vec<String> {
        let said =
            |s: &Option<Sight>| s.as_ref().map_or_else(|| "could not be seen".into(), Sight::words);
        let mut lines = vec![
            format!("before: {}", said(&self.before)),
            format!("after: {}", said(&self.after)),
            format!("lease renewals seen to happen after the heal: {}", self.renewals),
        ];
        if !self.unready_before.is_empty() {
            lines.push(format!("was not ready before either: {}", self.unready_before.join(", ")));
        }
        lines.extend(self.lacks.iter().map(|l| format!("not proven: {l}")));
        lines
    }

    /// For people, in one line.
    pub fn words(&self) -> String {
        if !self.proven {
            let lacks = self.lacks.as_deref().unwrap_or("it did not say");
            return format!("not proven by the API server: {lacks}");
        }
        let pods = match self.after.as_ref().map_or(0, |s| s.pods.len()) {
            0 => "knows of no pods there".to_owned(),
            all => format!("{} of {all} pods ready", all - self.unready_before.len()),
        };
        format!(
            "the API server saw {} lease renewals, Ready, the same boot and no taint; {pods}",
            self.renewals
        )
    }
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For two renewals: the kubelet renews every 10 s.
    pub lease: Duration,
    /// For Ready, all in all, with the boot and without taints.
    pub ready: Duration,
    /// For the pods.
    pub pods: Duration,
    /// Between two looks.
    pub poll: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            ready: Duration::from_secs(60),
            pods: Duration::from_secs(90),
            poll: Duration::from_secs(1),
        }
    }
}

/// What is missing now, with its limit.
fn missing(act: &Act, now: &Sight, renewals: u32, limits: &Limits) -> Vec<(String, Duration)> {
    let mut missing = Vec::new();
    let within = |limit: Duration| format!("within {} s", limit.as_secs());
    if renewals < 2 {
        let lacks = format!("{renewals} of 2 lease renewals {}", within(limits.lease));
        missing.push((lacks, limits.lease));
    }
    let mut late = |what: String| {
        missing.push((format!("{what} {}", within(limits.ready)), limits.ready));
    };
    if now.ready != Some(true) {
        late("not Ready".into());
    } else if !act.heard(now) {
        late("Ready is from before the kubelet's restart, and was not said again".into());
    }
    match &now.boot_id {
        Some(boot) if *boot == act.boots.1 => {}
        Some(boot) => late(format!("it speaks of boot {boot}, the agent runs in {}:", act.boots.1)),
        None => late("the node's object names no boot".into()),
    }
    if !now.taints.is_empty() {
        late(format!("tainted {}", now.taints.join(", ")));
    }
    let waiting = act.waiting(now);
    if !waiting.is_empty() {
        let lacks = format!("pods not ready {}: {}", within(limits.pods), waiting.join(", "));
        missing.push((lacks, limits.pods));
    }
    missing
}

/// Watches until nothing is missing, bounded. Renewals count only when they are seen to happen.
pub async fn prove<E, F>(mut look: impl FnMut() -> F, act: &Act, limits: Limits) -> Proof
where
    E: std::error::Error,
    F: Future<Output = Result<Sight, E>>,
{
    let start = Instant::now();
    let (renewals, seen) = act.renewals.clone();
    let mut proof = Proof { before: act.before.clone(), renewals, ..Proof::default() };
    loop {
        let missing = match look().await {
            Ok(now) => {
                // The first look only sets the mark: what it shows may be from before the heal.
                let last = proof.after.as_ref().map_or(&seen, |last| &last.renewed);
                let marked = proof.after.is_some() || seen.is_some();
                let renewed = marked && now.renewed.is_some() && *last != now.renewed;
                proof.renewals += u32::from(renewed);
                let missing = missing(act, &now, proof.renewals, &limits);
                let unready = now.pods.iter().filter(|p| !p.ready);
                proof.unready_before = unready.map(|p| p.name.clone()).collect();
                proof.after = Some(now);
                missing
            }
            Err(e) => {
                let limit = if proof.renewals < 2 { limits.lease } else { limits.ready };
                vec![(chain(&e), limit)]
            }
        };
        if missing.is_empty() {
            proof.proven = true;
            return proof;
        }
        let elapsed = start.elapsed();
        if missing.iter().any(|(_, limit)| elapsed > *limit) {
            let late = missing.into_iter().filter(|(_, limit)| elapsed > *limit);
            proof.lacks = Some(late.map(|(what, _)| what).collect::<Vec<_>>().join("; "));
            proof.unready_before.clear();
            return proof;
        }
        sleep(limits.poll).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Limits = Limits {
        lease: Duration::from_millis(60),
        ready: Duration::from_millis(120),
        pods: Duration::from_millis(160),
        poll: Duration::from_millis(5),
    };
    const NOON: i64 = 1_760_356_800;

    fn at(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(NOON + second).ok()
    }

    fn boots(before: &str, now: &str) -> Act {
        Act { boots: (before.into(), now.into()), ..Act::default() }
    }

    fn sight(ready: bool, renewed: u32) -> Sight {
        Sight {
            ready: Some(ready),
            renewed: Some(renewed.to_string()),
            boot_id: Some("b".into()),
            heartbeat: at(0),
            ..Sight::default()
        }
    }

    fn pod(uid: &str, ready: bool, said: bool, started: i64) -> PodSight {
        let (name, uid) = (format!("apps/{uid}"), uid.to_owned());
        PodSight { name, uid, ready, ready_by_kubelet: said, started: at(started) }
    }

    async fn watch(act: &Act, mut sight: impl FnMut(u32) -> Sight) -> Proof {
        let mut n = 0;
        let look = || {
            n += 1;
            std::future::ready(Ok::<_, std::io::Error>(sight(n)))
        };
        prove(look, act, QUICK).await
    }

    #[tokio::test]
    async fn two_renewals_that_were_seen_to_happen_prove_it() {
        let proof = watch(&boots("b", "b"), |n| sight(true, n / 2)).await;
        assert!(proof.proven && proof.renewals == 2, "{proof:?}");
    }

    #[tokio::test]
    async fn renewals_that_were_seen_to_happen_meanwhile_count_and_the_one_after_them_too() {
        let mut act = boots("b", "b");
        act.renewals = (2, Some("7".into()));
        let proof = watch(&act, |_| sight(true, 7)).await;
        assert!(proof.proven && proof.renewals == 2, "{proof:?}");
        act.renewals = (1, Some("6".into()));
        let proof = watch(&act, |_| sight(true, 7)).await;
        assert!(proof.proven && proof.renewals == 2, "{proof:?}");
        act.renewals = (1, None);
        let proof = watch(&act, |_| sight(true, 7)).await;
        assert!(!proof.proven && proof.renewals == 1, "{proof:?}");
    }

    #[tokio::test]
    async fn ready_with_a_lease_that_stands_still_proves_nothing() {
        let proof = watch(&boots("b", "b"), |_| sight(true, 7)).await;
        assert_eq!((proof.proven, proof.renewals), (false, 0));
        assert_eq!(proof.lacks.as_deref(), Some("0 of 2 lease renewals within 0 s"));
    }

    #[tokio::test]
    async fn renewals_without_ready_prove_nothing() {
        let proof = watch(&boots("b", "b"), |n| sight(false, n)).await;
        assert!(!proof.proven && proof.renewals >= 2, "{proof:?}");
        assert_eq!(proof.lacks.as_deref(), Some("not Ready within 0 s"));
    }

    #[tokio::test]
    async fn an_api_server_that_cannot_be_asked_is_said_so() {
        let look = || std::future::ready(Err(std::io::Error::other("connection refused")));
        let proof = prove(look, &boots("b", "b"), QUICK).await;
        assert_eq!(proof.lacks.as_deref(), Some("connection refused"));
        assert_eq!(proof.after, None, "not seen is not the same as not Ready");
    }

    #[tokio::test]
    async fn a_node_that_speaks_of_another_boot_than_the_agents_is_not_believed() {
        let proof = watch(&boots("a", "a"), |n| sight(true, n)).await;
        let lacks = proof.lacks.unwrap();
        assert!(lacks.contains("boot b, the agent runs in a"), "{lacks}");
    }

    #[tokio::test]
    async fn a_taint_that_stays_is_named() {
        let tainted = |n| Sight { taints: vec!["unreachable:NoExecute".into()], ..sight(true, n) };
        let proof = watch(&boots("b", "b"), tainted).await;
        assert_eq!(proof.lacks.as_deref(), Some("tainted unreachable:NoExecute within 0 s"));
    }

    #[tokio::test]
    async fn after_a_restart_ready_must_have_been_said_again() {
        let mut act = boots("b", "b");
        act.restarted = at(10);
        let proof = watch(&act, |n| Sight { heartbeat: at(9), ..sight(true, n) }).await;
        assert!(proof.lacks.unwrap().contains("from before the kubelet's restart"));
        let proof = watch(&act, |n| Sight { heartbeat: at(10), ..sight(true, n) }).await;
        assert!(proof.proven, "{proof:?}");
        // Said in the same second, but it is the very one that was seen before.
        act.before = Some(Sight { heartbeat: at(10), ..sight(true, 0) });
        let proof = watch(&act, |n| Sight { heartbeat: at(10), ..sight(true, n) }).await;
        assert!(!proof.proven, "{proof:?}");
        // Seen first by somebody who goes on with it later: it was said after the act all the same.
        act.before = Some(Sight { heartbeat: at(11), ..sight(true, 0) });
        let proof = watch(&act, |n| Sight { heartbeat: at(11), ..sight(true, n) }).await;
        assert!(proof.proven, "{proof:?}");
    }

    #[tokio::test]
    async fn who_looks_first_when_the_new_boot_has_spoken_waits_for_no_other_word() {
        let mut act = boots("a", "b");
        let seen = |n| Sight { pods: vec![pod("web", true, true, 15)], ..sight(true, n) };
        act.before = Some(seen(0));
        let proof = watch(&act, seen).await;
        assert!(proof.proven, "{proof:?}");
        act.before = Some(Sight { boot_id: Some("a".into()), ..seen(0) });
        let proof = watch(&act, seen).await;
        let lacks = proof.lacks.unwrap();
        assert!(lacks.contains("was not said again"), "{lacks}");
    }

    #[tokio::test]
    async fn a_pod_that_ran_before_must_run_again_and_one_that_did_not_is_only_named() {
        let mut act = boots("b", "b");
        let before = vec![pod("web", false, true, 1), pod("loops", false, false, 1)];
        act.before = Some(Sight { pods: before, ..sight(false, 0) });
        let now = |web: bool| vec![pod("web", web, true, 1), pod("loops", false, false, 1)];
        let proof = watch(&act, |n| Sight { pods: now(n > 4), ..sight(true, n) }).await;
        assert!(proof.proven, "{proof:?}");
        assert_eq!(proof.unready_before, ["apps/loops"]);
        assert!(proof.words().ends_with("1 of 2 pods ready"), "{}", proof.words());
        let proof = watch(&act, |n| Sight { pods: now(false), ..sight(true, n) }).await;
        assert_eq!(proof.lacks.as_deref(), Some("pods not ready within 0 s: apps/web"));
    }

    #[tokio::test]
    async fn after_a_reboot_a_container_of_the_boot_before_is_not_believed() {
        let mut act = boots("a", "b");
        let pods = vec![pod("web", true, true, 1)];
        act.before = Some(Sight { pods, boot_id: Some("a".into()), ..sight(true, 0) });
        let now = |n, started| Sight {
            pods: vec![pod("web", true, true, started)],
            heartbeat: at(20),
            ..sight(true, n)
        };
        let proof = watch(&act, |n| now(n, 1)).await;
        assert_eq!(proof.lacks.as_deref(), Some("pods not ready within 0 s: apps/web"));
        let proof = watch(&act, |n| now(n, 15)).await;
        assert!(proof.proven, "{proof:?}");
    }
}
