//! Starts and stops the tailscaled that faults are made with: as the incident's pod ran it, or as a package does.
//!
//! The pod's container: in a cgroup below `kubepods.slice`, a root file system of its own where containerd would put it, state and
//! socket on the node in `/var/lib/tailscale-worker` and `/run/tailscale-worker` (the incident's hostPath volumes) and at their
//! usual places inside, in the node's network namespace. Its resolv.conf and its xtables lock are its own, as in a real one; its
//! programs are the node's.

use std::time::Duration;

use super::site::{Site, wait_for};
use crate::error::Result;

/// The container's unit, named as containerd names a scope.
pub const CONTAINER: &str = "cri-containerd-7c1d5f0a3e9b4d2f8a6c.service";
/// The unit of a tailscaled that is installed on the node itself.
pub const INSTALLED: &str = "tailscaled.service";
const SLICE: &str = "kubepods-besteffort-pod2f1e9c34_6d0b_4f7a_9a55_1c0e8d3b7f21.slice";
/// What a kubelet has for a pod of its own; the name is the DaemonSet's of the incident.
const POD: &str =
    "/var/log/pods/tailscale-system_tailscale-worker-x7k2p_2f1e9c34-6d0b-4f7a-9a55-1c0e8d3b7f21";
const ROOTFS: &str =
    "/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/7c1d5f0a3e9b4d2f8a6c/rootfs";
const STATE: &str = "/var/lib/tailscale-worker";
const SOCKET: &str = "/run/tailscale-worker";

/// Starts it as a container, with these flags.
pub fn start(site: &Site, flags: &str) -> Result<()> {
    container(
        site,
        CONTAINER,
        SLICE,
        ROOTFS,
        "",
        &[(STATE, "/var/lib/tailscale"), (SOCKET, "/run/tailscale")],
        flags,
    )?;
    wait_for_rules(site)
}

/// Starts it as a container of a pod that its kubelet knows, and starts again when it ends: systemd plays that part.
pub fn start_kept(site: &Site, flags: &str) -> Result<()> {
    site.node.must(&format!("mkdir -p {POD}"))?;
    let again = " -p Restart=always -p RestartSec=2 -p StartLimitIntervalSec=0";
    container(
        site,
        CONTAINER,
        SLICE,
        ROOTFS,
        again,
        &[(STATE, "/var/lib/tailscale"), (SOCKET, "/run/tailscale")],
        flags,
    )?;
    wait_for_rules(site)
}

/// Starts it as a service of the node, with these flags.
pub fn start_installed(site: &Site, flags: &str) -> Result<()> {
    service(site, "", flags)
}

/// The same, and systemd starts it again when it ends.
pub fn start_installed_kept(site: &Site, flags: &str) -> Result<()> {
    service(site, " -p Restart=always -p RestartSec=2 -p StartLimitIntervalSec=0", flags)
}

fn service(site: &Site, property: &str, flags: &str) -> Result<()> {
    let delay = site.netmap_delay;
    let line = format!(
        "systemd-run -q --collect --unit={INSTALLED}{property} -- /opt/tailscale/tailscaled --route-delay {delay} {flags}"
    );
    site.node.must(line.trim_end())?;
    wait_for_rules(site)
}

/// A tailscaled with a root of its own and these folders of the node in it.
pub fn container(
    site: &Site,
    unit: &str,
    slice: &str,
    rootfs: &str,
    property: &str,
    volumes: &[(&str, &str)],
    flags: &str,
) -> Result<()> {
    let mut folders = format!("mkdir -p {rootfs}/usr {rootfs}/etc {rootfs}/tmp {rootfs}/var/lib");
    let mut binds = String::new();
    for (host, inside) in volumes {
        folders += &format!(" {host} {rootfs}{inside}");
        // A kubelet makes a missing volume anew (`DirectoryOrCreate`); here the pod then goes without it.
        binds += &format!(" -p BindPaths=-{host}:{inside}");
    }
    site.node.must(&folders)?;
    for link in ["bin", "sbin", "lib", "lib64"] {
        site.node.must(&format!("ln -sfn usr/{link} {rootfs}/{link}"))?;
    }
    site.node.must(&format!("cp /etc/resolv.conf {rootfs}/etc/resolv.conf"))?;
    let line = format!(
        "systemd-run -q --collect --unit={unit} --slice={slice} -p RootDirectory={rootfs} -p MountAPIVFS=yes \
         -p BindReadOnlyPaths=/usr -p BindReadOnlyPaths=/opt/tailscale:/usr/local/bin{property}{binds} \
         -- /usr/local/bin/tailscaled --no-logs-no-support --route-delay {} {flags}",
        site.netmap_delay
    );
    site.node.must(line.trim_end()).map(drop)
}

