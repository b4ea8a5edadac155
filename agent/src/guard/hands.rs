//! The guard's quick look, and the batch it puts in place.

use crate::netlink::{Kernel, LinkNames, NetlinkError, victim};
use lifeline_core::drill;
use lifeline_core::fib::PROTOCOL;
use lifeline_core::guard::Changes;
use lifeline_core::net::Family;
use lifeline_core::observation::{Addr, Link, Route, RouteKind, Rule, Shared, TABLE_MAIN};

/// Links, addresses, rules and routes: all a guard is judged by.
pub struct Quick {
    /// Without a drill's: by these alone the real guard is judged.
    pub rules: Vec<Rule>,
    /// A drill's.
    pub drill: Vec<Rule>,
    pub routes: Shared<Route>,
    pub links: Vec<Link>,
    pub addrs: Vec<Addr>,
    names: LinkNames,
}

impl Quick {
    pub async fn look(kernel: &Kernel) -> Result<Self, NetlinkError> {
        let links = kernel.links().await?;
        let names = LinkNames::from(links.as_slice());
        let addrs = kernel.addrs(&names).await?;
        let mut rules = Vec::new();
        for family in Family::ALL {
            rules.extend(kernel.rules(family).await?.into_iter().map(|(r, _)| r));
        }
        let drill = rules.extract_if(.., |r| drill::is_rule(r)).collect();
        let routes = kernel.bare_routes(&names).await?;
        Ok(Self { rules, drill, routes, links, addrs, names })
    }

    /// Unicast routes of `main`.
    pub fn main_routes(&self) -> Vec<Route> {
        let main = |r: &&Route| {
            r.table == TABLE_MAIN && r.kind == RouteKind::Unicast && r.protocol != PROTOCOL
        };
        self.routes.iter().filter(main).cloned().collect()
    }
}

/// Adds before it deletes, so that there is no moment without a guard; the mirror first, as rules lead there.
pub async fn apply(kernel: &Kernel, quick: &Quick, changes: &Changes) -> Result<(), NetlinkError> {
    for route in &changes.add_routes {
        // A route that cannot be mirrored now (its device is just going) must not keep the guard from standing.
        if let Err(e) = kernel.add_route(route, &quick.names).await {
            tracing::debug!(dst = %route.dst, error = %e, "guard: a route could not be mirrored");
        }
    }
    for rule in &changes.add_rules {
        kernel.add_rule(rule).await?;
    }
    for rule in &changes.delete_rules {
        delete(kernel, rule).await?;
    }
    if changes.delete_routes.is_empty() {
        return Ok(());
    }
    // Each by the message it comes in.
    for (_, message) in
        kernel.routes_with(&quick.names, |r| changes.delete_routes.contains(r)).await?
    {
        kernel.delete_route(message).await?;
    }
    Ok(())
}

/// Deletes one of our rules by the message it has just been read in, and only if that is the one the kernel would take.
async fn delete(kernel: &Kernel, rule: &Rule) -> Result<(), NetlinkError> {
    let dump = kernel.rules(rule.family).await?;
    let Some(at) = dump.iter().position(|(r, _)| r == rule) else { return Ok(()) };
    let messages: Vec<_> = dump.into_iter().map(|(_, m)| m).collect();
    if victim(&messages, &messages[at]) == Some(at) {
        kernel.delete_rule(messages[at].clone()).await?;
    } else {
        tracing::warn!(
            pref = rule.pref,
            "guard: deleting this rule would take another; it is left"
        );
    }
    Ok(())
}
