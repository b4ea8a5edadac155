//! What the stand-in for the API server knows: nodes, leases, and which of them the lifecycle controller thinks well of.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    lease::{Log, What},
    objects::{condition, merge, now, ready, set_unknown, taints},
};
use crate::say;

/// After this long without a sign a node is Unknown (`--node-monitor-grace-period`, 50 s since v1.32).
const GRACE: Duration = Duration::from_secs(50);
/// A kind of object that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `v1` Node
    Node,
    /// `coordination.k8s.io/v1` Lease, all in kube-node-lease
    Lease,
}

/// Why a request was not done.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is none of that name.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// The resourceVersion in the request is not the present one.
    Conflict,
    /// The object is not what its kind demands.
    Invalid(String),
}

/// What the lifecycle controller has seen of a node.
#[derive(Debug, Default)]
struct Seen {
    sign: Value,
    at: Duration,
}

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    uid: String,
    pod_cidrs: BTreeMap<String, String>,
    nodes: BTreeMap<String, Value>,
    leases: BTreeMap<String, Value>,
    seen: BTreeMap<String, Seen>,
    version: u64,
    log: Log,
}

/// Takes the cluster's lock; a panic elsewhere does not take the cluster away.
pub fn lock(cluster: &Mutex<Cluster>) -> MutexGuard<'_, Cluster> {
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// An empty cluster. Its identity comes from its CA, so that it survives a restart.
    #[must_use]
    pub fn new(ca: &[u8], pod_cidrs: BTreeMap<String, String>, log: Log) -> Self {
        Self {
            uid: uid(&[ca, b"kube-system"]),
            pod_cidrs,
            nodes: BTreeMap::new(),
            leases: BTreeMap::new(),
            seen: BTreeMap::new(),
            version: 1,
            log,
        }
    }

    /// The namespaces that every cluster has.
    #[must_use]
    pub fn namespaces(&self) -> Vec<Value> {
        let names = ["default", "kube-node-lease", "kube-public", "kube-system"];
        let made = |name: &str| {
            let uid = if name == "kube-system" {
                self.uid.clone()
            } else {
                uid(&[self.uid.as_bytes(), name.as_bytes()])
            };
            json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "uid": uid, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z",
                    "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            })
        };
        names.into_iter().map(made).collect()
    }

    /// The resourceVersion of lists.
    #[must_use]
    pub fn version(&self) -> String {
        self.version.to_string()
    }

    fn objects(&mut self, kind: Kind) -> &mut BTreeMap<String, Value> {
        match kind {
            Kind::Node => &mut self.nodes,
            Kind::Lease => &mut self.leases,
        }
    }

    /// All objects of a kind.
    pub fn list(&mut self, kind: Kind) -> Vec<Value> {
        self.objects(kind).values().cloned().collect()
    }

    /// One object.
    pub fn get(&mut self, kind: Kind, name: &str) -> Result<Value, Refusal> {
        self.objects(kind).get(name).cloned().ok_or(Refusal::NotFound)
    }

    /// Makes an object.
    pub fn create(
        &mut self,
        kind: Kind,
        mut object: Value,
        at: Duration,
    ) -> Result<Value, Refusal> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(Refusal::Invalid("metadata.name: Required value".into()));
        }
        if self.objects(kind).contains_key(&name) {
            return Err(Refusal::AlreadyExists);
        }
        self.version += 1;
        object["metadata"]["uid"] =
            json!(uid(&[self.uid.as_bytes(), name.as_bytes(), &self.version.to_be_bytes()]));
        object["metadata"]["creationTimestamp"] = json!(now());
        if kind == Kind::Node {
            if let Some(cidr) = self.pod_cidrs.get(&name) {
                object["spec"]["podCIDR"] = json!(cidr);
                object["spec"]["podCIDRs"] = json!([cidr]);
            }
            self.seen.insert(name.clone(), Seen { sign: Value::Null, at });
        }
        self.keep(kind, &name, object, at)
    }

    /// Replaces an object, if the writer has seen its present state.
    pub fn update(
        &mut self,
        kind: Kind,
        name: &str,
        mut object: Value,
        at: Duration,
    ) -> Result<Value, Refusal> {
        let present = self.get(kind, name)?;
        let version = &object["metadata"]["resourceVersion"];
        if !version.is_null() && *version != present["metadata"]["resourceVersion"] {
            return Err(Refusal::Conflict);
        }
        for fixed in ["uid", "creationTimestamp", "name"] {
            object["metadata"][fixed] = present["metadata"][fixed].clone();
        }
        self.keep(kind, name, object, at)
    }

    /// Patches an object: maps merge, `null` deletes, conditions merge by their type as a strategic merge does.
    pub fn patch(
        &mut self,
        kind: Kind,
        name: &str,
        patch: &Value,
        at: Duration,
    ) -> Result<Value, Refusal> {
        let mut object = self.get(kind, name)?;
        merge(&mut object, patch);
        self.update(kind, name, object, at)
    }

    /// Deletes an object.
    pub fn delete(&mut self, kind: Kind, name: &str) -> Result<Value, Refusal> {
        self.version += 1;
        self.objects(kind).remove(name).ok_or(Refusal::NotFound)
    }

    fn keep(
        &mut self,
        kind: Kind,
        name: &str,
        mut object: Value,
        at: Duration,
    ) -> Result<Value, Refusal> {
        if kind == Kind::Lease && !object["spec"]["renewTime"].is_string() {
            return Err(Refusal::Invalid("spec.renewTime: Required value".into()));
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let before = self.objects(kind).insert(name.to_owned(), object.clone());
        match kind {
            Kind::Lease => self.log.append(name, What::Renewed, at),
            Kind::Node => {
                let was = before.as_ref().and_then(ready);
                if ready(&object).is_some_and(|is| is == "True") && was != Some("True") {
                    self.log.append(name, What::Ready, at);
                }
            }
        }
        Ok(object)
    }

    /// One look of the node lifecycle controller.
    ///
    /// It goes by what it has itself seen change, not by the times in the objects: those come from the nodes' clocks
    /// (`node_lifecycle_controller.go tryUpdateNodeHealth`).
    pub fn monitor(&mut self, at: Duration) {
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            let Some(mut node) = self.nodes.get(&name).cloned() else { continue };
            let heartbeat =
                condition(&node, "Ready").map(|ready| ready["lastHeartbeatTime"].clone());
            let renewed = self.leases.get(&name).map(|lease| lease["spec"]["renewTime"].clone());
            let is_unknown = ready(&node) == Some("Unknown");
            // What the controller itself wrote is no sign of life.
            let sign = json!([renewed, if is_unknown { None } else { heartbeat }]);
            let seen = self.seen.entry(name.clone()).or_default();
            if seen.sign != sign && !(is_unknown && seen.sign[0] == sign[0]) {
                seen.at = at;
            }
            seen.sign = sign;
            let silent = at.saturating_sub(seen.at);
            if silent >= GRACE && !is_unknown {
                say!(
                    "node {name} hasn't been updated for {silent:.1?}. Last Ready is: {:?}",
                    ready(&node)
                );
                set_unknown(&mut node);
                self.log.append(&name, What::NotReady, at);
            }
            let taints = taints(&node, ready(&node) == Some("Unknown"));
            if node["spec"]["taints"] != taints {
                node["spec"]["taints"] = taints;
            }
            if self.nodes.get(&name) != Some(&node) {
                self.version += 1;
                node["metadata"]["resourceVersion"] = json!(self.version.to_string());
                self.nodes.insert(name, node);
            }
        }
    }
}

