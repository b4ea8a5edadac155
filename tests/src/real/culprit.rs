//! The culprit: the DaemonSet of 13 October, with the switches by which its harm differs.

use super::{cluster, tailnet};
use crate::error::Result;

const MANIFEST: &str = include_str!("manifests/culprit.yaml");

/// How tailscaled is told to behave; the incident's own way is the default.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Variant {
    /// Let the exit node's users reach their LAN
    #[arg(long)]
    lan_access: bool,
    /// No exit node, but routes of a peer that overlap the cluster's
    #[arg(long)]
    accept_routes: bool,
    /// Take the tailnet's DNS
    #[arg(long)]
    accept_dns: bool,
    /// Write the packet filter by iptables-legacy, beside kube-proxy's nft
    #[arg(long)]
    legacy: bool,
}

impl Variant {
    fn flags(self, exit: &str) -> String {
        let mut flags = Vec::new();
        if self.accept_routes {
            flags.push("--accept-routes".to_owned());
        } else {
            flags.push(format!("--exit-node={exit} --accept-routes"));
        }
        if self.lan_access {
            flags.push("--exit-node-allow-lan-access".to_owned());
        }
        flags.push(format!("--accept-dns={}", self.accept_dns));
        flags.join(" ")
    }

    fn manifest(self, login: &str, exit: &str) -> String {
        let firewall = if self.legacy { "iptables" } else { "nftables" };
        MANIFEST
            .replace("{LOGIN}", login)
            .replace("{FLAGS}", &self.flags(exit))
            .replace("{FIREWALL}", firewall)
    }
}

/// Applies it, as somebody did on 13 October.
pub fn apply(variant: Variant) -> Result<()> {
    tailnet::advertise(if variant.accept_routes { tailnet::OVERLAP } else { "" })?;
    cluster::apply(&variant.manifest(&tailnet::login_server(), &tailnet::exit()?))
}

/// Takes the workload away, and the namespace after it is gone: a namespace that is finalized while its kubelets are cut off
/// leaves the DaemonSet in etcd, and it wakes with the next namespace of that name.
pub fn remove() -> Result<()> {
    let set = ["daemonset/tailscale-worker", "-n", "tailscale-system"];
    for args in [
        ["delete", set[0], set[1], set[2], "--ignore-not-found", "--wait=true", "--timeout=15s"],
        [
            "delete",
            "namespace",
            "tailscale-system",
            "--ignore-not-found",
            "--wait=false",
            "-o",
            "name",
        ],
    ] {
        cluster::kubectl(&args)?.success()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_leaves_nothing_open_and_changes_only_its_switch() {
        let incident = Variant::default().manifest("http://x", "100.64.0.1");
        assert!(!incident.contains("{LOGIN}") && !incident.contains("{FLAGS}"));
        assert!(incident.contains("--exit-node=100.64.0.1 --accept-routes --accept-dns=false"));
        let routes = Variant { accept_routes: true, ..Variant::default() };
        assert!(!routes.manifest("http://x", "y").contains("--exit-node"));
        let legacy = Variant { legacy: true, ..Variant::default() };
        assert!(legacy.manifest("http://x", "y").contains("value: iptables}"));
    }
}
