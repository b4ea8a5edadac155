//! The destinations a node cannot live without, and how to ask about each.
//!
//! They come from what is on the node itself: k3s's files, `main`, the VXLAN forwarding entries. Nothing here needs the API
//! server, because it is asked for when the API server is out of reach.

use crate::baseline::{Baseline, Expected, Path, Role};
use crate::fib::{self, Answer, Flow};
use crate::net::{Family, Prefix};
use crate::observation::{
    Action, Addr, Cluster, Fdb, Link, Observation, Route, RouteKind, Rule, Sense, TABLE_LOCAL,
    TABLE_MAIN,
};
use alloc::vec::Vec;
use core::net::IpAddr;

/// Where destinations are read from: a look, or a baseline.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Who the node is.
    pub cluster: &'a Cluster,
    /// Unicast routes of `main`.
    pub main: &'a [Route],
    /// Addresses.
    pub addrs: &'a [Addr],
    /// Other nodes.
    pub fdb: &'a [Fdb],
    /// Is there an overlay device (VXLAN)? Without one, other nodes' pods are the network's affair.
    pub overlay: bool,
}

/// Every critical destination as of now: the baseline's, with what k3s's files and the forwarding table say has changed.
///
/// Where something could not be read, the baseline's word stands.
pub fn critical(cluster: &Cluster, base: &Baseline, seen: &Observation) -> Vec<Expected> {
    let known = |s: Sense| !seen.has_gap(s);
    // A captured node's own `main` may be somebody's too: paths come from the baseline alone.
    let cluster =
        if known(Sense::Cluster) && !cluster.api.is_empty() { cluster } else { &base.cluster };
    let fdb = if known(Sense::Fdb) { &seen.fdb } else { &base.fdb };
    let sources = Sources {
        cluster,
        main: &base.routes,
        addrs: &base.addrs,
        fdb,
        overlay: base.links.iter().any(|l| l.kind == "vxlan"),
    };
    destinations(sources)
        .into_iter()
        .map(|(role, prefix, ask)| {
            let old = base.expected.iter().find(|e| e.role == role && e.prefix == prefix);
            old.cloned().unwrap_or_else(|| {
                let mut new = Expected { role, prefix, ask, path: None };
                let flow = flow(&new, cluster);
                new.path = path(&base.rules, &base.routes, &base.addrs, &flow);
                new
            })
        })
        .collect()
}

