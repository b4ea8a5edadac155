//! Reads every workload of a cluster and its namespaces; changes nothing there.

pub mod policy;
pub mod risk;

use crate::cluster::{Cluster, ClusterError};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Namespace, Pod, PodSpec, PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::timeout;

/// Objects of one answer; a large cluster is read in several.
const PAGE: u32 = 500;
/// One kind, all pages.
const LIMIT: Duration = Duration::from_secs(30);

/// Something that makes pods, or a pod that nobody made.
#[derive(Clone, Debug)]
pub struct Workload {
    /// `DaemonSet`.
    pub kind: &'static str,
    /// Where.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Another object that was listed here makes it.
    pub made: bool,
    /// Its pods' description.
    pub pod: PodSpec,
}

/// A kind that could not be listed.
#[derive(Clone, Debug, Serialize)]
pub struct Unread {
    /// What.
    pub what: &'static str,
    /// Why.
    pub why: String,
}

/// What a cluster runs.
#[derive(Debug, Default)]
pub struct Seen {
    /// Everything that makes pods.
    pub workloads: Vec<Workload>,
    /// The namespaces there are; `None` when they could not be listed.
    pub namespaces: Option<BTreeSet<String>>,
    /// Does the policy of `ctl audit --policy` stand, bound?
    pub policy: Option<bool>,
    /// What could not be listed: it is not "nothing there".
    pub unread: Vec<Unread>,
}

/// Reads it all. Namespaces come last: one that was made meanwhile is no orphan's.
pub async fn look(cluster: &Cluster) -> Seen {
    let mut seen = Seen::default();
    let s = &mut seen;
    let of = |t: PodTemplateSpec| t.spec;
    read::<DaemonSet>(cluster, s, "DaemonSet", |o| (o.metadata, of(o.spec.template))).await;
    read::<Deployment>(cluster, s, "Deployment", |o| (o.metadata, of(o.spec.template))).await;
    read::<StatefulSet>(cluster, s, "StatefulSet", |o| (o.metadata, of(o.spec.template))).await;
    read::<ReplicaSet>(cluster, s, "ReplicaSet", |o| (o.metadata, o.spec.template.and_then(of)))
        .await;
    read::<ReplicationController>(cluster, s, "ReplicationController", |o| {
        (o.metadata, o.spec.and_then(|s| s.template).and_then(of))
    })
    .await;
    read::<CronJob>(cluster, s, "CronJob", |o| {
        (o.metadata, o.spec.job_template.spec.and_then(|s| of(s.template)))
    })
    .await;
    read::<Job>(cluster, s, "Job", |o| (o.metadata, o.spec.and_then(|s| of(s.template)))).await;
    read::<Pod>(cluster, s, "Pod", |o| (o.metadata, o.spec)).await;
    match list::<Namespace>(cluster).await {
        Ok(all) => {
            seen.namespaces = Some(all.into_iter().filter_map(|n| n.metadata.name).collect());
        }
        Err(why) => seen.unread.push(Unread { what: "Namespace", why }),
    }
    match list::<ValidatingAdmissionPolicyBinding>(cluster).await {
        Ok(all) => {
            let ours = |b: &ValidatingAdmissionPolicyBinding| b.spec.policy_name == policy::NAME;
            seen.policy = Some(all.iter().any(ours));
        }
        Err(why) => seen.unread.push(Unread { what: "ValidatingAdmissionPolicyBinding", why }),
    }
    seen
}

async fn read<K>(
    cluster: &Cluster,
    seen: &mut Seen,
    kind: &'static str,
    open: impl Fn(K) -> (ObjectMeta, Option<PodSpec>),
) where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    match list::<K>(cluster).await {
        Ok(all) => seen.workloads.extend(all.into_iter().map(open).map(|(meta, pod)| {
            Workload {
                kind,
                made: meta
                    .owner_references
                    .iter()
                    .flatten()
                    .any(|o| o.controller == Some(true) && is_listed(&o.kind)),
                namespace: meta.namespace.unwrap_or_default(),
                name: meta.name.unwrap_or_default(),
                pod: pod.unwrap_or_default(),
            }
        })),
        Err(why) => seen.unread.push(Unread { what: kind, why }),
    }
}

/// A pod of a DaemonSet says nothing that the DaemonSet does not say; one of an unknown controller does.
fn is_listed(kind: &str) -> bool {
    [
        "DaemonSet",
        "Deployment",
        "StatefulSet",
        "ReplicaSet",
        "ReplicationController",
        "CronJob",
        "Job",
    ]
    .contains(&kind)
}

async fn list<K>(cluster: &Cluster) -> Result<Vec<K>, String>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(cluster.client());
    let pages = async {
        let mut all = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut page = ListParams::default().limit(PAGE);
            page.continue_token = next.take();
            let answer = api.list(&page).await?;
            all.extend(answer.items);
            next = answer.metadata.continue_.filter(|c| !c.is_empty());
            if next.is_none() {
                return Ok::<_, kube::Error>(all);
            }
        }
    };
    match timeout(LIMIT, pages).await {
        Ok(Ok(all)) => Ok(all),
        Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
        Ok(Err(why)) => Err(crate::obstacle::chain(&why)),
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    }
}

/// The kubeconfig that was named, or the configuration's, or the usual one.
pub async fn open(
    named: Option<&std::path::Path>,
    config: Option<&crate::config::Config>,
) -> Result<Cluster, OpenError> {
    let home = || std::env::var_os("HOME").map(|h| std::path::Path::new(&h).join(".kube/config"));
    let ours = config.and_then(|c| c.kubeconfig.clone());
    let context = if named.is_none() { config.and_then(|c| c.context.as_deref()) } else { None };
    let env = || std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty()).map(Into::into);
    let path =
        named.map(Into::into).or(ours).or_else(env).or_else(home).ok_or(OpenError::Nowhere)?;
    Ok(Cluster::open(&path, context).await?)
}

/// Why no cluster can be asked.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No kubeconfig.
    #[error(
        "find a kubeconfig: neither --kubeconfig, nor ctl.toml, nor KUBECONFIG names one, and HOME is not set"
    )]
    Nowhere,
    /// One that cannot be used.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}
