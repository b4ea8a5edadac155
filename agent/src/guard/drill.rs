//! A drill's part of the guard: the same look and the same judgement, for the drill's addresses alone. Without a drill under
//! way, whatever one has left is taken away here, after a kill too.

use super::Order;
use super::hands::{self, Quick};
use crate::netlink::{Kernel, NetlinkError};
use lifeline_core::baseline::{Baseline, Expected};
use lifeline_core::drill;
use lifeline_core::observation::Rule;
use lifeline_core::policy::Policy;
use lifeline_core::threat::Threats;
use tokio::time::Instant;

/// A drill under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Drill {
    /// Counts the captures of all drills: none is met with what was learnt from another.
    pub round: u64,
    /// What is captured.
    pub targets: Vec<Expected>,
    /// Taken away then, whatever has become of whoever ordered it.
    pub until: Instant,
}

/// How it goes.
#[derive(Clone, Debug, Default)]
pub struct Drilled {
    /// Which.
    pub round: u64,
    /// When the event came by which its captor was found.
    pub heard: Option<Instant>,
    /// Its guard stands.
    pub stands: bool,
    /// Why it cannot.
    pub no_room: Option<String>,
}

/// What the keeper knows of drills.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    pub told: Drilled,
    threats: Threats,
}

/// When a look is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// When an event of a rule came that led to it.
    pub hinted: Option<Instant>,
    /// On the keeper's own clock.
    pub ms: u64,
}

impl Keeper {
    /// Puts a drill's guard in place, or takes all of a drill away.
    pub async fn reconcile(
        &mut self,
        kernel: &Kernel,
        policy: &Policy,
        quick: &Quick,
        order: &Order,
        now: Now,
    ) -> Result<(), NetlinkError> {
        let drill = order.drill.as_ref().filter(|d| d.until > Instant::now());
        let Some(drill) = drill else {
            let changes = drill::changes(&quick.drill, &quick.routes, &[], false);
            if !changes.is_empty() {
                hands::apply(kernel, quick, &changes).await?;
                tracing::info!("what a drill had put into the kernel is taken away");
            }
            self.told.stands = false;
            return Ok(());
        };
        if self.told.round != drill.round {
            self.threats = Threats::default();
            self.told = Drilled { round: drill.round, ..Drilled::default() };
        }
        if quick.drill.iter().any(drill::is_captor) && self.told.heard.is_none() {
            self.told.heard = now.hinted;
        }
        let none = Baseline::default();
        let base = order.base.as_deref().unwrap_or(&none);
        let rules: Vec<Rule> = quick.rules.iter().chain(&quick.drill).cloned().collect();
        let tables = (rules.as_slice(), quick.routes.as_slice(), quick.links.as_slice());
        let (guards, no_room) = drill::guards(
            tables,
            base,
            &drill.targets,
            &mut self.threats,
            (policy, order.stand, now.ms),
        );
        let changes = drill::changes(&quick.drill, &quick.routes, &guards, true);
        hands::apply(kernel, quick, &changes).await?;
        let stands = |e: &Expected| guards.iter().any(|g| g.to == Some(e.prefix));
        (self.told.stands, self.told.no_room) = (drill.targets.iter().all(stands), no_room);
        Ok(())
    }
}
