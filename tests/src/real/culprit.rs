//! The culprit: the DaemonSet of 13 October, with the switches by which its harm differs.

use std::time::{Duration, Instant};

use super::{cluster, tailnet};
use crate::error::Result;
use crate::faults::wait_for;

/// The culprit's namespace.
pub const SPACE: &str = "tailscale-system";
/// A namespace goes within seconds when nothing is in it.
const FREE: Duration = Duration::from_secs(150);
/// Its controller is woken so often meanwhile.
const WAKEN: Duration = Duration::from_secs(10);
const MANIFEST: &str = include_str!("manifests/culprit.yaml");
/// `status` names the exit node only while there is one.
const LIVENESS: &str = "{exec: {command: [/bin/sh, -c, '/bin/tailscale status --json | grep -q ExitNodeStatus']}, \
                        initialDelaySeconds: 15, periodSeconds: 5, timeoutSeconds: 4, failureThreshold: 3}";

/// How tailscaled is told to behave; the incident's own way is the default.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
pub struct Variant {
    /// Let the exit node's users reach their LAN
    #[arg(long)]
    pub lan_access: bool,
    /// No exit node, but routes of a peer that overlap the cluster's
    #[arg(long)]
    pub accept_routes: bool,
    /// Neither exit node nor routes: a tailnet that harms nobody
    #[arg(long, conflicts_with_all = ["lan_access", "accept_routes"])]
    pub peers_only: bool,
    /// Take the tailnet's DNS
    #[arg(long)]
    pub accept_dns: bool,
    /// Write the packet filter by iptables-legacy, beside kube-proxy's nft
    #[arg(long)]
    pub legacy: bool,
    /// In a network namespace of the pod's own, not in the node's
    #[arg(long)]
    pub own_network: bool,
    /// Its kubelet looks whether the exit node is in use, and starts it again when it is not
    #[arg(long)]
    pub insists: bool,
    /// Only on this node
    #[arg(long, value_enum)]
    pub on: Option<Worker>,
}

/// A worker.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Worker {
    Calypso,
    Styx,
}

impl Variant {
    fn flags(self, exit: &str) -> String {
        let mut flags = Vec::new();
        if self.peers_only {
            flags.push("--accept-routes=false".to_owned());
        } else if self.accept_routes {
            flags.push("--accept-routes".to_owned());
        } else {
            flags.push(format!("--exit-node={exit} --accept-routes"));
        }
        if self.lan_access {
            flags.push("--exit-node-allow-lan-access".to_owned());
        }
        flags.push(format!("--accept-dns={}", self.accept_dns));
        flags.join(" ")
    }

    fn manifest(self, login: &str, exit: &str) -> String {
        let firewall = if self.legacy { "iptables" } else { "nftables" };
        let nodes = match self.on {
            None => "{}".to_owned(),
            Some(Worker::Calypso) => "{kubernetes.io/hostname: calypso}".to_owned(),
            Some(Worker::Styx) => "{kubernetes.io/hostname: styx}".to_owned(),
        };
        MANIFEST
            .replace("{NODES}", &nodes)
            .replace("{HOST_NETWORK}", if self.own_network { "false" } else { "true" })
            .replace("{LOGIN}", login)
            .replace("{FLAGS}", &self.flags(exit))
            .replace("{FIREWALL}", firewall)
            .replace("{LIVENESS}", if self.insists { LIVENESS } else { "null" })
    }
}

impl Variant {
    /// The manifest with addresses of nobody: for those that only read it.
    #[must_use]
    pub fn example(self) -> String {
        self.manifest("http://192.0.2.1:31544", "100.64.0.1")
    }
}

/// Applies it, as somebody did on 13 October.
pub fn apply(variant: Variant) -> Result<()> {
    tailnet::advertise(if variant.accept_routes { tailnet::OVERLAP } else { "" })?;
    cluster::apply(&variant.manifest(&tailnet::login_server(), &tailnet::exit()?))
}

/// Takes the workload away, and the namespace after it is gone: a namespace that is finalized while its kubelets are cut off
/// leaves the DaemonSet in etcd, and it wakes with the next namespace of that name.
pub fn remove() -> Result<()> {
    remove_set(true)?;
    let space = ["delete", "namespace", SPACE, "--ignore-not-found", "--wait=false", "-o", "name"];
    cluster::kubectl(&space)?.success().map(drop)
}

/// Takes the workload alone away. A kubelet that is cut off does not hear of it, and its pod goes on.
pub fn remove_set(wait: bool) -> Result<()> {
    let wait = if wait { "--wait=true" } else { "--wait=false" };
    let set = ["delete", "daemonset/tailscale-worker", "-n", SPACE, "--ignore-not-found", wait];
    cluster::kubectl(&[&set[..], &["--timeout=15s"]].concat())?.success().map(drop)
}

/// Takes away all that is known of it, whatever its kubelets say, and waits until the name is free again.
pub fn purge() -> Result<()> {
    remove_set(false)?;
    let pods = ["delete", "pods", "--all", "-n", SPACE, "--force", "--grace-period=0"];
    cluster::kubectl(&pods)?;
    let space = ["delete", "namespace", SPACE, "--ignore-not-found", "--wait=false"];
    cluster::kubectl(&space)?.success()?;
    await_free()
}

/// Whether the API server says that there is no such namespace; one that cannot be asked says nothing about it, which is an error.
pub fn is_free() -> Result<bool> {
    let out = cluster::kubectl(&["get", "namespace", SPACE, "-o", "name"])?;
    if !out.ok() && out.stderr.contains("NotFound") {
        return Ok(true);
    }
    out.success().map(|_| false)
}

/// Waits until a namespace of that name can be made again.
pub fn await_free() -> Result<()> {
    let mut woken = Instant::now();
    wait_for("the culprit's namespace is gone", FREE, || {
        // Its controller sleeps for minutes when it has looked too early, or while no API server answered; a change wakes it.
        if woken.elapsed() > WAKEN {
            woken = Instant::now();
            let mark = format!("lab.lifeline/woken={}", jiff::Timestamp::now().as_second());
            cluster::kubectl(&["annotate", "namespace", SPACE, "--overwrite", &mark])?;
        }
        // Who cannot be asked now may answer the next time.
        Ok(is_free().unwrap_or(false))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_leaves_nothing_open_and_changes_only_its_switch() {
        let incident = Variant::default().manifest("http://x", "100.64.0.1");
        for open in ["{LOGIN}", "{FLAGS}", "{FIREWALL}", "{NODES}", "{HOST_NETWORK}", "{LIVENESS}"]
        {
            assert!(!incident.contains(open), "{open}");
        }
        assert!(incident.contains("nodeSelector: {}") && incident.contains("hostNetwork: true"));
        assert!(incident.contains("--exit-node=100.64.0.1 --accept-routes --accept-dns=false"));
        let routes = Variant { accept_routes: true, ..Variant::default() };
        assert!(!routes.manifest("http://x", "y").contains("--exit-node"));
        let benign = Variant { peers_only: true, ..Variant::default() }.manifest("http://x", "y");
        assert!(benign.contains("--accept-routes=false") && !benign.contains("--exit-node"));
        assert!(incident.contains("livenessProbe: null"));
        let insists = Variant { insists: true, ..Variant::default() }.manifest("http://x", "y");
        assert!(insists.contains("livenessProbe: {exec:"));
        let legacy = Variant { legacy: true, ..Variant::default() };
        assert!(legacy.manifest("http://x", "y").contains("value: iptables}"));
    }
}