fn wait_for_rules(site: &Site) -> Result<()> {
    wait_for("tailscaled has its rules", Duration::from_secs(10), || {
        Ok(site.node.must("ip rule")?.stdout.contains("lookup 52"))
    })
}

/// Waits until the netmap has come and table 52 holds this.
pub fn wait_for_route(site: &Site, route: &str) -> Result<()> {
    wait_for(&format!("table 52 has {route}"), Duration::from_secs(15), || {
        // Fails while the table does not exist.
        Ok(site.node.may("ip route show table 52")?.stdout.contains(route))
    })
}

/// Whether the tun is there.
pub fn has_tun(site: &Site) -> Result<bool> {
    Ok(site.node.may("ip link show tailscale0")?.ok())
}

/// Kills it without a warning, as the kernel does when memory is short.
pub fn kill(site: &Site, unit: &str) -> Result<()> {
    site.node.must(&format!("systemctl kill -s KILL {unit}"))?;
    wait_for("the tun is gone", Duration::from_secs(5), || Ok(!has_tun(site)?))
}

/// Stops it, and removes what it left: what a recovery may have done before.
pub fn restore(site: &Site) -> Result<()> {
    for unit in [CONTAINER, INSTALLED] {
        site.node.may(&format!("systemctl stop {unit}"))?;
        site.node.may(&format!("systemctl reset-failed {unit}"))?;
    }
    scrub(site)?;
    site.node
        .must(&format!("rm -rf {STATE} {SOCKET} {POD} {ROOTFS} /var/lib/tailscale /run/tailscale"))
        .map(drop)
}

/// Removes the footprint of Tailscale in every place; each line may find nothing.
pub fn scrub(site: &Site) -> Result<()> {
    for family in ["-4", "-6"] {
        for rule in [
            "5270 lookup 52",
            "5250 fwmark 0x80000/0xff0000 unreachable",
            "5230 fwmark 0x80000/0xff0000 lookup default",
            "5210 fwmark 0x80000/0xff0000 lookup main",
        ] {
            // Doubled rules are legal.
            for _ in 0..4 {
                if !site.node.may(&format!("ip {family} rule del pref {rule}"))?.ok() {
                    break;
                }
            }
        }
        site.node.may(&format!("ip {family} route flush table 52"))?;
    }
    site.node.may("ip link del tailscale0")?;
    for (tables, tools) in [
        ("/proc/net/ip_tables_names", ["iptables-legacy", "iptables-nft"]),
        ("/proc/net/ip6_tables_names", ["ip6tables-legacy", "ip6tables-nft"]),
    ] {
        for tool in tools {
            // A look with the legacy tool would make its tables.
            if tool.ends_with("legacy")
                && site.node.may(&format!("cat {tables}"))?.stdout.trim().is_empty()
            {
                continue;
            }
            for (table, base, chain) in [
                ("filter", "INPUT", "ts-input"),
                ("filter", "FORWARD", "ts-forward"),
                ("nat", "POSTROUTING", "ts-postrouting"),
            ] {
                site.node.may(&format!("{tool} -w -t {table} -D {base} -j {chain}"))?;
                site.node.may(&format!("{tool} -w -t {table} -F {chain}"))?;
                site.node.may(&format!("{tool} -w -t {table} -X {chain}"))?;
            }
            site.node.may(&format!("{tool} -w -t mangle -D PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -m connmark ! --mark 0x0/0xff0000 -j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff0000"))?;
            site.node.may(&format!("{tool} -w -t mangle -D OUTPUT -m conntrack --ctstate NEW -m mark ! --mark 0x0/0xff0000 -j CONNMARK --save-mark --nfmask 0xff0000 --ctmask 0xff0000"))?;
        }
    }
    scrub_native(site)?;
    site.node.may("sysctl -qw net.ipv4.conf.all.src_valid_mark=0")?;
    site.node.run(&["sh", "-c", "! grep -q 'generated by tailscale' /etc/resolv.conf || mv -f /etc/resolv.pre-tailscale-backup.conf /etc/resolv.conf"]).map(drop)
}

/// The rules in mangle that only nft can name.
fn scrub_native(site: &Site) -> Result<()> {
    for family in ["ip", "ip6"] {
        for chain in ["PREROUTING", "OUTPUT"] {
            let listed =
                site.node.may(&format!("nft -a list chain {family} mangle {chain}"))?.stdout;
            let marking = |line: &&str| line.contains("0x00ff0000") && line.contains("mark set");
            for handle in
                listed.lines().filter(marking).filter_map(|line| line.rsplit("# handle ").next())
            {
                site.node
                    .must(&format!("nft delete rule {family} mangle {chain} handle {handle}"))?;
            }
        }
    }
    Ok(())
}
