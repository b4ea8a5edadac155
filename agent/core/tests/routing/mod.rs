//! A healthy node's routing as text, Tailscale's beside it, and what a packet does there.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use lifeline_core::baseline::{Baseline, Expected, Path, Role};
use lifeline_core::fib::{self, Answer, Flow};
use lifeline_core::guard::{self, Tables, Wanted};
use lifeline_core::observation::{Observation, Rule, TABLE_MAIN};
use lifeline_core::text;
use std::net::IpAddr;

pub const HEALTHY: &str = "\
link lo index 1 up carrier
link eth0 index 2 kind veth up carrier
link cni0 index 3 kind bridge up carrier
link flannel.1 index 4 kind vxlan up carrier
rule 0 lookup local proto kernel
rule 32766 lookup main proto kernel
rule 32767 lookup default proto kernel
route main default via 192.168.2.1 dev eth0 proto boot
route main 192.168.2.0/24 dev eth0 proto kernel scope link src 192.168.2.80
route main 10.42.1.0/24 dev cni0 proto kernel scope link src 10.42.1.1
route main 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink proto boot
";

pub const TAILSCALE: &str = "\
rule 5210 fwmark 0x80000/0xff0000 lookup main
rule 5230 fwmark 0x80000/0xff0000 lookup default
rule 5250 fwmark 0x80000/0xff0000 unreachable
rule 5270 lookup 52
route 52 default dev tailscale0 proto boot
route 52 192.168.2.0/24 dev tailscale0 proto boot
route 52 10.42.1.0/24 dev tailscale0 proto boot
";

pub fn look(texts: &[&str]) -> Observation {
    let mut seen = text::read(&texts.concat()).unwrap();
    seen.rules.sort_by_key(|r| r.pref);
    seen
}

pub fn expected(role: Role, prefix: &str, ask: &str, dev: &str, via: Option<&str>) -> Expected {
    let path = Path { dev: dev.into(), via: via.map(|v| v.parse().unwrap()), table: TABLE_MAIN };
    Expected { role, prefix: prefix.parse().unwrap(), ask: ask.parse().unwrap(), path: Some(path) }
}

pub fn baseline() -> Baseline {
    let seen = look(&[HEALTHY]);
    Baseline {
        rules: seen.rules.clone(),
        routes: seen.routes.to_vec(),
        expected: vec![
            expected(Role::Api, "203.0.113.10", "203.0.113.10", "eth0", Some("192.168.2.1")),
            expected(Role::Gateway, "192.168.2.1", "192.168.2.1", "eth0", None),
            expected(Role::Lan, "192.168.2.0/24", "192.168.2.2", "eth0", None),
            expected(Role::OwnPods, "10.42.1.0/24", "10.42.1.2", "cni0", None),
            expected(Role::RemotePods, "10.42.2.0/24", "10.42.2.2", "flannel.1", Some("10.42.2.0")),
            expected(Role::Services, "10.43.0.0/16", "10.43.0.1", "eth0", Some("192.168.2.1")),
        ],
        ..Baseline::default()
    }
}

pub fn tables<'a>(seen: &'a Observation, threats: &'a [Rule]) -> Tables<'a> {
    Tables { rules: &seen.rules, routes: &seen.routes, links: &seen.links, threats, marks: &[] }
}

/// tailscaled's rules, and no route in its table yet.
pub const RULES_ONLY: &str = "\
rule 5210 fwmark 0x80000/0xff0000 lookup main
rule 5230 fwmark 0x80000/0xff0000 lookup default
rule 5250 fwmark 0x80000/0xff0000 unreachable
rule 5270 lookup 52
";

/// The node after the hands have done what is wanted.
pub fn apply(seen: &mut Observation, wanted: &Wanted) {
    let changes = guard::changes(&seen.rules, &seen.routes, wanted);
    seen.routes.extend(changes.add_routes);
    seen.rules.extend(changes.add_rules);
    seen.rules.retain(|r| !changes.delete_rules.contains(r));
    seen.routes.retain(|r| !changes.delete_routes.contains(r));
    // The kernel keeps the order of insertion among equal preferences.
    seen.rules.sort_by_key(|r| r.pref);
}

pub fn leaves(seen: &Observation, dst: &str, mark: u32) -> String {
    let dst: IpAddr = dst.parse().unwrap();
    match fib::lookup(&seen.rules, &seen.routes, &Flow::tcp(dst, 6443).marked(mark)) {
        Answer::Leaves { dev, .. } => dev,
        other => format!("{other:?}"),
    }
}
