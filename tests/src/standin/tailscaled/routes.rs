//! What belongs into table 52 for given preferences; pure, so that it can be held against the captures.
//!
//! Copies `ipn/ipnlocal/local.go routerConfigLocked` and `internalAndExternalInterfacesFrom`.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use super::prefs::Prefs;

/// An address and how many of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The network's address.
    pub addr: IpAddr,
    /// The number of bits that count.
    pub len: u8,
}

impl Prefix {
    /// The prefix of one address alone.
    #[must_use]
    pub fn single(addr: IpAddr) -> Self {
        Self { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether this is one address alone (`netip.Prefix.IsSingleIP`).
    #[must_use]
    pub fn is_single(&self) -> bool {
        *self == Self::single(self.addr)
    }

    /// The same prefix with the bits that do not count set to zero.
    #[must_use]
    pub fn masked(self) -> Self {
        let addr = match self.addr {
            IpAddr::V4(addr) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(addr.to_bits() & mask))
            }
            IpAddr::V6(addr) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() & mask))
            }
        };
        Self { addr, len: self.len }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// A text that is no prefix.
#[derive(Debug, thiserror::Error)]
#[error("read prefix: {0}")]
pub struct BadPrefix(String);

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let bad = || BadPrefix(text.to_owned());
        let (addr, len) =
            text.split_once('/').map_or((text, None), |(addr, len)| (addr, Some(len)));
        let single = Self::single(addr.parse().map_err(|_| bad())?);
        let len = len.map_or(Ok(single.len), |len| len.parse().map_err(|_| bad()))?;
        if len > single.len {
            return Err(bad());
        }
        Ok(Self { addr: single.addr, len })
    }
}

/// A network that this machine is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// The interface's prefix.
    pub prefix: Prefix,
    /// Whether the interface is the loopback.
    pub loopback: bool,
}

/// What the coordination server would say of the tailnet.
#[derive(Debug, Clone, Default)]
pub struct Tailnet {
    /// The peers' addresses.
    pub peers: Vec<IpAddr>,
    /// The subnets that peers advertise.
    pub advertised: Vec<Prefix>,
}

/// The contents of table 52.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// Prefixes that go through the tun.
    pub routes: BTreeSet<Prefix>,
    /// Prefixes that are handed back to the next rule.
    pub throws: BTreeSet<Prefix>,
}

/// Tailscale's own resolver address, IPv4.
pub const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 100, 100, 100));
/// The same for IPv6.
const RESOLVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53));
/// The network that every node of a tailnet is in, IPv6.
const TAILNET6: Prefix =
    Prefix { addr: IpAddr::V6(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0)), len: 48 };

