//! What was seen on a node, and what could not be seen.
//!
//! An observation never goes into a plan or over the wire whole. "Could not read" is a [`Gap`], never an empty list.

use crate::clock::Stamp;
use crate::net::Prefix;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

mod answers;
mod links;
mod netfilter;
mod programs;
mod routes;
mod rules;
mod shared;
mod xfrm;

pub use answers::{Fate, Lease, Lookup, Probe, Reach, Socket, Through};
pub use links::{Addr, Fdb, Link};
pub use netfilter::{Backend, Chain, Dialect, NfRule, NfTable};
pub use programs::{HostPorts, Netns, Process, Unit};
pub use routes::{Hop, Route, RouteKind, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
pub use rules::{Action, Mark, Rule};
pub use shared::{Name, Shared};
pub use xfrm::{Direction, XfrmPolicy, decides};

/// Everything one look brought in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Observation {
    /// When.
    pub taken: Stamp,
    /// Who this node is in its cluster, from k3s's files.
    pub cluster: Cluster,
    /// Network devices.
    pub links: Vec<Link>,
    /// Addresses on them.
    pub addrs: Vec<Addr>,
    /// Policy rules of both families, in the kernel's order.
    pub rules: Vec<Rule>,
    /// Routes of all tables of both families.
    pub routes: Shared<Route>,
    /// Netfilter tables by backend and family.
    pub netfilter: Vec<NfTable>,
    /// Tables of nftables' `inet` family, which is of both: firewalld's, a VPN's. They are seen and named, and never acted upon,
    /// so that no op that names a backend and a family can reach one by mistake; their own `family` says nothing.
    pub inet: Vec<NfTable>,
    /// Processes that matter: tunnel daemons, owners of tun devices, Kubernetes' own.
    pub processes: Vec<Process>,
    /// Units that matter.
    pub units: Vec<Unit>,
    /// Sysctls that matter, by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// `/etc/resolv.conf`.
    pub resolv: Option<Resolv>,
    /// VXLAN forwarding entries: where the other nodes are.
    pub fdb: Vec<Fdb>,
    /// IPsec policies.
    pub xfrm: Vec<XfrmPolicy>,
    /// TCP sockets to critical destinations.
    pub sockets: Vec<Socket>,
    /// What the kernel answered when asked for a route.
    pub lookups: Vec<Lookup>,
    /// What answered when it was called.
    pub probes: Vec<Probe>,
    /// The kubelet's lease, when it could be read.
    pub lease: Option<Lease>,
    /// Directories and files a known culprit left.
    pub paths: Vec<String>,
    /// Pods that hold ports of this node, from the CNI's own records.
    pub host_ports: Vec<HostPorts>,
    /// What could not be read.
    pub gaps: Vec<Gap>,
}

impl Observation {
    /// Could this part not be read?
    pub fn has_gap(&self, sense: Sense) -> bool {
        self.gaps.iter().any(|g| g.what == sense)
    }

    /// The device of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.name == name)
    }
}

/// A part of the machine that is looked at; what a gap names and a fault needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sense {
    /// k3s's files.
    Cluster,
    /// Links and addresses.
    Links,
    /// Policy rules.
    Rules,
    /// Routes.
    Routes,
    /// `iptables-legacy`, IPv4.
    Legacy4,
    /// `iptables-legacy`, IPv6.
    Legacy6,
    /// nftables and `iptables-nft`, IPv4.
    Nft4,
    /// nftables and `iptables-nft`, IPv6.
    Nft6,
    /// Processes.
    Processes,
    /// Units over D-Bus.
    Units,
    /// Sysctls.
    Sysctls,
    /// resolv.conf.
    Resolv,
    /// VXLAN forwarding entries.
    Fdb,
    /// IPsec policies.
    Xfrm,
    /// TCP sockets.
    Sockets,
    /// Asking the kernel for routes.
    Lookups,
    /// Calling destinations.
    Probes,
    /// The kubelet's lease.
    Lease,
    /// The CNI's records of pods with host ports.
    HostPorts,
}

impl Sense {
    /// Every part.
    pub const ALL: [Self; 19] = [
        Self::Cluster,
        Self::Links,
        Self::Rules,
        Self::Routes,
        Self::Legacy4,
        Self::Legacy6,
        Self::Nft4,
        Self::Nft6,
        Self::Processes,
        Self::Units,
        Self::Sysctls,
        Self::Resolv,
        Self::Fdb,
        Self::Xfrm,
        Self::Sockets,
        Self::Lookups,
        Self::Probes,
        Self::Lease,
        Self::HostPorts,
    ];
}

/// Something that could not be seen, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Which part.
    pub what: Sense,
    /// Why, for people.
    pub why: String,
}

/// What k3s's files say about the cluster and this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// Node name.
    pub node: String,
    /// The node's own address.
    pub node_ip: Option<IpAddr>,
    /// API server endpoints.
    pub api: Vec<SocketAddr>,
    /// This node's pods.
    pub pod_cidr: Option<Prefix>,
    /// All pods.
    pub cluster_cidr: Option<Prefix>,
    /// Services.
    pub service_cidr: Option<Prefix>,
}

/// The state of `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolv {
    /// Its content, at most 4 KiB.
    pub text: String,
    /// Where it points when it is a symbolic link.
    #[serde(default)]
    pub link: Option<String>,
    /// What a backup says that a known culprit made (`/etc/resolv.pre-tailscale-backup.conf`).
    #[serde(default)]
    pub backup: Option<String>,
}
