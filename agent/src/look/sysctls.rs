//! The few kernel settings that decide whether packets pass.

use super::Seen;
use lifeline_core::observation::{Gap, Sense};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

const KEYS: [&str; 11] = [
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.forwarding",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.all.src_valid_mark",
    "net.ipv4.conf.default.rp_filter",
    "net.ipv4.conf.default.src_valid_mark",
    "net.ipv4.tcp_fwmark_accept",
    "net.ipv6.conf.all.disable_ipv6",
    "net.ipv6.conf.all.forwarding",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
];

/// Reads those that exist: without br_netfilter there are no `net.bridge` ones, without IPv6 none of its.
pub(super) fn read(proc: &Path) -> Seen<BTreeMap<String, String>> {
    let mut seen: Seen<BTreeMap<String, String>> = Seen::default();
    for key in KEYS {
        let path = proc.join("sys").join(key.replace('.', "/"));
        match std::fs::read_to_string(&path) {
            Ok(value) => {
                seen.found.insert(key.to_owned(), value.trim().to_owned());
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => {
                let why = format!("read {}: {e}", path.display());
                seen.gaps.push(Gap { what: Sense::Sysctls, why });
            }
        }
    }
    seen
}
