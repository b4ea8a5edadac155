//! IPsec policies, as `ip xfrm policy` shows them: no route lookup sees them, and they decide about every packet all the same.

use crate::net::{Family, Prefix};
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// Which packets a policy is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// What is delivered here.
    In,
    /// What is sent from here.
    Out,
    /// What passes through.
    Forward,
}

/// An IPsec policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct XfrmPolicy {
    /// Family.
    pub family: Family,
    /// Direction.
    pub dir: Direction,
    /// Source selector.
    pub src: Prefix,
    /// Destination selector.
    pub dst: Prefix,
    /// IP protocol, 0 for any.
    #[serde(default)]
    pub ipproto: u8,
    /// Source port, 0 for any.
    #[serde(default)]
    pub sport: u16,
    /// Destination port, 0 for any.
    #[serde(default)]
    pub dport: u16,
    /// The lower is asked first.
    #[serde(default)]
    pub priority: u32,
    /// It drops.
    #[serde(default)]
    pub block: bool,
    /// It has a template: what it lets pass is encrypted, or has to have been.
    #[serde(default)]
    pub transform: bool,
    /// It selects by what this type does not model (mark, device, user, port range): whether it matches is not known.
    #[serde(default)]
    pub exotic: bool,
}

impl XfrmPolicy {
    /// Is a TCP packet between these two ends its affair?
    fn matches(&self, dir: Direction, from: SocketAddr, to: SocketAddr) -> bool {
        let port = |own: u16, port: u16| own == 0 || own == port;
        self.dir == dir
            && self.src.contains(from.ip())
            && self.dst.contains(to.ip())
            && matches!(self.ipproto, 0 | 6)
            // A port of one's own choosing is 0 here, and no policy for a certain one is taken to mean it.
            && port(self.sport, from.port())
            && port(self.dport, to.port())
            && !self.exotic
    }
}

/// The policy that decides about a TCP packet: the first of the lowest priority (`xfrm_policy_lookup`).
pub fn decides(
    all: &[XfrmPolicy],
    dir: Direction,
    from: SocketAddr,
    to: SocketAddr,
) -> Option<&XfrmPolicy> {
    all.iter().filter(|p| p.matches(dir, from, to)).min_by_key(|p| p.priority)
}