/// What table 52 is to hold.
#[must_use]
pub fn wanted(prefs: &Prefs, tailnet: &Tailnet, locals: &[Local]) -> Table {
    let mut table = Table::default();
    if !prefs.want_running {
        return table;
    }
    table.routes.extend([Prefix::single(RESOLVER), Prefix::single(RESOLVER6), TAILNET6]);
    table
        .routes
        .extend(tailnet.peers.iter().filter(|peer| peer.is_ipv4()).copied().map(Prefix::single));
    if prefs.route_all {
        table.routes.extend(tailnet.advertised.iter().map(|prefix| prefix.masked()));
    }
    if !prefs.uses_exit_node() {
        return table;
    }
    // Both families, whatever the exit node offers: what it cannot carry is to be dropped, not leaked.
    table.routes.insert(Prefix { addr: Ipv4Addr::UNSPECIFIED.into(), len: 0 });
    table.routes.insert(Prefix { addr: Ipv6Addr::UNSPECIFIED.into(), len: 0 });
    for local in locals.iter().filter(|local| !local.prefix.is_single()) {
        if prefs.exit_node_allow_lan_access || local.loopback {
            table.throws.insert(local.prefix.masked());
        } else {
            table.routes.insert(local.prefix.masked());
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn prefixes(texts: &[&str]) -> BTreeSet<Prefix> {
        texts.iter().map(|text| prefix(text)).collect()
    }

    /// The node of the captures: 192.168.2.80/24 on eth0, its own pods on cni0, flannel.1 with a /32.
    fn locals() -> Vec<Local> {
        let local = |text: &str, loopback| Local { prefix: prefix(text), loopback };
        vec![
            local("127.0.0.1/8", true),
            local("::1/128", true),
            local("192.168.2.80/24", false),
            local("fe80::9c15:93ff:fe3e:96a3/64", false),
            local("10.42.1.1/24", false),
            local("10.42.1.0/32", false),
        ]
    }

    fn tailnet() -> Tailnet {
        Tailnet {
            peers: (1..=4).map(|n| IpAddr::V4(Ipv4Addr::new(100, 64, 0, n))).collect(),
            advertised: vec![
                prefix("10.43.0.0/16"),
                prefix("192.168.2.0/24"),
                prefix("10.42.2.0/24"),
            ],
        }
    }

    fn running() -> Prefs {
        Prefs { want_running: true, ..Prefs::default() }
    }

    const PEERS: [&str; 7] = [
        "100.64.0.1",
        "100.64.0.2",
        "100.64.0.3",
        "100.64.0.4",
        "100.100.100.100",
        "fd7a:115c:a1e0::53",
        "fd7a:115c:a1e0::/48",
    ];

    #[test]
    fn without_an_exit_node_only_peers_are_routed_as_in_capture_02() {
        let table = wanted(&running(), &tailnet(), &locals());
        assert_eq!(table, Table { routes: prefixes(&PEERS), throws: BTreeSet::new() });
    }

    #[test]
    fn an_exit_node_takes_every_local_network_as_in_capture_04() {
        let prefs = Prefs { exit_node_id: "nEXIT".into(), ..running() };
        let mut routes = prefixes(&PEERS);
        routes.extend(prefixes(&[
            "0.0.0.0/0",
            "::/0",
            "192.168.2.0/24",
            "10.42.1.0/24",
            "fe80::/64",
        ]));
        let table = wanted(&prefs, &tailnet(), &locals());
        assert_eq!(table, Table { routes, throws: prefixes(&["127.0.0.0/8"]) });
    }

    #[test]
    fn lan_access_throws_the_local_networks_back_as_in_capture_03() {
        let prefs =
            Prefs { exit_node_id: "nEXIT".into(), exit_node_allow_lan_access: true, ..running() };
        let mut routes = prefixes(&PEERS);
        routes.extend(prefixes(&["0.0.0.0/0", "::/0"]));
        let throws = prefixes(&["127.0.0.0/8", "192.168.2.0/24", "10.42.1.0/24", "fe80::/64"]);
        assert_eq!(wanted(&prefs, &tailnet(), &locals()), Table { routes, throws });
    }

    #[test]
    fn accepted_routes_come_one_by_one_as_in_capture_11() {
        let prefs = Prefs { route_all: true, ..running() };
        let mut routes = prefixes(&PEERS);
        routes.extend(prefixes(&["10.43.0.0/16", "192.168.2.0/24", "10.42.2.0/24"]));
        let table = wanted(&prefs, &tailnet(), &locals());
        assert_eq!(table, Table { routes, throws: BTreeSet::new() });
    }

    #[test]
    fn a_daemon_that_is_down_routes_nothing() {
        let prefs = Prefs { exit_node_id: "nEXIT".into(), ..Prefs::default() };
        assert_eq!(wanted(&prefs, &tailnet(), &locals()), Table::default());
    }

    #[test]
    fn prefixes_are_read_and_masked() {
        assert_eq!(prefix("10.42.1.7/24").masked().to_string(), "10.42.1.0/24");
        assert_eq!(prefix("0.0.0.0/0").masked().to_string(), "0.0.0.0/0");
        assert_eq!(prefix("fe80::1/64").masked().to_string(), "fe80::/64");
        assert_eq!(prefix("100.64.0.1").to_string(), "100.64.0.1/32");
        assert!("10.0.0.0/33".parse::<Prefix>().is_err());
        assert!("fd7a".parse::<Prefix>().is_err());
    }
}
