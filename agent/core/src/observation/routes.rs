//! Routes of all tables, as `ip route` shows them.

use super::Name;
use crate::net::{Family, Prefix};
use alloc::vec::Vec;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// Routing table `local`.
pub const TABLE_LOCAL: u32 = 255;
/// Routing table `main`.
pub const TABLE_MAIN: u32 = 254;
/// Routing table `default`.
pub const TABLE_DEFAULT: u32 = 253;

/// Kind of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    /// To a neighbour or gateway.
    Unicast,
    /// To this machine.
    Local,
    /// Broadcast.
    Broadcast,
    /// Anycast.
    Anycast,
    /// Multicast.
    Multicast,
    /// Drop silently.
    Blackhole,
    /// Answer "unreachable".
    Unreachable,
    /// Answer "prohibited".
    Prohibit,
    /// Leave this table and go on with the next rule.
    Throw,
}

impl RouteKind {
    /// Does the kernel answer with an error? A `throw` only leaves the table.
    pub fn refuses(self) -> bool {
        matches!(self, Self::Blackhole | Self::Unreachable | Self::Prohibit)
    }
}

/// One next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hop {
    /// Gateway.
    #[serde(default)]
    pub via: Option<IpAddr>,
    /// Device name.
    #[serde(default)]
    pub dev: Option<Name>,
    /// The gateway counts as on-link whatever the addresses say.
    #[serde(default)]
    pub onlink: bool,
    /// `RTNH_F_DEAD`: not usable now. `RTNH_F_LINKDOWN` alone does not count: the kernel uses such routes unless
    /// `ignore_routes_with_linkdown` is set, and a persistent tun without a process captures by one (R7).
    #[serde(default)]
    pub dead: bool,
    /// Multipath weight, 1 to 256.
    #[serde(default)]
    pub weight: u16,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Family.
    pub family: Family,
    /// Table.
    pub table: u32,
    /// Kind.
    pub kind: RouteKind,
    /// Destination.
    pub dst: Prefix,
    /// Next hops: none for blackholes and throws, one as a rule, several for multipath.
    pub hops: Vec<Hop>,
    /// Metric: lower wins.
    pub metric: u32,
    /// Preferred source.
    #[serde(default)]
    pub src: Option<IpAddr>,
    /// Protocol number: who put it there.
    pub protocol: u8,
    /// Scope number (0 global, 253 link, 254 host).
    pub scope: u8,
    /// It carries attributes this type does not model (encapsulation, next-hop objects, source prefix); never rewritten.
    #[serde(default)]
    pub exotic: bool,
}

impl Route {
    /// Device of the first hop.
    pub fn dev(&self) -> Option<&str> {
        self.hops.first().and_then(|h| h.dev.as_deref())
    }

    /// Gateway of the first hop.
    pub fn via(&self) -> Option<IpAddr> {
        self.hops.first().and_then(|h| h.via)
    }
}
