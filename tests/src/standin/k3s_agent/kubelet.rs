//! The kubelet's heartbeat: its lease and its node's status.
//!
//! Copies `k8s.io/component-helpers/apimachinery/lease/controller.go` (every 10 s with 4 % jitter after the last one is done; five
//! tries at once; from the second failure on all connections are closed; then GET or create with back-off up to 7 s) and
//! `pkg/kubelet/kubelet_node_status.go` (a look at the node every 10 s, a patch when the status differs, and every 5 minutes).

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::client::Client;
use crate::say;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const LEASE_SECONDS: u32 = 40;
const BEAT: Duration = Duration::from_secs(10);
const UPDATE_RETRIES: u32 = 5;
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(7);
const REPORT: Duration = Duration::from_secs(300);

/// Registers the node, tries its first lease, and beats from then on.
pub async fn start(client: Arc<Client>, node: String, address: Option<String>) -> JoinHandle<()> {
    let kubelet = Arc::new(Kubelet { client, node, address });
    kubelet.register().await;
    let mut lease = None;
    kubelet.sync_lease(&mut lease).await;
    let beating = Arc::clone(&kubelet);
    tokio::spawn(async move {
        loop {
            sleep(jittered(BEAT)).await;
            beating.sync_lease(&mut lease).await;
        }
    });
    tokio::spawn(async move {
        let mut reported = None;
        loop {
            kubelet.sync_status(&mut reported).await;
            sleep(jittered(BEAT)).await;
        }
    })
}

struct Kubelet {
    client: Arc<Client>,
    node: String,
    address: Option<String>,
}

impl Kubelet {
    async fn register(&self) {
        loop {
            let node = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": self.node, "labels": {"kubernetes.io/hostname": self.node,
                    "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "node.kubernetes.io/instance-type": "k3s"}},
                "spec": {}, "status": self.status(None),
            });
            match self.client.call(Method::POST, "/api/v1/nodes", Some(&node)).await {
                Ok(answer) if answer.status == StatusCode::CREATED => {
                    say!("Successfully registered node {}", self.node);
                    return;
                }
                Ok(answer) if answer.status == StatusCode::CONFLICT => {
                    say!("Node was previously registered: {}", self.node);
                    return;
                }
                Ok(answer) => {
                    say!("Unable to register node with API server: {}", said(&answer.body));
                }
                Err(cause) => say!("Unable to register node with API server: {cause:#}"),
            }
            sleep(MAX_BACKOFF).await;
        }
    }

    /// `sync`: from the lease we know, else from the one there is.
    async fn sync_lease(&self, latest: &mut Option<Value>) {
        if let Some(base) = latest.clone() {
            match self.update_lease(base, latest).await {
                Ok(()) => return,
                Err(cause) => say!(
                    "Failed to update lease using latest lease, fallback to ensure lease: {cause:#}"
                ),
            }
        }
        let (lease, created) = self.ensure_lease().await;
        *latest = Some(lease.clone());
        if !created && let Err(cause) = self.update_lease(lease, latest).await {
            say!("Will retry updating lease in {BEAT:?}: {cause:#}");
        }
    }

    /// `retryUpdateLease`.
    async fn update_lease(
        &self,
        mut base: Value,
        latest: &mut Option<Value>,
    ) -> anyhow::Result<()> {
        for tried in 0..UPDATE_RETRIES {
            base["spec"]["renewTime"] = json!(micro_time());
            let path = format!("{LEASES}/{}", self.node);
            let failed = match self.client.call(Method::PUT, &path, Some(&base)).await {
                Ok(answer) if answer.status.is_success() => {
                    *latest = Some(answer.body);
                    return Ok(());
                }
                Ok(answer) if answer.status == StatusCode::CONFLICT => {
                    base = self.ensure_lease().await.0;
                    continue;
                }
                Ok(answer) => anyhow!("{}", said(&answer.body)),
                Err(cause) => cause,
            };
            say!("Failed to update lease: Put {path:?}: {failed:#}");
            if tried > 0 {
                self.client.close_all().await;
            }
        }
        bail!("failed after {UPDATE_RETRIES} attempts to update lease")
    }

    /// `backoffEnsureLease`: does not give up.
    async fn ensure_lease(&self) -> (Value, bool) {
        let mut pause = FIRST_BACKOFF;
        loop {
            match self.get_or_create_lease().await {
                Ok(found) => return found,
                Err(cause) => {
                    say!("Failed to ensure lease exists, will retry in {pause:?}: {cause:#}");
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_BACKOFF);
        }
    }

    async fn get_or_create_lease(&self) -> anyhow::Result<(Value, bool)> {
        let answer =
            self.client.call(Method::GET, &format!("{LEASES}/{}", self.node), None).await?;
        if answer.status.is_success() {
            return Ok((answer.body, false));
        }
        if answer.status != StatusCode::NOT_FOUND {
            bail!("{}", said(&answer.body));
        }
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": self.node, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": self.node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": micro_time()},
        });
        let answer = self.client.call(Method::POST, LEASES, Some(&lease)).await?;
        if !answer.status.is_success() {
            bail!("{}", said(&answer.body));
        }
        Ok((answer.body, true))
    }

    /// `syncNodeStatus`: five tries, connections closed from the second failure on.
    async fn sync_status(&self, reported: &mut Option<Instant>) {
        for tried in 0..UPDATE_RETRIES {
            match self.try_status(reported).await {
                Ok(()) => return,
                Err(cause) => say!("Error updating node status, will retry: {cause:#}"),
            }
            if tried > 0 {
                self.client.close_all().await;
            }
        }
        say!("Unable to update node status: update node status exceeds retry count");
    }

    async fn try_status(&self, reported: &mut Option<Instant>) -> anyhow::Result<()> {
        let path = format!("/api/v1/nodes/{}", self.node);
        let answer = self.client.call(Method::GET, &path, None).await?;
        if !answer.status.is_success() {
            bail!("error getting node {:?}: {}", self.node, said(&answer.body));
        }
        let present = &answer.body["status"];
        let due = reported.is_none_or(|at| at.elapsed() >= REPORT);
        if !due && is_ready(present) && present["nodeInfo"]["bootID"] == json!(boot_id()) {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": answer.body["metadata"]["uid"]}, "status": self.status(Some(present))});
        let answer =
            self.client.call(Method::PATCH, &format!("{path}/status"), Some(&patch)).await?;
        if !answer.status.is_success() {
            bail!("failed to patch status: {}", said(&answer.body));
        }
        *reported = Some(Instant::now());
        Ok(())
    }

    /// The status of the node. The transition time moves only when a condition changes.
    fn status(&self, present: Option<&Value>) -> Value {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            let before = present
                .and_then(|present| find(present, kind))
                .filter(|before| before["status"] == status);
            let since =
                before.map_or_else(|| json!(now), |before| before["lastTransitionTime"].clone());
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": since})
        };
        let mut addresses = vec![json!({"type": "Hostname", "address": self.node})];
        if let Some(address) = &self.address {
            addresses.insert(0, json!({"type": "InternalIP", "address": address}));
        }
        let resources = json!({"cpu": "2", "memory": "4Gi", "pods": "110"});
        json!({
            "addresses": addresses, "capacity": resources, "allocatable": resources,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "bootID": boot_id(), "machineID": read("/etc/machine-id"), "systemUUID": read("/etc/machine-id"),
                "kernelVersion": read("/proc/sys/kernel/osrelease"), "osImage": "Debian GNU/Linux 12 (bookworm)",
                "operatingSystem": "linux", "architecture": "amd64", "kubeletVersion": "v1.34.2+k3s1",
                "kubeProxyVersion": "", "containerRuntimeVersion": "containerd://2.1.5-k3s1",
            },
        })
    }
}

