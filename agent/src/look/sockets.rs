//! TCP sockets to API servers, other nodes and services: who is connected, from which source address, with which mark.

use super::lookups::Target;
use super::{LIMIT, Seen, chain};
use crate::netlink::{Kernel, TcpSocket};
use lifeline_core::baseline::Role;
use lifeline_core::observation::{Sense, Socket};
use std::path::Path;
use tokio::time::timeout;

/// More than a node has; a flood of sockets must not fill the look.
const MOST: usize = 1_024;

/// Reads them, but for our own: a probe that hangs in `syn-sent` must not pass for the kubelet's. A socket without an inode has
/// been closed by its owner already.
pub(super) async fn read(kernel: &Kernel, proc: &Path, targets: &[Target]) -> Seen<Vec<Socket>> {
    let own = own_inodes(proc);
    let watched = |s: &TcpSocket| {
        s.inode != 0
            && !own.contains(&s.inode)
            && targets.iter().any(|t| {
                matches!(t.role, Role::Api | Role::Node | Role::Services)
                    && t.prefix.contains(s.socket.dst.ip())
            })
    };
    match timeout(LIMIT, kernel.tcp_sockets()).await {
        Ok(Ok(all)) => {
            Seen::whole(all.into_iter().filter(watched).map(|s| s.socket).take(MOST).collect())
        }
        Ok(Err(e)) => Seen::nothing(Sense::Sockets, chain(&e)),
        Err(_) => Seen::nothing(Sense::Sockets, "read TCP sockets: no answer in time"),
    }
}

fn own_inodes(proc: &Path) -> Vec<u32> {
    let Ok(files) = std::fs::read_dir(proc.join("self/fd")) else { return Vec::new() };
    let inode = |f: std::fs::DirEntry| {
        let link = std::fs::read_link(f.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    files.flatten().filter_map(inode).collect()
}
