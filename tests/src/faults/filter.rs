//! Faults of the packet filter, as tools and tunnels make them.

use super::{Fault, Site};
use crate::error::Result;

/// The faults of this family.
pub const FAULTS: &[Fault] = &[
    Fault {
        id: "N1",
        title: "Tailscale's chains in the legacy backend, the cluster's in the other",
        how: "iptables-legacy and ip6tables-legacy: chains, jumps and connection marks as tailscaled makes them",
        verdict: "Healthy",
        near_miss: false,
        ground: None,
        strike: |site| script(site, &remnants("legacy")),
        restore: |site| script(site, &emptied()),
    },
    Fault {
        id: "N2",
        title: "INPUT drops everything: a flush in front of which no policy was set",
        how: "iptables-nft -P INPUT DROP; -F INPUT",
        verdict: "Filtered",
        near_miss: false,
        ground: None,
        strike: |site| script(site, "iptables-nft -w -P INPUT DROP; iptables-nft -w -F INPUT"),
        restore: |site| {
            script(site, "iptables-nft -w -P INPUT ACCEPT; systemctl restart k3s-agent")
        },
    },
    Fault {
        id: "N3",
        title: "a reject for the API server in OUTPUT, owner unknown",
        how: "iptables-nft -I OUTPUT with a comment of no known tool",
        verdict: "Filtered",
        near_miss: false,
        ground: None,
        strike: |site| {
            let api = site.facts.api;
            site.node.must(&format!("iptables-nft -w -I OUTPUT -d {api} -p tcp --dport 6443 -m comment --comment audit -j REJECT --reject-with tcp-reset")).map(drop)
        },
        restore: |site| {
            let api = site.facts.api;
            site.node.may(&format!("iptables-nft -w -D OUTPUT -d {api} -p tcp --dport 6443 -m comment --comment audit -j REJECT --reject-with tcp-reset")).map(drop)
        },
    },
    Fault {
        id: "N3-inet",
        title: "a table of nftables' inet family rejects the API server, owner unknown",
        how: "nft add table inet corp, with a chain on hook output",
        verdict: "Filtered",
        near_miss: false,
        ground: None,
        strike: |site| {
            let api = site.facts.api;
            script(
                site,
                &format!(
                    "nft -f - <<'X'\ntable inet corp {{\n chain out {{\n  type filter hook output priority 0; policy accept;\n  ip daddr {api} tcp dport 6443 reject\n }}\n}}\nX"
                ),
            )
        },
        restore: |site| site.node.may("nft delete table inet corp").map(drop),
    },
    Fault {
        id: "N4",
        title: "rules of nftables' own that a Tailscale left, and that iptables cannot list",
        how: "nft: a chain ts-input with a ct expression in ip filter, and the jump to it",
        verdict: "KubeletStuck",
        near_miss: false,
        ground: None,
        strike: |site| script(site, &native("ts-input", "100.64.0.0/10")),
        restore: |site| script(site, &native_gone("ts-input")),
    },
    Fault {
        id: "N4-others",
        title: "the same of an owner that nobody knows",
        how: "nft: a chain corp with a ct expression in ip filter, and the jump to it",
        verdict: "KubeletStuck",
        near_miss: false,
        ground: None,
        strike: |site| script(site, &native("corp", "10.99.0.0/16")),
        restore: |site| script(site, &native_gone("corp")),
    },
    Fault {
        id: "N5",
        title: "all that comes from outside is sent to a peer of Tailscale's",
        how: "iptables-nft -t nat -I PREROUTING ! -i tailscale0 -j DNAT, as its container does",
        verdict: "Captured",
        near_miss: false,
        ground: None,
        strike: |site| {
            site.node.must(&format!("iptables-nft -w -t nat -I PREROUTING {DIVERT}")).map(drop)
        },
        restore: |site| {
            site.node.may(&format!("iptables-nft -w -t nat -D PREROUTING {DIVERT}")).map(drop)
        },
    },
    Fault {
        id: "N8",
        title: "every rule of every table flushed",
        how: "iptables-nft -F in filter, nat and mangle",
        verdict: "Lost",
        near_miss: false,
        ground: None,
        strike: |site| {
            let keep = "iptables-nft-save > /run/lab-n8; ";
            script(
                site,
                &format!("{keep}for t in filter nat mangle; do iptables-nft -w -t $t -F; done"),
            )
        },
        restore: |site| {
            script(
                site,
                "test -e /run/lab-n8 && iptables-nft-restore < /run/lab-n8; rm -f /run/lab-n8",
            )
        },
    },
    Fault {
        id: "N9",
        title: "Docker, ufw, Calico, Cilium and firewalld as the legitimate owners of chains",
        how: "iptables-nft chains by their names; nft table inet firewalld",
        verdict: "Healthy",
        near_miss: true,
        ground: None,
        strike: |site| script(site, OWNERS),
        restore: |site| script(site, OWNERS_GONE),
    },
    Fault {
        id: "S2",
        title: "src_valid_mark left behind by a tunnel",
        how: "sysctl net.ipv4.conf.all.src_valid_mark=1",
        verdict: "Healthy",
        near_miss: false,
        ground: None,
        strike: |site| script(site, "echo 1 > /proc/sys/net/ipv4/conf/all/src_valid_mark"),
        restore: |site| script(site, "echo 0 > /proc/sys/net/ipv4/conf/all/src_valid_mark"),
    },
    Fault {
        id: "S2-forward",
        title: "forwarding switched off",
        how: "sysctl net.ipv4.ip_forward=0",
        verdict: "Lost",
        near_miss: false,
        ground: None,
        strike: |site| script(site, "echo 0 > /proc/sys/net/ipv4/ip_forward"),
        restore: |site| script(site, "echo 1 > /proc/sys/net/ipv4/ip_forward"),
    },
    Fault {
        id: "D1",
        title: "resolv.conf written by a Tailscale that is gone, its backup left",
        how: "resolv.conf renamed to tailscaled's backup, its own text written",
        verdict: "Healthy",
        near_miss: false,
        ground: None,
        strike: |site| script(site, &format!("mv /etc/resolv.conf {BACKUP}; {TAKEN}")),
        restore: |site| {
            script(site, &format!("test ! -e {BACKUP} || mv -f {BACKUP} /etc/resolv.conf"))
        },
    },
    Fault {
        id: "D2",
        title: "resolv.conf written by a Tailscale that is gone, no backup",
        how: "tailscaled's text written over resolv.conf",
        verdict: "Healthy",
        near_miss: false,
        ground: None,
        strike: |site| {
            script(
                site,
                &format!("cp -a /etc/resolv.conf /run/lab-resolv; rm /etc/resolv.conf; {TAKEN}"),
            )
        },
        restore: |site| {
            script(
                site,
                "test ! -e /run/lab-resolv || { rm -f /etc/resolv.conf; cp -a /run/lab-resolv /etc/resolv.conf; rm -f /run/lab-resolv; }",
            )
        },
    },
];

