//! The text form of an observation: one line an object, so that a case is reviewed as a diff.
//!
//! ```text
//! node calypso ip 192.168.2.80 api 203.0.113.10:6443 pods 10.42.1.0/24 cluster 10.42.0.0/16 services 10.43.0.0/16
//! link eth0 index 2 kind veth up carrier mac 9e:15:93:3e:96:a3
//! addr eth0 192.168.2.80/24
//! rule 5270 lookup 52
//! rule6 5210 fwmark 0x80000/0xff0000 lookup main
//! route 52 default dev tailscale0
//! nft filter
//! nft filter :ts-input
//! nft filter -A INPUT -j ts-input
//! xfrm out src 0.0.0.0/0 dst 203.0.113.10 block
//! lookup 203.0.113.10 plain dev tailscale0 table 52
//! gap nft6 iptables-nft-save stopped in table filter
//! ```
//!
//! What is left out has its usual value: a rule's protocol 0, a route's protocol `boot`, scope global, metric 0. The order of
//! lines within a kind is the order of the list. A word that holds white space is written as a JSON string. In nft's own
//! dialect (`nft mangle native`) a rule is what `nft -n` prints, counters reduced to `counter`, white space to one space.
//! `#` starts a comment line. Nothing is guessed: an unknown word is an error with its line.

mod line;
mod read;
mod words;
mod write;

pub use read::{BadLine, read};
pub use write::{route_line, rule_line, sense as word, write, xfrm_line};

/// Names of routing protocols (`rt_protos`) as they are written; others are numbers.
const PROTOCOLS: [(u8, &str); 7] = [
    (0, "unspec"),
    (1, "redirect"),
    (2, "kernel"),
    (3, "boot"),
    (4, "static"),
    (9, "ra"),
    (16, "dhcp"),
];

/// Names of scopes.
const SCOPES: [(u8, &str); 5] =
    [(0, "global"), (200, "site"), (253, "link"), (254, "host"), (255, "nowhere")];

/// Names of tables.
const TABLES: [(u32, &str); 3] = [
    (crate::observation::TABLE_DEFAULT, "default"),
    (crate::observation::TABLE_MAIN, "main"),
    (crate::observation::TABLE_LOCAL, "local"),
];

/// What a route without a `proto` word has: `RTPROT_BOOT`, as everything `ip route add` makes.
const ROUTE_PROTOCOL: u8 = 3;