/// A uid that depends on nothing but what it is made of.
fn uid(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
        digest.update([0]);
    }
    let hex: String = digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn cluster() -> Cluster {
        Cluster::new(
            b"ca",
            BTreeMap::from([("calypso".into(), "10.42.1.0/24".into())]),
            Log::none(),
        )
    }

    fn node() -> Value {
        json!({"metadata": {"name": "calypso"}, "spec": {}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-11-23T09:00:00Z"},
            {"type": "DiskPressure", "status": "False"}]}})
    }

    fn lease(second: u64) -> Value {
        json!({"metadata": {"name": "calypso"}, "spec": {"renewTime": format!("2026-11-23T09:00:{second:02}.000000Z")}})
    }

    /// A node that beats every 10 s up to second 100 and is looked at every 5.
    fn beaten() -> Cluster {
        let mut cluster = cluster();
        cluster.create(Kind::Node, node(), Duration::ZERO).unwrap();
        cluster.create(Kind::Lease, lease(0), Duration::ZERO).unwrap();
        for beat in 1..=10 {
            cluster
                .update(Kind::Lease, "calypso", lease(beat), S * u32::try_from(beat).unwrap() * 10)
                .unwrap();
            cluster.monitor(S * u32::try_from(beat).unwrap() * 10);
            cluster.monitor(S * u32::try_from(beat).unwrap() * 10 + S * 5);
        }
        cluster
    }

    fn state(cluster: &mut Cluster) -> (String, usize) {
        let node = cluster.get(Kind::Node, "calypso").unwrap();
        let taints = node["spec"]["taints"].as_array().map_or(0, Vec::len);
        (ready(&node).unwrap().to_owned(), taints)
    }

    #[test]
    fn a_silent_node_is_unknown_after_fifty_seconds_and_not_before() {
        let mut cluster = beaten();
        cluster.monitor(S * 145);
        assert_eq!(state(&mut cluster), ("True".into(), 0));
        cluster.monitor(S * 150);
        assert_eq!(state(&mut cluster), ("Unknown".into(), 2));
    }

    #[test]
    fn an_unknown_node_stays_so_until_its_kubelet_says_otherwise() {
        let mut cluster = beaten();
        cluster.monitor(S * 150);
        cluster.monitor(S * 155);
        assert_eq!(state(&mut cluster).0, "Unknown");
        cluster.update(Kind::Lease, "calypso", lease(20), S * 160).unwrap();
        cluster.monitor(S * 160);
        assert_eq!(state(&mut cluster), ("Unknown".into(), 2));
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-11-23T09:01:00Z"}]}});
        cluster.patch(Kind::Node, "calypso", &patch, S * 161).unwrap();
        assert_eq!(state(&mut cluster).0, "True");
        cluster.monitor(S * 165);
        assert_eq!(state(&mut cluster), ("True".into(), 0));
        cluster.monitor(S * 205);
        assert_eq!(state(&mut cluster).0, "True");
    }

    #[test]
    fn an_update_from_an_old_state_is_a_conflict() {
        let mut cluster = beaten();
        let mut old = cluster.get(Kind::Lease, "calypso").unwrap();
        cluster.update(Kind::Lease, "calypso", old.clone(), S).unwrap();
        assert_eq!(cluster.update(Kind::Lease, "calypso", old.clone(), S), Err(Refusal::Conflict));
        old["metadata"]["resourceVersion"] = Value::Null;
        assert!(cluster.update(Kind::Lease, "calypso", old, S).is_ok());
    }

    #[test]
    fn objects_are_made_once_and_found_by_name() {
        let mut cluster = cluster();
        let made = cluster.create(Kind::Node, node(), S).unwrap();
        assert_eq!(made["spec"]["podCIDR"], "10.42.1.0/24");
        assert_eq!(cluster.create(Kind::Node, node(), S), Err(Refusal::AlreadyExists));
        assert_eq!(cluster.get(Kind::Node, "styx"), Err(Refusal::NotFound));
        assert!(cluster.create(Kind::Lease, json!({"metadata": {"name": "x"}}), S).is_err());
    }
}
