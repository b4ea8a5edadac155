//! Whether a machine was really restarted: by the boot id its node tells, never by the provider's word.

use super::desk::Desk;
use crate::member::Member;
use crate::proof::{self, Act, Limits, Proof};
use crate::sight::Sight;
use crate::words;
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Between two looks.
const POLL: Duration = Duration::from_secs(1);
/// One look: an agent that is out of reach takes its own time to say so.
const LOOK: Duration = Duration::from_secs(15);
/// A node that answers this long after the end of the action, and in its old boot, was not restarted.
const LIE: Duration = Duration::from_secs(20);
/// After a boot, until kubelet and agent have come to rest.
const SETTLE: Duration = Duration::from_secs(180);

/// A node's boot, by whom it was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Boots {
    /// By its agent: now.
    pub agent: Option<String>,
    /// By the API server: when the kubelet last spoke to it.
    pub cluster: Option<String>,
}

impl Boots {
    /// The one to compare with: the agent speaks of now.
    pub fn known(&self) -> Option<&str> {
        self.agent.as_deref().or(self.cluster.as_deref())
    }

    /// For people.
    pub fn words(&self) -> String {
        match (&self.agent, &self.cluster) {
            (Some(b), _) => format!("boot {b}, says its agent"),
            (None, Some(b)) => format!("boot {b}, said the API server last"),
            (None, None) => {
                "its boot is not known: neither its agent nor the API server could be asked"
                    .to_owned()
            }
        }
    }
}

/// What came of waiting for another boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Another boot.
    Changed {
        /// Which.
        boot: String,
        /// Who said so.
        by: &'static str,
    },
    /// The same boot, and the node answers.
    Same,
    /// Nobody spoke of another one in time.
    Nothing,
    /// A boot, and none to compare it with.
    Unproven {
        /// Which.
        boot: String,
    },
}

/// Asks everybody who may know.
pub async fn boots(desk: &Desk, node: &str) -> Boots {
    let agent = async {
        let session = desk.session.as_ref()?;
        // That it cannot be reached is why we are here; it is no error.
        let agent = timeout(LOOK, session.agent(node)).await.ok()?.ok()?;
        Some(agent.status.boot_id).filter(|b| !b.is_empty())
    };
    let cluster = async {
        let nodes = desk.cluster.as_ref()?.nodes().await.ok()?;
        nodes.into_iter().map(Member::from).find(|m| m.name == node)?.boot
    };
    let (agent, cluster) = tokio::join!(agent, cluster);
    Boots { agent, cluster }
}

/// Waits until the node speaks of another boot than before, or has shown that it is still in the same.
pub async fn another(desk: &Desk, node: &str, before: Option<&str>, limit: Duration) -> Seen {
    let begun = Instant::now();
    let mut same = 0;
    loop {
        let now = boots(desk, node).await;
        let told = [(now.agent, "its agent"), (now.cluster, "the API server")];
        let Some(before) = before else {
            if let Some((Some(boot), _)) = told.into_iter().find(|(b, _)| b.is_some()) {
                return Seen::Unproven { boot };
            }
            if begun.elapsed() > limit {
                return Seen::Nothing;
            }
            sleep(POLL).await;
            continue;
        };
        // Only the agent speaks of now; the API server repeats what it was told.
        same += u32::from(told[0].0.as_deref() == Some(before));
        for (boot, by) in told {
            if let Some(boot) = boot.filter(|b| b != before) {
                return Seen::Changed { boot, by };
            }
        }
        if same >= 3 && begun.elapsed() > LIE {
            return Seen::Same;
        }
        if begun.elapsed() > limit {
            return Seen::Nothing;
        }
        sleep(POLL).await;
    }
}

/// How the node is after its boot.
#[derive(Debug, Default)]
pub struct Rest {
    /// What its agent says; `None` when it could not be asked.
    pub verdict: Option<lifeline_core::diagnosis::Verdict>,
    /// What the API server saw; `None` when it could not be asked.
    pub cluster: Option<Proof>,
}

impl Rest {
    /// All who can be asked say that it is well, and at least one can.
    pub fn well(&self) -> bool {
        let agent = self.verdict.map(words::is_fine);
        let cluster = self.cluster.as_ref().map(|p| p.proven);
        agent.unwrap_or(true) && cluster.unwrap_or(true) && (agent.is_some() || cluster.is_some())
    }

    /// What is missing.
    pub fn lacks(&self) -> Option<String> {
        let agent = self
            .verdict
            .filter(|v| !words::is_fine(*v))
            .map(|v| format!("its agent says {}", v.word()));
        let cluster = self.cluster.as_ref().and_then(|p| p.lacks.clone());
        match (agent, cluster) {
            (None, None) if !self.well() => Some("nobody could be asked how it is".to_owned()),
            (None, None) => None,
            (Some(a), Some(c)) => Some(format!("{a}; the API server: {c}")),
            (Some(one), None) | (None, Some(one)) => Some(one),
        }
    }
}

/// Waits until the node is well again, as far as anybody can tell.
pub async fn rest(desk: &Desk, node: &str, before: Option<Sight>, boots: (String, String)) -> Rest {
    let act = Act { before, boots, ..Act::default() };
    let agent = async {
        let session = desk.session.as_ref()?;
        let begun = Instant::now();
        let mut verdict = None;
        while begun.elapsed() < SETTLE {
            if let Ok(agent) = session.agent(node).await
                && let Ok(seen) = agent.diagnose().await
            {
                verdict = Some(seen.verdict);
                if words::is_fine(seen.verdict) && !seen.guarded {
                    break;
                }
            }
            sleep(POLL).await;
        }
        verdict
    };
    let cluster = async {
        let cluster = desk.cluster.as_ref()?;
        let limits = Limits { lease: SETTLE, ready: SETTLE, pods: SETTLE, ..Limits::default() };
        Some(proof::prove(|| cluster.look(node), &act, limits).await)
    };
    let (verdict, cluster) = tokio::join!(agent, cluster);
    Rest { verdict, cluster }
}
