//! Faults of the catalogue that on the real cluster the real tailscaled makes, and how each is taken back.
//!
//! They bear the names of those that the quick gear makes with a stand-in, so that the same cases are tried on both. The workload
//! stays in the cluster: its kubelet starts again what is stopped.

use std::time::Duration;

use super::culprit::{self, Variant, Worker};
use crate::error::Result;
use crate::faults::{Fault, Site, scrub, wait_for};
use crate::witness::{Difference, Kind};

/// An image that is there, a start, three seconds of the culprit's own, and its netmap.
const CAPTURE: Duration = Duration::from_secs(45);
/// Five seconds' grace, and the kubelet's own.
const END: Duration = Duration::from_secs(30);

const INCIDENT: Variant = Variant {
    lan_access: false,
    accept_routes: false,
    peers_only: false,
    accept_dns: false,
    legacy: false,
    own_network: false,
    insists: false,
    on: Some(Worker::Calypso),
};

/// The faults of this gear.
pub const FAULTS: &[Fault] = &[
    Fault {
        id: "R1",
        title: "exit node, live daemon, LAN not allowed",
        how: "the incident's DaemonSet on one worker",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| captured(site, INCIDENT, "default dev tailscale0"),
        restore,
    },
    Fault {
        id: "R1-legacy",
        title: "the same with chains in iptables-legacy beside kube-proxy's in nft",
        how: "the DaemonSet with TS_DEBUG_FIREWALL_MODE=iptables",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            captured(site, Variant { legacy: true, ..INCIDENT }, "default dev tailscale0")
        },
        restore,
    },
    Fault {
        id: "R2",
        title: "exit node, LAN allowed: other nodes' pods, services and the API server captured",
        how: "the DaemonSet with --exit-node-allow-lan-access",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            captured(site, Variant { lan_access: true, ..INCIDENT }, "default dev tailscale0")
        },
        restore,
    },
    Fault {
        id: "R3",
        title: "remnants after SIGKILL: rules, chains, connection marks",
        how: "a harmless tailnet whose DaemonSet is deleted: its first process does not pass SIGTERM on, and is killed",
        verdict: "Healthy",
        near_miss: false,
        ground: None,
        strike: remnants,
        restore,
    },
    Fault {
        id: "R6",
        title: "accepted routes that overlap the LAN, services and other nodes' pods",
        how: "the DaemonSet without exit node, a peer advertises those prefixes",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| captured(site, Variant { accept_routes: true, ..INCIDENT }, "10.43.0.0/16"),
        restore,
    },
    Fault {
        id: "R16",
        title: "live benign Tailscale: peers only",
        how: "the DaemonSet without exit node and without routes",
        verdict: "Healthy",
        near_miss: true,
        ground: None,
        strike: benign,
        restore,
    },
    Fault {
        id: "R18",
        title: "tailscaled with an exit node in a pod's own network namespace",
        how: "the DaemonSet without hostNetwork",
        verdict: "Healthy",
        near_miss: true,
        ground: None,
        strike: |site| {
            culprit::apply(Variant { own_network: true, ..INCIDENT })?;
            wait_for("tailscaled of the pod has its exit node", CAPTURE, || {
                let inside = "pid=$(pgrep -x tailscaled | head -n 1); [ -n \"$pid\" ] && nsenter -t $pid -n ip route show table 52";
                Ok(site.node.run(&["sh", "-c", inside])?.stdout.contains("default dev tailscale0"))
            })
        },
        restore,
    },
];

/// The fault of that name, if this gear makes it by itself.
#[must_use]
pub fn find(id: &str) -> Option<Fault> {
    FAULTS.iter().find(|fault| fault.id == id).copied()
}

fn captured(site: &Site, variant: Variant, route: &str) -> Result<()> {
    culprit::apply(variant)?;
    wait_for(&format!("table 52 has {route}"), CAPTURE, || {
        Ok(site.node.may("ip route show table 52")?.stdout.contains(route))
    })?;
    // Addresses come with the routes or after them; a node between the two is a state nobody stays in.
    wait_for("the tun has its address", CAPTURE, || {
        Ok(site.node.may("ip -4 addr show tailscale0")?.stdout.contains("100.64.0."))
    })
}

fn benign(site: &Site) -> Result<()> {
    captured(site, Variant { peers_only: true, ..INCIDENT }, "100.64.0.1")
}

fn remnants(site: &Site) -> Result<()> {
    benign(site)?;
    let_go(site)
}

/// The cluster takes the workload away; its daemon is killed and leaves what it leaves.
pub fn let_go(site: &Site) -> Result<()> {
    culprit::purge()?;
    gone(site)
}

/// The workload's own folders on the node: the kubelet made them, they hold its identity, and nobody takes them away.
#[must_use]
pub fn is_kept(difference: &Difference) -> bool {
    difference.kind == Kind::Files && difference.to_string().contains("/tailscale-worker")
}

fn gone(site: &Site) -> Result<()> {
    wait_for("tailscaled has ended", END, || Ok(!site.node.may("pgrep -x tailscaled")?.ok()))
}

/// First the node, so that its kubelet hears of the rest; then the cluster; then again what died of it.
fn restore(site: &Site) -> Result<()> {
    culprit::remove_set(false)?;
    site.node.may("pkill -KILL -x tailscaled")?;
    scrub(site)?;
    culprit::purge()?;
    gone(site)?;
    scrub(site)?;
    site.node.must("rm -rf /var/lib/tailscale-worker /run/tailscale-worker").map(drop)
}
