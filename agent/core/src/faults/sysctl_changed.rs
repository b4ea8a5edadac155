//! A kernel setting that tunnels change and never put back.

use super::{Consent, Fault, Found, Want, tailscale, wg_quick};
use crate::diagnosis::{Finding, Severity, Verdict};
use crate::evidence::Evidence;
use crate::observation::Sense;
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// `1` makes the reverse-path filter see marks. Tailscale sets it since 1.98 and wg-quick always; neither puts it back (A7).
const KEY: &str = "net.ipv4.conf.all.src_valid_mark";

pub(super) static FAULT: Fault = Fault {
    id: "sysctl-changed",
    rows: &["S2"],
    title: "a kernel setting is not as it was",
    why: "Tailscale and wg-quick set src_valid_mark and leave it so. With some pod networks it makes replies fail the \
          reverse-path filter. While either is in use it is left alone; afterwards it goes back to what it was.",
    needs: &[Sense::Sysctls, Sense::Processes, Sense::Links, Sense::Rules],
    debounce_ms: 60_000,
    severity: Severity::Notice,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Undo,
    consent: Consent::Operator,
    becomes: &[],
};

/// The healthy value, when it is another now and nobody is left who needs it.
fn wanted<'e>(e: &'e Evidence<'_>) -> Option<&'e String> {
    let wanted = e.base.sysctls.get(KEY)?;
    let now = e.seen.sysctls.get(KEY)?;
    let tunnel = e.seen.links.iter().any(|l| l.kind == "wireguard" || l.name == "wt0");
    let used = tunnel || wg_quick::is_up(e) || !tailscale::live(e).is_empty();
    (now != wanted && !used).then_some(wanted)
}

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let Some(value) = wanted(e) else { return Vec::new() };
    let evidence = [format!("{KEY} was {value}")].into();
    [Found { verdict: Verdict::Healthy, severity: None, culprit: None, harm: false, evidence }]
        .into()
}

fn remedy(e: &Evidence<'_>, _: &Finding, rung: Rung, _: u32) -> Vec<Want> {
    match (rung, wanted(e)) {
        (Rung::Clean, Some(value)) if e.policy.clean_remnants => {
            let op = NodeOp::Sysctl { key: KEY.to_string(), value: value.clone() };
            [Want::must(op, "who sets it never puts it back")].into()
        }
        _ => Vec::new(),
    }
}
