//! TCP sockets to API servers, other nodes and services: who is connected, from which source address, with which mark.

use super::lookups::Target;
use super::{LIMIT, Seen, chain};
use crate::netlink::Kernel;
use lifeline_core::baseline::Role;
use lifeline_core::observation::{Sense, Socket};
use tokio::time::timeout;

/// More than a node has; a flood of sockets must not fill the look.
const MOST: usize = 1_024;

/// Reads them.
pub(super) async fn read(kernel: &Kernel, targets: &[Target]) -> Seen<Vec<Socket>> {
    let watched = |s: &Socket| {
        targets.iter().any(|t| {
            matches!(t.role, Role::Api | Role::Node | Role::Services)
                && t.prefix.contains(s.dst.ip())
        })
    };
    match timeout(LIMIT, kernel.tcp_sockets()).await {
        Ok(Ok(all)) => {
            Seen::whole(all.into_iter().map(|s| s.socket).filter(watched).take(MOST).collect())
        }
        Ok(Err(e)) => Seen::nothing(Sense::Sockets, chain(&e)),
        Err(_) => Seen::nothing(Sense::Sockets, "read TCP sockets: no answer in time"),
    }
}