const DIVERT: &str = "! -i tailscale0 -j DNAT --to-destination 100.64.0.9";
const BACKUP: &str = "/etc/resolv.pre-tailscale-backup.conf";
const TAKEN: &str = "printf '# resolv.conf(5) file generated by tailscale\\n# DO NOT EDIT THIS FILE BY HAND -- CHANGES WILL BE OVERWRITTEN\\n\\nnameserver 100.100.100.100\\n' > /etc/resolv.conf";

/// What the packet filter's other users make, with Docker's and ufw's policies.
const OWNERS: &str = "set -e; T='iptables-nft -w'; \
    for c in DOCKER DOCKER-USER DOCKER-ISOLATION-STAGE-1 ufw-before-input ufw-user-input cali-INPUT cali-pri-x CILIUM_INPUT; do $T -N $c; done; \
    $T -A FORWARD -j DOCKER-USER; $T -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; $T -P FORWARD DROP; \
    $T -A FORWARD -j ACCEPT; $T -A ufw-before-input -i lo -j ACCEPT; $T -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; \
    $T -A ufw-user-input -j ACCEPT; $T -A INPUT -j ufw-before-input; $T -A INPUT -j ufw-user-input; $T -P INPUT DROP; \
    $T -A cali-pri-x -d 203.0.113.10 -p tcp --dport 6443 -j DROP; $T -A cali-INPUT -m comment --comment cali:x -j RETURN; $T -I INPUT -j cali-INPUT; \
    $T -A CILIUM_INPUT -m mark --mark 0x200/0xf00 -j ACCEPT; $T -I INPUT -j CILIUM_INPUT; \
    nft -f - <<'X'\ntable inet firewalld {\n chain filter_INPUT {\n  type filter hook input priority 10; policy accept;\n  ct state { established, related } accept\n  iifname \"lo\" accept\n }\n}\nX";

