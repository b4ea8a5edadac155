//! Routes of one table: those wanted are put back with device *and* gateway, those unwanted go.
//!
//! A default route without a device goes out by whatever captures at the moment; one whose link route is missing as well is
//! refused unless it is declared on-link (field guide K16).

use lifeline_core::engine::Failure;
use lifeline_core::net::Family;
use lifeline_core::observation::{Route, RouteKind};
use lifeline_core::op::Seen;
use rtnetlink::packet_route::route::RouteMessage;

use super::{chain, lasting, passing};
use crate::netlink::{Added, Kernel, LinkNames, NetlinkError as Error};

const EINVAL: i32 = 22;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

/// The same route, as forwarding goes: who put it there, and whether its next hop is up at the moment, is not part of it.
fn same(a: &Route, b: &Route) -> bool {
    a.family == b.family
        && a.table == b.table
        && a.kind == b.kind
        && a.dst == b.dst
        && a.metric == b.metric
        && a.src == b.src
        && a.hops.len() == b.hops.len()
        && a.hops
            .iter()
            .zip(&b.hops)
            .all(|(a, b)| a.via == b.via && a.dev == b.dev && a.weight.max(1) == b.weight.max(1))
}

/// The kernel holds one route of these only (IPv4), or takes them for copies (IPv6).
fn same_key(a: &Route, b: &Route) -> bool {
    a.family == b.family && a.table == b.table && a.dst == b.dst && a.metric == b.metric
}

struct Table {
    names: LinkNames,
    routes: Vec<(Route, RouteMessage)>,
}

async fn read(kernel: &Kernel, family: Family, table: u32) -> Result<Table, Error> {
    let links = kernel.links().await?;
    let names = LinkNames::from(links.as_slice());
    let mut routes = kernel.routes(&names).await?;
    routes.retain(|(r, _)| r.table == table && r.family == family);
    Ok(Table { names, routes })
}

/// Those of the op's routes that are there.
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
    let has = |r: &&Route| read.routes.iter().any(|(there, _)| same(there, r));
    let mut there: Vec<Route> = absent.iter().chain(present).filter(has).cloned().collect();
    there.dedup();
    Ok(Seen::Routes { there })
}

/// Brings the routes of a table to the wanted state. A route that stands in the place of a wanted one is replaced, not deleted
/// first, so that there is always one.
///
/// # Errors
/// When a route would have no device, or the kernel refuses.
pub async fn act(
    kernel: &Kernel,
    family: Family,
    table: u32,
    absent: &[Route],
    present: &[Route],
) -> Result<(), Failure> {
    let read = read(kernel, family, table).await.map_err(|e| failed(&e))?;
    let there = |r: &Route| read.routes.iter().any(|(t, _)| same(t, r));
    // On-link routes first: gateways are reached by them.
    let mut wanted: Vec<&Route> = present.iter().filter(|r| !there(r)).collect();
    wanted.sort_by_key(|r| r.via().is_some());
    for route in wanted {
        let replaces = absent.iter().any(|a| there(a) && same_key(a, route));
        restore(kernel, &read.names, route, replaces).await?;
    }
    for route in absent {
        delete(kernel, family, table, route).await?;
    }
    Ok(())
}

fn failed(e: &Error) -> Failure {
    if e.is_retryable() { passing(chain(e)) } else { lasting(chain(e)) }
}

async fn restore(
    kernel: &Kernel,
    names: &LinkNames,
    route: &Route,
    replaces: bool,
) -> Result<(), Failure> {
    let what = format!("restore route {} in table {}", route.dst, route.table);
    if route.kind == RouteKind::Unicast
        && (route.hops.is_empty() || route.hops.iter().any(|h| h.dev.is_none()))
    {
        return Err(lasting(format!("{what}: it names no device")));
    }
    let mut route = route.clone();
    loop {
        let done = if replaces {
            kernel.replace_route(&route, names).await.map(|()| Added::Added)
        } else {
            kernel.add_route(&route, names).await
        };
        match done {
            Ok(Added::Added) => return Ok(()),
            Ok(Added::Exists) => {
                return Err(lasting(format!(
                    "{what}: another route of metric {} is in its place",
                    route.metric
                )));
            }
            Err(e)
                if matches!(e.errno(), Some(EINVAL | ENETUNREACH | EHOSTUNREACH))
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

async fn delete(kernel: &Kernel, family: Family, table: u32, route: &Route) -> Result<(), Failure> {
    let what = format!("delete route {} of table {table}", route.dst);
    if route.exotic {
        return Err(lasting(format!("{what}: it has attributes we do not know")));
    }
    for _ in 0..8 {
        let now = read(kernel, family, table).await.map_err(|e| failed(&e))?;
        let Some((_, message)) = now.routes.into_iter().find(|(r, _)| same(r, route)) else {
            return Ok(());
        };
        kernel.delete_route(message).await.map_err(|e| failed(&e))?;
    }
    Err(passing(format!("{what}: it comes back as fast as it is deleted")))
}
