//! Devices, their addresses, and the VXLAN forwarding entries that say where the other nodes are.

use super::{Added, Deleted, EEXIST, Kernel, LIMIT, NetlinkError, wire};
use lifeline_core::observation::{Addr, Fdb, Link, Name};
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoTun, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::time::timeout;

/// `IFLA_TUN_PERSIST` of `linux/if_link.h`.
const IFLA_TUN_PERSIST: u16 = 6;
const ENODEV: i32 = 19;
const EADDRNOTAVAIL: i32 = 99;

/// Device names by index and the reverse, of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkNames {
    names: HashMap<u32, Name>,
    indices: HashMap<String, u32>,
}

impl LinkNames {
    /// The name of a device; one that has gone meanwhile gets what `ip` shows, `if7`.
    pub fn name(&self, index: u32) -> String {
        self.shared(index).to_string()
    }

    /// The same, not copied.
    pub fn shared(&self, index: u32) -> Name {
        self.names.get(&index).cloned().unwrap_or_else(|| format!("if{index}").into())
    }

    /// The index of a device.
    pub fn index(&self, name: &str) -> Option<u32> {
        self.indices.get(name).copied()
    }
}

impl FromIterator<(u32, String)> for LinkNames {
    fn from_iter<I: IntoIterator<Item = (u32, String)>>(pairs: I) -> Self {
        let names: HashMap<u32, Name> = pairs.into_iter().map(|(i, n)| (i, n.into())).collect();
        let indices = names.iter().map(|(i, n)| (n.to_string(), *i)).collect();
        Self { names, indices }
    }
}

impl From<&[Link]> for LinkNames {
    fn from(links: &[Link]) -> Self {
        links.iter().map(|l| (l.index, l.name.clone())).collect()
    }
}

