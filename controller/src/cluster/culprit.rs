//! Which workloads can take a node's network apart, and stopping one: found by what their pods may do, a known VPN first.

use super::hearing;
use super::inventory::{Object, all};
use super::journal::Journal;
use super::kinds::Kind;
use super::pods::{self, PodFact};
use super::quiet;
use super::{Cluster, ClusterError, Failure, Refusal, Say};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Parts of image names of programs that route a machine's traffic elsewhere.
const VPN: [&str; 14] = [
    "tailscale",
    "wireguard",
    "wg-easy",
    "boringtun",
    "netbird",
    "zerotier",
    "openvpn",
    "nebula",
    "netclient",
    "innernet",
    "strongswan",
    "softether",
    "gluetun",
    "twingate",
];
/// How long pods of a node that is heard are given after the quarantine.
const GONE: Duration = Duration::from_secs(75);

/// A workload that may be the culprit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// It.
    pub object: Object,
    /// Which VPN its image is of, if it is a known one.
    pub vpn: Option<String>,
    /// What it may do.
    pub may: Vec<String>,
    /// It can change its nodes' own network.
    pub reaches_host: bool,
    /// Its pods.
    pub pods: Vec<PodFact>,
}

impl Suspect {
    /// For people: `tailscale-system/tailscale-worker (DaemonSet)`.
    pub fn words(&self) -> String {
        let space = self.object.namespace.as_deref().unwrap_or("-");
        format!("{space}/{} ({})", self.object.name, self.object.kind.kind)
    }

    /// A known VPN that reaches the node: nothing else in a cluster looks like this.
    pub fn likely(&self) -> bool {
        self.vpn.is_some() && self.reaches_host
    }

    /// Nodes it has pods on.
    pub fn nodes(&self) -> Vec<&str> {
        let mut nodes: Vec<&str> = self.pods.iter().filter_map(|p| p.node.as_deref()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// Every workload that could do it, the likely ones first.
pub async fn look(cluster: &Cluster) -> Result<Vec<Suspect>, ClusterError> {
    let every = ListParams::default();
    let (sets_api, deployments_api, stateful_api, pods_api) = (
        cluster.api::<DaemonSet>(None),
        cluster.api::<Deployment>(None),
        cluster.api::<StatefulSet>(None),
        cluster.api::<Pod>(None),
    );
    let (sets, deployments, stateful, live) = tokio::join!(
        all("its DaemonSets", &sets_api, &every),
        all("its Deployments", &deployments_api, &every),
        all("its StatefulSets", &stateful_api, &every),
        all("its pods", &pods_api, &every)
    );
    let live = live?;
    let mut found = Vec::new();
    let apps = |kind, plural| Kind::known("apps", "v1", kind, plural);
    for set in sets? {
        let spec = set.spec.template.spec.unwrap_or_default();
        found.extend(weigh(&apps("DaemonSet", "daemonsets"), set.metadata, &spec));
    }
    for deployment in deployments? {
        let spec = deployment.spec.template.spec.unwrap_or_default();
        found.extend(weigh(&apps("Deployment", "deployments"), deployment.metadata, &spec));
    }
    for one in stateful? {
        let spec = one.spec.template.spec.unwrap_or_default();
        found.extend(weigh(&apps("StatefulSet", "statefulsets"), one.metadata, &spec));
    }
    for pod in live.iter().filter(|p| is_bare(p)) {
        let spec = pod.spec.clone().unwrap_or_default();
        found.extend(weigh(&Kind::known("", "v1", "Pod", "pods"), pod.metadata.clone(), &spec));
    }
    let facts: Vec<PodFact> = live.into_iter().map(Into::into).collect();
    for suspect in &mut found {
        suspect.pods = facts.iter().filter(|p| belongs(p, &suspect.object)).cloned().collect();
    }
    found.sort_by_key(|s| (!s.likely(), s.object.kind.kind != "DaemonSet", s.words()));
    Ok(found)
}

/// Nothing makes it anew; pods that only a file on their node is behind belong to that node.
fn is_bare(pod: &Pod) -> bool {
    pod.metadata.owner_references.as_deref().unwrap_or_default().is_empty()
}

/// A Deployment's pods belong to its ReplicaSet, whose name is its own and a hash.
fn belongs(pod: &PodFact, to: &Object) -> bool {
    if Some(pod.namespace.as_str()) != to.namespace.as_deref() {
        return false;
    }
    match to.kind.kind.as_str() {
        "Pod" => pod.uid == to.uid,
        "Deployment" => {
            pod.controller_kind.as_deref() == Some("ReplicaSet")
                && pod.labels.get("pod-template-hash").is_some_and(|hash| {
                    pod.name.strip_prefix(&format!("{}-{hash}-", to.name)).is_some()
                })
        }
        _ => pod.controller.as_deref() == Some(&to.uid),
    }
}

fn weigh(kind: &Kind, meta: ObjectMeta, spec: &PodSpec) -> Option<Suspect> {
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let host = spec.host_network == Some(true);
    let privileged = containers().any(is_privileged);
    let admin = containers().any(may_administer);
    let vpn = containers().find_map(|c| c.image.as_deref().and_then(vpn_of));
    let reaches_host = host && (privileged || admin);
    if !reaches_host && vpn.is_none() {
        return None;
    }
    let may = [(host, "the node's own network"), (privileged, "privileged"), (admin, "NET_ADMIN")];
    let may = may.into_iter().filter(|(is, _)| *is).map(|(_, what)| what.to_owned()).collect();
    let object = Object::of(kind, meta);
    Some(Suspect { object, vpn, may, reaches_host, pods: Vec::new() })
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().is_some_and(|s| s.privileged == Some(true))
}

fn may_administer(container: &Container) -> bool {
    let security = container.security_context.as_ref();
    let added = security.and_then(|s| s.capabilities.as_ref()).and_then(|c| c.add.as_deref());
    let named = |c: &String| matches!(c.trim_start_matches("CAP_"), "NET_ADMIN" | "ALL");
    added.unwrap_or_default().iter().any(named)
}

/// Its name without registry, tag and digest is what tells.
fn vpn_of(image: &str) -> Option<String> {
    let path = image.split('@').next().unwrap_or_default();
    let path = match path.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => path,
    };
    let path = path.to_ascii_lowercase();
    let path = match path.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => rest,
        _ => path.as_str(),
    };
    VPN.iter().find(|name| path.contains(*name)).map(|name| (*name).to_owned())
}

/// What became of a culprit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stopped {
    /// Pods taken out of the API by force: whether their processes ended is for an agent to say.
    pub unproven: Vec<PodFact>,
    /// Pods that are still there.
    pub left: Vec<PodFact>,
}

