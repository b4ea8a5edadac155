//! Makes a baseline of a look: derived, learnt or accepted. Never of a node that is sick or that our guard stands on.

use super::{Baseline, Expected, Firewall, KnownLink, Provenance, Role};
use crate::critical::{self, Sources};
use crate::diagnosis::{Diagnosis, Verdict};
use crate::evidence::same_rule;
use crate::fib;
use crate::filter::{self, Marked};
use crate::net::Family;
use crate::observation::{
    Action, Addr, Fate, Link, Observation, Probe, Reach, Route, RouteKind, Rule, Sense, TABLE_MAIN,
    Through,
};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

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
    let answered = |p: &Probe| {
        p.through == Through::Plain
            && p.reach == Reach::Tls
            && base.expected.iter().any(|e| e.role == Role::Api && e.ask == p.dst)
    };
    if !seen.probes.iter().any(answered) {
        return Err("the API server does not answer".to_string());
    }
    let marks = filter::marks(seen);
    // The kernel is asked about a packet that the packet filter has not marked.
    for e in base.expected.iter().filter(|e| Marked::of(&marks, e.ask).is_none()) {
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
    let own = |b: &Baseline| b.expected.iter().find(|e| e.role == Role::OwnPods).cloned();
    let known = previous.and_then(own).and_then(|e| e.path);
    // After a reboot the bridge comes with the first pod; what is known of it is not forgotten until then.
    if provenance == Provenance::Learned
        && own(&base).is_some_and(|e| e.path.is_none())
        && known.is_some_and(|path| seen.link(&path.dev).is_none())
    {
        return Err("no pod runs here yet".to_string());
    }
    if crate::faults::tailscale::is_up(seen) {
        unlearn(&mut base, previous);
    }
    base.provenance = provenance;
    base.generation = previous.map_or(0, |p| p.generation) + 1;
    if let Some(old) = previous {
        base.gateway_mac = base.gateway_mac.or_else(|| old.gateway_mac.clone());
        base.firewall = base.firewall.or_else(|| old.firewall.clone());
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

pub(super) fn main(seen: &Observation) -> impl Iterator<Item = &Route> {
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
    // Tables other than main count only when a rule leads there, and only those are copied: with 100 000 routes in another one a
    // copy is tens of megabytes. `local` is spoken for by the addresses.
    let leads = |table| rules.iter().any(|r| r.action == Action::Lookup(table));
    let others = seen.routes.iter().filter(|r| r.table != TABLE_MAIN && leads(r.table)).cloned();
    let routes: Vec<Route> = main.iter().cloned().chain(others).collect();
    let mut used: Vec<Rule> = Vec::new();
    let marks = filter::marks(seen);
    let expected: Vec<Expected> = critical::destinations(sources)
        .into_iter()
        .map(|(role, prefix, ask)| {
            let mut e = Expected { role, prefix, ask, path: None };
            let flow = critical::flow(&e, &seen.cluster);
            let flow = flow.marked(Marked::mark(&marks, ask, 0));
            // Before the first pod there is no bridge, and own pods would leave by the default route: that is no path of
            // theirs. Nor is there one where the pod network refuses what no pod has (Calico's blackhole for its own block).
            if role != Role::OwnPods
                || (main.iter().any(|r| !r.dst.is_all() && r.dst.overlaps(&prefix))
                    && !is_refused(seen, ask))
            {
                e.path = critical::path(rules, &routes, &seen.addrs, &flow);
            }
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
    let firewall = Firewall::of(seen, &expected);
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
        firewall,
        gateway_mac: None,
    }
}

/// Does `main` refuse it?
fn is_refused(seen: &Observation, ask: IpAddr) -> bool {
    fib::best(&seen.routes, TABLE_MAIN, Family::of(ask), ask).is_some_and(|r| r.kind.refuses())
}

/// Is this device one the healthy node depends on? Pods' own ends come and go.
fn belongs(link: &Link, seen: &Observation, expected: &[Expected]) -> bool {
    let pods = seen.cluster.cluster_cidr.or(seen.cluster.pod_cidr);
    let in_pods = |a: &Addr| a.dev == link.name && pods.is_some_and(|p| p.contains(a.addr));
    link.name != "lo"
        && (expected.iter().filter_map(|e| e.path.as_ref()).any(|p| p.dev == link.name)
            || (seen.addrs.iter().any(in_pods) && link.kind != "tun"))
}
