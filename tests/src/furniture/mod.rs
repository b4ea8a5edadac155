//! What k3s, flannel, kube-proxy and the CNI plugins have built on a worker by the time it is Ready, made on the node
//! itself by `lab furnish`.
//!
//! Copied from: flannel's vxlan backend (`flannel.1`: VNI 1, port 8472, `nolearning`, one neighbour, one FDB entry and one
//! `onlink` route per remote node), the bridge plugin (`cni0`), portmap and kube-proxy (the chains of a dump of a real
//! node, in the nft backend), flannel's own FLANNEL-FWD and FLANNEL-POSTRTG.

use std::fs;
use std::process::Command;

use crate::error::{Doing, LabError, Result};
use crate::run::{self, LIMIT};
use crate::topology::{self, Machine};

/// The dump of a healthy node's `iptables-nft-save` with this node's and another node's pod network left open.
const RULES_V4: &str = include_str!("kube.v4");
const RULES_V6: &str = include_str!("kube.v6");

/// Builds the furniture of the node we run on, which is known by its host name.
pub fn build() -> Result<()> {
    let me = here()?;
    sysctl("net/ipv4/ip_forward", "1")?;
    for line in links(me) {
        tool(&line)?;
    }
    restore("iptables-nft-restore", &rules(RULES_V4, me))?;
    restore("ip6tables-nft-restore", &rules(RULES_V6, me))?;
    fs::create_dir_all("/run/flannel").doing(|| "make /run/flannel".to_owned())?;
    fs::write("/run/flannel/subnet.env", subnet_env(me))
        .doing(|| "write /run/flannel/subnet.env".to_owned())
}

/// The packet filter of the node we run on as it should be, for both families.
pub fn rules_here() -> Result<(String, String)> {
    let me = here()?;
    Ok((rules(RULES_V4, me), rules(RULES_V6, me)))
}

/// The node we run on, known by its host name.
pub fn here() -> Result<&'static Machine> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")
        .doing(|| "read the host name".to_owned())?;
    topology::machine(name.trim()).filter(|m| m.is_node()).ok_or_else(|| {
        LabError::Refused(format!("furnish {}: it is no node of the lab", name.trim()))
    })
}

fn links(me: &Machine) -> Vec<String> {
    let mut lines = vec![tunnel(me)];
    lines.extend(overlay(me));
    let n = me.pods;
    lines.extend([
        format!("ip link add cni0 address 0a:58:0a:2a:{n:02x}:01 mtu 1450 type bridge"),
        format!("ip addr add 10.42.{n}.1/24 brd + dev cni0"),
        "ip link set cni0 up".to_owned(),
        "ip netns add pod1".to_owned(),
        format!(
            "ip link add veth0pod1 mtu 1450 type veth peer name eth0 address 0a:58:0a:2a:{n:02x}:02 mtu 1450 netns pod1"
        ),
        "ip link set veth0pod1 master cni0 up".to_owned(),
        "ip link set dev veth0pod1 type bridge_slave hairpin on".to_owned(),
        "ip -n pod1 link set lo up".to_owned(),
        format!("ip -n pod1 addr add 10.42.{n}.2/24 dev eth0"),
        "ip -n pod1 link set eth0 up".to_owned(),
        format!("ip -n pod1 route add default via 10.42.{n}.1"),
    ]);
    lines
}

/// Flannel's end of the tunnel.
pub fn tunnel(me: &Machine) -> String {
    format!(
        "ip link add flannel.1 address {} mtu 1450 type vxlan id 1 local {} dev eth0 dstport 8472 nolearning",
        vtep(me),
        me.v4()
    )
}

/// The tunnel's address, and the way to every other node's pods through it: what flannel sets whenever it starts, whether it
/// is there or not (`pkg/backend/vxlan/device.go` `Configure`, `vxlan_network.go`).
pub fn overlay(me: &Machine) -> Vec<String> {
    let n = me.pods;
    let mut lines = vec![
        format!("ip addr replace 10.42.{n}.0/32 dev flannel.1"),
        "ip link set flannel.1 up".to_owned(),
    ];
    for other in topology::nodes().filter(|o| o.name != me.name) {
        let (m, mac) = (other.pods, vtep(other));
        lines
            .push(format!("ip neigh replace 10.42.{m}.0 lladdr {mac} dev flannel.1 nud permanent"));
        lines.push(format!(
            "bridge fdb replace {mac} dev flannel.1 dst {} self permanent",
            other.v4()
        ));
        lines.push(format!("ip route replace 10.42.{m}.0/24 via 10.42.{m}.0 dev flannel.1 onlink"));
    }
    lines
}

/// The address of a node's tunnel end; stable, as flannel keeps it in the node's annotation.
pub fn vtep(machine: &Machine) -> String {
    format!("0a:4c:0a:2a:{:02x}:00", machine.pods)
}

/// The other worker's pods are the second endpoint of the sample service.
fn rules(template: &str, me: &Machine) -> String {
    let other = topology::nodes().filter(|o| o.pods != 0 && o.name != me.name).last();
    let there = other.map_or(1, |o| o.pods);
    template.replace("{HERE}", &me.pods.to_string()).replace("{THERE}", &there.to_string())
}

/// What flannel tells the CNI plugin of itself.
pub fn subnet_env(me: &Machine) -> String {
    let n = me.pods;
    format!(
        "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.{n}.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )
}

fn sysctl(key: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/{key}"), value).doing(|| format!("set {key} to {value}"))
}

/// Runs a command line that must succeed.
pub fn tool(line: &str) -> Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    let [program, args @ ..] = words.as_slice() else { return Ok(()) };
    run::host(program, args)?.success().map(drop)
}

fn restore(program: &str, rules: &str) -> Result<()> {
    run::run(&mut Command::new(program), LIMIT, Some(rules.as_bytes()))?.success().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_is_furnished_towards_both_others() {
        let lines = links(topology::machine("calypso").unwrap());
        let onlink: Vec<_> = lines.iter().filter(|l| l.ends_with("onlink")).collect();
        assert_eq!(onlink.len(), 2);
        assert!(lines.iter().any(|l| l.contains("dst 203.0.113.20")));
        assert!(!lines.iter().any(|l| l.contains("dst 192.168.2.80")));
    }

    #[test]
    fn the_rules_leave_nothing_open() {
        for machine in topology::nodes() {
            for text in [rules(RULES_V4, machine), rules(RULES_V6, machine)] {
                assert!(!text.contains('{'), "{text}");
            }
        }
        let styx = rules(RULES_V4, topology::machine("styx").unwrap());
        assert!(
            styx.contains("--to-destination 10.42.2.2:8080") && styx.contains("10.42.1.2:8080")
        );
    }
}