const OWNERS_GONE: &str = "T='iptables-nft -w'; $T -P INPUT ACCEPT; $T -P FORWARD ACCEPT; \
    $T -D FORWARD -j DOCKER-USER; $T -D FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; $T -D FORWARD -j ACCEPT; \
    $T -D INPUT -j ufw-before-input; $T -D INPUT -j ufw-user-input; $T -D INPUT -j cali-INPUT; $T -D INPUT -j CILIUM_INPUT; \
    for c in DOCKER DOCKER-USER DOCKER-ISOLATION-STAGE-1 ufw-before-input ufw-user-input cali-INPUT cali-pri-x CILIUM_INPUT; do $T -F $c; $T -X $c; done; \
    nft delete table inet firewalld; true";

/// A chain that iptables has no words for, in a table that it keeps.
fn native(chain: &str, net: &str) -> String {
    format!(
        "nft -f - <<'X'\ntable ip filter {{\n chain {chain} {{\n  ct state established ip saddr {net} counter accept\n  \
         ip saddr {net} iifname != \"tailscale0\" counter drop\n }}\n}}\ninsert rule ip filter INPUT counter jump {chain}\nX"
    )
}

fn native_gone(chain: &str) -> String {
    format!(
        "nft -a list chain ip filter INPUT | sed -n 's/.*jump {chain} # handle //p' | \
         while read h; do nft delete rule ip filter INPUT handle $h; done; \
         nft flush chain ip filter {chain}; nft delete chain ip filter {chain}; true"
    )
}

/// What a tailscaled that was killed leaves in a backend, in both families.
pub fn remnants(backend: &str) -> String {
    let one = |tool: &str| {
        format!(
            "T='{tool}-{backend} -w'; $T -N ts-input; $T -N ts-forward; $T -I INPUT 1 -j ts-input; $T -I FORWARD 1 -j ts-forward; \
             $T -A ts-input -i tailscale0 -j ACCEPT; $T -A ts-input -p udp --dport 41641 -j ACCEPT; \
             $T -A ts-forward -i tailscale0 -j MARK --set-xmark 0x40000/0xff0000; $T -A ts-forward -o tailscale0 -j ACCEPT; \
             $T -t nat -N ts-postrouting; $T -t nat -I POSTROUTING 1 -j ts-postrouting; \
             $T -t nat -A ts-postrouting -m mark --mark 0x40000/0xff0000 -j MASQUERADE; \
             $T -t mangle -I PREROUTING 1 -m conntrack --ctstate RELATED,ESTABLISHED -m connmark ! --mark 0x0/0xff0000 -j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff0000; \
             $T -t mangle -I OUTPUT 1 -m conntrack --ctstate NEW -m mark ! --mark 0x0/0xff0000 -j CONNMARK --save-mark --nfmask 0xff0000 --ctmask 0xff0000; "
        )
    };
    format!("set -e; {}{}", one("iptables"), one("ip6tables"))
}

/// The legacy backend as the lab's nodes have it: with nothing in it.
fn emptied() -> String {
    let one = |tool: &str| {
        format!(
            "for t in filter nat mangle; do {tool}-legacy -w -t $t -F; {tool}-legacy -w -t $t -X; done; "
        )
    };
    format!("{}{}true", one("iptables"), one("ip6tables"))
}

fn script(site: &Site, text: &str) -> Result<()> {
    site.node.run(&["sh", "-c", text])?.success().map(drop)
}
