//! A node's lease, watched while its agent still watches that the node stays well: what is seen to be renewed meanwhile need not
//! be waited for afterwards.

use crate::cluster::Cluster;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Between two looks.
const POLL: Duration = Duration::from_secs(1);

/// Looks, each with the moment it was begun, and what the lease showed.
#[derive(Debug, Default)]
pub struct Looks(Mutex<Vec<(Instant, String)>>);

impl Looks {
    /// Watches for ever: whoever calls stops waiting for it.
    pub async fn watch(&self, cluster: Option<&Cluster>, node: &str) -> Infallible {
        let Some(cluster) = cluster else { return std::future::pending().await };
        loop {
            let begun = Instant::now();
            if let Ok(Some(renewed)) = cluster.renewed(node).await {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push((begun, renewed));
            }
            sleep(POLL).await;
        }
    }

    /// Renewals that happened between looks that were both begun after this moment, and the last one.
    pub fn since(&self, acted: Instant) -> (u32, Option<String>) {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let after: Vec<&String> =
            looks.iter().filter(|(at, _)| *at > acted).map(|(_, r)| r).collect();
        let changes = after.windows(2).filter(|pair| pair[0] != pair[1]).count();
        (u32::try_from(changes).unwrap_or(u32::MAX), after.last().map(|r| (*r).clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_between_two_looks_after_the_act_is_a_renewal() {
        let begun = Instant::now();
        let at = |s: u64| begun + Duration::from_secs(s);
        let seen = [(1, "a"), (3, "b"), (5, "b"), (13, "c")].map(|(s, r)| (at(s), r.to_owned()));
        let looks = Looks(Mutex::new(seen.into()));
        assert_eq!(looks.since(at(2)), (1, Some("c".to_owned())), "from a to b may be from before");
        assert_eq!(looks.since(at(0)), (2, Some("c".to_owned())));
        assert_eq!(looks.since(at(14)), (0, None));
    }
}
