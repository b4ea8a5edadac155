//! Core's types as the wire shows them: one way, for people. Nothing here is ever read back.

use crate::roles::Viewer;
use crate::runs::book::{Line, Mark};
use crate::runs::index::Summary;
use crate::runs::story::{Item, What};
use crate::sight::Glance;
use lifeline_core::baseline::Provenance;
use lifeline_core::diagnosis::{Diagnosis, Verdict};
use lifeline_core::drill::{self, Outcome};
use lifeline_core::net::Family;
use lifeline_core::observation::Addr;
use lifeline_core::op::{NodeOp, Op, Seen, Undo};
use lifeline_core::plan::{Consent, NodePlan, Rung, Step};
use lifeline_core::planner;
use lifeline_core::policy::{Mode, Policy};
use lifeline_core::text::{route_line, rule_line};
use lifeline_proto::v1 as wire;

/// The verdict.
pub fn verdict(v: Verdict) -> wire::Verdict {
    match v {
        Verdict::Healthy => wire::Verdict::Healthy,
        Verdict::Captured => wire::Verdict::Captured,
        Verdict::Moved => wire::Verdict::Moved,
        Verdict::Lost => wire::Verdict::Lost,
        Verdict::Filtered => wire::Verdict::Filtered,
        Verdict::KubeletStuck => wire::Verdict::KubeletStuck,
        Verdict::Upstream => wire::Verdict::Upstream,
        Verdict::Unknown => wire::Verdict::Unknown,
    }
}

/// Where a baseline comes from, in a word.
pub fn word(p: Provenance) -> &'static str {
    match p {
        Provenance::Derived => "derived",
        Provenance::Learned => "learned",
        Provenance::Accepted => "accepted",
    }
}

/// The diagnosis as JSON; without evidence for those who may only look.
pub fn diagnosis(d: &Diagnosis, who: &Viewer) -> String {
    if who.sees_evidence() {
        return json(d);
    }
    let mut bare = d.clone();
    for finding in &mut bare.findings {
        finding.evidence.clear();
    }
    json(&bare)
}

/// JSON of a type of ours, which always has one.
pub fn json<T: serde::Serialize>(what: &T) -> String {
    serde_json::to_string(what).unwrap_or_else(|why| {
        tracing::error!("write JSON: {why}");
        String::new()
    })
}

/// The guard, as the first rung: always there, never journalled as a plan.
pub fn guard(d: &Diagnosis) -> wire::RungView {
    let what = if d.guarded {
        "the guard stands: critical destinations pass in front of whatever captures"
    } else {
        "raise the guard while something captures a critical destination, and lower it afterwards"
    };
    wire::RungView {
        number: Rung::Guard.number(),
        name: Rung::Guard.word().to_string(),
        steps: vec![wire::StepView {
            id: 0,
            what: what.to_string(),
            because: "it adds rules of ours only, and takes nothing away".to_string(),
            kind: Rung::Guard.word().to_string(),
            details: d.forwarding.clone(),
            irreversible: String::new(),
        }],
        digest: String::new(),
        findings: Vec::new(),
    }
}

/// One rung.
pub fn rung(plan: &NodePlan, who: &Viewer) -> wire::RungView {
    wire::RungView {
        number: plan.rung.number(),
        name: plan.rung.word().to_string(),
        steps: plan.steps.iter().map(|s| step(s, who)).collect(),
        digest: plan.digest(),
        findings: plan.findings.clone(),
    }
}

/// The rungs that do not ask what the trouble is, or why they are not to be had.
pub fn last(glance: &Glance, policy: &Policy, who: &Viewer) -> Vec<wire::LastResort> {
    let offer = |r: Rung| match planner::last_resort(&glance.seen, policy, &glance.diagnosis, r, "")
    {
        Ok(plan) => wire::LastResort { rung: Some(rung(&plan, who)), refused: String::new() },
        Err(refused) => wire::LastResort {
            rung: Some(wire::RungView {
                number: r.number(),
                name: r.word().to_string(),
                ..wire::RungView::default()
            }),
            refused,
        },
    };
    Rung::LAST.map(offer).into()
}

fn step(s: &Step<NodeOp>, who: &Viewer) -> wire::StepView {
    // Whether an op can be undone at all does not depend on what was there.
    let irreversible = match s.op.undo(&Seen::Process { alive: true }) {
        Undo::Irreversible(why) => why.to_string(),
        Undo::Put(_) | Undo::Nothing => String::new(),
    };
    wire::StepView {
        id: s.id,
        what: s.op.to_string(),
        because: s.because.clone(),
        kind: s.op.kind().to_string(),
        details: if who.sees_evidence() { details(&s.op) } else { Vec::new() },
        irreversible,
    }
}

