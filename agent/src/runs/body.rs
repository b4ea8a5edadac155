//! What the engine runs on: the node as its host, and the journal on the disk with everybody listening.

use crate::clock::Clock;
use crate::journal::{Disk, JournalError, NodeEntry};
use crate::runs::node::Node;
use crate::runs::story::{Story, What};
use crate::sight::Sight;
use lifeline_core::clock::Stamp;
use lifeline_core::diagnosis::Health;
use lifeline_core::engine::{Event, Failure, Host, Journal, Judgement, Outcome};
use lifeline_core::op::{NodeOp, Seen};
use lifeline_core::plan::NodePlan;
use std::time::Duration;
use tokio::sync::watch;

/// How long looking at one op's target may take.
const SEE: Duration = Duration::from_secs(30);

/// The node, as the engine sees it.
#[derive(Debug)]
pub struct Body<'a, N> {
    /// The machine.
    pub node: &'a N,
    /// Its looks.
    pub sight: &'a Sight<N>,
    /// This boot.
    pub clock: &'a Clock,
    /// Whose hands: the run's own, or those of the run that is being undone.
    pub run: String,
    /// The agent is being stopped.
    pub leaving: watch::Receiver<bool>,
    /// Somebody asked to cancel.
    pub cancel: watch::Receiver<Option<String>>,
    /// Somebody confirmed a run.
    pub confirm: watch::Receiver<Option<(String, String)>>,
}

/// How long the machine may take to go down after a reboot was accepted, before it counts as not happening.
const GOING_DOWN: Duration = Duration::from_secs(180);

impl<N: Node> Host<NodeOp> for Body<'_, N> {
    fn now(&mut self) -> Stamp {
        self.clock.now()
    }

    async fn wait(&mut self, ms: u64) {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(ms)) => {}
            // An error means that nobody can ask us to leave any more; then waiting it is.
            Ok(_) = self.leaving.wait_for(|l| *l) => {}
            // What is asked for now is done now. Both stay as they are: a second wait must not end at once for the first's sake.
            Ok(()) = self.cancel.changed() => {}
            Ok(()) = self.confirm.changed() => {}
        }
    }

    async fn look(&mut self, op: &NodeOp) -> Result<Seen, String> {
        match tokio::time::timeout(SEE, self.node.see(&self.run, op)).await {
            Ok(seen) => seen,
            Err(_) => {
                Err(format!("look at what is to be changed: no answer for {} s", SEE.as_secs()))
            }
        }
    }

    async fn act(&mut self, op: &NodeOp, before: &Seen) -> Result<(), Failure> {
        // No deadline here: a dropped act may still land. The hands bound each act themselves and reap what they start.
        let done = self.node.act(&self.run, op, before).await;
        if done.is_ok() && matches!(op, NodeOp::Rebooted) {
            tokio::select! {
                () = tokio::time::sleep(GOING_DOWN) => {}
                Ok(_) = self.leaving.wait_for(|l| *l) => {}
            }
        }
        done
    }

    async fn judge(&mut self) -> Judgement {
        if *self.leaving.borrow() {
            // The journal refuses this judgement; a look of a second would only delay the stop.
            return Judgement {
                health: Health::Unknown,
                findings: Vec::new(),
                summary: String::new(),
            };
        }
        let d = self.sight.look().await.diagnosis;
        Judgement {
            health: d.health,
            findings: d.findings.iter().map(lifeline_core::diagnosis::Finding::key).collect(),
            summary: d.summary.clone(),
        }
    }
}

/// The journal on the disk, told to watchers as it grows; this is where a cancellation gets in.
#[derive(Debug)]
pub struct Heard<'a> {
    /// The journal.
    pub disk: Disk,
    /// Its plan.
    pub plan: NodePlan,
    /// Who listens.
    pub story: &'a Story,
    /// Who asked to cancel.
    pub cancel: watch::Receiver<Option<String>>,
    /// Which run was confirmed, and by whom.
    pub confirm: watch::Receiver<Option<(String, String)>>,
    /// The agent is being stopped.
    pub leaving: watch::Receiver<bool>,
}

impl Heard<'_> {
    async fn put(&mut self, stamp: Stamp, event: Event<NodeOp>) -> Result<(), JournalError> {
        self.disk.append(stamp, event).await?;
        self.tell_last();
        Ok(())
    }

    /// Tells watchers the newest entry.
    pub fn tell_last(&self) {
        if let Some(entry) = self.disk.entries().last() {
            self.story.push(What::entry(self.disk.run(), &self.plan, entry.clone()));
        }
    }
}

impl Journal<NodeOp> for Heard<'_> {
    type Error = JournalError;

    fn entries(&self) -> &[NodeEntry] {
        self.disk.entries()
    }

    async fn append(&mut self, stamp: Stamp, event: Event<NodeOp>) -> Result<(), JournalError> {
        // A step that has been taken is written down; none is begun any more.
        let begins =
            !matches!(event, Event::Ended { .. } | Event::UndoEnded { .. } | Event::Closed { .. });
        // It goes down because of this very step: that the boot is still the old one says nothing yet.
        let going_down = matches!(&event, Event::Ended { step, outcome: Outcome::Failed { .. } }
            if self.plan.steps.iter().any(|s| s.id == *step && s.op == NodeOp::Rebooted));
        if (begins || going_down) && *self.leaving.borrow() {
            return Err(JournalError::Leaving { run: self.disk.run().to_string() });
        }
        let closes = matches!(event, Event::Closed { .. });
        let again = stamp.clone();
        self.put(stamp, event).await?;
        let by = self.cancel.borrow().clone();
        let known =
            || self.disk.entries().iter().any(|e| matches!(e.event, Event::Cancelled { .. }));
        match by {
            Some(by) if !closes && !known() => {
                self.put(again.clone(), Event::Cancelled { by }).await?;
            }
            _ => {}
        }
        let confirmed = self.confirm.borrow().clone().filter(|(run, _)| run == self.disk.run());
        // Too late once the undoing has begun, and once is enough.
        let over = self.disk.entries().iter().any(|e| {
            matches!(
                e.event,
                Event::Confirmed { .. } | Event::Cancelled { .. } | Event::UndoBegan { .. }
            )
        });
        match confirmed {
            Some((_, by)) if !closes && !over => self.put(again, Event::Confirmed { by }).await,
            _ => Ok(()),
        }
    }
}
