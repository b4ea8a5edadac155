//! What a node looks like when it is well: a closed list, with provenance.
//!
//! A baseline is never learnt from a sick or guarded node, and a derived one permits guards only.

use crate::clock::Stamp;
use crate::net::{Family, Prefix};
use crate::observation::{Addr, Cluster, Fdb, Resolv, Route, Rule};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

mod differences;
mod firewall;
mod learn;

pub use differences::differences;
pub use firewall::{Firewall, KnownHook, KnownPolicy, KnownRule, calls, hooks};
pub use learn::{accept, derive, learn};

/// Where a baseline comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provenance {
    /// Computed from `main` and k3s's files on a node that was not seen well. Permits guards only.
    #[default]
    Derived,
    /// Learnt while every check passed without a guard.
    Learned,
    /// Accepted by an operator (`ctl baseline accept`).
    Accepted,
}

/// How a critical destination is reached when all is well.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Path {
    /// Device name, never its index.
    pub dev: String,
    /// Gateway, if any.
    #[serde(default)]
    pub via: Option<IpAddr>,
    /// Table that answers.
    pub table: u32,
}

/// Why a destination is critical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// An API server endpoint.
    Api,
    /// The default gateway.
    Gateway,
    /// The link's own prefix.
    Lan,
    /// Another node's address: VXLAN's outer packets go there.
    Node,
    /// This node's pods.
    OwnPods,
    /// Another node's pods.
    RemotePods,
    /// Services.
    Services,
}

/// A critical destination and its healthy path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Expected {
    /// Role.
    pub role: Role,
    /// What a guard protects.
    pub prefix: Prefix,
    /// The address asked about.
    pub ask: IpAddr,
    /// Its path; `None` when it had none (a service prefix without a default route).
    pub path: Option<Path>,
}

/// A device that belongs to the healthy node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KnownLink {
    /// Name.
    pub name: String,
    /// Kind as in [`crate::observation::Link::kind`].
    pub kind: String,
    /// Hardware address.
    pub mac: String,
}

/// The healthy node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Baseline {
    /// Counts up with every change that is kept.
    pub generation: u64,
    /// Where it comes from.
    pub provenance: Provenance,
    /// When it was taken.
    pub taken: Stamp,
    /// Who the node is.
    pub cluster: Cluster,
    /// Policy rules that critical traffic depends on: the kernel's, and those that lead to a destination's healthy path.
    ///
    /// Others may come and go. Above all, a live Tailscale's are not among them, however harmless today: the guard stands
    /// behind what is healthy, and would stand behind the captor of tomorrow.
    pub rules: Vec<Rule>,
    /// Unicast routes of `main` by the devices below, both families.
    pub routes: Vec<Route>,
    /// Devices (uplink, CNI), but no pod's veth.
    pub links: Vec<KnownLink>,
    /// Addresses on those devices.
    pub addrs: Vec<Addr>,
    /// Critical destinations.
    pub expected: Vec<Expected>,
    /// Other nodes.
    pub fdb: Vec<Fdb>,
    /// resolv.conf.
    pub resolv: Option<Resolv>,
    /// Sysctls that matter.
    pub sysctls: BTreeMap<String, String>,
    /// The packet filter, if all of it could be read then.
    pub firewall: Option<Firewall>,
    /// Hardware address of the gateway, to tell a moved network from a broken one.
    pub gateway_mac: Option<String>,
}

impl Baseline {
    /// May rungs above the guard rely on it without being asked?
    pub fn is_trusted(&self) -> bool {
        self.provenance != Provenance::Derived
    }

    /// The default route of a family, best metric first.
    pub fn default_route(&self, family: Family) -> Option<&Route> {
        self.routes.iter().filter(|r| r.family == family && r.dst.is_all()).min_by_key(|r| r.metric)
    }
}
