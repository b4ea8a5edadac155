//! Near misses: the network has changed, and works.

use std::time::Duration;

use super::{
    Fault, daemon,
    main_table::{default_back, default_with_metric},
    site::{Site, wait_for},
};
use crate::error::Result;

/// The faults of this family.
pub const FAULTS: &[Fault] = &[
    Fault {
        id: "R17",
        title: "the cluster really runs over Tailscale: the API server is at 100.64.0.1",
        how: "ground: tailscaled whose packets are carried to a peer on the server, k3s-agent's endpoint moved there; nothing more",
        verdict: "Healthy",
        near_miss: true,
        ground: Some(over_tailscale),
        strike: |_| Ok(()),
        restore: |site| {
            endpoint(site, &site.facts.api.to_string())?;
            stop_peer(site)?;
            daemon::restore(site)?;
            started_anew(site)
        },
    },
    Fault {
        id: "R20",
        title: "DHCP has given another gateway, and it works",
        how: "the gateway gets a second address; ip route replace default via it",
        verdict: "Moved",
        near_miss: true,
        ground: None,
        strike: |site| {
            let Site { facts, node, .. } = site;
            second_gateway(site)?;
            node.must(&format!(
                "ip route replace default via {} dev {}",
                facts.second, facts.device
            ))
            .map(drop)
        },
        restore: |site| {
            default_back(site)?;
            no_second_gateway(site)
        },
    },
    Fault {
        id: "R20-metric",
        title: "a second gateway of better metric, and it works",
        how: "ground: the default gets metric 100; then ip route add default via the gateway's second address metric 50",
        verdict: "Moved",
        near_miss: true,
        ground: Some(default_with_metric),
        strike: |site| {
            let Site { facts, node, .. } = site;
            second_gateway(site)?;
            node.must(&format!(
                "ip route add default via {} dev {} metric 50",
                facts.second, facts.device
            ))
            .map(drop)
        },
        restore: |site| {
            default_back(site)?;
            no_second_gateway(site)
        },
    },
    Fault {
        id: "R20-uplink",
        title: "the uplink has failed over to another device, and it works",
        how: "a macvlan beside eth0 gets an address of the network; ip route replace default by it",
        verdict: "Moved",
        near_miss: true,
        ground: None,
        strike: |site| {
            let Site { facts, node, .. } = site;
            node.must(&format!(
                "ip link add link {} name wan1 type macvlan mode bridge",
                facts.device
            ))?;
            node.must(&format!("ip addr add {}/24 dev wan1 noprefixroute", facts.spare))?;
            node.must("ip link set wan1 up")?;
            node.must(&format!("ip route replace default via {} dev wan1 onlink", facts.gateway))
                .map(drop)
        },
        restore: |site| {
            site.node.may("ip link del wan1")?;
            default_back(site)
        },
    },
    Fault {
        id: "R20-api",
        title: "the API server has been given another address",
        how: "the server gets a second address; k3s-agent's endpoint is moved there",
        verdict: "Healthy",
        near_miss: true,
        ground: None,
        strike: |site| {
            site.server.must(&format!("ip addr replace {}/24 dev eth0", site.facts.api_spare))?;
            rehome(site, &site.facts.api_spare.to_string())
        },
        restore: |site| {
            rehome(site, &site.facts.api.to_string())?;
            site.server.may(&format!("ip addr del {}/24 dev eth0", site.facts.api_spare)).map(drop)
        },
    },
    Fault {
        id: "R20-vpn",
        title: "a deliberate VPN that works",
        how: "a tunnel to the server's machine that really carries packets; everything default-routed goes through it",
        verdict: "Moved",
        near_miss: true,
        ground: None,
        strike: vpn,
        restore: |site| {
            site.node.may("ip rule del pref 1000")?;
            site.node.may("ip rule del pref 1001")?;
            site.node.may("systemctl stop corp-vpn.service")?;
            stop_peer(site)
        },
    },
];

const PEER: &str = "tailnet-peer.service";
const TUNNEL_PORT: u16 = 41641;

