//! From a diagnosis to a plan: one rung, all findings, at most one step for each object.

mod last;

pub use last::{ASKED, FLUSHED, MARGIN_MS, last_resort, reboot};

use crate::baseline::Baseline;
use crate::diagnosis::{Diagnosis, Verdict};
use crate::evidence::Evidence;
use crate::faults::{self, Fault, Want};
use crate::judge::judge;
use crate::observation::{Lease, NfTable, Observation, Through};
use crate::op::{NodeOp, Op};
use crate::plan::{FORMAT, NodePlan, Rung, Step, digest};
use crate::policy::Policy;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Plans one rung; `None` when there is nothing to do at it.
///
/// A derived baseline is planned with like any other: whether it may be acted upon without being asked is the caller's
/// question ([`Baseline::is_trusted`]).
///
/// `attempt` counts how often this rung has been tried in this incident: a remedy may begin gently.
pub fn plan(
    seen: &Observation,
    base: &Baseline,
    policy: &Policy,
    diag: &Diagnosis,
    rung: Rung,
    incident: &str,
    attempt: u32,
) -> Option<NodePlan> {
    match diag.verdict {
        // Waiting is the remedy; a change somebody made is theirs.
        Verdict::Upstream | Verdict::Unknown | Verdict::Moved => return None,
        Verdict::Healthy
        | Verdict::Captured
        | Verdict::Lost
        | Verdict::Filtered
        | Verdict::KubeletStuck => {}
    }
    let evidence = Evidence::of(seen, base, policy);
    let mut steps: Vec<Step<NodeOp>> = Vec::new();
    let mut findings: Vec<String> = Vec::new();
    for finding in &diag.findings {
        let Some(fault) = faults::by_id(&finding.fault) else { continue };
        let mut any = false;
        for want in (fault.remedy)(&evidence, finding, rung, attempt) {
            any |= add(&mut steps, want, fault, &finding.key());
        }
        if any && !findings.contains(&finding.key()) {
            findings.push(finding.key());
        }
    }
    if steps.is_empty() {
        return None;
    }
    for (id, step) in (0..).zip(&mut steps) {
        step.id = id;
    }
    Some(of_one_rung(rung, policy, incident, findings, steps))
}

fn of_one_rung(
    rung: Rung,
    policy: &Policy,
    incident: &str,
    findings: Vec<String>,
    steps: Vec<Step<NodeOp>>,
) -> NodePlan {
    NodePlan {
        format: FORMAT,
        incident: incident.to_string(),
        rung,
        findings,
        policy: digest(policy),
        steps,
        deadline_ms: deadline(rung, policy),
    }
}

/// Plans every rung as it would come if each did what it says and the trouble went on: what an operator is shown and
/// agrees to. Only the first is what would be done now; the later ones are planned afresh from what is then seen.
pub fn forecast(
    seen: &Observation,
    base: &Baseline,
    policy: &Policy,
    diag: &Diagnosis,
) -> Vec<NodePlan> {
    let mut plans = Vec::new();
    let (mut seen, mut diag) = (seen.clone(), diag.clone());
    let sick = matches!(
        diag.verdict,
        Verdict::Captured | Verdict::Lost | Verdict::Filtered | Verdict::KubeletStuck
    );
    for rung in Rung::ENGINE {
        let Some(first) = plan(&seen, base, policy, &diag, rung, "", 0) else { continue };
        // A culprit that is asked first, because somebody keeps it, may not obey; a kubelet whose connections are closed may
        // not dial again.
        let gentle = matches!(rung, Rung::Quiet | Rung::Reconnect);
        let more =
            |p: &NodePlan| p.steps.iter().any(|s| first.steps.iter().all(|known| known.op != s.op));
        let firm = plan(&seen, base, policy, &diag, rung, "", 1).filter(|p| gentle && more(p));
        for plan in [Some(first), firm].into_iter().flatten() {
            imagine(&mut seen, &plan);
            plans.push(plan);
        }
        diag = judge(&seen, base, policy);
    }
    // A kubelet that was cut off may not come back by itself, which shows only then.
    let cut_off = sick && diag.findings.iter().all(|f| f.harm) && !plans.is_empty();
    if cut_off && plans.iter().all(|p| p.rung != Rung::Reconnect) {
        plans.extend(stuck(seen, base, policy));
    }
    plans
}

