//! The cluster's side: what the API server shows, and what is done through it.
//!
//! Everything that changes something is in two halves: `look` returns plain data, `act` takes that with its uids as
//! preconditions, may be called again at any time, and looks again before it acts.

pub mod budget;
pub mod culprit;
pub mod delete;
pub mod desk;
pub mod drain;
pub mod hearing;
pub mod inventory;
pub mod journal;
pub mod kinds;
pub mod namespace;
pub mod node;
pub mod orphans;
pub mod owner;
pub mod pin;
pub mod pods;
pub mod quiet;
pub mod rights;
pub mod services;
pub mod strip;
pub mod trouble;
pub mod verify;
pub mod view;

pub use trouble::{ClusterError, Failure, Refusal, Told};

use crate::sight::Sight;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// One question to the API server.
const CALL: Duration = Duration::from_secs(5);
/// So many questions at once, at most.
pub const AT_ONCE: usize = 24;

/// Where progress goes.
pub type Say<'a> = dyn FnMut(String) + Send + 'a;

/// The API server.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// Gives an answer "not now" back at once: an eviction that a budget refuses is tried again by us, not by the library.
    plain: Client,
    /// The context that is used.
    pub context: String,
    /// Where it is asked.
    pub server: String,
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
        let unusable =
            |e| ClusterError::Client { path: path.to_owned(), source: Box::new(Told(e)) };
        let file = Kubeconfig::read_from(path).map_err(wrong)?;
        let named = context.map(Into::into).or_else(|| file.current_context.clone());
        let options =
            KubeConfigOptions { context: context.map(Into::into), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)?;
        config.connect_timeout = Some(CALL);
        // The default is to wait for ever.
        config.read_timeout = Some(CALL);
        let server = config.cluster_url.to_string();
        let mut once = config.clone();
        once.default_retry = false;
        let client = Client::try_from(config).map_err(unusable)?;
        let plain = Client::try_from(once).map_err(unusable)?;
        Ok(Self { client, plain, context: named.unwrap_or_default(), server })
    }

    /// For other questions than those below.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Objects of a kind known at compile time, in a namespace or in all.
    pub fn api<K>(&self, namespace: Option<&str>) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        match namespace {
            Some(name) => Api::namespaced(self.client.clone(), name),
            None => Api::all(self.client.clone()),
        }
    }

    /// Pods and the like of a namespace; an answer "not now" comes back at once.
    pub fn once<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.plain.clone(), namespace)
    }

    /// Objects that are in no namespace.
    pub fn wide<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    /// Every node there is.
    pub async fn nodes(&self) -> Result<Vec<Node>, ClusterError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let all = ask("its nodes", nodes.list(&ListParams::default())).await?;
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

    /// A node's lease alone, as it was last renewed; `None` when it has none.
    pub async fn renewed(&self, node: &str) -> Result<Option<String>, ClusterError> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let lease = ask(format!("the lease of {node}"), leases.get_opt(node)).await?;
        Ok(lease.and_then(crate::sight::renewed))
    }
}

/// Changes some fields of an object.
pub async fn merge<K>(
    what: impl Into<String>,
    api: &Api<K>,
    name: &str,
    patch: &serde_json::Value,
) -> Result<K, ClusterError>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let how = PatchParams::default();
    ask(what, api.patch(name, &how, &Patch::Merge(patch))).await
}

/// Deletes an object by its uid, in the background: the foreground waits for what can never go. One that is gone, or
/// another of its name, is no error.
pub async fn remove<K>(
    what: impl Into<String>,
    api: &Api<K>,
    (name, uid): (&str, &str),
    grace: Option<u32>,
) -> Result<(), ClusterError>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let same = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let mut how = DeleteParams::background().preconditions(same);
    how.grace_period_seconds = grace;
    match ask(what, api.delete(name, &how)).await {
        Err(e) if e.is_missing() || e.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

/// Asks, bounded in time.
pub async fn ask<T>(
    what: impl Into<String>,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClusterError> {
    match timeout(CALL, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(ClusterError::Call { what: what.into(), source: Box::new(Told(e)) }),
        Err(_) => Err(ClusterError::Late { what: what.into(), limit: CALL }),
    }
}