/// What is changed, a line each.
fn details(op: &NodeOp) -> Vec<String> {
    let (minus, plus) = (|s: String| format!("- {s}"), |s: String| format!("+ {s}"));
    let route = |family: &Family, r| {
        format!("{} ({})", route_line(r), if *family == Family::V4 { "IPv4" } else { "IPv6" })
    };
    match op {
        NodeOp::Rules { absent, present, .. } => {
            let gone = absent.iter().map(rule_line).map(minus);
            gone.chain(present.iter().map(rule_line).map(plus)).collect()
        }
        NodeOp::Routes { family, absent, present, .. } => {
            let gone = absent.iter().map(|r| minus(route(family, r)));
            gone.chain(present.iter().map(|r| plus(route(family, r)))).collect()
        }
        NodeOp::Netfilter { absent, absent_chains, present, present_chains, .. } => {
            let rules = absent.iter().map(|r| minus(format!("{} {}", r.chain, r.spec)));
            let chains = absent_chains.iter().map(|c| minus(format!("chain {c}")));
            let back = present_chains.iter().map(|c| plus(format!("chain {}", c.name)));
            let put = present.iter().map(|p| plus(format!("{} {}", p.rule.chain, p.rule.spec)));
            rules.chain(chains).chain(back).chain(put).collect()
        }
        NodeOp::Policies { wanted, .. } => {
            wanted.iter().map(|w| plus(format!("chain {} policy {}", w.chain, w.policy))).collect()
        }
        NodeOp::Addrs { absent, present, .. } => {
            let line = |a: &Addr| format!("addr {} {}/{}", a.dev, a.addr, a.len);
            let gone = absent.iter().map(|a| minus(line(a)));
            gone.chain(present.iter().map(|a| plus(line(a)))).collect()
        }
        NodeOp::ResolvConf { wanted } => wanted.text.lines().map(|l| plus(l.to_string())).collect(),
        NodeOp::FlowsGone { sources, dead_to } => {
            let from = sources.iter().map(|s| minus(format!("connections from {s}")));
            from.chain(dead_to.iter().map(|d| minus(format!("dead connections to {d}")))).collect()
        }
        NodeOp::Stopped { process, .. } => {
            vec![format!(
                "pid {}, started at tick {}, in {}",
                process.pid, process.start, process.cgroup
            )]
        }
        NodeOp::ExitNodeOff { socket, .. } => vec![format!("over {socket}")],
        NodeOp::ExitNodeOn { socket, prefs, .. } => {
            vec![format!("over {socket}: exit node {}{}", prefs.exit_node_id, prefs.exit_node_ip)]
        }
        NodeOp::SandboxStopped { id, .. } => vec![format!("sandbox {id}, over CRI")],
        NodeOp::LinkGone { .. }
        | NodeOp::Sysctl { .. }
        | NodeOp::Quarantined { .. }
        | NodeOp::Released { .. }
        | NodeOp::Restarted { .. }
        | NodeOp::Armed { .. }
        | NodeOp::Disarmed
        | NodeOp::Flushed { .. }
        | NodeOp::Refilled { .. }
        | NodeOp::CacheFlushed
        | NodeOp::Rebooted => Vec::new(),
    }
}

/// The least consent that covers these plans.
pub fn consent(plans: &[NodePlan]) -> Consent {
    let mut c = Consent::default();
    let add = |list: &mut Vec<String>, what: &str| {
        if !list.iter().any(|k| k == what) {
            list.push(what.to_string());
        }
    };
    for plan in plans {
        c.rung = c.rung.max(plan.rung.number());
        for f in &plan.findings {
            add(&mut c.findings, f);
        }
        for s in &plan.steps {
            add(&mut c.kinds, s.op.kind());
        }
    }
    c
}

/// An item of an incident. Raw entries carry pre-images: operators only.
pub fn item(item: &Item, who: &Viewer) -> wire::WatchReply {
    let note = |kind: &str, text: String, line: &Line| {
        wire::watch_reply::What::Note(wire::Note {
            wall_ms: line.stamp.wall_ms,
            kind: kind.to_string(),
            text,
        })
    };
    let what = match &item.what {
        What::Entry { run, rung, entry, text } => wire::watch_reply::What::Line(wire::RunLine {
            run: run.clone(),
            rung: rung.word().to_string(),
            json: if who.sees_evidence() { json(entry) } else { String::new() },
            text: text.clone(),
        }),
        What::Mark(line) => match &line.mark {
            Mark::Opened { incident, by, agent, .. } => {
                let agent = match &**agent {
                    "" => String::new(),
                    version => format!("; lifeline-agent {version}"),
                };
                note("opened", format!("incident {incident}, by {by}{agent}"), line)
            }
            Mark::Run { run, rung, .. } => {
                note("rung", format!("rung {} ({}): run {run}", rung.number(), rung.word()), line)
            }
            Mark::Note { kind, text } => note(kind, text.clone(), line),
            Mark::Ended { ending, text, lacks } => wire::watch_reply::What::End(wire::End {
                wall_ms: line.stamp.wall_ms,
                ending: ending.clone(),
                text: text.clone(),
                lacks: lacks.clone(),
            }),
            Mark::Unknown => note("unknown", "written by a newer version".to_string(), line),
        },
    };
    wire::WatchReply { number: item.number, what: Some(what) }
}

/// A past incident.
pub fn history(s: Summary) -> wire::HistoryItem {
    wire::HistoryItem {
        incident: s.id,
        opened_wall_ms: s.opened.wall_ms,
        by: s.by,
        ending: s.ending.unwrap_or_default(),
        runs: s.runs,
        findings: s.findings,
    }
}

/// A page of the journal.
pub fn logs(page: crate::log::Page) -> wire::LogsReply {
    let line = |l: crate::log::Line| wire::LogLine {
        wall_ms: l.wall_ms,
        priority: l.priority,
        text: l.text,
    };
    let lines = page.lines.into_iter().map(line).collect();
    wire::LogsReply { lines, cursor: page.cursor, cut: page.cut }
}

/// What a drill has shown.
pub fn drill(steps: &[drill::Step], mode: Mode) -> wire::DrillReply {
    use wire::drill_step::Outcome as Wire;
    let outcome = |o| match o {
        Outcome::Passed => Wire::Passed,
        Outcome::Failed => Wire::Failed,
        Outcome::Skipped => Wire::Skipped,
    };
    let step = |s: &drill::Step| wire::DrillStep {
        name: s.name.to_string(),
        outcome: outcome(s.outcome).into(),
        text: s.seen.clone(),
        micros: s.us,
        target: s.target.unwrap_or_default().to_string(),
    };
    wire::DrillReply {
        steps: steps.iter().map(step).collect(),
        proven: drill::is_proven(steps),
        mode: mode.word().to_string(),
    }
}
