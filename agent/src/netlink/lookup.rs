//! Asking the kernel where a packet would leave.

use super::routes::address;
use super::rules::address_family;
use super::{Kernel, LIMIT, LinkNames, NetlinkError, refused};
use futures_util::StreamExt;
use lifeline_core::net::Family;
use lifeline_core::observation::Fate;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteType};
use std::net::IpAddr;
use std::pin::pin;
use tokio::time::timeout;

const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

/// Errnos by which the kernel *answers* a lookup, rather than failing at it: no route, a rule or route that refuses, a
/// blackhole or strict rp_filter (EINVAL), ip_forward=0 (EHOSTUNREACH), an xfrm policy (EPERM).
const ANSWERS: [i32; 5] = [1, EACCES, EINVAL, ENETUNREACH, EHOSTUNREACH];

impl Kernel {
    /// What the kernel would do with a packet this machine sends. Protocol and port (0 for any), user and source are part of
    /// the question, because rules may select by them.
    ///
    /// # Errors
    /// When it did not answer; that there is no route is an answer.
    pub async fn lookup(
        &self,
        names: &LinkNames,
        dst: IpAddr,
        mark: u32,
        (ipproto, dport): (u8, u16),
        uid: u32,
        src: Option<IpAddr>,
    ) -> Result<Fate, NetlinkError> {
        let family = Family::of(dst);
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = address_family(family);
        header.destination_prefix_length = family.bits();
        // Else the answer says `main` whatever the table.
        header.flags = RouteFlags::LookupTable;
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(dst.into()));
        if let Some(src) = src {
            header.source_prefix_length = family.bits();
            attributes.push(RouteAttribute::Source(src.into()));
        }
        attributes.push(RouteAttribute::Uid(uid));
        if mark != 0 {
            attributes.push(RouteAttribute::Mark(mark));
        }
        if ipproto != 0 {
            attributes.push(RouteAttribute::IpProto(ipproto));
        }
        if dport != 0 {
            attributes.push(RouteAttribute::Dport(dport));
        }
        let what = || format!("look up the route to {dst} with mark {mark:#x}");
        match timeout(LIMIT, self.ask(&what(), message)).await {
            Err(_) => Err(NetlinkError::Late { what: what() }),
            Ok(Ok(answer)) => Ok(fate(&answer, names)),
            Ok(Err(e)) => match e.errno() {
                Some(errno) if ANSWERS.contains(&errno) => Ok(Fate::Refused(errno)),
                _ => Err(e),
            },
        }
    }

    async fn ask(&self, what: &str, message: RouteMessage) -> Result<RouteMessage, NetlinkError> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(message));
        request.header.flags = NLM_F_REQUEST;
        let closed = || NetlinkError::Closed { what: what.to_owned() };
        let answers = self.handle.clone().request(request).map_err(|_| closed())?;
        let mut answers = pin!(answers);
        match answers.next().await.map(|m| m.payload) {
            Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route))) => Ok(route),
            Some(NetlinkPayload::Error(e)) => Err(refused(what, e.code)),
            Some(_) => Err(NetlinkError::Garbled { what: what.to_owned() }),
            None => Err(closed()),
        }
    }
}

fn fate(answer: &RouteMessage, names: &LinkNames) -> Fate {
    let (mut dev, mut via, mut table, mut src) =
        (String::new(), None, u32::from(answer.header.table), None);
    for attribute in &answer.attributes {
        match attribute {
            RouteAttribute::Oif(i) => dev = names.name(*i),
            RouteAttribute::Gateway(a) => via = address(a),
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::PrefSource(a) => src = address(a),
            _ => {}
        }
    }
    match answer.header.kind {
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => {
            Fate::Local
        }
        // IPv6 answers with the refusing route itself, where IPv4 answers with the errno.
        RouteType::BlackHole => Fate::Refused(EINVAL),
        RouteType::Unreachable => Fate::Refused(EHOSTUNREACH),
        RouteType::Prohibit => Fate::Refused(EACCES),
        RouteType::Throw => Fate::Refused(ENETUNREACH),
        _ => Fate::Leaves { dev, via, table, src },
    }
}
