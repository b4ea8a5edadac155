//! A Tailscale exit node, or routes it accepted, take critical traffic.

use super::{
    Captor, Consent, Fault, Found, Want, tailscale, tailscale_remnant, taken_by, testimony,
};
use crate::diagnosis::{Culprit, Finding, Severity, Verdict};
use crate::evidence::Evidence;
use crate::observation::{Netns, Process, Sense};
use crate::op::NodeOp;
use crate::plan::{OnUnhealthy, Rung};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

pub(super) static FAULT: Fault = Fault {
    id: "tailscale-capture",
    rows: &["R1", "R2", "R4", "R6", "R23"],
    title: "Tailscale takes critical traffic",
    why: "A tailscaled in the node's own network uses an exit node, or accepts routes that overlap the cluster's: its rule at \
          5270 comes before main, so what its table 52 names leaves by its tunnel, whatever main says. It puts deleted rules \
          back within 250 ms, so it is made quiet first: one that a kubelet or systemd would start again is asked to let go \
          and may live on, any other is asked and stopped, and what it leaves is removed afterwards.",
    needs: &[Sense::Rules, Sense::Routes, Sense::Links, Sense::Processes],
    debounce_ms: 2_000,
    severity: Severity::Critical,
    detect,
    remedy,
    on_unhealthy: OnUnhealthy::Hold,
    consent: Consent::Automatic,
    becomes: &["tailscale-remnant", "sysctl-changed", "kubelet-stuck"],
};

fn detect(e: &Evidence<'_>) -> Vec<Found> {
    let strays = taken_by(e, Captor::Tailscale);
    let Some(first) = strays.first() else { return Vec::new() };
    let process = tailscale::culprit(e, first.dev());
    let mut evidence = testimony(e, &strays);
    match process {
        Some(p) => evidence.push(format!(
            "{} (pid {}) runs in the node's own network, in {}",
            p.exe, p.pid, p.cgroup
        )),
        None if tailscale::live(e).is_empty() => {
            evidence.push("no tailscaled runs here any more".to_string());
        }
        None => evidence.push("it cannot be told which of several processes does it".to_string()),
    }
    evidence.extend(process.and_then(super::kept));
    if process.is_some_and(|p| carries_the_cluster(e, p)) {
        evidence.push("the cluster itself runs over this tunnel: it is not stopped".to_string());
    }
    [Found {
        verdict: Verdict::Captured,
        severity: None,
        culprit: Some(Culprit {
            tool: "tailscale".to_string(),
            process: process.map(tailscale::id),
            dev: first.dev().map(ToString::to_string),
            table: first.table(),
        }),
        harm: e.harm(&strays),
        evidence,
    }]
    .into()
}

/// Does a critical destination's healthy path use a device of this process (R17)? Then stopping it would cut the node off.
fn carries_the_cluster(e: &Evidence<'_>, p: &Process) -> bool {
    e.expected.iter().filter_map(|x| x.path.as_ref()).any(|path| p.tuns.contains(&path.dev))
}

fn remedy(e: &Evidence<'_>, finding: &Finding, rung: Rung, attempt: u32) -> Vec<Want> {
    let dev = finding.culprit.as_ref().and_then(|c| c.dev.as_deref());
    if !finding.harm {
        return Vec::new();
    }
    match (rung, tailscale::culprit(e, dev)) {
        (Rung::Quiet, Some(p)) if p.netns == Netns::Host && !carries_the_cluster(e, p) => {
            // A signal would only have it started again, with the same arguments, for the same capture.
            match p.socket.clone().filter(|_| attempt == 0 && is_kept(p)) {
                Some(socket) => ask(e, p, socket, dev),
                None => quiet(e, p, dev),
            }
        }
        (Rung::Clean, None) => tailscale_remnant::remedy(e, finding, rung, attempt),
        _ => Vec::new(),
    }
}

/// Would somebody start it again if it were stopped?
pub(crate) fn is_kept(p: &Process) -> bool {
    p.keeper().is_some_and(|k| k.restarts())
}

/// Asks it to let go, and no more: whoever keeps it sees no reason to start it anew, and it remembers what it was asked.
fn ask(e: &Evidence<'_>, p: &Process, socket: String, dev: Option<&str>) -> Vec<Want> {
    let op = NodeOp::ExitNodeOff { process: tailscale::id(p), socket };
    let mut out =
        [Want::may(op, "stopped it would be started again; asked it lets go at once")].to_vec();
    // Its addresses stay, and what it carries for others too: only what went astray is closed.
    let own = |ip: IpAddr| e.seen.addrs.iter().any(|a| dev == Some(a.dev.as_str()) && a.addr == ip);
    let astray = |ip: IpAddr| e.seen.sockets.iter().any(|s| own(s.src.ip()) && s.dst.ip() == ip);
    let mut dead_to: Vec<IpAddr> =
        e.expected.iter().map(|x| x.ask).filter(|ip| astray(*ip)).collect();
    dead_to.sort_unstable();
    dead_to.dedup();
    if !dead_to.is_empty() {
        let op = NodeOp::FlowsGone { sources: Vec::new(), dead_to };
        out.push(Want::may(op, "connections that were dialled by the tunnel are dialled again"));
    }
    out
}

fn quiet(e: &Evidence<'_>, p: &Process, dev: Option<&str>) -> Vec<Want> {
    let process = tailscale::id(p);
    let mut out = Vec::new();
    if let Some(socket) = p.socket.clone() {
        let op = NodeOp::ExitNodeOff { process: process.clone(), socket };
        out.push(Want::may(op, "asked over its own socket it lets go at once, and remembers it"));
    }
    let op = NodeOp::Stopped { process, grace_ms: e.policy.term_grace_ms };
    let because = if is_kept(p) {
        "it was asked and did not stay quiet"
    } else {
        "as long as it lives it puts its rules back within 250 ms"
    };
    out.push(Want::must(op, because));
    // Only while the device is there are its addresses known: connections that use them can never work again.
    let sources: Vec<IpAddr> = e
        .seen
        .addrs
        .iter()
        .filter(|a| dev == Some(a.dev.as_str()) && !is_link_local(a.addr))
        .map(|a| a.addr)
        .collect();
    if !sources.is_empty() {
        let op = NodeOp::FlowsGone { sources, dead_to: Vec::new() };
        out.push(Want::may(op, "connections that use the tunnel's addresses died with it"));
    }
    if e.policy.quarantine {
        for path in e.seen.paths.iter().filter(|path| belongs(p, path)) {
            let op = NodeOp::Quarantined { path: path.clone() };
            out.push(Want::may(op, "its state, kept aside: an identity that may be wanted again"));
        }
    }
    out
}

/// Is this directory the culprit's?
///
/// Of a daemon on the node itself: what its arguments or its defaults name. A pod's has a root of its own, in which its state
/// lies at the usual place, and what the node sees of it are volumes with a name of their own (`/var/lib/tailscale-worker`).
/// The package's default directories are never taken for a pod's, and no directory is taken without a culprit.
fn belongs(p: &Process, path: &str) -> bool {
    if p.cgroup.contains("kubepods") {
        return path.rsplit('/').next().is_some_and(|name| name.starts_with("tailscale-"));
    }
    let run = |p: &str| {
        p.strip_prefix("/var/run/").map_or_else(|| p.to_string(), |r| format!("/run/{r}"))
    };
    let socket = p.socket.as_deref().and_then(|s| s.rsplit_once('/')).map(|(dir, _)| run(dir));
    p.statedir.as_deref() == Some(path) || socket.as_deref() == Some(path)
}

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local())
}
