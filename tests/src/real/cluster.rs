//! The cluster as its operator sees it: `kubectl` on the laptop, and what is applied before the lab calls itself up.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Doing, LabError, Result};
use crate::furniture;
use crate::progress::Progress;
use crate::run::{self, Output};
use crate::space::Space;
use crate::topology::{self, Kind, Machine};

/// From booted nodes to a cluster at rest: images are unpacked, and every workload has its first pod.
const LIMIT: Duration = Duration::from_secs(120);
const ASK: Duration = Duration::from_secs(20);

const COREDNS: &str = include_str!("manifests/coredns.yaml");
const APPS: &str = include_str!("manifests/apps.yaml");

/// The hash that k3s keeps of each node's password (`pkg/authenticator/hash/scrypt.go`: version, salt, N, r, p, key).
const PASSWORDS: [(&str, &str); 2] = [
    (
        "calypso",
        "$1:1f2e3d4c5b6a7988:15:8:1:dHU7kQZtXeuN2j/BBqW2ICuftZwxp2t82BnGvhLR0eCataF0MBankAdp0pSGdGgE3zw47ogJDYcIKGYv/Uhlzg",
    ),
    (
        "styx",
        "$1:8897a6b5c4d3e2f1:15:8:1:lgWFe9MbjRXnVBmMVtybuXQYsPa0RzkxzxEBeEUpWi+SWnn3Ke5EC0ziuBy0fGIvTls6S1MS8t5j/0zmcEGogA",
    ),
];

/// `kubectl` on the laptop, as a command to be run.
#[must_use]
pub fn kubectl_command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut argv = vec![OsString::from("kubectl")];
    argv.extend(args.iter().map(|a| a.as_ref().to_owned()));
    Space { name: "laptop".to_owned() }.command(&argv)
}

/// Runs `kubectl` on the laptop, bounded in time.
pub fn kubectl(args: &[&str]) -> Result<Output> {
    run::run(&mut kubectl_command(args), ASK, None)
}

/// Applies manifests.
pub fn apply(manifests: &str) -> Result<()> {
    let mut command = kubectl_command(&["apply", "--request-timeout=15s", "-f", "-"]);
    run::run(&mut command, ASK, Some(manifests.as_bytes()))?.success().map(drop)
}

/// Brings the cluster from booted nodes to rest: nodes as flannel and k3s mark them, workloads running.
pub fn settle(progress: &Progress) -> Result<()> {
    for machine in workers() {
        mark(machine)?;
    }
    apply(&passwords())?;
    apply(COREDNS)?;
    apply(APPS)?;
    progress.say("cluster: CoreDNS and the workloads of the recovery plan are applied");
    await_rest(LIMIT, progress)?;
    progress.say("cluster: both workers are Ready, every pod runs");
    Ok(())
}

pub fn workers() -> impl Iterator<Item = &'static Machine> {
    topology::nodes().filter(|m| m.kind == Kind::Worker)
}

/// What the server of k3s and flannel write on a node's object.
fn mark(machine: &Machine) -> Result<()> {
    let (name, n) = (machine.name, machine.pods);
    let pods = format!("10.42.{n}.0/24");
    let patch = serde_json::json!({
        "metadata": {
            "labels": { "node.kubernetes.io/instance-type": "k3s" },
            "annotations": {
                "flannel.alpha.coreos.com/backend-type": "vxlan",
                "flannel.alpha.coreos.com/kube-subnet-manager": "true",
                "flannel.alpha.coreos.com/public-ip": machine.v4().to_string(),
                "flannel.alpha.coreos.com/backend-data":
                    format!("{{\"VNI\":1,\"VtepMAC\":\"{}\"}}", furniture::vtep(machine)),
                "k3s.io/hostname": name,
                "k3s.io/internal-ip": machine.v4().to_string(),
            },
        },
        "spec": { "podCIDR": pods, "podCIDRs": [pods] },
    });
    let patch = patch.to_string();
    kubectl(&["patch", "node", name, "--type=merge", "-p", &patch])?.success().map(drop)
}

