//! The wires: a gateway with three bridges, three nodes, a laptop beyond the gateway and a second machine on the LAN.
//!
//! ```text
//!            lan 192.168.2.50      calypso 192.168.2.80
//!                     \              /
//!   laptop --- br-home --- gw --- br-lan           gw forwards, no NAT,
//! 198.51.100.10          |                         .1 and ::1 on each net
//!                        br-pub
//!                      /        \
//!         tethys 203.0.113.10   styx 203.0.113.20
//! ```
//!
//! Both ends of every wire are made inside namespaces of ours, so that nothing is ever seen in the host's own.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::error::{Doing, Result};
use crate::run::{self, LIMIT};
use crate::{names, space};

/// A net behind the gateway: its bridge, and the first three groups of its addresses.
#[derive(Debug, PartialEq, Eq)]
pub struct Net {
    pub bridge: &'static str,
    pub v4: [u8; 3],
    pub v6: u16,
}

pub static LAN: Net = Net { bridge: "br-lan", v4: [192, 168, 2], v6: 0x2 };
pub static PUB: Net = Net { bridge: "br-pub", v4: [203, 0, 113], v6: 0x113 };
pub static HOME: Net = Net { bridge: "br-home", v4: [198, 51, 100], v6: 0x51 };

impl Net {
    #[must_use]
    pub fn v4(&self, host: u8) -> Ipv4Addr {
        let [a, b, c] = self.v4;
        Ipv4Addr::new(a, b, c, host)
    }

    /// The host part is written in v6 as it is in v4, so that `.80` is `::80`.
    #[must_use]
    pub fn v6(&self, host: u8) -> Ipv6Addr {
        let digits = u16::from_str_radix(&host.to_string(), 16).unwrap_or(0);
        Ipv6Addr::new(0x2001, 0xdb8, self.v6, 0, 0, 0, 0, digits)
    }

    fn gateway_mac(&self) -> String {
        format!("02:4c:4c:{:02x}:{:02x}:01", self.v4[1], self.v4[2])
    }
}

/// What stands at the end of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The node that carries the API server.
    Server,
    Worker,
    /// A bare namespace from which people look at nodes.
    Bystander,
}

/// One machine of the lab.
#[derive(Debug)]
pub struct Machine {
    pub name: &'static str,
    pub net: &'static Net,
    pub host: u8,
    pub kind: Kind,
    /// N of the node's pod network 10.42.N.0/24.
    pub pods: u8,
}

pub static MACHINES: [Machine; 5] = [
    Machine { name: "tethys", net: &PUB, host: 10, kind: Kind::Server, pods: 0 },
    Machine { name: "calypso", net: &LAN, host: 80, kind: Kind::Worker, pods: 1 },
    Machine { name: "styx", net: &PUB, host: 20, kind: Kind::Worker, pods: 2 },
    Machine { name: "laptop", net: &HOME, host: 10, kind: Kind::Bystander, pods: 0 },
    Machine { name: "lan", net: &LAN, host: 50, kind: Kind::Bystander, pods: 0 },
];

/// The gateway's namespace, which is no machine: it has no wire of its own.
pub const GATEWAY: &str = "gw";
/// Where the stand-in for the API server listens.
pub const API: &str = "203.0.113.10:6443";

impl Machine {
    #[must_use]
    pub fn v4(&self) -> Ipv4Addr {
        self.net.v4(self.host)
    }

    #[must_use]
    pub fn v6(&self) -> Ipv6Addr {
        self.net.v6(self.host)
    }

    #[must_use]
    pub fn is_node(&self) -> bool {
        self.kind != Kind::Bystander
    }

    /// Stable, so that a learnt gateway or VTEP address survives a power cycle.
    fn mac(&self) -> String {
        format!("02:4c:4c:{:02x}:{:02x}:{:02x}", self.net.v4[1], self.net.v4[2], self.host)
    }
}

#[must_use]
pub fn machine(name: &str) -> Option<&'static Machine> {
    MACHINES.iter().find(|m| m.name == name)
}

