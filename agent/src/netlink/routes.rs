//! Routes of all tables: their messages read and written.

use super::dump::{Ask, Known};
use super::rules::address_family;
use super::{Added, Deleted, EEXIST, Kernel, LinkNames, NetlinkError};
use futures_util::StreamExt;
use lifeline_core::net::{Family, Prefix};
use lifeline_core::observation::{Hop, Name, Route, RouteKind, Shared};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop,
    RouteNextHopFlags, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;
use std::sync::{MutexGuard, PoisonError};

const ESRCH: i32 = 3;

impl Kernel {
    /// The routes of all tables and both families, each with the message it came in.
    ///
    /// # Errors
    /// When they could not be read to the end.
    pub async fn routes(
        &self,
        names: &LinkNames,
    ) -> Result<Vec<(Route, RouteMessage)>, NetlinkError> {
        self.routes_with(names, |_| true).await
    }

    /// Those of them that `keep` says yes to: who guards deletes its own alone, and there may be 100 000 others.
    ///
    /// # Errors
    /// As [`Self::routes`].
    pub async fn routes_with(
        &self,
        names: &LinkNames,
        keep: impl Fn(&Route) -> bool,
    ) -> Result<Vec<(Route, RouteMessage)>, NetlinkError> {
        let pick = |m| {
            let message = real(m)?;
            let route = route_from(&message, names);
            keep(&route).then_some((route, message))
        };
        let mut dump = Known::default();
        dump.renew(&asks(), pick).await?;
        Ok(dump.into_entries())
    }

    /// The routes alone. What is as it was at the last call is not read again, and the list is the same one then: of 100 000 each
    /// copy takes megabytes.
    ///
    /// # Errors
    /// As [`Self::routes`].
    pub async fn bare_routes(&self, names: &LinkNames) -> Result<Shared<Route>, NetlinkError> {
        // Taken out, so that looks that overlap do not wait for each other: who finds nothing reads all.
        let mut known = std::mem::take(&mut *self.remembered());
        if known.names != *names {
            known = Remembered { names: names.clone(), routes: Known::default() };
        }
        known.routes.renew(&asks(), |m| Some(route_from(&real(m)?, names))).await?;
        let routes = known.routes.entries();
        *self.remembered() = known;
        Ok(routes)
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much the kernel has learnt beside its routes: path MTUs and redirects, both families.
    ///
    /// # Errors
    /// When they could not be read to the end.
    pub async fn learnt(&self) -> Result<usize, NetlinkError> {
        let mut count = 0;
        for family in Family::ALL {
            let mut ask = RouteMessage::default();
            ask.header.address_family = address_family(family);
            // As `ip route show cache` asks.
            ask.header.flags = RouteFlags::Cloned;
            let ask = RouteNetlinkMessage::GetRoute(ask);
            let pick = |m| match m {
                RouteNetlinkMessage::NewRoute(r) if r.header.flags.contains(RouteFlags::Cloned) => {
                    Some(())
                }
                _ => None,
            };
            let what = format!("read what was learnt of routes{}", family.suffix());
            count += self.settled(&what, ask, pick).await?.len();
        }
        Ok(count)
    }

    /// Adds a route; that one of the same destination, table and metric is there already is no failure.
    ///
    /// # Errors
    /// When it is exotic, names a device that is not there, or the kernel refuses it.
    pub async fn add_route(&self, route: &Route, names: &LinkNames) -> Result<Added, NetlinkError> {
        let message = route_message(route, names)?;
        let what = || format!("add route {} to table {}", route.dst, route.table);
        match self.write(what, self.handle.route().add(message).execute()).await {
            Ok(()) => Ok(Added::Added),
            Err(e) if e.errno() == Some(EEXIST) => Ok(Added::Exists),
            Err(e) => Err(e),
        }
    }

    /// Adds a route behind the one of the same destination, table and metric.
    ///
    /// # Errors
    /// As [`Self::add_route`].
    pub async fn append_route(&self, route: &Route, names: &LinkNames) -> Result<(), NetlinkError> {
        let message = route_message(route, names)?;
        let what = || format!("append route {} to table {}", route.dst, route.table);
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
        let mut handle = self.handle.clone();
        let call = async move {
            let mut answers = std::pin::pin!(handle.request(request)?);
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(e) = answer.payload {
                    return Err(rtnetlink::Error::NetlinkError(e));
                }
            }
            Ok(())
        };
        self.write(what, call).await
    }

