//! Asks the API server for a node, its lease and its pods; changes nothing there.

use crate::sight::Sight;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;

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

    /// Every node there is.
    pub async fn nodes(&self) -> Result<Vec<Node>, ClusterError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let all = ask("its nodes".to_owned(), nodes.list(&ListParams::default())).await?;
        Ok(all.items)
    }

    /// Looks at a node once.
    pub async fn look(&self, node: &str) -> Result<Sight, ClusterError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let pods: Api<Pod> = Api::all(self.client.clone());
        let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let (seen, lease, pods) = tokio::join!(
            ask(format!("node {node}"), nodes.get(node)),
            ask(format!("the lease of {node}"), leases.get_opt(node)),
            ask(format!("the pods of {node}"), pods.list(&there))
        );
        Ok(Sight::of(seen?, lease?, pods?.items))
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