pub fn nodes() -> impl Iterator<Item = &'static Machine> {
    MACHINES.iter().filter(|m| m.is_node())
}

/// Makes the gateway and its bridges.
pub fn build_gateway() -> Result<()> {
    add_namespace(GATEWAY, &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
    let mut lines = vec!["link set lo up".to_owned()];
    for net in [&LAN, &PUB, &HOME] {
        let (bridge, mac) = (net.bridge, net.gateway_mac());
        lines.push(format!("link add {bridge} address {mac} type bridge mcast_snooping 0"));
        lines.push(format!("addr add {}/24 dev {bridge}", net.v4(1)));
        lines.push(format!("addr add {}/64 dev {bridge} nodad", net.v6(1)));
        lines.push(format!("link set {bridge} up"));
    }
    ip(GATEWAY, &lines)
}

/// Makes the namespace of `machine` and wires it to the gateway. A gateway end left from before is replaced.
pub fn wire(machine: &Machine) -> Result<()> {
    add_namespace(machine.name, &[])?;
    let (name, net) = (machine.name, machine.net);
    ip(
        GATEWAY,
        &[
            format!(
                "link add v-{name} type veth peer name eth0 address {} netns {}",
                machine.mac(),
                names::namespace(name)
            ),
            format!("link set v-{name} master {} up", net.bridge),
        ],
    )?;
    ip(
        name,
        &[
            "link set lo up".to_owned(),
            format!("addr add {}/24 dev eth0", machine.v4()),
            format!("addr add {}/64 dev eth0 nodad", machine.v6()),
            "link set eth0 up".to_owned(),
            format!("route add default via {}", net.v4(1)),
            format!("route add ::/0 via {} dev eth0", net.v6(1)),
        ],
    )
}

/// Takes a machine's namespace away with all that is in it: what a power cut does to a kernel's network state.
pub fn unwire(machine: &Machine) -> Result<()> {
    run::host("ip", &["netns", "delete", &names::namespace(machine.name)])?.success()?;
    // The peer goes with the namespace, but asynchronously; a name that is still taken would fail the next `wire`.
    ip(GATEWAY, &[format!("link delete v-{}", machine.name)]).ok();
    Ok(())
}

fn add_namespace(name: &str, sysctls: &[(&str, &str)]) -> Result<()> {
    let namespace = names::namespace(name);
    run::host("ip", &["netns", "add", &namespace])?.success()?;
    // A new namespace inherits the host's ipv4 settings; these make it the same everywhere, and as in the captures.
    let common = [
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/default/disable_ipv6", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
    ];
    let all: Vec<(String, String)> = common
        .iter()
        .chain(sysctls)
        .map(|(k, v)| (format!("/proc/sys/{k}"), (*v).to_owned()))
        .collect();
    space::within(&namespace, move || {
        for (path, value) in all {
            std::fs::write(&path, value).doing(|| format!("write {path}"))?;
        }
        Ok(())
    })
}

fn ip(name: &str, lines: &[String]) -> Result<()> {
    let mut command = std::process::Command::new("ip");
    command.args(["-n", &names::namespace(name), "-batch", "-"]);
    run::run(&mut command, LIMIT, Some(lines.join("\n").as_bytes()))?.success()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_captures() {
        let calypso = machine("calypso").unwrap();
        assert_eq!(calypso.v4().to_string(), "192.168.2.80");
        assert_eq!(calypso.v6().to_string(), "2001:db8:2::80");
        assert_eq!(calypso.net.v4(1).to_string(), "192.168.2.1");
        assert_eq!(machine("styx").unwrap().v6().to_string(), "2001:db8:113::20");
    }

    #[test]
    fn no_two_machines_share_an_address() {
        let mut all: Vec<_> = MACHINES.iter().map(Machine::mac).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), MACHINES.len());
    }

    #[test]
    fn interface_names_fit_the_kernels_fifteen_bytes() {
        assert!(MACHINES.iter().all(|m| format!("v-{}", m.name).len() <= 15));
    }
}
