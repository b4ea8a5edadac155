//! A device of the pod network has lost its address.

use super::{Consent, Fault, Found, Want, link_lost};
use crate::diagnosis::{Finding, Severity, Verdict};
use crate::evidence::Evidence;
use crate::net::Family;
use crate::observation::{Addr, Sense};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

pub(super) static FAULT: Fault = Fault {
    id: "address-lost",
    rows: &["R15"],
    title: "a device of the pod network has lost its address",
    why: "The bridge of this node's pods, or the overlay to the other nodes, is there and has no address any more. With its last \
          address the kernel forgets a device's routes and neighbours too. The bridge's address is the pods' gateway; its plugin \
          sets it again only with the next pod, so it is put back, and the kernel makes its route. The overlay's neighbours are \
          flannel's alone, which writes them when it starts and on events: k3s-agent is restarted.",
    needs: &[Sense::Links, Sense::Cluster],
    debounce_ms: 10_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Automatic,
    becomes: &["kubelet-stuck"],
};

/// The healthy node's addresses in its own pod range whose device is up and has none of their family any more. A device that has
/// another one was given it, and a node whose range has changed needs its old one no longer.
fn lost<'e>(e: &'e Evidence<'_>) -> impl Iterator<Item = &'e Addr> {
    let global = |a: &Addr| match a.addr {
        core::net::IpAddr::V4(_) => true,
        core::net::IpAddr::V6(a) => !a.is_unicast_link_local(),
    };
    let same = |a: &Addr, b: &Addr| Family::of(a.addr) == Family::of(b.addr);
    e.base.addrs.iter().filter(move |a| {
        e.policy.cni_links.contains(&a.dev)
            && e.seen.link(&a.dev).is_some_and(|l| l.up)
            && e.cluster.pod_cidr.is_some_and(|own| own.contains(a.addr))
            && !e
                .seen
                .addrs
                .iter()
                .any(|s| s.addr == a.addr || (s.dev == a.dev && global(s) && same(s, a)))
    })
}

/// Has this device lost its address?
pub(crate) fn has_lost(e: &Evidence<'_>, dev: Option<&str>) -> bool {
    lost(e).any(|a| Some(a.dev.as_str()) == dev)
}

/// Is it the pods' own bridge, of which everything but its address is still there?
fn is_bridge(e: &Evidence<'_>, a: &Addr) -> bool {
    e.seen.link(&a.dev).is_some_and(|l| l.kind == "bridge")
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let mut evidence: Vec<String> =
        lost(e).map(|a| format!("missing: addr {} {}/{}", a.dev, a.addr, a.len)).collect();
    if evidence.is_empty() {
        return Vec::new();
    }
    for s in e.strays.iter().filter(|s| s.lost) {
        if let Some(path) = s.expected.path.as_ref().filter(|p| has_lost(e, Some(&p.dev))) {
            let (prefix, answer) = (s.expected.prefix, &s.answer);
            evidence.push(format!("{prefix} {answer}, should leave by {}", path.dev));
        }
    }
    [Found { verdict: Verdict::Lost, severity: None, culprit: None, harm: true, evidence }].into()
}

fn remedy(e: &Evidence<'_>, _: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    let of = |dev: &str| -> Vec<Addr> { lost(e).filter(|a| a.dev == dev).cloned().collect() };
    let mut out: Vec<Want> = Vec::new();
    match rung {
        Rung::Clean => {
            for a in lost(e).filter(|a| is_bridge(e, a)) {
                let (dev, absent, present) = (a.dev.clone(), Vec::new(), of(&a.dev));
                let want = Want::must(
                    NodeOp::Addrs { dev, absent, present },
                    "it is this node's pods' gateway, and its plugin sets it with the next pod only",
                );
                if !out.contains(&want) {
                    out.push(want);
                }
            }
        }
        Rung::Reconnect => {
            if let Some(a) = lost(e).find(|a| !is_bridge(e, a)) {
                let because = format!(
                    "flannel gives {} its address and its neighbours when it starts",
                    a.dev
                );
                out.extend(link_lost::restart(e, because));
            }
        }
        Rung::Guard | Rung::Quiet | Rung::Reset | Rung::Reboot | Rung::Controller => {}
    }
    out
}
