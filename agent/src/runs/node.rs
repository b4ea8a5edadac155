//! The machine and the judgement on it, as narrowly as a recovery needs them.

use lifeline_core::baseline::Baseline;
use lifeline_core::diagnosis::Diagnosis;
use lifeline_core::drill::Trial;
use lifeline_core::engine::Failure;
use lifeline_core::incident::{Climb, Incident};
use lifeline_core::observation::Observation;
use lifeline_core::op::{NodeOp, Seen};
use lifeline_core::plan::NodePlan;
use lifeline_core::policy::Policy;
use lifeline_core::{baseline, check, incident, judge, metrics, planner};
use std::sync::Arc;

/// A node. The judgement is core's; a node of tests may bring its own.
pub trait Node: Send + Sync + 'static {
    /// A full look. Concurrent looks are allowed.
    fn look(&self, base: Option<Arc<Baseline>>) -> impl Future<Output = Observation> + Send;

    /// Looks at one op's target, as part of a run: what lies in quarantine is known by its run.
    fn see(&self, run: &str, op: &NodeOp) -> impl Future<Output = Result<Seen, String>> + Send;

    /// Brings one op's target to its wanted state; returns only when every child it started is reaped.
    fn act(
        &self,
        run: &str,
        op: &NodeOp,
        before: &Seen,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Captures addresses that nobody uses, and says what became of it; begins and ends with the kernel's tables as they are.
    ///
    /// # Errors
    /// Says why nothing was tried.
    fn drill(&self, _base: Arc<Baseline>) -> impl Future<Output = Result<Trial, String>> + Send {
        async { Err("this is no machine to be drilled".to_string()) }
    }

    /// Ends a drill that is under way; returns when nothing of it is left.
    fn end_drill(&self, _why: &str) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// While a recovery is under way the guard may stand, whatever the mode. Returns when it has been seen to.
    fn hold(&self, recovering: bool) -> impl Future<Output = ()> + Send;

    /// An operator's recovery is over: at the next [`Self::hold`] the guard goes as if nobody had captured before.
    fn forgive(&self) {}

    /// More evidence than a look holds, as files: what a unit's journal said last. Bounded, and never a reason to wait.
    fn testify(&self) -> impl Future<Output = Vec<(&'static str, Vec<u8>)>> + Send {
        async { Vec::new() }
    }

    /// Is told of each judgement, whoever asked for it: the guard goes by them.
    fn heed(&self, _seen: &Observation, _diagnosis: &Diagnosis, _base: &Arc<Baseline>) {}

    /// How the guard stands now.
    fn guard(&self) -> metrics::Guard {
        metrics::Guard::default()
    }

    /// Judges a look as if our guard were not.
    fn judge(&self, seen: &Observation, base: &Baseline, policy: &Policy) -> Diagnosis {
        judge::judge(seen, base, policy)
    }

    /// Decides what a recovery does next.
    fn climb(
        &self,
        incident: &mut Incident,
        seen: &Observation,
        base: &Baseline,
        policy: &Policy,
        diagnosis: &Diagnosis,
    ) -> Climb {
        incident::climb(incident, seen, base, policy, diagnosis)
    }

    /// Every rung as it would come: what an operator is shown, and agrees to.
    fn forecast(
        &self,
        seen: &Observation,
        base: &Baseline,
        policy: &Policy,
        diagnosis: &Diagnosis,
    ) -> Vec<NodePlan> {
        planner::forecast(seen, base, policy, diagnosis)
    }

    /// A second opinion on a plan; empty when there is nothing against it.
    fn check(&self, plan: &NodePlan, seen: &Observation, base: &Baseline) -> Vec<String> {
        check::check(plan, seen, base).iter().map(ToString::to_string).collect()
    }

    /// A baseline from a look nobody vouches for.
    fn derive(&self, seen: &Observation) -> Baseline {
        baseline::derive(seen)
    }

    /// A baseline from a look at a well node.
    ///
    /// # Errors
    /// Says why this look is not to be learnt from.
    fn learn(
        &self,
        seen: &Observation,
        diagnosis: &Diagnosis,
        old: &Baseline,
    ) -> Result<Baseline, String> {
        baseline::learn(seen, diagnosis, Some(old))
    }
}