/// Lists the destinations: role, what a guard protects, the address to ask about.
pub fn destinations(s: Sources<'_>) -> Vec<(Role, Prefix, IpAddr)> {
    let mut out: Vec<(Role, Prefix, IpAddr)> = Vec::new();
    let mut put = |role, prefix: Prefix, ask| {
        if !out.iter().any(|(r, p, _)| *r == role && *p == prefix) {
            out.push((role, prefix, ask));
        }
    };
    let own = |a: IpAddr| s.addrs.iter().any(|x| x.addr == a);
    for api in s.cluster.api.iter().map(core::net::SocketAddr::ip).filter(|a| !a.is_loopback()) {
        put(Role::Api, Prefix::host(api), api);
    }
    let unicast =
        || s.main.iter().filter(|r| r.table == TABLE_MAIN && r.kind == RouteKind::Unicast);
    // Where no API server, no node and not this node itself is reached by a family, its gateway is the node's affair and
    // not the cluster's (R14).
    let nobody = s.cluster.api.is_empty() && s.cluster.node_ip.is_none();
    let used = |family| {
        let of = |a: IpAddr| Family::of(a) == family;
        nobody
            || s.cluster.node_ip.is_some_and(of)
            || s.cluster.api.iter().any(|a| of(a.ip()))
            // A device's default entry names nobody.
            || s.fdb.iter().any(|f| of(f.dst) && !f.dst.is_unspecified())
    };
    for family in Family::ALL.into_iter().filter(|f| used(*f)) {
        let default = unicast().filter(|r| r.family == family && r.dst.is_all());
        let via = default.min_by_key(|r| r.metric).and_then(Route::via);
        // A link-local gateway is asked by device, and no rule by destination can divert it.
        if let Some(via) = via.filter(|v| !is_link_local(*v)) {
            put(Role::Gateway, Prefix::host(via), via);
        }
    }
    for a in s.addrs.iter().filter(|a| Some(a.addr) == s.cluster.node_ip) {
        let lan = Prefix::new(a.addr, a.len);
        if let Some(ask) = lan.samples().into_iter().find(|x| !own(*x)) {
            put(Role::Lan, lan, ask);
        }
    }
    for f in s.fdb.iter().filter(|f| !f.dst.is_unspecified()) {
        put(Role::Node, Prefix::host(f.dst), f.dst);
    }
    if let Some(pods) = s.cluster.pod_cidr
        && let Some(ask) = pods.samples().into_iter().find(|x| !own(*x))
    {
        put(Role::OwnPods, pods, ask);
    }
    if let Some(all) = s.cluster.cluster_cidr {
        let is_remote =
            |p: &Prefix| all.covers(p) && s.cluster.pod_cidr.is_none_or(|own| !own.overlaps(p));
        let mut any = false;
        for r in unicast().filter(|r| is_remote(&r.dst)) {
            any = true;
            put(Role::RemotePods, r.dst, r.dst.sample());
        }
        // No overlay: the network routes pods, and the whole range goes one way. The next node's range stands for it.
        if !any
            && !s.overlay
            && let Some(next) = s.cluster.pod_cidr.and_then(|p| p.next())
            && is_remote(&next)
        {
            put(Role::RemotePods, all, next.sample());
        }
    }
    if let Some(services) = s.cluster.service_cidr {
        // The first address is `kubernetes.default`.
        let first = services.samples().into_iter().next_back().unwrap_or_else(|| services.addr());
        put(Role::Services, services, first);
    }
    out
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where flannel's VXLAN listens on Linux.
const VXLAN_PORT: u16 = 8_472;

/// Protocol and port of the packet that stands for a destination, 0 for any: rules may select by them, and the kernel has to be
/// asked about the same packet that the dump is judged by.
pub fn packet(role: Role, ask: IpAddr, cluster: &Cluster) -> (u8, u16) {
    match (cluster.api.iter().find(|a| a.ip() == ask), role) {
        // An API server may be another node as well.
        (Some(api), _) => (TCP, api.port()),
        (None, Role::Api) => (TCP, 6_443),
        (None, Role::Services) => (TCP, 443),
        (None, Role::Node) => (UDP, VXLAN_PORT),
        (None, Role::Gateway | Role::Lan | Role::OwnPods | Role::RemotePods) => (0, 0),
    }
}

/// The packet that stands for a destination: to the API server as the kubelet sends it.
pub fn flow(expected: &Expected, cluster: &Cluster) -> Flow {
    let (ipproto, dport) = packet(expected.role, expected.ask, cluster);
    // The kubelet's sockets are bound to nothing, but a `from` rule sees the address the route gives them.
    let src = cluster.node_ip.filter(|ip| Family::of(*ip) == Family::of(expected.ask));
    Flow { ipproto, src, ..Flow::tcp(expected.ask, dport) }
}

/// The path these rules and routes give a packet.
pub fn path(rules: &[Rule], routes: &[Route], addrs: &[Addr], flow: &Flow) -> Option<Path> {
    // The `local` table is not kept in a baseline; the addresses are.
    if let Some(own) = addrs.iter().find(|a| a.addr == flow.dst) {
        return Some(Path { dev: own.dev.clone(), via: None, table: TABLE_LOCAL });
    }
    match fib::lookup(rules, routes, flow) {
        Answer::Leaves { dev, via, table, .. } => Some(Path { dev, via, table }),
        Answer::Local => Some(Path { dev: "lo".into(), via: None, table: TABLE_LOCAL }),
        Answer::Refused { .. } | Answer::NoRoute | Answer::Unknown { .. } => None,
    }
}

/// The rules every kernel has from the start (`fib_default_rules_init`): IPv6 has no `default` rule.
pub fn kernel_rules() -> Vec<Rule> {
    let kernel = |family, pref, table| Rule {
        protocol: 2,
        ..Rule::bare(family, pref, Action::Lookup(table))
    };
    [
        kernel(Family::V4, 0, TABLE_LOCAL),
        kernel(Family::V4, 32_766, TABLE_MAIN),
        kernel(Family::V4, 32_767, crate::observation::TABLE_DEFAULT),
        kernel(Family::V6, 0, TABLE_LOCAL),
        kernel(Family::V6, 32_766, TABLE_MAIN),
    ]
    .into()
}

/// Is there an overlay device among these?
pub fn has_overlay(links: &[Link]) -> bool {
    links.iter().any(|l| l.kind == "vxlan")
}
