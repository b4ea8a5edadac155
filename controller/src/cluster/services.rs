//! API services that do not answer: while one is down no namespace can be emptied, because nobody knows what is in it.
//!
//! They are named with what stands behind them, and never deleted: a cluster that loses one loses what it serves.

use super::inventory::all;
use super::pods::PodFact;
use super::{Cluster, ClusterError, ask};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::ListParams;
use serde::{Deserialize, Serialize};

/// One that does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// Its name: `v1beta1.metrics.k8s.io`.
    pub name: String,
    /// Why, in the API server's words.
    pub why: String,
    /// `namespace/name` of the Service behind it.
    pub backend: String,
    /// The pods behind that, with their nodes.
    pub pods: Vec<(String, String)>,
}

impl Stale {
    /// For people.
    pub fn words(&self) -> String {
        let pods: Vec<String> = self.pods.iter().map(|(p, n)| format!("{p} on {n}")).collect();
        let behind = if pods.is_empty() { "no pod".to_owned() } else { pods.join(", ") };
        format!(
            "{} does not answer ({}); behind it is service {}: {behind}",
            self.name, self.why, self.backend
        )
    }
}

/// All that do not answer.
pub async fn look(cluster: &Cluster) -> Result<Vec<Stale>, ClusterError> {
    let services =
        all("its API services", &cluster.wide::<APIService>(), &ListParams::default()).await?;
    let mut stale = Vec::new();
    for service in services {
        let Some((mut one, namespace, name)) = unavailable(&service) else { continue };
        let backend = cluster.api::<Service>(Some(&namespace));
        if let Some(found) = ask(format!("service {}", one.backend), backend.get_opt(&name)).await?
        {
            one.pods = behind(cluster, &namespace, &found).await?;
        }
        stale.push(one);
    }
    Ok(stale)
}

fn unavailable(service: &APIService) -> Option<(Stale, String, String)> {
    let backend = service.spec.as_ref()?.service.as_ref()?;
    let conditions = service.status.as_ref().and_then(|s| s.conditions.as_deref());
    let down = conditions?.iter().find(|c| c.type_ == "Available" && c.status != "True")?;
    let (namespace, name) = (backend.namespace.clone()?, backend.name.clone()?);
    let why = [down.reason.as_deref(), down.message.as_deref()];
    let one = Stale {
        name: service.metadata.name.clone()?,
        why: why.into_iter().flatten().collect::<Vec<_>>().join(": "),
        backend: format!("{namespace}/{name}"),
        pods: Vec::new(),
    };
    Some((one, namespace, name))
}

async fn behind(
    cluster: &Cluster,
    namespace: &str,
    service: &Service,
) -> Result<Vec<(String, String)>, ClusterError> {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    let Some(selector) = selector.filter(|s| !s.is_empty()) else { return Ok(Vec::new()) };
    let labels: Vec<String> = selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let chosen = ListParams::default().labels(&labels.join(","));
    let pods = all("the pods behind it", &cluster.api::<Pod>(Some(namespace)), &chosen).await?;
    let placed = pods.into_iter().map(PodFact::from).map(|p| {
        let node = p.node.clone().unwrap_or_else(|| "no node".to_owned());
        (p.words(), node)
    });
    Ok(placed.collect())
}
