//! Who keeps a tunnel's daemon: the pod by the kubelet's own folders, its owner by the API server, a unit by systemd.
//!
//! Asked for daemons in the node's own network namespace only. What is not answered in time is not known, and no gap: the
//! control group alone has said whether it is a pod's.

use super::handshake::{self, Patience};
use super::{Places, lease, units};
use lifeline_core::observation::{Cluster, Netns, Observation};
use lifeline_core::supervisor::Supervisor;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// A pod's metadata is some 4 KiB.
const CALL_LIMIT: Duration = Duration::from_millis(1_000);
/// An owner that could not be asked is asked again after this long: while the API server is away each look would wait for it.
const AGAIN: Duration = Duration::from_secs(20);
/// Pods whose owner is remembered: a pod's owner does not change.
const KNOWN: usize = 64;

/// What has been learnt of owners.
#[derive(Debug, Default)]
pub(super) struct Owners {
    known: Mutex<BTreeMap<String, (Instant, Option<String>)>>,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    owner_references: Vec<Owner>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    name: String,
    #[serde(default)]
    controller: bool,
}

/// Completes what the control groups of tunnel daemons say.
pub(super) async fn complete(seen: &mut Observation, places: &Places, owners: &Owners) {
    let ours = |cgroup: &str| cgroup.contains(&places.policy.unit);
    for at in 0..seen.processes.len() {
        let process = &seen.processes[at];
        let tunnel = process.netns == Netns::Host
            && !ours(&process.cgroup)
            && (!process.tuns.is_empty() || process.socket.is_some());
        if !tunnel {
            continue;
        }
        let keeper = match Supervisor::of_cgroup(&process.cgroup) {
            Some(Supervisor::Pod { uid, .. }) => {
                let name = pod_name(&places.var.join("log/pods"), &uid);
                let owner = match &name {
                    Some(name) => owners.of(places, &seen.cluster, name, &uid).await,
                    None => None,
                };
                Supervisor::Pod { uid, name, owner }
            }
            Some(Supervisor::Unit { name, .. }) => {
                let restart = units::restart(places.bus.as_deref(), &name, CALL_LIMIT).await;
                Supervisor::Unit { name, restart }
            }
            Some(other) => other,
            None => continue,
        };
        seen.processes[at].supervisor = Some(keeper);
    }
}

/// `NAMESPACE/NAME` of the pod of this uid, by the folder the kubelet makes for its logs.
fn pod_name(logs: &Path, uid: &str) -> Option<String> {
    let folders = std::fs::read_dir(logs).ok()?;
    folders.flatten().find_map(|folder| {
        let name = folder.file_name().into_string().ok()?;
        // Neither namespace nor name may hold a `_`.
        let (pod, of) = name.rsplit_once('_')?;
        let (namespace, pod) = pod.split_once('_').filter(|_| of == uid)?;
        let plain = |s: &str| {
            !s.is_empty()
                && s.len() <= 253
                && s.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        (plain(namespace) && plain(pod)).then(|| format!("{namespace}/{pod}"))
    })
}

impl Owners {
    async fn of(
        &self,
        places: &Places,
        cluster: &Cluster,
        name: &str,
        uid: &str,
    ) -> Option<String> {
        if let Some((asked, owner)) = self.lock().get(uid)
            && (owner.is_some() || asked.elapsed() < AGAIN)
        {
            return owner.clone();
        }
        let owner = match timeout(CALL_LIMIT, ask(places, cluster, name, uid)).await {
            Ok(Ok(owner)) => owner,
            Ok(Err(why)) => {
                tracing::debug!("ask who owns pod {name}: {why}");
                None
            }
            Err(_) => None,
        };
        let mut known = self.lock();
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(uid.to_owned(), (Instant::now(), owner.clone()));
        owner
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Instant, Option<String>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the API server for the pod's metadata, as the node's kubelet may, over our own path.
async fn ask(
    places: &Places,
    cluster: &Cluster,
    name: &str,
    uid: &str,
) -> Result<Option<String>, String> {
    let (namespace, pod) = name.split_once('/').ok_or("it has no namespace")?;
    let config = lease::credentials(places)?;
    let mut why = "no API server is known".to_owned();
    for api in &cluster.api {
        let (patience, _) = Patience::new(CALL_LIMIT);
        let call = handshake::call(*api, places.policy.lifeline, &config, &patience).await;
        let Some(stream) = call.stream else {
            why = format!("{api} does not answer");
            continue;
        };
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        let accept =
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json";
        match lease::get(stream, *api, &path, accept).await {
            Ok(body) => return owner(&body, uid),
            Err(said) => why = format!("{api}: {said}"),
        }
    }
    Err(why)
}

fn owner(body: &[u8], uid: &str) -> Result<Option<String>, String> {
    let object: Object = serde_json::from_slice(body).map_err(|e| format!("not a pod: {e}"))?;
    let meta = object.metadata;
    // A static pod's mirror has a uid of its own; the annotation holds the one that the control group is named after.
    let mirror = meta.annotations.get("kubernetes.io/config.mirror");
    if meta.uid != uid && mirror.is_none_or(|m| m != uid) {
        return Err("a newer pod has that name".to_owned());
    }
    let controller = meta.owner_references.iter().find(|o| o.controller);
    Ok(controller
        .or_else(|| meta.owner_references.first())
        .map(|o| format!("{}/{}", o.kind, o.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_by_the_kubelets_folder_and_no_folder_is_no_pod() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "kube-system_coredns-x_11111111-aaaa",
            "tailscale-system_tailscale-worker-x7k2p_2f1e9c34-6d0b",
            "Evil$(x)_pod_33333333",
            "nonsense",
        ] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let name = |uid| pod_name(dir.path(), uid);
        assert_eq!(
            name("2f1e9c34-6d0b").as_deref(),
            Some("tailscale-system/tailscale-worker-x7k2p")
        );
        assert_eq!(name("33333333"), None, "a name that no pod can have");
        assert_eq!(name("2f1e9c34"), None);
        assert_eq!(pod_name(Path::new("/nowhere"), "1"), None);
    }

    #[test]
    fn the_controller_owns_a_pod_and_a_pod_of_the_same_name_is_another() {
        let body = br#"{"kind":"PartialObjectMetadata","metadata":{"name":"w-1","uid":"u-1","ownerReferences":[
            {"kind":"Node","name":"n"},{"kind":"DaemonSet","name":"w","controller":true}]}}"#;
        assert_eq!(owner(body, "u-1").unwrap().as_deref(), Some("DaemonSet/w"));
        assert!(owner(body, "u-2").unwrap_err().contains("newer pod"));
        let mirror =
            br#"{"metadata":{"uid":"m","annotations":{"kubernetes.io/config.mirror":"h"}}}"#;
        assert_eq!(owner(mirror, "h").unwrap(), None);
    }
}