/// The last rung, for a node that is well but for a kubelet that does not renew its lease.
fn stuck(mut seen: Observation, base: &Baseline, policy: &Policy) -> Option<NodePlan> {
    let age_ms = policy.lease_stale_ms.saturating_mul(2);
    seen.lease = Some(Lease { age_ms, ..seen.lease.unwrap_or_default() });
    let diag = judge(&seen, base, policy);
    // The second attempt restarts, where the first one only closes dead connections.
    plan(&seen, base, policy, &diag, Rung::Reconnect, "", 1)
}

/// The node after a plan has done all it says, as far as it matters for planning on.
fn imagine(seen: &mut Observation, plan: &NodePlan) {
    for step in &plan.steps {
        match &step.op {
            NodeOp::Stopped { process, .. } => {
                let gone: Vec<String> = seen
                    .processes
                    .iter()
                    .filter(|p| p.pid == process.pid)
                    .flat_map(|p| p.tuns.clone())
                    .collect();
                seen.processes.retain(|p| p.pid != process.pid);
                // A tun that does not persist goes with the process that holds it, and so do the routes by it.
                let dies = |dev: &str| gone.iter().any(|g| g == dev);
                seen.links.retain(|l| !dies(&l.name) || l.persist);
                seen.addrs.retain(|a| !dies(&a.dev));
                seen.routes.retain(|r| !r.dev().is_some_and(dies));
            }
            NodeOp::Rules { absent, present, .. } => {
                seen.rules.retain(|r| !absent.contains(r));
                seen.rules.extend(present.iter().cloned());
                seen.rules.sort_by_key(|r| (r.family, r.pref));
            }
            NodeOp::Routes { absent, present, .. } => {
                seen.routes.retain(|r| !absent.contains(r));
                seen.routes.extend(present.iter().cloned());
            }
            NodeOp::Addrs { absent, present, .. } => {
                seen.addrs.retain(|a| !absent.contains(a));
                seen.addrs.extend(present.iter().cloned());
            }
            NodeOp::LinkGone { name, .. } => {
                seen.links.retain(|l| l.name != *name);
                seen.addrs.retain(|a| a.dev != *name);
                seen.routes.retain(|r| r.dev() != Some(name));
            }
            NodeOp::Netfilter { backend, family, table, absent, absent_chains, .. } => {
                let mine = |t: &&mut NfTable| {
                    t.backend == *backend && t.family == *family && t.name == *table
                };
                for t in seen.netfilter.iter_mut().filter(mine) {
                    t.rules.retain(|r| !absent.contains(r) && !absent_chains.contains(&r.chain));
                    t.chains.retain(|c| !absent_chains.contains(&c.name));
                }
            }
            NodeOp::Policies { backend, family, table, wanted, .. } => {
                let mine = |t: &&mut NfTable| {
                    t.backend == *backend && t.family == *family && t.name == *table
                };
                let chains = seen.netfilter.iter_mut().filter(mine).flat_map(|t| &mut t.chains);
                for c in chains {
                    if let Some(w) = wanted.iter().find(|w| w.chain == c.name) {
                        c.policy = Some(w.policy.clone());
                    }
                }
            }
            NodeOp::ResolvConf { wanted } => seen.resolv = Some(wanted.clone()),
            NodeOp::Sysctl { key, value } => {
                seen.sysctls.insert(key.clone(), value.clone());
            }
            NodeOp::Quarantined { path } => seen.paths.retain(|p| p != path),
            NodeOp::ExitNodeOff { .. }
            | NodeOp::ExitNodeOn { .. }
            | NodeOp::Released { .. }
            | NodeOp::FlowsGone { .. }
            | NodeOp::Restarted { .. }
            | NodeOp::SandboxStopped { .. }
            | NodeOp::Armed { .. }
            | NodeOp::Disarmed
            | NodeOp::Flushed { .. }
            | NodeOp::Refilled { .. }
            | NodeOp::CacheFlushed
            | NodeOp::Rebooted => {}
        }
    }
    // What the kernel answered before no longer counts; what answers on our own path would answer on the plain one.
    seen.lookups.clear();
    let own: Vec<_> =
        seen.probes.iter().filter(|p| p.through == Through::Lifeline).cloned().collect();
    for probe in seen.probes.iter_mut().filter(|p| p.through != Through::Lifeline) {
        if let Some(reached) = own.iter().find(|o| o.dst == probe.dst) {
            probe.reach = reached.reach.clone();
        }
    }
}

