//! Agents that could not be reached a moment ago: each try costs seconds, and one step looks at a node several times.

use crate::agent::Agent;
use crate::session::Session;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For so long a reason is as good as a new one.
const FRESH: Duration = Duration::from_secs(20);

/// By node, when and why.
#[derive(Debug, Default)]
pub struct Missed(Mutex<BTreeMap<String, (Instant, String)>>);

impl Missed {
    /// Notes what was found so long ago.
    pub fn note(&self, node: &str, why: &str, ago: Duration) {
        let Some(at) = Instant::now().checked_sub(ago).filter(|_| ago < FRESH) else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(node.to_owned(), (at, why.to_owned()));
    }

    /// Something was done to the node: what was true of it is no more.
    pub fn forget(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    fn fresh(&self, node: &str) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(node).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, why)| why.clone())
    }

    /// The node's agent, or why not: as it was found a moment ago, if it was.
    pub async fn agent(&self, session: &Session, node: &str) -> Result<Agent, String> {
        if let Some(why) = self.fresh(node) {
            return Err(why);
        }
        let reached = session.agent(node).await.map_err(|e| e.to_string());
        if let Err(why) = &reached {
            self.note(node, why, Duration::ZERO);
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_remembered_until_something_is_done() {
        let missed = Missed::default();
        assert_eq!(missed.fresh("styx"), None);
        missed.note("styx", "no path", FRESH);
        assert_eq!(missed.fresh("styx"), None, "an old reason is none");
        missed.note("styx", "no path", Duration::ZERO);
        assert_eq!(missed.fresh("styx").as_deref(), Some("no path"));
        assert_eq!(missed.fresh("calypso"), None);
        missed.forget("styx");
        assert_eq!(missed.fresh("styx"), None);
    }
}
