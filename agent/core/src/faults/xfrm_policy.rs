//! An IPsec policy drops what goes to the API server, or comes from there.

use super::{Consent, Fault, Found, nothing, testimony};
use crate::diagnosis::{Severity, Verdict};
use crate::evidence::Evidence;
use crate::net::Family;
use crate::observation::{Direction, Sense, XfrmPolicy, decides};
use crate::plan::OnUnhealthy;
use crate::text::xfrm_line;
use alloc::format;
use alloc::vec::Vec;
use core::net::SocketAddr;

pub(super) static FAULT: Fault = Fault {
    id: "xfrm-policy",
    rows: &["R24"],
    title: "an IPsec policy drops what goes to the API server",
    why: "Every route and rule is right, and the kernel refuses to send all the same: an IPsec policy (`ip xfrm policy`) says \
          block, for what goes to the API server or comes back from it. No rule leads around a policy, so no guard helps. The \
          policy is named; a VPN daemon owns it as a rule, so it is for a person to take away.",
    needs: &[Sense::Xfrm, Sense::Rules, Sense::Routes, Sense::Links, Sense::Probes],
    debounce_ms: 10_000,
    severity: Severity::Critical,
    detect,
    remedy: nothing,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Operator,
    becomes: &[],
};

/// Forwarding is right, the API server is silent, and a policy accounts for it.
pub(crate) fn is_there(e: &Evidence<'_>) -> bool {
    let right = e.strays.is_empty() && e.missing_kernel_rules().is_empty();
    right && e.api_works() == Some(false) && !blocking(e).is_empty()
}

/// The blocking policies that decide about the way to an API server, or back.
fn blocking<'e>(e: &'e Evidence<'_>) -> Vec<&'e XfrmPolicy> {
    let mut out: Vec<&XfrmPolicy> = Vec::new();
    for api in &e.cluster.api {
        let own = |a: &&crate::observation::Addr| Family::of(a.addr) == Family::of(api.ip());
        let own = e
            .cluster
            .node_ip
            .filter(|ip| Family::of(*ip) == Family::of(api.ip()))
            .or_else(|| e.base.addrs.iter().find(own).map(|a| a.addr));
        let Some(own) = own.map(|ip| SocketAddr::new(ip, 0)) else { continue };
        for p in [
            decides(&e.seen.xfrm, Direction::Out, own, *api),
            decides(&e.seen.xfrm, Direction::In, *api, own),
        ]
        .into_iter()
        .flatten()
        {
            if p.block && !out.contains(&p) {
                out.push(p);
            }
        }
    }
    out
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    if !is_there(e) {
        return Vec::new();
    }
    let mut evidence = testimony(e, &[]);
    evidence.extend(blocking(e).into_iter().map(|p| format!("there is: {}", xfrm_line(p))));
    [Found { verdict: Verdict::Filtered, severity: None, culprit: None, harm: true, evidence }]
        .into()
}
