//! A node's pod bridge comes with its first pod: neither a first boot nor a reboot may teach that own pods leave by the default route.
#![allow(clippy::unwrap_used, reason = "a test that cannot read its own case must fail")]

use lifeline_core::baseline::{self, Baseline, Role};
use lifeline_core::diagnosis::Verdict;
use lifeline_core::judge::judge;
use lifeline_core::observation::Observation;
use lifeline_core::policy::Policy;
use lifeline_core::text;

const HEALTHY: &str = include_str!("golden/healthy/observation.txt");

fn with_pods() -> Observation {
    text::read(HEALTHY).unwrap()
}

/// The same node before its first pod: no bridge, and the kernel sends own pods' packets to the gateway.
fn before_pods() -> Observation {
    let mut seen = with_pods();
    let out = seen.lookups.iter().find(|l| l.dst.to_string() == "10.43.0.1").unwrap().clone();
    let of_bridge = seen.links.iter().find(|l| l.name == "cni0").unwrap().clone();
    seen.links.retain(|l| l.name != of_bridge.name);
    seen.addrs.retain(|a| a.dev != of_bridge.name);
    seen.routes.retain(|r| r.dev() != Some("cni0"));
    for lookup in seen.lookups.iter_mut().filter(|l| l.dst.to_string().starts_with("10.42.1.")) {
        lookup.fate = out.fate.clone();
    }
    seen
}

fn own_pods(base: &Baseline) -> Option<String> {
    let own = base.expected.iter().find(|e| e.role == Role::OwnPods)?;
    own.path.as_ref().map(|p| p.dev.clone())
}

#[test]
fn a_first_boot_teaches_nothing_of_own_pods_and_the_first_pod_does() {
    let policy = Policy::default();
    let seen = before_pods();
    let derived = baseline::derive(&seen);
    assert_eq!(own_pods(&derived), None);
    let well = judge(&seen, &derived, &policy);
    assert_eq!(well.verdict, Verdict::Healthy, "{}", well.summary);
    let first = baseline::learn(&seen, &well, Some(&derived)).unwrap();
    assert_eq!(own_pods(&first), None);
    let seen = with_pods();
    let well = judge(&seen, &first, &policy);
    assert_eq!(well.verdict, Verdict::Healthy, "{}", well.summary);
    let second = baseline::learn(&seen, &well, Some(&first)).unwrap();
    assert_eq!(own_pods(&second).as_deref(), Some("cni0"));
}

#[test]
fn a_reboot_does_not_make_it_forget_the_bridge() {
    let policy = Policy::default();
    let seen = with_pods();
    let derived = baseline::derive(&seen);
    let learned = baseline::learn(&seen, &judge(&seen, &derived, &policy), None).unwrap();
    let seen = before_pods();
    let well = judge(&seen, &learned, &policy);
    assert_eq!(well.verdict, Verdict::Healthy, "{}", well.summary);
    assert_eq!(baseline::learn(&seen, &well, Some(&learned)).unwrap_err(), "no pod runs here yet");
}