    /// Adds a route, or puts it in the place of the one of the same destination, table and metric.
    ///
    /// # Errors
    /// As [`Self::add_route`].
    pub async fn replace_route(
        &self,
        route: &Route,
        names: &LinkNames,
    ) -> Result<(), NetlinkError> {
        let message = route_message(route, names)?;
        let what = || format!("replace route {} in table {}", route.dst, route.table);
        self.write(what, self.handle.route().add(message).replace().execute()).await
    }

    /// Deletes the first route the message matches; echo the message of a dump.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_route(&self, message: RouteMessage) -> Result<Deleted, NetlinkError> {
        let route = route_from(&message, &LinkNames::default());
        let what = || format!("delete route {} of table {}", route.dst, route.table);
        match self.write(what, self.handle.route().del(message).execute()).await {
            Ok(()) => Ok(Deleted::Deleted),
            Err(e) if e.errno() == Some(ESRCH) => Ok(Deleted::Absent),
            Err(e) => Err(e),
        }
    }
}

/// The routes as of the last look, and the names that devices had then: a device's number may be given to another.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    names: LinkNames,
    routes: Known<Route>,
}

/// The requests for the routes of both families.
fn asks() -> [Ask; 2] {
    Family::ALL.map(|family| {
        // No strict check and nothing preset: the kernel would filter by it, and hide routes of other protocols.
        let mut ask = RouteMessage::default();
        ask.header.address_family = address_family(family);
        (format!("read routes{}", family.suffix()), RouteNetlinkMessage::GetRoute(ask))
    })
}

/// A message of a route. Cached exceptions (path MTU, redirects) are none.
fn real(message: RouteNetlinkMessage) -> Option<RouteMessage> {
    match message {
        RouteNetlinkMessage::NewRoute(r) => {
            (!r.header.flags.contains(RouteFlags::Cloned)).then_some(r)
        }
        _ => None,
    }
}

/// What a route's message says.
pub fn route_from(message: &RouteMessage, names: &LinkNames) -> Route {
    let header = &message.header;
    let family =
        if header.address_family == AddressFamily::Inet6 { Family::V6 } else { Family::V4 };
    let (kind, known) = kind_from(header.kind);
    let mut route = Route {
        family,
        table: u32::from(header.table),
        kind,
        dst: Prefix::all(family),
        hops: Vec::new(),
        metric: 0,
        src: None,
        protocol: u8::from(header.protocol),
        scope: u8::from(header.scope),
        exotic: !known || header.tos != 0 || header.source_prefix_length != 0,
    };
    let mut hop = Hop {
        onlink: header.flags.contains(RouteFlags::Onlink),
        dead: header.flags.contains(RouteFlags::Dead),
        ..Hop::default()
    };
    for attribute in &message.attributes {
        match attribute {
            // The header has eight bits for the table and says 252 (compat) when they are too few.
            RouteAttribute::Table(t) => route.table = *t,
            RouteAttribute::Destination(a) => match address(a) {
                Some(a) => route.dst = Prefix::new(a, header.destination_prefix_length),
                None => route.exotic = true,
            },
            RouteAttribute::Priority(m) => route.metric = *m,
            RouteAttribute::PrefSource(a) => route.src = address(a),
            RouteAttribute::Oif(i) => hop.dev = Some(names.shared(*i)),
            RouteAttribute::Gateway(a) => hop.via = address(a),
            RouteAttribute::Via(v) => hop.via = via(v),
            RouteAttribute::MultiPath(hops) => {
                route.hops = hops.iter().map(|h| hop_from(h, names)).collect();
                route.exotic |= hops.iter().any(|h| h.attributes.iter().any(is_unmodelled));
            }
            other => route.exotic |= is_unmodelled(other),
        }
    }
    let refuses = matches!(
        kind,
        RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw
    );
    // IPv6 shows `dev lo` on routes that refuse, and takes none when they are written.
    if route.hops.is_empty() && !refuses {
        // Not pushed: that would make room for four in each of 100 000 routes.
        route.hops = vec![hop];
    }
    route
}

