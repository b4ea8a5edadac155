//! The catalogue of faults: one `static` in one file each, listed once, in order of precedence.
//!
//! Everything else derives from this list: `ctl faults`, the README's table, metric labels, the headings of a report.

use crate::diagnosis::{Culprit, Finding, Severity, Verdict};
use crate::evidence::{Evidence, Stray};
use crate::observation::{Process, Sense};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use crate::supervisor::Supervisor;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub(crate) mod address_lost;
mod default_route;
mod forwarding_off;
mod host_ports_lost;
mod inbound_dnat;
mod kernel_rule;
mod kubelet_stuck;
mod link_lost;
pub(crate) mod local_filter;
mod moved;
mod native_nft;
mod orphan_tun;
pub(crate) mod policy_drop;
mod proxy_rules_lost;
mod refusing_route;
mod route_lost;
mod split_default;
mod sysctl_changed;
pub(crate) mod tailscale;
pub(crate) mod tailscale_capture;
mod tailscale_remnant;
mod unknown_capture;
mod wg_quick;
pub(crate) mod xfrm_policy;

/// Who may let its remedy happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// The agent alone, as far as its mode allows.
    Automatic,
    /// An operator, each time.
    Operator,
}

/// A fault that can be there.
#[derive(Debug)]
pub struct Fault {
    /// Stable name: in journals, metrics, reports.
    pub id: &'static str,
    /// Rows of the catalogue it covers.
    pub rows: &'static [&'static str],
    /// A few words.
    pub title: &'static str,
    /// One paragraph an operator can read at 3 a.m.
    pub why: &'static str,
    /// What must have been read to judge it.
    pub needs: &'static [Sense],
    /// How long it must have been there before the agent acts alone, milliseconds.
    pub debounce_ms: u64,
    /// How bad.
    pub severity: Severity,
    /// Is it there?
    pub detect: fn(&Evidence<'_>) -> Vec<Found>,
    /// What to do about it at a rung.
    pub remedy: fn(&Evidence<'_>, &Finding, Rung, u32) -> Vec<Want>,
    /// What happens to finished steps when the rung did not help.
    pub on_unhealthy: OnUnhealthy,
    /// Who may let it happen.
    pub consent: Consent,
    /// Faults it turns into while it is being mended: what a stopped culprit leaves behind. Consent to one is consent to these.
    pub becomes: &'static [&'static str],
}

/// A fault that is there, before its declaration is added to it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The verdict it speaks for.
    pub verdict: Verdict,
    /// Another severity than the fault's own.
    pub severity: Option<Severity>,
    /// Who.
    pub culprit: Option<Culprit>,
    /// Proof of harm.
    pub harm: bool,
    /// What was seen.
    pub evidence: Vec<String>,
}

impl Found {
    /// Makes it a finding.
    pub fn of(self, fault: &Fault) -> Finding {
        Finding {
            fault: fault.id.to_string(),
            verdict: self.verdict,
            severity: self.severity.unwrap_or(fault.severity),
            culprit: self.culprit,
            harm: self.harm,
            evidence: self.evidence,
        }
    }
}

/// A step a fault wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The wanted state.
    pub op: NodeOp,
    /// Why, for people.
    pub because: String,
    /// The rung goes on when it fails.
    pub optional: bool,
}

impl Want {
    /// A step the rung depends on.
    pub fn must(op: NodeOp, because: impl Into<String>) -> Self {
        Self { op, because: because.into(), optional: false }
    }

    /// A courtesy.
    pub fn may(op: NodeOp, because: impl Into<String>) -> Self {
        Self { op, because: because.into(), optional: true }
    }
}