/// Refuses what a cluster's own network is made of: it looks like a culprit, and without it no pod has a network.
pub fn may_stop(suspect: &Suspect) -> Result<(), Refusal> {
    let space = suspect.object.namespace.as_deref().unwrap_or_default();
    if suspect.vpn.is_none() && space.starts_with("kube-") {
        return Err(Refusal::new(
            format!("stop {}", suspect.words()),
            "it is a part of the cluster itself, and no known VPN",
            "if it is the culprit all the same, stop it by hand: kubectl -n NAMESPACE edit",
        ));
    }
    Ok(())
}

/// Quarantines a culprit, and waits until its pods are gone: those of silent nodes by force.
pub async fn stop(
    cluster: &Cluster,
    suspect: &Suspect,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<Stopped, Failure> {
    may_stop(suspect)?;
    if let Some(owner) = suspect.object.owner.as_ref().filter(|o| o.returns()) {
        say(format!("{} belongs to {}, which may undo this", suspect.words(), owner.words()));
    }
    quiet::stop(cluster, std::slice::from_ref(&suspect.object), journal, say).await?;
    let begun = Instant::now();
    let mut stopped = Stopped::default();
    loop {
        let all = pods::of_namespace(cluster, suspect.object.namespace.as_deref()).await?;
        stopped.left = all.into_iter().filter(|p| belongs(p, &suspect.object)).collect();
        if stopped.left.is_empty() || begun.elapsed() > GONE {
            break;
        }
        // A heartbeat for the controllers; what is still there then must be ended.
        if begun.elapsed() > Duration::from_secs(2) || suspect.object.kind.kind == "Pod" {
            let hearings = hearing::look(cluster).await?;
            let how = (&hearings, begun.elapsed());
            let forced = pods::end(cluster, &stopped.left, how, journal, say).await?;
            pods::add(&mut stopped.unproven, forced);
        }
        sleep(Duration::from_millis(700)).await;
    }
    journal.seen(format!(
        "{}: {} left",
        suspect.words(),
        crate::words::count(stopped.left.len(), "pod")
    ))?;
    Ok(stopped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn suspect(spec: serde_json::Value) -> Option<Suspect> {
        let kind = Kind::known("apps", "v1", "DaemonSet", "daemonsets");
        let meta = ObjectMeta { namespace: Some("kube-system".into()), ..ObjectMeta::default() };
        weigh(&kind, meta, &serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn the_daemonset_of_the_incident_is_likely() {
        let found = suspect(json!({"hostNetwork": true, "containers": [{"name": "t",
            "image": "docker.io/tailscale/tailscale:v1.88", "securityContext": {"privileged": true}}]}));
        let found = found.unwrap();
        assert!(found.likely() && may_stop(&found).is_ok());
        assert_eq!(found.vpn.as_deref(), Some("tailscale"));
        assert_eq!(found.may, ["the node's own network", "privileged"]);
    }

    #[test]
    fn the_clusters_own_network_is_a_suspect_and_is_not_stopped() {
        let found = suspect(json!({"hostNetwork": true, "containers": [{"name": "f", "image": "ghcr.io/flannel-io/flannel:v0.27",
            "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}]})).unwrap();
        assert!(!found.likely() && may_stop(&found).is_err());
    }

    #[test]
    fn an_ordinary_pod_is_no_suspect_and_a_vpn_of_its_own_network_is_no_likely_one() {
        assert_eq!(
            suspect(json!({"hostNetwork": true, "containers": [{"name": "n", "image": "nginx"}]})),
            None
        );
        let own = suspect(
            json!({"containers": [{"name": "w", "image": "localhost:5000/linuxserver/wireguard"}]}),
        );
        assert!(!own.unwrap().likely());
        assert_eq!(vpn_of("tailscale.example:5000/nginx@sha256:1"), None);
    }
}