/// The message that adds a route.
///
/// # Errors
/// When it is exotic, or names a device that is not there.
pub fn route_message(route: &Route, names: &LinkNames) -> Result<RouteMessage, NetlinkError> {
    let what = || format!("write down route {} of table {}", route.dst, route.table);
    if route.exotic {
        return Err(NetlinkError::Exotic { what: what() });
    }
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = address_family(route.family);
    header.destination_prefix_length = route.dst.len();
    header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    header.protocol = route.protocol.into();
    header.scope = route.scope.into();
    header.kind = kind_to(route.kind);
    let index = |dev: &Option<Name>| match dev {
        None => Ok(None),
        Some(dev) => match names.index(dev) {
            Some(index) => Ok(Some(index)),
            None => Err(NetlinkError::NoDevice { what: what(), dev: dev.to_string() }),
        },
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if !route.dst.is_all() {
        attributes.push(RouteAttribute::Destination(route.dst.addr().into()));
    }
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    attributes.extend(route.src.map(|a| RouteAttribute::PrefSource(a.into())));
    match route.hops.as_slice() {
        [] => {}
        [hop] => {
            if hop.onlink {
                header.flags |= RouteFlags::Onlink;
            }
            attributes.extend(hop.via.map(|a| gateway(a, route.family)));
            attributes.extend(index(&hop.dev)?.map(RouteAttribute::Oif));
        }
        several => {
            let mut next = Vec::new();
            for hop in several {
                let mut n = RouteNextHop::default();
                if hop.onlink {
                    n.flags = RouteNextHopFlags::Onlink;
                }
                n.hops = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
                n.interface_index = index(&hop.dev)?.unwrap_or(0);
                n.attributes.extend(hop.via.map(|a| gateway(a, route.family)));
                next.push(n);
            }
            attributes.push(RouteAttribute::MultiPath(next));
        }
    }
    Ok(message)
}

fn hop_from(hop: &RouteNextHop, names: &LinkNames) -> Hop {
    let via = hop.attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(a) => address(a),
        RouteAttribute::Via(v) => via(v),
        _ => None,
    });
    Hop {
        via,
        dev: (hop.interface_index != 0).then(|| names.shared(hop.interface_index)),
        onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
        dead: hop.flags.contains(RouteNextHopFlags::Dead),
        weight: u16::from(hop.hops) + 1,
    }
}

/// Does this attribute say something about forwarding that our type cannot hold?
fn is_unmodelled(attribute: &RouteAttribute) -> bool {
    !matches!(
        attribute,
        RouteAttribute::Table(_)
            | RouteAttribute::Destination(_)
            | RouteAttribute::Priority(_)
            | RouteAttribute::PrefSource(_)
            | RouteAttribute::Oif(_)
            | RouteAttribute::Gateway(_)
            | RouteAttribute::Via(RouteVia::Inet(_) | RouteVia::Inet6(_))
            | RouteAttribute::CacheInfo(_)
            | RouteAttribute::Expires(_)
            | RouteAttribute::Preference(_)
    )
}

pub(super) fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn via(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(a) => Some((*a).into()),
        RouteVia::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

/// A gateway of the other family travels in an attribute of its own.
fn gateway(addr: IpAddr, family: Family) -> RouteAttribute {
    match addr {
        addr if Family::of(addr) == family => RouteAttribute::Gateway(addr.into()),
        IpAddr::V4(a) => RouteAttribute::Via(RouteVia::Inet(a)),
        IpAddr::V6(a) => RouteAttribute::Via(RouteVia::Inet6(a)),
    }
}

fn kind_from(kind: RouteType) -> (RouteKind, bool) {
    let known = match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::Anycast => RouteKind::Anycast,
        RouteType::Multicast => RouteKind::Multicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        _ => return (RouteKind::Unicast, false),
    };
    (known, true)
}

fn kind_to(kind: RouteKind) -> RouteType {
    match kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Local => RouteType::Local,
        RouteKind::Broadcast => RouteType::Broadcast,
        RouteKind::Anycast => RouteType::Anycast,
        RouteKind::Multicast => RouteType::Multicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Prohibit => RouteType::Prohibit,
        RouteKind::Throw => RouteType::Throw,
    }
}
