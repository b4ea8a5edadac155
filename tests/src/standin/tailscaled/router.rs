//! The kernel side of the stand-in's routing: rules, table 52 and addresses, by netlink as the original does it.
//!
//! Copies `wgengine/router/osrouter/router_linux.go`: `ipRules`, `justAddIPRules`, `delIPRules`, `addRoute`, `addThrowRoute`,
//! `downInterface`.

use std::{io, net::IpAddr};

use futures_util::StreamExt as _;
use rtnetlink::{
    Handle,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
        NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use super::routes::{Local, Prefix, Table};
use crate::say;

/// The first preference of Tailscale's range.
pub const PREF_BASE: u32 = 5200;
/// Tailscale's routing table: the digits over the letters T and S.
const TABLE: u8 = 52;
const TABLE_MAIN: u8 = 254;
const TABLE_DEFAULT: u8 = 253;
/// The mark of the daemon's own packets, which must not go through the tun.
pub const BYPASS_MARK: u32 = 0x80000;
const MARK_MASK: u32 = 0xff_0000;

/// A change that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {about}")]
pub struct Refused {
    what: &'static str,
    about: String,
    #[source]
    cause: io::Error,
}

impl Refused {
    fn is(&self, kind: io::ErrorKind) -> bool {
        self.cause.kind() == kind
    }

    fn errno(&self) -> Option<i32> {
        self.cause.raw_os_error()
    }
}

/// The rules, routes and addresses of one tun device.
#[derive(Debug)]
pub struct Router {
    handle: Handle,
    tun: String,
    index: u32,
    table: Table,
}

/// One of the four rules, the same for both families.
#[derive(Debug, Clone, Copy)]
struct Rule {
    pref: u32,
    marked: bool,
    /// The table to look into; `None` is `unreachable`.
    table: Option<u8>,
}

/// `ipRules()`.
const RULES: [Rule; 4] = [
    Rule { pref: PREF_BASE + 10, marked: true, table: Some(TABLE_MAIN) },
    Rule { pref: PREF_BASE + 30, marked: true, table: Some(TABLE_DEFAULT) },
    Rule { pref: PREF_BASE + 50, marked: true, table: None },
    Rule { pref: PREF_BASE + 70, marked: false, table: Some(TABLE) },
];

/// Both families; the original leaves IPv6 out when the tun has it disabled.
const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

impl Rule {
    fn message(self, family: AddressFamily, with_mark: bool) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family;
        message.header.table = self.table.unwrap_or(0);
        message.header.action =
            if self.table.is_some() { RuleAction::ToTable } else { RuleAction::Unreachable };
        message.attributes.push(RuleAttribute::Priority(self.pref));
        if self.marked && with_mark {
            message.attributes.push(RuleAttribute::FwMark(BYPASS_MARK));
            message.attributes.push(RuleAttribute::FwMask(MARK_MASK));
        }
        message
    }
}

impl Router {
    /// A router for the tun device of that name and index.
    #[must_use]
    pub fn new(handle: Handle, tun: String, index: u32) -> Self {
        Self { handle, tun, index, table: Table::default() }
    }