impl Kernel {
    /// All devices.
    ///
    /// # Errors
    /// When they could not be read to the end.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut ask = LinkMessage::default();
        // Statistics are two thirds of a device's message and change all the time.
        ask.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        // Once is enough: the kernel walks devices by index, so none is passed over while others come and go.
        let (what, ask) = ("read devices", RouteNetlinkMessage::GetLink(ask));
        let mut messages: Vec<Bare> = Vec::new();
        let dump = wire::dump(what, &ask, |raw| {
            if let RouteNetlinkMessage::NewLink(link) = raw.read()? {
                messages.push(bare(link));
            }
            Ok(())
        });
        let late = |_| NetlinkError::Late { what: what.to_owned() };
        timeout(LIMIT, dump).await.map_err(late)??;
        let names: LinkNames =
            messages.iter().map(|l| (l.link.index, l.link.name.clone())).collect();
        let named = |i: Option<u32>| i.filter(|i| *i != 0).map(|i| names.name(i));
        Ok(messages.into_iter().map(|b| Link { master: named(b.master), ..b.link }).collect())
    }

    /// The names alone.
    ///
    /// # Errors
    /// As [`Self::links`].
    pub async fn names(&self) -> Result<LinkNames, NetlinkError> {
        Ok(LinkNames::from(self.links().await?.as_slice()))
    }

    /// All addresses of both families.
    ///
    /// # Errors
    /// When they could not be read to the end.
    pub async fn addrs(&self, names: &LinkNames) -> Result<Vec<Addr>, NetlinkError> {
        let ask = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let pick = |m| match m {
            RouteNetlinkMessage::NewAddress(a) => {
                addr_of(&a).map(|addr| (a.header.index, addr, a.header.prefix_len))
            }
            _ => None,
        };
        let addrs = self.settled("read addresses", ask, pick).await?;
        let named = |(index, addr, len)| Addr { dev: names.name(index), addr, len };
        Ok(addrs.into_iter().map(named).collect())
    }

    /// Where VXLAN devices send what is for other nodes: forwarding entries that have an outer destination.
    ///
    /// # Errors
    /// When they could not be read to the end.
    pub async fn neighbours_fdb(&self, names: &LinkNames) -> Result<Vec<Fdb>, NetlinkError> {
        let mut ask = NeighbourMessage::default();
        ask.header.family = AddressFamily::Bridge;
        let ask = RouteNetlinkMessage::GetNeighbour(ask);
        let pick = |m| match m {
            RouteNetlinkMessage::NewNeighbour(n) => {
                destination(&n).map(|dst| (n.header.ifindex, dst))
            }
            _ => None,
        };
        let found = self.settled("read forwarding entries", ask, pick).await?;
        let named = |(index, dst)| Fdb { dev: names.name(index), dst };
        let mut fdb: Vec<Fdb> = found.into_iter().map(named).collect();
        // The default entry (all-zero MAC) and a node's own entry name the same address.
        fdb.sort_unstable();
        fdb.dedup();
        Ok(fdb)
    }

    /// Has this on-link neighbour answered ARP or NDP lately?
    ///
    /// # Errors
    /// When the neighbour table could not be read.
    pub async fn is_neighbour_alive(&self, addr: IpAddr, dev: u32) -> Result<bool, NetlinkError> {
        let mut ask = NeighbourMessage::default();
        ask.header.family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let what = "read neighbours";
        let mut alive = false;
        let ask = RouteNetlinkMessage::GetNeighbour(ask);
        let dump = wire::dump(what, &ask, |raw| {
            if let RouteNetlinkMessage::NewNeighbour(n) = raw.read()?
                && n.header.ifindex == dev
                && destination(&n) == Some(addr)
            {
                alive |= matches!(n.header.state, NeighbourState::Reachable);
            }
            Ok(())
        });
        let late = |_| NetlinkError::Late { what: what.to_owned() };
        timeout(LIMIT, dump).await.map_err(late)??;
        Ok(alive)
    }

    /// Adds an address to a device as the pod network's plugins do, with the broadcast address of its prefix; the kernel makes
    /// the routes that belong to it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn add_addr(&self, index: u32, addr: &Addr) -> Result<Added, NetlinkError> {
        let what = || format!("add address {}/{} to {}", addr.addr, addr.len, addr.dev);
        let request = self.handle.address().add(index, addr.addr, addr.len);
        match self.write(what, request.execute()).await {
            Ok(()) => Ok(Added::Added),
            Err(e) if e.errno() == Some(EEXIST) => Ok(Added::Exists),
            Err(e) => Err(e),
        }
    }

    /// Takes an address from a device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_addr(&self, index: u32, addr: &Addr) -> Result<Deleted, NetlinkError> {
        let what = || format!("delete address {}/{} of {}", addr.addr, addr.len, addr.dev);
        let message = match addr.addr {
            IpAddr::V4(a) => {
                AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(a, addr.len).build()
            }
            IpAddr::V6(a) => {
                AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(a, addr.len).build()
            }
        };
        match self.write(what, self.handle.address().del(message).execute()).await {
            Ok(()) => Ok(Deleted::Deleted),
            Err(e) if e.errno() == Some(EADDRNOTAVAIL) => Ok(Deleted::Absent),
            Err(e) => Err(e),
        }
    }

    /// Deletes a device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_link(&self, index: u32) -> Result<Deleted, NetlinkError> {
        let what = || format!("delete device {index}");
        match self.write(what, self.handle.link().del(index).execute()).await {
            Ok(()) => Ok(Deleted::Deleted),
            Err(e) if e.errno() == Some(ENODEV) => Ok(Deleted::Absent),
            Err(e) => Err(e),
        }
    }
}

/// A device whose master has only its index yet.
pub(super) struct Bare {
    link: Link,
    master: Option<u32>,
}

pub(super) fn bare(message: LinkMessage) -> Bare {
    let flags = message.header.flags;
    let mut link = Link {
        name: String::new(),
        index: message.header.index,
        kind: String::new(),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        mac: String::new(),
        master: None,
        persist: false,
    };
    let mut master = None;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(index) => master = Some(index),
            LinkAttribute::Address(bytes) => link.mac = hex(&bytes),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = kind.to_string(),
                        LinkInfo::Data(InfoData::Tun(tun)) => {
                            link.persist = tun.iter().any(is_persist);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Bare { link, master }
}

fn is_persist(info: &InfoTun) -> bool {
    let mut value = [0];
    info.kind() == IFLA_TUN_PERSIST && info.value_len() == 1 && {
        info.emit_value(&mut value);
        value != [0]
    }
}

pub(super) fn addr_of(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point device `Address` is the other end's.
            AddressAttribute::Local(a) => return Some(*a),
            AddressAttribute::Address(a) => found = Some(*a),
            _ => {}
        }
    }
    found
}

pub(super) fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some((*a).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some((*a).into()),
        // In the bridge family the address comes as bytes, its length being its family.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            <[u8; 4]>::try_from(bytes.as_slice())
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from))
                .ok()
        }
        _ => None,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}
