//! Which cluster this is: its kubeconfig's context, and the uid of `kube-system`, which no other cluster shares.
//!
//! The first sight of a cluster is kept under its configured name. A kubeconfig that later leads to another one is refused.

use super::{Cluster, ClusterError, ask};
use crate::files::{self, FileError, Present};
use crate::provider::diary::{self, DiaryError};
use k8s_openapi::api::core::v1::Namespace;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A cluster, certainly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The kubeconfig's context.
    pub context: String,
    /// Where it is asked.
    pub server: String,
    /// The uid of its namespace `kube-system`.
    pub uid: String,
}

/// Why it is not certain which cluster this is.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// It could not be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// It is another one.
    #[error(
        "act on cluster {cluster}: context {context:?} leads to another one ({}): its kube-system is {seen}, and {} knows {known}", server, path.display()
    )]
    Other {
        /// As configured.
        cluster: String,
        /// In the kubeconfig.
        context: String,
        /// Where it leads.
        server: String,
        /// As seen now.
        seen: String,
        /// As known.
        known: String,
        /// Where that is kept.
        path: PathBuf,
    },
    /// What is known of it cannot be read or written.
    #[error("keep in mind which cluster this is")]
    File(#[from] FileError),
    /// What is known of it is no longer readable.
    #[error("read {}", path.display())]
    Form {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// There is no place for it.
    #[error(transparent)]
    Place(#[from] DiaryError),
}

/// Asks which cluster this is, without keeping it in mind.
pub async fn look(cluster: &Cluster) -> Result<Pin, ClusterError> {
    let spaces = cluster.wide::<Namespace>();
    let space = ask("namespace kube-system", spaces.get_metadata("kube-system")).await?;
    let uid = space.metadata.uid.unwrap_or_default();
    Ok(Pin { context: cluster.context.clone(), server: cluster.server.clone(), uid })
}

/// Makes sure that it is the one known by this name, and keeps it in mind the first time.
pub async fn certain(cluster: &Cluster, name: &str) -> Result<Pin, PinError> {
    let pin = look(cluster).await?;
    let path = diary::place()?.join(name).join("cluster.json");
    if !path.exists() {
        files::create_dir(path.parent().unwrap_or(&path))?;
        let text = serde_json::to_string(&pin)
            .map_err(|source| PinError::Form { path: path.clone(), source })?;
        files::write(&path, &format!("{text}\n"), 0o600, Present::Replace)?;
        return Ok(pin);
    }
    let text = files::read(&path)?;
    let known: Pin = serde_json::from_str(&text)
        .map_err(|source| PinError::Form { path: path.clone(), source })?;
    if known.uid == pin.uid {
        return Ok(pin);
    }
    Err(PinError::Other {
        cluster: name.to_owned(),
        context: pin.context,
        server: pin.server,
        seen: pin.uid,
        known: known.uid,
        path,
    })
}
