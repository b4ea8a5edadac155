//! What was answered: by the kernel asked for a route, by a machine that was called, by the cluster.

use alloc::string::String;
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

/// How a question was put: what mark the packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Through {
    /// No mark: as the kubelet sees it, guard included.
    Plain,
    /// The see-through mark: as it would be without our guard.
    SeeThrough,
    /// The lifeline mark: along our own path.
    Lifeline,
}

/// What the kernel said a packet would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It leaves here.
    Leaves {
        /// Device.
        dev: String,
        /// Gateway.
        #[serde(default)]
        via: Option<IpAddr>,
        /// Table that answered; 0 when not said.
        #[serde(default)]
        table: u32,
        /// Source address chosen.
        #[serde(default)]
        src: Option<IpAddr>,
    },
    /// It is for this machine.
    Local,
    /// No route, or a rule or route that refuses: the errno.
    Refused(i32),
}

/// An answer to `RTM_GETROUTE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// Destination.
    pub dst: IpAddr,
    /// Mark of the question.
    pub through: Through,
    /// The answer.
    pub fate: Fate,
}

/// How far a call got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// TLS handshake completed (the server's certificate was the cluster's).
    Tls,
    /// TLS answered, with a certificate that is not the cluster's: somebody else is there.
    Stranger,
    /// TCP connected, TLS did not answer in time. Not success (K5).
    TcpOnly,
    /// An answer to ICMP echo or ARP.
    Echo,
    /// Actively refused: the machine lives.
    Refused,
    /// Nothing came back in time.
    Silent,
    /// The kernel would not send: the errno.
    Unsent(i32),
}

/// A call to a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Name of the critical destination (`api 203.0.113.10:6443`, `gateway 192.168.2.1`).
    pub name: String,
    /// Destination.
    pub dst: IpAddr,
    /// Mark used.
    pub through: Through,
    /// How far it got.
    pub reach: Reach,
    /// Source address the kernel chose.
    #[serde(default)]
    pub src: Option<IpAddr>,
}

/// A TCP socket to a critical destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// `established`, `syn-sent`…
    pub state: String,
    /// Own end.
    pub src: SocketAddr,
    /// Other end.
    pub dst: SocketAddr,
    /// Mark.
    #[serde(default)]
    pub mark: u32,
}

/// The kubelet's lease as read from the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// `spec.renewTime` as written.
    pub renewed: String,
    /// Age by this node's own clock, which is also the one that wrote it, in milliseconds.
    pub age_ms: u64,
}
