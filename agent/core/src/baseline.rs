//! What a node looks like when it is well: a closed list, with provenance.
//!
//! A baseline is never learnt from a sick or guarded node, and a derived one permits guards only.

use crate::clock::Stamp;
use crate::critical::{self, Sources};
use crate::diagnosis::{Diagnosis, Verdict};
use crate::evidence::{same_route, same_rule};
use crate::fib;
use crate::net::{Family, Prefix};
use crate::observation::{
    Addr, Cluster, Fate, Fdb, Link, Observation, Resolv, Route, RouteKind, Rule, Sense, TABLE_MAIN,
    Through,
};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

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

/// The state of `main` and k3s's files, whatever rules stand in the way: enough to guard a node that was never seen well.
///
/// Devices that lead into a tunnel are left out, for on a node that is captured already they are the captor's.
pub fn derive(seen: &Observation) -> Baseline {
    let rules = critical::kernel_rules();
    let main: Vec<Route> =
        main(seen).filter(|r| r.dev().is_some_and(|d| !is_tunnel(seen, d))).cloned().collect();
    let mut base = build(seen, &rules, &main);
    unlearn(&mut base, None);
    base
}

/// What a tunnel that is up has changed is no part of the healthy state: it goes away with the tunnel, or ought to.
fn unlearn(base: &mut Baseline, previous: Option<&Baseline>) {
    const KEY: &str = "net.ipv4.conf.all.src_valid_mark";
    base.sysctls.remove(KEY);
    if let Some(value) = previous.and_then(|p| p.sysctls.get(KEY)) {
        base.sysctls.insert(KEY.to_string(), value.clone());
    }
    if base.resolv.as_ref().is_some_and(|r| crate::faults::tailscale::wrote(&r.text)) {
        base.resolv = previous.and_then(|p| p.resolv.clone());
    }
}

/// The healthy state, from a look at a node that is well without our guard.
///
/// # Errors
/// Says why this look is not to be learnt from.
pub fn learn(
    seen: &Observation,
    diag: &Diagnosis,
    previous: Option<&Baseline>,
) -> Result<Baseline, String> {
    if diag.verdict != Verdict::Healthy {
        return Err(format!("the node is {}: {}", diag.verdict, diag.summary));
    }
    if let Some(f) = diag.findings.first() {
        return Err(format!("{} is there", f.fault));
    }
    take(seen, diag, previous, Provenance::Learned)
}

/// What is there now becomes the healthy state, because an operator says so.
///
/// # Errors
/// Says why even an operator's word is not enough: what was not seen, or seen through our guard, cannot be recorded.
pub fn accept(
    seen: &Observation,
    diag: &Diagnosis,
    previous: Option<&Baseline>,
) -> Result<Baseline, String> {
    take(seen, diag, previous, Provenance::Accepted)
}

