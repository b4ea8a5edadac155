//! Reboots: the one an operator asks for, and what each of them has to have first, a place in the day's budget that is on the
//! disk before the machine goes down.

use crate::runs::Inner;
use crate::runs::book::Asked;
use crate::runs::node::Node;
use crate::runs::told::{End, Halt, Told};
use crate::sight::chain;
use lifeline_core::diagnosis::Finding;
use lifeline_core::engine::Ending;
use lifeline_core::plan::Consent;
use lifeline_core::planner;

impl<N: Node> Inner<N> {
    /// Takes a place in the budget, or says why there is none. It is spent even if the reboot then fails: what cannot be
    /// written down does not happen.
    pub async fn spend_reboot(&self) -> Result<(), String> {
        let (store, most) = (self.store.clone(), self.policy.reboots_a_day);
        let now = self.clock.now().wall_ms;
        let spending = tokio::task::spawn_blocking(move || store.spend_reboot(now, most));
        match tokio::time::timeout(crate::lines::DEADLINE, spending).await {
            Ok(Ok(Ok(Ok(())))) => Ok(()),
            Ok(Ok(Ok(Err(wait)))) => Err(refusal(most, wait)),
            Ok(Ok(Err(why))) => {
                Err(format!("no reboot, because it cannot be counted: {}", chain(&why)))
            }
            Ok(Err(why)) => Err(format!("no reboot, because it cannot be counted: {why}")),
            Err(_) => {
                Err("no reboot, because it cannot be counted: the disk does not answer".into())
            }
        }
    }

    /// Reboots, because somebody wants it. What comes after the boot, the next process goes on with.
    pub async fn reboot(&self, told: &mut Told, by: String) -> Result<End, Halt> {
        let glance = self.sight.look().await;
        let harm = glance.diagnosis.findings.iter().filter(|f| f.harm);
        let mut findings: Vec<String> = harm.map(Finding::key).collect();
        if findings.is_empty() {
            findings.push(planner::ASKED.to_string());
        }
        let plan = planner::reboot(&self.policy, findings, &told.story.incident);
        let against = self.node.check(&plan, &glance.seen, &glance.base);
        if !against.is_empty() {
            return Ok(End::of(
                Ending::Held,
                format!("the plan was not safe: {}", against.join("; ")),
            ));
        }
        if let Err(why) = self.spend_reboot().await {
            return Ok(End::of(Ending::Held, why));
        }
        let id = format!("{}.1-{}", told.story.incident, plan.rung.word());
        self.bundle(told, &glance).await?;
        let run = self.open_run(told, &id, &id, plan, by).await?;
        // A run that comes back in the boot it began in has rebooted nothing.
        Ok(End::of(run.ending, "the node was asked to reboot and did not"))
    }

    /// What somebody agreed to who asked for a reboot: nothing more.
    pub fn agreed(asked: &Asked) -> (Consent, u64) {
        match asked {
            Asked::Heal { consent, stability_ms, .. } => (consent.clone(), *stability_ms),
            Asked::Reboot { stability_ms } => (Consent::default(), *stability_ms),
            Asked::Undo { .. } => Default::default(),
        }
    }
}

fn refusal(most: u32, wait_ms: u64) -> String {
    let minutes = wait_ms.div_ceil(60_000);
    match (most, wait_ms) {
        (0, _) | (_, u64::MAX) => "no reboot: policy.reboots-a-day is 0".to_string(),
        _ => format!(
            "no reboot: this node was asked to reboot {most} times within 24 hours, and another one is not likely to help; the \
             next is allowed in {} h {} min (policy.reboots-a-day)",
            minutes / 60,
            minutes % 60
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::refusal;

    #[test]
    fn a_refusal_says_when_the_next_one_is_allowed() {
        let text = refusal(2, 3_660_000);
        assert!(text.contains("2 times") && text.contains("1 h 1 min"), "{text}");
        assert!(refusal(0, u64::MAX).contains("reboots-a-day is 0"));
    }
}
