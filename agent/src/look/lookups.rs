//! Which destinations are asked about, and what the kernel says where they leave.

use super::cluster::{API_PORT, is_link_local};
use super::{Seen, chain, mark_of};
use crate::netlink::{Kernel, LinkNames};
use futures_util::future::join_all;
use lifeline_core::baseline::{Expected, Role};
use lifeline_core::net::{Family, Prefix};
use lifeline_core::observation::{
    Fate, Gap, Lookup, Observation, RouteKind, Rule, Sense, TABLE_MAIN, Through,
};
use lifeline_core::policy::Policy;
use lifeline_core::{critical, fib};
use std::net::IpAddr;

/// A destination to ask about and, for API servers and gateways, to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) role: Role,
    pub(super) dst: IpAddr,
    /// 0 when no port in particular.
    pub(super) port: u16,
    pub(super) prefix: Prefix,
}

/// The critical destinations, the API endpoints and the gateway of `main`, each once.
pub(super) fn targets(seen: &Observation, critical: &[Expected]) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    let mut add = |role, dst: IpAddr, port, prefix| {
        let known = |t: &Target| t.role == role && t.dst == dst && t.port == port;
        // A link-local address means nothing without a device, and a rule cannot capture it.
        if !is_link_local(dst) && !targets.iter().any(known) {
            targets.push(Target { role, dst, port, prefix });
        }
    };
    for a in &seen.cluster.api {
        add(Role::Api, a.ip(), a.port(), Prefix::host(a.ip()));
    }
    for e in critical {
        let listed = seen.cluster.api.iter().any(|a| a.ip() == e.ask);
        match e.role {
            Role::Api if listed => {}
            Role::Api => add(e.role, e.ask, API_PORT, e.prefix),
            _ => add(e.role, e.ask, 0, e.prefix),
        }
    }
    for family in Family::ALL {
        let defaults = seen.routes.iter().filter(|r| {
            let plain = r.table == TABLE_MAIN && r.kind == RouteKind::Unicast;
            plain && r.family == family && r.dst.is_all()
        });
        if let Some(gateway) = defaults.min_by_key(|r| r.metric).and_then(|r| r.via()) {
            add(Role::Gateway, gateway, 0, Prefix::host(gateway));
        }
    }
    targets
}

/// Asks the kernel about each target with each mark.
pub(super) async fn ask(
    kernel: &Kernel,
    names: &LinkNames,
    policy: &Policy,
    seen: &Observation,
    targets: &[Target],
) -> Seen<Vec<Lookup>> {
    let (rules, cluster) = (&seen.rules, &seen.cluster);
    let mut questions: Vec<(IpAddr, (u8, u16), Through)> = Vec::new();
    for t in targets {
        let packet = critical::packet(t.role, t.dst, cluster);
        for through in [Through::Plain, Through::SeeThrough, Through::Lifeline] {
            if !questions.contains(&(t.dst, packet, through)) {
                questions.push((t.dst, packet, through));
            }
        }
    }
    let answers = questions.into_iter().map(async |(dst, packet, through)| {
        let mark = mark_of(through, policy);
        let first = kernel.lookup(names, dst, mark, packet, 0, None).await?;
        // connect(2) looks up twice: once without a source and once with the one that found. Only a rule that selects
        // by source can tell the two apart.
        let by_source =
            |r: &Rule| r.family == Family::of(dst) && r.from.is_some() && !fib::is_ours(r);
        let fate = match &first {
            Fate::Leaves { src: Some(src), .. } if rules.iter().any(by_source) => {
                match kernel.lookup(names, dst, mark, packet, 0, Some(*src)).await? {
                    // The answer to a question with a source does not repeat it.
                    Fate::Leaves { dev, via, table, src: None } => {
                        Fate::Leaves { dev, via, table, src: Some(*src) }
                    }
                    other => other,
                }
            }
            _ => first,
        };
        Ok(Lookup { dst, through, fate })
    });
    let mut seen: Seen<Vec<Lookup>> = Seen::default();
    for answer in join_all(answers).await {
        match answer {
            Ok(lookup) => seen.found.push(lookup),
            Err(e) => {
                let e: crate::netlink::NetlinkError = e;
                seen.gaps.push(Gap { what: Sense::Lookups, why: chain(&e) });
            }
        }
    }
    seen.gaps.dedup();
    seen
}
