//! Routes of one table and family: those wanted are put back with device *and* gateway, those unwanted go, each by the message
//! the kernel itself shows for it.
//!
//! A default route without a device goes out by whatever captures at the moment, and one whose link route is missing is refused
//! unless it is declared on-link (field guide K16).

use lifeline_core::engine::Failure;
use lifeline_core::net::Family;
use lifeline_core::observation::{Hop, Route, RouteKind};
use lifeline_core::op::Seen;
use rtnetlink::packet_route::route::RouteMessage;

use super::{chain, lasting, passing};
use crate::netlink::{Added, Kernel, LinkNames, NetlinkError};

/// How often we look again and go on, because somebody else changes the table meanwhile.
const ROUNDS: usize = 4;
/// What the kernel answers when a gateway cannot be reached over the link it names.
const UNREACHED: [i32; 3] = [22, 101, 113];

struct Table {
    names: LinkNames,
    routes: Vec<(Route, RouteMessage)>,
}

async fn read(kernel: &Kernel, family: Family, table: u32) -> Result<Table, NetlinkError> {
    let names = kernel.names().await?;
    let mut routes = kernel.routes(&names).await?;
    routes.retain(|(r, _)| r.table == table && r.family == family);
    Ok(Table { names, routes })
}

/// Is this the route that is meant? Whether its next hop is up at the moment is not part of it. For a wanted route neither is who
/// put it there, nor the on-link flag, which we set ourselves when it cannot be put back otherwise.
fn is(there: &Route, meant: &Route, wanted: bool) -> bool {
    let bare = |r: &Route| {
        let plain = |h: &Hop| Hop {
            dead: false,
            onlink: h.onlink && !wanted,
            weight: h.weight.max(1),
            ..h.clone()
        };
        let protocol = if wanted { 0 } else { r.protocol };
        Route { hops: r.hops.iter().map(plain).collect(), protocol, ..r.clone() }
    };
    bare(there) == bare(meant)
}

/// Those routes of both lists that are there, each once.
///
/// # Errors
/// When the routes cannot be read.
pub async fn look(
    kernel: &Kernel,
    family: Family,
    table: u32,
    absent: &[Route],
    present: &[Route],
) -> Result<Seen, String> {
    let read = read(kernel, family, table).await.map_err(|e| chain(&e))?;
    let mut there: Vec<Route> = Vec::new();
    for (route, wanted) in
        absent.iter().map(|r| (r, false)).chain(present.iter().map(|r| (r, true)))
    {
        if !there.contains(route) && read.routes.iter().any(|(t, _)| is(t, route, wanted)) {
            there.push(route.clone());
        }
    }
    Ok(Seen::Routes { there })
}

/// Brings the routes of a table to the wanted state.
///
/// # Errors
/// When a route would have no device, when another one would be hit or stands in its place, or when the kernel refuses.
pub async fn act(
    kernel: &Kernel,
    family: Family,
    table: u32,
    absent: &[Route],
    present: &[Route],
) -> Result<(), Failure> {
    for route in absent.iter().chain(present) {
        check(route, family, table)?;
    }
    restore_all(kernel, family, table, absent, present).await?;
    delete_all(kernel, family, table, absent).await
}

fn failed(e: &NetlinkError) -> Failure {
    if e.is_retryable() { passing(chain(e)) } else { lasting(chain(e)) }
}

fn refuses(kind: RouteKind) -> bool {
    use RouteKind::{Blackhole, Prohibit, Throw, Unreachable};
    matches!(kind, Blackhole | Unreachable | Prohibit | Throw)
}

fn check(route: &Route, family: Family, table: u32) -> Result<(), Failure> {
    let what = format!("change route {} of table {table}: refused", route.dst);
    if route.table != table || route.family != family {
        return Err(lasting(format!("{what}: it belongs to table {}", route.table)));
    }
    // What cannot be written down cannot be put back either.
    if route.exotic {
        return Err(lasting(format!("{what}: it has attributes we do not know")));
    }
    if !refuses(route.kind) && (route.hops.is_empty() || route.hops.iter().any(|h| h.dev.is_none()))
    {
        return Err(lasting(format!("{what}: it names no device")));
    }
    Ok(())
}