/// Time for the whole rung: what its slowest act may take, and a look afterwards (up to 2 s with 20 000 rules).
fn deadline(rung: Rung, policy: &Policy) -> u64 {
    match rung {
        Rung::Guard => 5_000,
        Rung::Quiet => 15_000 + u64::from(policy.term_grace_ms),
        Rung::Clean => 30_000,
        Rung::Reconnect => 60_000,
        Rung::Reset => policy.confirm_ms,
        // Of the boot that comes: the kubelet renews within a minute, slow machines within five.
        Rung::Reboot => 300_000,
        // Each of its plans brings its own.
        Rung::Controller => 0,
    }
}

/// Adds a step, or merges it into the one its object has. False when a fault of higher precedence wants it otherwise.
fn add(steps: &mut Vec<Step<NodeOp>>, want: Want, fault: &Fault, finding: &str) -> bool {
    let target = want.op.target();
    let Some(old) = steps.iter_mut().find(|s| s.op.target() == target) else {
        steps.push(Step {
            id: 0,
            op: want.op,
            finding: finding.to_string(),
            because: want.because,
            on_unhealthy: fault.on_unhealthy,
            optional: want.optional,
        });
        return true;
    };
    let Some(merged) = merge(&old.op, &want.op) else { return false };
    if merged != old.op {
        old.op = merged;
        if old.because != want.because {
            old.because = alloc::format!("{}; {}", old.because, want.because);
        }
    }
    old.optional &= want.optional;
    true
}

/// Both, as far as the first allows.
fn merge(first: &NodeOp, second: &NodeOp) -> Option<NodeOp> {
    match (first, second) {
        (
            NodeOp::Rules { family, absent, present },
            NodeOp::Rules { absent: a, present: p, .. },
        ) => {
            let (absent, present) = both(absent, present, a, p);
            Some(NodeOp::Rules { family: *family, absent, present })
        }
        (
            NodeOp::Routes { family, table, absent, present },
            NodeOp::Routes { absent: a, present: p, .. },
        ) => {
            let (absent, present) = both(absent, present, a, p);
            Some(NodeOp::Routes { family: *family, table: *table, absent, present })
        }
        (NodeOp::FlowsGone { sources, dead_to }, NodeOp::FlowsGone { sources: s, dead_to: d }) => {
            Some(NodeOp::FlowsGone { sources: union(sources, s), dead_to: union(dead_to, d) })
        }
        (a, b) => (a == b).then(|| a.clone()),
    }
}

fn both<T: Clone + PartialEq>(absent: &[T], present: &[T], a: &[T], p: &[T]) -> (Vec<T>, Vec<T>) {
    let a: Vec<T> = a.iter().filter(|x| !present.contains(x)).cloned().collect();
    let p: Vec<T> = p.iter().filter(|x| !absent.contains(x)).cloned().collect();
    (union(absent, &a), union(present, &p))
}

fn union<T: Clone + PartialEq>(a: &[T], b: &[T]) -> Vec<T> {
    let mut out = a.to_vec();
    for x in b {
        if !out.contains(x) {
            out.push(x.clone());
        }
    }
    out
}