fn passwords() -> String {
    let secret = |(node, hash): &(&str, &str)| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {node}.node-password.k3s, namespace: kube-system}}\n\
             type: Opaque\nimmutable: true\nstringData: {{hash: \"{hash}\"}}\n"
        )
    };
    PASSWORDS.iter().map(secret).collect::<Vec<_>>().join("---\n")
}

/// Waits until every node is Ready and every pod is, and says what is not.
pub fn await_rest(limit: Duration, progress: &Progress) -> Result<()> {
    let begun = Instant::now();
    loop {
        let unrest = unrest()?;
        if unrest.is_empty() {
            return Ok(());
        }
        let told = unrest.join(", ");
        if begun.elapsed() > limit {
            return Err(LabError::TimedOut {
                doing: format!("wait for the cluster to be at rest ({told})"),
                after: limit,
            });
        }
        progress.pass(format!("cluster: waiting for {told}"));
        std::thread::sleep(Duration::from_millis(400));
    }
}

/// What is not as it should be: nodes that are not Ready, workloads that lack a ready pod.
pub fn unrest() -> Result<Vec<String>> {
    let out = kubectl(&["get", "nodes,deployments,daemonsets", "-A", "-o", "json"])?;
    if !out.ok() {
        return Ok(vec![format!("the API server ({})", out.stderr.trim())]);
    }
    let seen: serde_json::Value = out.json()?;
    let all = seen["items"].as_array().cloned().unwrap_or_default();
    let mut unrest: Vec<String> = all.iter().filter_map(trouble).collect();
    for machine in workers() {
        if !all.iter().any(|o| o["kind"] == "Node" && o["metadata"]["name"] == machine.name) {
            unrest.push(format!("node {} is not registered", machine.name));
        }
    }
    Ok(unrest)
}

fn trouble(object: &serde_json::Value) -> Option<String> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let number = |key: &str| object["status"][key].as_i64().unwrap_or(0);
    match object["kind"].as_str()? {
        "Node" => (!is_ready(object)).then(|| format!("node {name} is not Ready")),
        "Deployment" => {
            let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
            let ready = number("readyReplicas");
            (ready < wanted).then(|| format!("{name} {ready}/{wanted}"))
        }
        _ => {
            let (wanted, ready) = (number("desiredNumberScheduled"), number("numberReady"));
            let seen = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            (ready < wanted || wanted == 0 || !seen).then(|| format!("{name} {ready}/{wanted}"))
        }
    }
}

/// Whether a node's object says that it is Ready.
#[must_use]
pub fn is_ready(node: &serde_json::Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// Runs `kubectl` for the person at the terminal.
pub fn kubectl_here(args: &[String]) -> Result<std::process::ExitStatus> {
    let doing = || "run kubectl".to_owned();
    std::io::stdout().flush().doing(doing)?;
    kubectl_command(args).stdin(Stdio::inherit()).status().doing(doing)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_workload_that_lacks_a_pod_is_told() {
        let deployment = json!({"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"replicas": 2}, "status": {"readyReplicas": 1}});
        assert_eq!(trouble(&deployment).unwrap(), "a 1/2");
        let set = json!({"kind": "DaemonSet", "metadata": {"name": "b", "generation": 1},
            "status": {"desiredNumberScheduled": 2, "numberReady": 2, "observedGeneration": 1}});
        assert_eq!(trouble(&set), None);
        let node = json!({"kind": "Node", "metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
        assert_eq!(trouble(&node).unwrap(), "node n is not Ready");
    }

    #[test]
    fn each_worker_has_the_hash_of_its_password() {
        let named: Vec<&str> = PASSWORDS.iter().map(|(n, _)| *n).collect();
        assert_eq!(named, workers().map(|m| m.name).collect::<Vec<_>>());
        assert_eq!(passwords().matches("kind: Secret").count(), 2);
    }
}
