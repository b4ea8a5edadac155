//! Network devices, the addresses on them, and where the overlay finds the other nodes.

use alloc::string::String;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Name.
    pub name: String,
    /// Interface index; never kept in a baseline.
    pub index: u32,
    /// `IFLA_INFO_KIND`: `tun`, `wireguard`, `vxlan`, `bridge`, `veth`…; empty for hardware.
    pub kind: String,
    /// Administratively up.
    pub up: bool,
    /// Has carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Hardware address, lower case hex with colons; empty when there is none.
    pub mac: String,
    /// Name of the device it is enslaved to.
    pub master: Option<String>,
    /// For tun devices: does the device outlive its process?
    pub persist: bool,
}

/// An address on a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Addr {
    /// Device name.
    pub dev: String,
    /// The address itself.
    pub addr: IpAddr,
    /// Length of its on-link prefix.
    pub len: u8,
}

/// A VXLAN forwarding entry: the address of another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fdb {
    /// VXLAN device.
    pub dev: String,
    /// The other node's address.
    pub dst: IpAddr,
}