/// The other end of a tunnel, on the server's machine; what comes out of it there and goes on looks like the server's own.
fn start_peer(site: &Site, address: &str, node: &str) -> Result<()> {
    site.server.must(&format!(
        "systemd-run -q --collect --unit={PEER} -- /usr/local/bin/lab standin tailnet-peer --listen 0.0.0.0:{TUNNEL_PORT} \
         --tun ts-peer --address {address} --routes {node}"
    ))?;
    site.server.must(&format!(
        "iptables-nft -w -t nat -A POSTROUTING -s {node}/32 -o eth0 -j MASQUERADE"
    ))?;
    wait_for("the tunnel's other end is up", Duration::from_secs(5), || {
        Ok(site.server.may(&format!("ip route show {node}"))?.stdout.contains("ts-peer"))
    })
}

fn stop_peer(site: &Site) -> Result<()> {
    site.server.may(&format!("systemctl stop {PEER}"))?;
    for node in ["100.64.0.5", "10.99.0.2"] {
        site.server.may(&format!(
            "iptables-nft -w -t nat -D POSTROUTING -s {node}/32 -o eth0 -j MASQUERADE"
        ))?;
    }
    Ok(())
}

fn over_tailscale(site: &Site) -> Result<()> {
    start_peer(site, "100.64.0.1", "100.64.0.5")?;
    daemon::start(site, &format!("--relay {}:{TUNNEL_PORT}", site.facts.api))?;
    daemon::wait_for_route(site, "100.64.0.1")?;
    wait_for("the server answers through the tunnel", Duration::from_secs(30), || {
        Ok(site.node.may("ping -c 1 -W 1 100.64.0.1")?.ok())
    })?;
    rehome(site, "100.64.0.1")
}

/// The API server is reached at this address from now on, as k3s does it when the server's address changes.
pub fn rehome(site: &Site, server: &str) -> Result<()> {
    endpoint(site, server)?;
    site.node.may(UNCOUNTED)?;
    site.node.must("timeout 20 systemctl restart k3s-agent").map(drop)
}

/// Faults that are made soon after each other start k3s-agent more often than systemd allows within ten seconds; it would stay down.
const UNCOUNTED: &str = "systemctl reset-failed k3s-agent";

/// Writes the load balancer's endpoints.
fn endpoint(site: &Site, server: &str) -> Result<()> {
    let text = format!(
        "{{\"ServerURL\":\"https://{server}:6443\",\"ServerAddresses\":[\"{server}:6443\"]}}"
    );
    site.node.write("/var/lib/rancher/k3s/agent/etc/k3s-agent-load-balancer.json", &text)
}

/// k3s-agent runs again, and is another than before: who looks sooner sees it being started.
fn started_anew(site: &Site) -> Result<()> {
    let invocation = "systemctl show -p InvocationID --value k3s-agent";
    let was = site.node.must(invocation)?.stdout;
    site.node.may(UNCOUNTED)?;
    site.node.must("systemctl restart --no-block k3s-agent")?;
    wait_for("k3s-agent runs anew", Duration::from_secs(30), || {
        let is_active = site.node.may("systemctl is-active -q k3s-agent")?.ok();
        Ok(is_active && site.node.may(invocation)?.stdout != was)
    })
}

fn vpn(site: &Site) -> Result<()> {
    start_peer(site, "10.99.0.1", "10.99.0.2")?;
    site.node.must(&format!(
        "systemd-run -q --collect --unit=corp-vpn.service -- /usr/local/bin/lab standin tailnet-peer --listen 0.0.0.0:{TUNNEL_PORT} \
         --tun vpn0 --address 10.99.0.2 --routes 10.99.0.1 --to {}:{TUNNEL_PORT}",
        site.facts.api
    ))?;
    wait_for("the VPN works", Duration::from_secs(30), || {
        Ok(site.node.may("ping -c 1 -W 1 10.99.0.1")?.ok())
    })?;
    site.node.must("ip route add default dev vpn0 table 1234")?;
    // The tunnel's own packets carry this mark; what main knows better than by its default stays there.
    site.node.must("ip rule add pref 1001 not fwmark 0x80000/0xff0000 lookup 1234")?;
    site.node.must("ip rule add pref 1000 lookup main suppress_prefixlength 0").map(drop)
}

fn second_gateway(site: &Site) -> Result<()> {
    site.gateway
        .must(&format!("ip addr replace {}/24 dev {}", site.facts.second, site.facts.bridge))
        .map(drop)
}

fn no_second_gateway(site: &Site) -> Result<()> {
    site.gateway
        .may(&format!("ip addr del {}/24 dev {}", site.facts.second, site.facts.bridge))
        .map(drop)
}
