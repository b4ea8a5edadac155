//! The node as the API server sees it: Ready, and a lease that is *renewed*, which is proof where a fresh age is not.
//!
//! "Ready" lies for as long as the node monitor waits, and a lease's age compares two clocks. A changed renewal is neither.

use crate::obstacle::chain;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// One question to the API server.
const CALL: Duration = Duration::from_secs(5);
/// Why the API server could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The kubeconfig cannot be used.
    #[error("use kubeconfig {}", path.display())]
    Kubeconfig {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// No client can be made of it.
    #[error("use kubeconfig {}", path.display())]
    Client {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// It answered with an error, or not at all.
    #[error("ask the API server for {what}")]
    Call {
        /// What was asked.
        what: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// It did not answer.
    #[error("ask the API server for {what}: no answer within {} s", CALL.as_secs())]
    Late {
        /// What was asked.
        what: String,
    },
}

/// A node, as seen once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sight {
    /// The Ready condition's status, `None` when there is none.
    pub ready: Option<bool>,
    /// Its reason.
    pub reason: Option<String>,
    /// The lease's last renewal, as the node's clock wrote it.
    pub renewed: Option<String>,
}

impl Sight {
    /// For people: `Ready`, `NotReady (NodeStatusUnknown)`.
    pub fn words(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or("no reason");
        let renewed = self.renewed.as_deref().unwrap_or("never");
        match self.ready {
            Some(true) => format!("Ready, lease renewed {renewed}"),
            Some(false) => format!("NotReady ({reason}), lease renewed {renewed}"),
            None => format!("without a Ready condition, lease renewed {renewed}"),
        }
    }
}

/// The API server.
pub struct Cluster {
    client: Client,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
}

impl Cluster {
    /// Reads a kubeconfig; asks nobody yet.
    pub async fn open(path: &Path, context: Option<&str>) -> Result<Self, ClusterError> {
        let wrong = |source| ClusterError::Kubeconfig { path: path.to_owned(), source };
        let file = Kubeconfig::read_from(path).map_err(wrong)?;
        let options =
            KubeConfigOptions { context: context.map(Into::into), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)?;
        config.connect_timeout = Some(CALL);
        // The default is to wait for ever.
        config.read_timeout = Some(CALL);
        let client = Client::try_from(config)
            .map_err(|e| ClusterError::Client { path: path.to_owned(), source: Box::new(e) })?;
        Ok(Self { client })
    }

    /// Looks at a node once.
    pub async fn look(&self, node: &str) -> Result<Sight, ClusterError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let (seen, lease) = tokio::join!(
            ask(format!("node {node}"), nodes.get(node)),
            ask(format!("the lease of {node}"), leases.get_opt(node))
        );
        let conditions = seen?.status.and_then(|s| s.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|c| c.type_ == "Ready");
        let renewed = lease?.and_then(|l| l.spec).and_then(|s| s.renew_time);
        Ok(Sight {
            ready: ready.as_ref().map(|c| c.status == "True"),
            reason: ready.and_then(|c| c.reason),
            renewed: renewed
                .and_then(|t| serde_json::to_value(t).ok())
                .and_then(|v| v.as_str().map(Into::into)),
        })
    }
}

async fn ask<T>(
    what: String,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClusterError> {
    match timeout(CALL, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(ClusterError::Call { what, source: Box::new(e) }),
        Err(_) => Err(ClusterError::Late { what }),
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
    /// Two renewals and Ready, each within its limit.
    pub proven: bool,
    /// What was missing, or the last error.
    pub lacks: Option<String>,
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
        lines.extend(self.lacks.iter().map(|l| format!("not proven: {l}")));
        lines
    }
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For two renewals: the kubelet renews every 10 s.
    pub lease: Duration,
    /// For Ready, all in all.
    pub ready: Duration,
    /// Between two looks.
    pub poll: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            ready: Duration::from_secs(60),
            poll: Duration::from_secs(1),
        }
    }
}

/// Watches for two renewals and Ready, bounded. Renewals count only when they are seen to happen.
pub async fn prove<E: std::error::Error>(
    mut look: impl AsyncFnMut() -> Result<Sight, E>,
    before: Option<Sight>,
    limits: Limits,
) -> Proof {
    let start = Instant::now();
    let mut proof = Proof { before, ..Proof::default() };
    loop {
        let error = match look().await {
            Ok(now) => {
                // The first look only sets the mark: what it shows may be from before the heal.
                let renewed = |last: &Sight| now.renewed.is_some() && last.renewed != now.renewed;
                proof.renewals += u32::from(proof.after.as_ref().is_some_and(renewed));
                proof.after = Some(now);
                None
            }
            Err(e) => Some(chain(&e)),
        };
        let renewed = proof.renewals >= 2;
        let ready = proof.after.as_ref().is_some_and(|s| s.ready == Some(true));
        if renewed && ready && error.is_none() {
            proof.proven = true;
            return proof;
        }
        let elapsed = start.elapsed();
        if (!renewed && elapsed > limits.lease) || elapsed > limits.ready {
            proof.lacks = Some(match (error, renewed) {
                (Some(error), _) => error,
                (None, false) => format!(
                    "{} of 2 lease renewals within {} s",
                    proof.renewals,
                    limits.lease.as_secs()
                ),
                (None, true) => format!("not Ready within {} s", limits.ready.as_secs()),
            });
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
        poll: Duration::from_millis(5),
    };

    async fn watch(mut sight: impl FnMut(u32) -> Result<Sight, std::io::Error>) -> Proof {
        let mut n = 0;
        let look = async || {
            n += 1;
            sight(n)
        };
        prove(look, None, QUICK).await
    }

    fn sight(ready: bool, renewed: u32) -> Result<Sight, std::io::Error> {
        Ok(Sight { ready: Some(ready), reason: None, renewed: Some(renewed.to_string()) })
    }

    #[tokio::test]
    async fn two_renewals_that_were_seen_to_happen_prove_it() {
        let proof = watch(|n| sight(true, n / 2)).await;
        assert!(proof.proven && proof.renewals == 2, "{proof:?}");
    }

    #[tokio::test]
    async fn ready_with_a_lease_that_stands_still_proves_nothing() {
        let proof = watch(|_| sight(true, 7)).await;
        assert_eq!((proof.proven, proof.renewals), (false, 0));
        assert_eq!(proof.lacks.as_deref(), Some("0 of 2 lease renewals within 0 s"));
    }

    #[tokio::test]
    async fn renewals_without_ready_prove_nothing() {
        let proof = watch(|n| sight(false, n)).await;
        assert!(!proof.proven && proof.renewals >= 2, "{proof:?}");
        assert_eq!(proof.lacks.as_deref(), Some("not Ready within 0 s"));
    }

    #[tokio::test]
    async fn an_api_server_that_cannot_be_asked_is_said_so() {
        let proof = watch(|_| Err(std::io::Error::other("connection refused"))).await;
        assert_eq!(proof.lacks.as_deref(), Some("connection refused"));
        assert_eq!(proof.after, None, "not seen is not the same as not Ready");
    }
}