fn take(
    seen: &Observation,
    diag: &Diagnosis,
    previous: Option<&Baseline>,
    provenance: Provenance,
) -> Result<Baseline, String> {
    if diag.guarded {
        return Err("our guard stands: what would be recorded is its doing".to_string());
    }
    let needed = [Sense::Cluster, Sense::Links, Sense::Rules, Sense::Routes, Sense::Probes];
    if let Some(gap) = seen.gaps.iter().find(|g| needed.contains(&g.what)) {
        return Err(format!("{} could not be read: {}", crate::text::word(gap.what), gap.why));
    }
    let rules = fib::without_ours(&seen.rules);
    let main: Vec<Route> = main(seen).cloned().collect();
    let mut base = build(seen, &rules, &main);
    let Some(api) = base.expected.iter().find(|e| e.role == Role::Api) else {
        return Err("k3s's files name no API server".to_string());
    };
    if api.path.is_none() {
        return Err(format!("there is no route to the API server {}", api.ask));
    }
    let answered = |p: &crate::observation::Probe| {
        p.through == Through::Plain
            && p.reach == crate::observation::Reach::Tls
            && base.expected.iter().any(|e| e.role == Role::Api && e.ask == p.dst)
    };
    if !seen.probes.iter().any(answered) {
        return Err("the API server does not answer".to_string());
    }
    for e in &base.expected {
        // Netlink dumps drop entries without a word (field guide K4): a path is recorded when the kernel says so too.
        let asked = seen.lookups.iter().find(|l| l.dst == e.ask && l.through == Through::Plain);
        if let (Some(path), Some(l)) = (&e.path, asked)
            && let Fate::Leaves { dev, via, .. } = &l.fate
            && (*dev != path.dev || *via != path.via)
        {
            return Err(format!("the dump and the kernel disagree about {}", e.prefix));
        }
    }
    for rule in critical::kernel_rules() {
        let in_use = rules.iter().any(|r| r.family == rule.family);
        if in_use && !rules.iter().any(|r| r.family == rule.family && r.action == rule.action) {
            return Err(format!("missing: {}", crate::text::rule_line(&rule)));
        }
    }
    if crate::faults::tailscale::is_up(seen) {
        unlearn(&mut base, previous);
    }
    base.provenance = provenance;
    base.generation = previous.map_or(0, |p| p.generation) + 1;
    if let Some(old) = previous {
        base.gateway_mac = base.gateway_mac.or_else(|| old.gateway_mac.clone());
        let same = Baseline {
            generation: old.generation,
            taken: old.taken.clone(),
            provenance: old.provenance,
            ..base.clone()
        } == *old;
        // An operator's word is not worn down by our looking again.
        if same && old.provenance >= provenance {
            return Ok(old.clone());
        }
    }
    Ok(base)
}

fn main(seen: &Observation) -> impl Iterator<Item = &Route> {
    seen.routes.iter().filter(|r| r.table == TABLE_MAIN && r.kind == RouteKind::Unicast)
}

fn is_tunnel(seen: &Observation, dev: &str) -> bool {
    seen.link(dev).is_some_and(|l| {
        matches!(l.kind.as_str(), "tun" | "wireguard") && !l.name.starts_with("flannel")
    })
}