    /// Adds the rules that are missing (`justAddIPRules`).
    pub async fn add_rules(&self) -> Result<(), Refused> {
        for family in FAMILIES {
            for rule in RULES {
                let message = RouteNetlinkMessage::NewRule(rule.message(family, true));
                match self.ask("add rule", rule.pref, message, NLM_F_CREATE | NLM_F_EXCL).await {
                    Err(refused) if !refused.is(io::ErrorKind::AlreadyExists) => {
                        return Err(refused);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Deletes the rules by preference and table, whatever their mark (`delIPRules`).
    pub async fn delete_rules(&self) -> Result<(), Refused> {
        for family in FAMILIES {
            for rule in RULES {
                let message = RouteNetlinkMessage::DelRule(rule.message(family, false));
                match self.ask("delete rule", rule.pref, message, 0).await {
                    Err(refused) if !refused.is(io::ErrorKind::NotFound) => return Err(refused),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Makes table 52 hold what is wanted: throws first, then routes, additions before deletions (`cidrDiff`).
    pub async fn set(&mut self, wanted: Table) -> Result<(), Refused> {
        for throw in wanted.throws.difference(&self.table.throws) {
            self.route("add throw", *throw, true, true).await?;
        }
        for throw in self.table.throws.difference(&wanted.throws) {
            self.route("delete throw", *throw, true, false).await?;
        }
        for route in wanted.routes.difference(&self.table.routes) {
            self.route("add route", *route, false, true).await?;
        }
        for route in self.table.routes.difference(&wanted.routes) {
            self.route("delete route", *route, false, false).await?;
        }
        self.table = wanted;
        Ok(())
    }

    /// Puts an address on the tun; one that is there already is fine (`AddrReplace`).
    pub async fn add_address(&self, addr: IpAddr) -> Result<(), Refused> {
        let len = Prefix::single(addr).len;
        let asked = self.handle.address().add(self.index, addr, len).replace().execute().await;
        asked.map_err(|cause| refused("add address", &addr, cause))
    }

    /// Takes the interface down, the rules away and the throws back, in the order of `Close`.
    ///
    /// Like the original it stops at the first refusal, so a tun that is gone leaves the rules where they are.
    pub async fn close(&mut self) -> Result<(), Refused> {
        let link = self.handle.link();
        let down = rtnetlink::LinkUnspec::new_with_index(self.index).down().build();
        link.set(down).execute().await.map_err(|cause| refused("take down", &self.tun, cause))?;
        self.delete_rules().await
    }

    /// Deletes the throw routes, which outlive the device (`delRoutes`).
    pub async fn delete_throws(&mut self) {
        for throw in std::mem::take(&mut self.table.throws) {
            if let Err(refused) = self.route("delete throw", throw, true, false).await {
                say!("failed to delete throw route({throw}): {refused}");
            }
        }
    }

    async fn route(
        &self,
        what: &'static str,
        to: Prefix,
        throw: bool,
        add: bool,
    ) -> Result<(), Refused> {
        let mut message = RouteMessage::default();
        message.header.address_family =
            if to.addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.destination_prefix_length = to.len;
        message.header.table = TABLE;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = if throw { RouteType::Throw } else { RouteType::Unicast };
        if to.len > 0 {
            message.attributes.push(RouteAttribute::Destination(RouteAddress::from(to.addr)));
        }
        if !throw {
            message.attributes.push(RouteAttribute::Oif(self.index));
        }
        if add {
            let message = RouteNetlinkMessage::NewRoute(message);
            return self.ask(what, to, message, NLM_F_CREATE | NLM_F_REPLACE).await;
        }
        let gone = self.ask(what, to, RouteNetlinkMessage::DelRoute(message), 0).await;
        match gone {
            Err(refused) if refused.errno() == Some(nix::errno::Errno::ESRCH as i32) => Ok(()),
            other => other,
        }
    }

    async fn ask(
        &self,
        what: &'static str,
        about: impl ToString,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), Refused> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers =
            self.handle.clone().request(request).map_err(|cause| refused(what, &about, cause))?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(Refused { what, about: about.to_string(), cause: error.to_io() });
            }
        }
        Ok(())
    }
}

fn refused(what: &'static str, about: &impl ToString, cause: rtnetlink::Error) -> Refused {
    let cause = match cause {
        rtnetlink::Error::NetlinkError(error) => error.to_io(),
        other => io::Error::other(other),
    };
    Refused { what, about: about.to_string(), cause }
}

/// The networks this machine is on, but for those of the tun.
pub fn locals(tun: &str) -> io::Result<Vec<Local>> {
    let bits = |mask: IpAddr| match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    let found = nix::ifaddrs::getifaddrs().map_err(io::Error::from)?;
    Ok(found
        .filter(|entry| entry.interface_name != tun)
        .filter_map(|entry| {
            let addr = entry.address.as_ref().and_then(ip)?;
            let len = u8::try_from(bits(entry.netmask.as_ref().and_then(ip)?)).ok()?;
            let loopback = entry.flags.contains(nix::net::if_::InterfaceFlags::IFF_LOOPBACK);
            Some(Local { prefix: Prefix { addr, len }, loopback })
        })
        .collect())
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}