/// Every fault, by precedence: of two that want the same object otherwise, the first has its way.
pub static ALL: &[&Fault] = &[
    &kernel_rule::FAULT,
    &default_route::FAULT,
    &address_lost::FAULT,
    &route_lost::FAULT,
    &link_lost::FAULT,
    &tailscale_capture::FAULT,
    &wg_quick::FAULT,
    &orphan_tun::FAULT,
    &split_default::FAULT,
    &refusing_route::FAULT,
    &unknown_capture::FAULT,
    &inbound_dnat::FAULT,
    &forwarding_off::FAULT,
    &policy_drop::FAULT,
    &local_filter::FAULT,
    &native_nft::FAULT,
    &xfrm_policy::FAULT,
    &kubelet_stuck::FAULT,
    &proxy_rules_lost::FAULT,
    &host_ports_lost::FAULT,
    &moved::FAULT,
    &tailscale_remnant::FAULT,
    &sysctl_changed::FAULT,
];

/// The fault of this id.
pub fn by_id(id: &str) -> Option<&'static Fault> {
    ALL.iter().copied().find(|f| f.id == id)
}

/// Who takes a destination, as far as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Captor {
    /// Nobody: something is missing.
    Nobody,
    /// Another default route in `main`, onto a wire.
    OtherDefault,
    /// Tailscale.
    Tailscale,
    /// wg-quick, or what does the same.
    WgQuick,
    /// A tun device without a process.
    OrphanTun,
    /// A tunnel's wide routes in `main`.
    SplitDefault,
    /// A route of `main` that refuses.
    Refuser,
    /// Somebody.
    Unknown,
}

pub(crate) fn captor(e: &Evidence<'_>, s: &Stray) -> Captor {
    if s.lost {
        Captor::Nobody
    } else if tailscale::takes(e, s) {
        Captor::Tailscale
    } else if wg_quick::takes(e, s) {
        Captor::WgQuick
    } else if orphan_tun::takes(e, s) {
        Captor::OrphanTun
    } else if split_default::takes(e, s) {
        Captor::SplitDefault
    } else if refusing_route::takes(e, s) {
        Captor::Refuser
    } else if default_route::takes(e, s) {
        Captor::OtherDefault
    } else {
        Captor::Unknown
    }
}

pub(crate) fn taken_by<'e>(e: &'e Evidence<'_>, who: Captor) -> Vec<&'e Stray> {
    e.strays.iter().filter(|s| captor(e, s) == who).collect()
}

/// One line for each stray, and what the probes said: the evidence every capture has.
pub(crate) fn testimony(e: &Evidence<'_>, strays: &[&Stray]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for s in strays {
        // An API server may be another node's address as well.
        let line = format!("{} {}", s.expected.prefix, s.answer);
        if !out.contains(&line) {
            out.push(line);
        }
    }
    let said = |ok| if ok { "answers" } else { "does not answer" };
    for (how, answer) in [
        ("without our guard", e.api.bare),
        ("through our guard", e.api.plain.filter(|_| e.guarded)),
        ("along our own path", e.api.lifeline),
    ] {
        if let Some(ok) = answer {
            out.push(format!("the API server {} {how}", said(ok)));
        }
    }
    out
}

/// Who would start a culprit again, and what ends it for good: whoever reads of a capture has to know whom to go to.
pub(crate) fn kept(process: &Process) -> Option<String> {
    let keeper = process.keeper().filter(Supervisor::restarts)?;
    let good = keeper.for_good();
    Some(format!("{keeper} keeps it, and would start it again; for good: {good}"))
}

/// The process that holds a tun device.
pub(crate) fn holder<'e>(e: &'e Evidence<'_>, dev: &str) -> Option<&'e Process> {
    e.seen.processes.iter().find(|p| p.tuns.iter().any(|t| t == dev))
}

/// Who holds a device, and who keeps that: a line each.
pub(crate) fn held(dev: &str, process: &Process) -> Vec<String> {
    let line = format!("{dev} is held by {} (pid {})", process.exe, process.pid);
    [line].into_iter().chain(kept(process)).collect()
}

pub(crate) fn nothing(_: &Evidence<'_>, _: &Finding, _: Rung, _: u32) -> Vec<Want> {
    Vec::new()
}