fn find<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn is_ready(status: &Value) -> bool {
    find(status, "Ready").is_some_and(|ready| ready["status"] == "True")
}

fn said(body: &Value) -> String {
    body["message"].as_str().map_or_else(|| body.to_string(), str::to_owned)
}

fn boot_id() -> String {
    read("/proc/sys/kernel/random/boot_id")
}

fn read(path: &str) -> String {
    fs::read_to_string(path).context("read").map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// `metav1.MicroTime`.
fn micro_time() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// `wait.Jitter(period, 0.04)`; the clock's nanoseconds are random enough.
fn jittered(period: Duration) -> Duration {
    let nanos = jiff::Timestamp::now().subsec_nanosecond().unsigned_abs() % 1_000_000;
    period.mul_f64(1.0 + 0.04 * f64::from(nanos) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubelet() -> Kubelet {
        let config = rustls::ClientConfig::builder_with_provider(crate::standin::http::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
        let client = Arc::new(Client::new("127.0.0.1:1".parse().unwrap(), tls));
        Kubelet { client, node: "calypso".into(), address: Some("192.168.2.80".into()) }
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let old = json!({"conditions": [
            {"type": "Ready", "status": "Unknown", "lastTransitionTime": "T1"},
            {"type": "DiskPressure", "status": "False", "lastTransitionTime": "T2"}]});
        let now = kubelet().status(Some(&old));
        assert_eq!(find(&now, "DiskPressure").unwrap()["lastTransitionTime"], "T2");
        assert_ne!(find(&now, "Ready").unwrap()["lastTransitionTime"], "T1");
        assert!(is_ready(&now) && !is_ready(&old));
    }

    #[test]
    fn the_beat_jitters_by_four_percent_at_most() {
        for _ in 0..100 {
            let beat = jittered(BEAT);
            assert!(beat >= BEAT && beat <= BEAT.mul_f64(1.04), "{beat:?}");
        }
    }

    #[test]
    fn renew_time_is_a_micro_time() {
        let time = micro_time();
        assert_eq!((time.len(), &time[19..20], &time[26..]), (27, ".", "Z"), "{time}");
    }
}
