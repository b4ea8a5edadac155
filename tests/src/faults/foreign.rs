//! Near misses: things of others that look like Tailscale's.

use std::time::Duration;

use super::{
    Fault, daemon, exit_node,
    site::{Site, wait_for},
};
use crate::error::Result;

const POD: &str = "pod-vpn";
const POD_UNIT: &str = "cri-containerd-1b9e7d5c3a2f4e6d8c0b.service";
const POD_ROOTFS: &str =
    "/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/1b9e7d5c3a2f4e6d8c0b/rootfs";
const POD_SLICE: &str = "kubepods-besteffort-pod9d4c2b1a_7e6f_4a3b_8c5d_0f1e2d3c4b5a.slice";

/// The faults of this family.
pub const FAULTS: &[Fault] = &[
    Fault {
        id: "R18",
        title: "tailscaled with an exit node in a pod's own network namespace",
        how: "a pod on cni0 with its own tailscaled; its rules and routes are the pod's alone",
        verdict: "Healthy",
        near_miss: true,
        ground: None,
        strike: pod,
        restore: |site| {
            site.node.may(&format!("systemctl stop {POD_UNIT}"))?;
            site.node.may("ip link del vethvpn")?;
            site.node.may(&format!("ip netns del {POD}"))?;
            site.node.must(&format!("rm -rf {POD_ROOTFS}")).map(drop)
        },
    },
    Fault {
        id: "R19",
        title: "somebody else's rules at 5200-5299 and a table 52 of another meaning",
        how: "ip rule at 5210, 5250, 5270 with other selectors; table 52 leads a network of theirs to the gateway",
        verdict: "Healthy",
        near_miss: true,
        ground: None,
        strike: |site| {
            let Site { facts, node, .. } = site;
            node.must(&format!(
                "ip route add 10.99.0.0/16 via {} dev {} table 52",
                facts.gateway, facts.device
            ))?;
            for rule in RULES {
                node.must(&format!("ip rule add pref {rule}"))?;
            }
            Ok(())
        },
        restore: |site| {
            for rule in RULES {
                site.node.may(&format!("ip rule del pref {rule}"))?;
            }
            site.node.may("ip route del 10.99.0.0/16 table 52").map(drop)
        },
    },
    Fault {
        id: "R19-front",
        title: "a foreign rule for table 52 in front of Tailscale's own at 5270, with R1",
        how: "R1; ip rule add pref 5270 fwmark 0x1 lookup 52; Tailscale's own deleted once, so that it comes back behind",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            let r1 = exit_node::FAULTS.iter().find(|fault| fault.id == "R1");
            r1.map_or(Ok(()), |fault| (fault.strike)(site))?;
            site.node.must("ip rule add pref 5270 fwmark 0x1 lookup 52")?;
            // Deletes the first that matches, which is Tailscale's plain one.
            site.node.must("ip rule del pref 5270 lookup 52")?;
            wait_for("tailscaled has put its rule back", Duration::from_secs(5), || {
                Ok(site.node.must("ip rule show pref 5270")?.stdout.lines().count() == 2)
            })
        },
        restore: |site| {
            site.node.may("ip rule del pref 5270 fwmark 0x1 lookup 52")?;
            daemon::restore(site)
        },
    },
];

/// None of these is Tailscale's.
const RULES: [&str; 3] = [
    "5210 from 10.99.0.0/16 lookup main",
    "5250 to 10.99.0.0/16 lookup 52",
    "5270 fwmark 0x1 lookup 52",
];

fn pod(site: &Site) -> Result<()> {
    let own = site.facts.pods.trim_end_matches("0/24");
    for line in [
        format!("ip netns add {POD}"),
        format!("ip link add vethvpn mtu 1450 type veth peer name eth0 mtu 1450 netns {POD}"),
        "ip link set vethvpn master cni0 up".to_owned(),
        format!("ip -n {POD} link set lo up"),
        format!("ip -n {POD} addr add {own}9/24 dev eth0"),
        format!("ip -n {POD} link set eth0 up"),
        format!("ip -n {POD} route add default via {own}1"),
    ] {
        site.node.must(&line)?;
    }
    let property = format!(" -p NetworkNamespacePath=/run/netns/{POD}");
    let flags = "--address 100.64.0.9 --exit-node 100.64.0.1";
    daemon::container(site, POD_UNIT, POD_SLICE, POD_ROOTFS, &property, &[], flags)?;
    wait_for("the pod's tailscaled has its routes", Duration::from_secs(10), || {
        Ok(site.node.may(&format!("ip -n {POD} route show table 52"))?.stdout.contains("default"))
    })
}
