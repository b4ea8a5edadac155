//! After the agent is done: a fresh look says healthy, its guard is gone, and the API server saw the node come back.

use super::Heal;
use crate::error::Outcome;
use crate::exit::Exit;
use crate::proof::{self, Act, Limits};
use crate::record::Record;
use crate::sight::Sight;
use crate::words;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Until its guard is gone, and a fresh look says healthy.
const SETTLE: Duration = Duration::from_secs(60);

impl Heal<'_> {
    /// Healthy by a fresh look, our guard gone, and the API server sees it: all of it, each within its limit.
    pub(super) async fn prove(&mut self) -> Outcome {
        let out = self.session.out;
        let deadline = Instant::now() + SETTLE;
        let mut said = false;
        loop {
            match self.agent.diagnose().await {
                Ok(d) => {
                    (self.verdict, self.guarded) = (Some(d.verdict), Some(d.guarded));
                    if words::is_fine(d.verdict) && !d.guarded {
                        self.rested = said.then(Instant::now);
                        break;
                    }
                }
                Err(e) if e.is_lost() => self.again().await,
                Err(e) => return Err(e.into()),
            }
            if Instant::now() > deadline {
                let fine = self.verdict.is_some_and(words::is_fine);
                return Ok(if fine { Exit::TimedOut } else { Exit::Unhealthy });
            }
            if !said {
                out.say("Waiting until a fresh look says healthy and the guard is gone …");
                said = true;
            }
            sleep(Duration::from_secs(2)).await;
        }
        // A node that was well from the start by both accounts, and that nobody touched, needs no proof.
        let untouched = self.records.is_empty();
        let needed =
            |before: &Option<Sight>| !untouched || before.as_ref().is_some_and(|b| !b.well());
        let Some((cluster, before)) = self.cluster.take().filter(|(_, before)| needed(before))
        else {
            return Ok(Exit::Done);
        };
        out.say("Waiting until the API server sees two lease renewals, Ready and the node's pods ready …");
        let now = self.agent.status().await?.boot_id;
        let restarted = self.records.iter().filter_map(Record::restarted_ms).max();
        let at = |ms: u64| jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok();
        let act = Act {
            before,
            restarted: restarted.and_then(at),
            boots: (self.boot.clone(), now),
            ..Act::default()
        };
        let look = || cluster.look(&self.agent.node);
        let proof = proof::prove(look, &act, Limits::default()).await;
        let exit = if proof.proven { Exit::Done } else { Exit::TimedOut };
        self.proof = Some(proof);
        Ok(exit)
    }
}
