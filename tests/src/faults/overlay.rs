//! Faults of flannel's overlay.

use super::{
    Fault,
    site::{Remote, Site},
};
use crate::error::Result;

/// The faults of this family.
pub const FAULTS: &[Fault] = &[
    Fault {
        id: "R15",
        title: "every remote pod route is missing",
        how: "ip route del of each, neighbours and FDB stay",
        verdict: "Lost",
        near_miss: false,
        ground: None,
        strike: |site| {
            for remote in &site.facts.remotes {
                site.node.must(&format!("ip route del {}", remote.pods))?;
            }
            Ok(())
        },
        restore: |site| site.facts.remotes.iter().try_for_each(|remote| route_back(site, remote)),
    },
    Fault {
        id: "R15-device",
        title: "flannel's device is gone, with its address and the way to every other node's pods",
        how: "ip link del flannel.1",
        verdict: "Lost",
        near_miss: false,
        ground: None,
        strike: |site| site.node.must("ip link del flannel.1").map(drop),
        restore: |site| {
            if !site.node.may("ip link show flannel.1")?.ok() {
                site.node.must("timeout 20 systemctl restart k3s-agent")?;
            }
            Ok(())
        },
    },
    Fault {
        id: "R15-bridge",
        title: "the pods' bridge has lost its address, their gateway",
        how: "ip -4 addr flush dev cni0",
        verdict: "Lost",
        near_miss: false,
        ground: None,
        strike: |site| site.node.must("ip -4 addr flush dev cni0").map(drop),
        restore: |site| {
            let bare = site.node.must("ip -4 -j addr show dev cni0 scope global")?;
            if !bare.stdout.contains("10.42.") {
                let own = site.facts.pods.replace(".0/", ".1/");
                site.node.must(&format!("ip addr add {own} brd + dev cni0"))?;
            }
            Ok(())
        },
    },
    Fault {
        id: "R15-overlay",
        title: "flannel's device has lost its address, and with it every route and neighbour",
        how: "ip -4 addr flush dev flannel.1",
        verdict: "Lost",
        near_miss: false,
        ground: None,
        strike: |site| site.node.must("ip -4 addr flush dev flannel.1").map(drop),
        restore: |site| {
            let bare = site.node.must("ip -4 -j addr show dev flannel.1 scope global")?;
            if !bare.stdout.contains("10.42.") {
                site.node.must("timeout 20 systemctl restart k3s-agent")?;
            }
            Ok(())
        },
    },
    Fault {
        id: "R21",
        title: "a node has left the cluster",
        how: "its pod route, neighbour and FDB entry are gone, as flannel removes them",
        verdict: "Healthy",
        near_miss: true,
        ground: None,
        strike: |site| {
            let Some(gone) = site.facts.other_worker() else { return Ok(()) };
            site.node.must(&format!("ip route del {}", gone.pods))?;
            site.node.must(&format!(
                "bridge fdb del {} dev flannel.1 dst {} self",
                gone.vtep_mac, gone.address
            ))?;
            site.node.must(&format!("ip neigh del {} dev flannel.1", gone.vtep)).map(drop)
        },
        restore: |site| {
            let Some(back) = site.facts.other_worker() else { return Ok(()) };
            let (mac, vtep) = (&back.vtep_mac, &back.vtep);
            site.node.must(&format!(
                "ip neigh replace {vtep} lladdr {mac} dev flannel.1 nud permanent"
            ))?;
            site.node.may(&format!(
                "bridge fdb append {mac} dev flannel.1 dst {} self permanent",
                back.address
            ))?;
            route_back(site, back)
        },
    },
];

/// A node's pod route as flannel makes it.
pub fn route_back(site: &Site, remote: &Remote) -> Result<()> {
    let (pods, vtep) = (&remote.pods, &remote.vtep);
    site.node.must(&format!("ip route replace {pods} via {vtep} dev flannel.1 onlink")).map(drop)
}
