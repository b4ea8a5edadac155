//! Faults of the packet filter.

use super::Fault;

/// The faults of this family.
pub const FAULTS: &[Fault] = &[Fault {
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
}];