/// Puts back what is missing: on-link routes first, because gateways are reached by them.
async fn restore_all(
    kernel: &Kernel,
    family: Family,
    table: u32,
    absent: &[Route],
    present: &[Route],
) -> Result<(), Failure> {
    if present.is_empty() {
        return Ok(());
    }
    let read = read(kernel, family, table).await.map_err(|e| failed(&e))?;
    let there = |r: &Route| read.routes.iter().any(|(t, _)| is(t, r, true));
    let mut missing: Vec<&Route> = present.iter().filter(|r| !there(r)).collect();
    let all = missing.clone();
    let gateway = |r: &Route| r.hops.iter().any(|h| h.via.is_some());
    // Of several with one key the first counts, so they stay in their order.
    missing.sort_by_key(|r| {
        let twins = all.iter().filter(|o| same_key(o, r));
        twins.take_while(|o| ***o != **r).any(|o| gateway(o)) || gateway(r)
    });
    for route in missing {
        // What stands in its place and is to go makes room at once, so that there is always one.
        let first = read.routes.iter().find(|(t, _)| same_key(t, route));
        let replaces = first.is_some_and(|(t, _)| absent.iter().any(|a| is(t, a, false)));
        let twin = present.iter().any(|p| p != route && same_key(p, route));
        restore(kernel, &read.names, route, replaces, twin).await?;
    }
    Ok(())
}

/// The kernel's exclusive addition takes these for the same.
fn same_key(a: &Route, b: &Route) -> bool {
    a.table == b.table && a.dst == b.dst && a.metric == b.metric
}

async fn restore(
    kernel: &Kernel,
    names: &LinkNames,
    route: &Route,
    replaces: bool,
    twin: bool,
) -> Result<(), Failure> {
    let what = format!("restore route {} in table {}", route.dst, route.table);
    let mut route = route.clone();
    loop {
        let done = if replaces {
            kernel.replace_route(&route, names).await.map(|()| Added::Added)
        } else {
            kernel.add_route(&route, names).await
        };
        match done {
            Ok(Added::Added) => return Ok(()),
            // Both of two routes with one key are wanted: the second goes behind the first.
            Ok(Added::Exists) if twin => {
                return kernel.append_route(&route, names).await.map_err(|e| failed(&e));
            }
            Ok(Added::Exists) => {
                let text = format!("another route of metric {} is in its place", route.metric);
                return Err(lasting(format!("{what}: {text}")));
            }
            Err(e)
                if e.errno().is_some_and(|n| UNREACHED.contains(&n))
                    && route.hops.iter().any(|h| h.via.is_some() && !h.onlink) =>
            {
                for hop in &mut route.hops {
                    hop.onlink |= hop.via.is_some();
                }
            }
            Err(e) => return Err(failed(&e)),
        }
    }
}

async fn delete_all(
    kernel: &Kernel,
    family: Family,
    table: u32,
    absent: &[Route],
) -> Result<(), Failure> {
    for _ in 0..ROUNDS {
        if absent.is_empty() {
            return Ok(());
        }
        let mut left = read(kernel, family, table).await.map_err(|e| failed(&e))?.routes;
        let meant = |r: &Route| absent.iter().any(|a| is(r, a, false));
        if !left.iter().any(|(r, _)| meant(r)) {
            return Ok(());
        }
        while let Some(at) = left.iter().position(|(r, _)| meant(r)) {
            let (route, message) = left[at].clone();
            let hit = left.iter().position(|(r, _)| deletes(&route, r)).unwrap_or(at);
            if !meant(&left[hit].0) {
                let text = format!("the kernel would delete {:?} instead", left[hit].0);
                return Err(lasting(format!(
                    "delete route {} of table {table}: held: {text}",
                    route.dst
                )));
            }
            kernel.delete_route(message).await.map_err(|e| failed(&e))?;
            left.remove(hit);
        }
    }
    Err(passing(format!("delete routes of table {table}: they come back as fast as they go")))
}

/// Would deleting `ask` by its message delete `r`, if that came first? What the message leaves out, or gives as 0, matches anything
/// (`fib_table_delete` and `fib_nh_match` of `net/ipv4`; IPv6 asks for less).
fn deletes(ask: &Route, r: &Route) -> bool {
    let v4 = ask.family == Family::V4;
    let hop = |(a, b): (&Hop, &Hop)| {
        (a.dev.is_none() || a.dev == b.dev) && (a.via.is_none() || a.via == b.via)
    };
    let hops = ask.hops.is_empty()
        || (ask.hops.len() == r.hops.len() && ask.hops.iter().zip(&r.hops).all(hop));
    same_key(&Route { metric: r.metric, ..ask.clone() }, r)
        && (ask.metric == 0 || ask.metric == r.metric)
        && (ask.protocol == 0 || ask.protocol == r.protocol)
        && (!v4 || (ask.kind == r.kind && ask.scope == r.scope))
        && (ask.src.is_none() || ask.src == r.src)
        && hops
}