/// A baseline of what these rules and routes say, cut down to what critical traffic needs.
fn build(seen: &Observation, rules: &[Rule], main: &[Route]) -> Baseline {
    let sources = Sources {
        cluster: &seen.cluster,
        main,
        addrs: &seen.addrs,
        fdb: &seen.fdb,
        overlay: critical::has_overlay(&seen.links),
    };
    // Tables other than main count only when a rule leads there; `local` is spoken for by the addresses.
    let others = seen.routes.iter().filter(|r| r.table != TABLE_MAIN).cloned();
    let routes: Vec<Route> = main.iter().cloned().chain(others).collect();
    let mut used: Vec<Rule> = Vec::new();
    let expected: Vec<Expected> = critical::destinations(sources)
        .into_iter()
        .map(|(role, prefix, ask)| {
            let mut e = Expected { role, prefix, ask, path: None };
            e.path = critical::path(rules, &routes, &seen.addrs, &e, &seen.cluster);
            let flow = critical::flow(&e, &seen.cluster);
            if let fib::Answer::Leaves { pref, .. } = fib::lookup(rules, &routes, &flow) {
                used.extend(
                    rules
                        .iter()
                        .filter(|r| {
                            r.family == prefix.family()
                                && r.pref == pref
                                && fib::matches(r, &flow) == Some(true)
                        })
                        .cloned(),
                );
            }
            e
        })
        .collect();
    let mut kept = critical::kernel_rules();
    for r in used {
        if !kept.iter().any(|k| same_rule(k, &r)) {
            kept.push(r);
        }
    }
    kept.sort_by_key(|r| (r.family, r.pref));
    let links: Vec<&Link> = seen.links.iter().filter(|l| belongs(l, seen, &expected)).collect();
    let has = |dev: &str| links.iter().any(|l| l.name == dev);
    let is_link_local = |a: &Addr| match a.addr {
        IpAddr::V4(_) => false,
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    Baseline {
        generation: 0,
        provenance: Provenance::Derived,
        taken: seen.taken.clone(),
        cluster: seen.cluster.clone(),
        rules: kept,
        routes: main.iter().filter(|r| r.dev().is_some_and(has)).cloned().collect(),
        links: links
            .iter()
            .map(|l| KnownLink { name: l.name.clone(), kind: l.kind.clone(), mac: l.mac.clone() })
            .collect(),
        addrs: seen.addrs.iter().filter(|a| has(&a.dev) && !is_link_local(a)).cloned().collect(),
        expected,
        fdb: seen.fdb.iter().filter(|f| !f.dst.is_unspecified()).cloned().collect(),
        resolv: seen.resolv.clone(),
        sysctls: seen.sysctls.clone(),
        gateway_mac: None,
    }
}

/// Is this device one the healthy node depends on? Pods' own ends come and go.
fn belongs(link: &Link, seen: &Observation, expected: &[Expected]) -> bool {
    let pods = seen.cluster.cluster_cidr.or(seen.cluster.pod_cidr);
    let in_pods = |a: &Addr| a.dev == link.name && pods.is_some_and(|p| p.contains(a.addr));
    link.name != "lo"
        && (expected.iter().filter_map(|e| e.path.as_ref()).any(|p| p.dev == link.name)
            || (seen.addrs.iter().any(in_pods) && link.kind != "tun"))
}

/// In what a look differs from the baseline, a line each, for people.
pub fn differences(base: &Baseline, seen: &Observation) -> Vec<String> {
    let mut out = Vec::new();
    let rules = fib::without_ours(&seen.rules);
    for b in base.rules.iter().filter(|b| !rules.iter().any(|r| same_rule(r, b))) {
        out.push(format!("missing: {}", crate::text::rule_line(b)));
    }
    for r in rules.iter().filter(|r| !base.rules.iter().any(|b| same_rule(r, b))) {
        out.push(format!("new: {}", crate::text::rule_line(r)));
    }
    for b in base.routes.iter().filter(|b| !seen.routes.iter().any(|r| same_route(r, b))) {
        out.push(format!("missing: {}", crate::text::route_line(b)));
    }
    let known = |d: &str| base.links.iter().any(|l| l.name == d);
    let ours = main(seen).filter(|r| r.dst.is_all() || r.dev().is_some_and(known));
    for r in ours.filter(|r| !base.routes.iter().any(|b| same_route(r, b))) {
        out.push(format!("new: {}", crate::text::route_line(r)));
    }
    for b in &base.links {
        match seen.link(&b.name) {
            None => out.push(format!("missing: link {}", b.name)),
            Some(l) if l.kind != b.kind => {
                out.push(format!("changed: link {} is {} and was {}", b.name, l.kind, b.kind));
            }
            Some(l) if l.mac != b.mac => {
                out.push(format!(
                    "changed: link {} has address {} and had {}",
                    b.name, l.mac, b.mac
                ));
            }
            Some(_) => {}
        }
    }
    for b in base.addrs.iter().filter(|b| !seen.addrs.contains(b)) {
        out.push(format!("missing: addr {} {}/{}", b.dev, b.addr, b.len));
    }
    for a in seen.cluster.api.iter().filter(|a| !base.cluster.api.contains(a)) {
        out.push(format!("new: api {a}"));
    }
    for a in base.cluster.api.iter().filter(|a| !seen.cluster.api.contains(a)) {
        out.push(format!("missing: api {a}"));
    }
    for f in base.fdb.iter().filter(|f| !seen.fdb.contains(f)) {
        out.push(format!("missing: fdb {} {}", f.dev, f.dst));
    }
    for f in seen.fdb.iter().filter(|f| !f.dst.is_unspecified() && !base.fdb.contains(f)) {
        out.push(format!("new: fdb {} {}", f.dev, f.dst));
    }
    for (key, was) in &base.sysctls {
        if let Some(now) = seen.sysctls.get(key).filter(|n| *n != was) {
            out.push(format!("changed: sysctl {key} is {now} and was {was}"));
        }
    }
    if let (Some(b), Some(r)) = (&base.resolv, &seen.resolv)
        && (b.text != r.text || b.link != r.link)
    {
        out.push("changed: resolv.conf".to_string());
    }
    out
}
