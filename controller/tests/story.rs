//! Incidents as agents tell them: plans, and journals of core's own types.

use lifeline_core::clock::Stamp;
use lifeline_core::diagnosis::Health;
use lifeline_core::engine::{Ending, Entry, Event, Outcome};
use lifeline_core::net::Family;
use lifeline_core::op::{NodeOp, Op, ProcessId, Seen, Undo};
use lifeline_core::plan::{Consent, FORMAT, NodePlan, OnUnhealthy, Rung, Step};
use lifeline_proto::v1 as wire;
use lifeline_proto::v1::watch_reply::What;

/// 2025-10-13 12:00:00 UTC.
const NOON: u64 = 1_760_356_800_000;
/// The finding all stories are about.
pub const FINDING: &str = "exit-node/tailscale";

/// What is done about one incident, from the request to the end.
#[derive(Clone)]
pub struct Story {
    /// Lines of the watch, numbered from 1.
    pub lines: Vec<What>,
    /// The stream breaks after this many lines, once.
    pub breaks_after: Option<usize>,
    /// The stream never ends.
    pub hangs: bool,
    /// The node is well from then on.
    pub heals: bool,
}

pub fn stop() -> NodeOp {
    let exe = "/usr/sbin/tailscaled".into();
    let process = ProcessId { pid: 812, start: 5, exe, inode: "1:2".into(), cgroup: "/".into() };
    NodeOp::Stopped { process, grace_ms: 3000 }
}

pub fn rules() -> NodeOp {
    NodeOp::Rules { family: Family::V4, absent: vec![], present: vec![] }
}

pub fn restart() -> NodeOp {
    NodeOp::Restarted { unit: "k3s-agent.service".into() }
}

/// A plan over some rungs, with the consent that covers it.
pub fn plan(rungs: &[(Rung, NodeOp)]) -> wire::PlanReply {
    let view = |(rung, op): &(Rung, NodeOp)| wire::RungView {
        number: rung.number(),
        name: rung.word().into(),
        steps: vec![wire::StepView {
            id: 0,
            what: op.to_string(),
            because: "it captures the API server".into(),
            kind: op.kind().into(),
            details: vec![],
            irreversible: match op.undo(&seen(op)) {
                Undo::Irreversible(why) => why.into(),
                _ => String::new(),
            },
        }],
        digest: format!("digest-{}", rung.word()),
        findings: vec![FINDING.into()],
    };
    let consent = Consent {
        findings: vec![FINDING.into()],
        rung: rungs.iter().map(|(r, _)| r.number()).max().unwrap_or(0),
        kinds: rungs.iter().map(|(_, op)| op.kind().into()).collect(),
        ..Consent::default()
    };
    wire::PlanReply {
        last: vec![],
        verdict: wire::Verdict::Captured.into(),
        summary: "the API server leaves by tailscale0".into(),
        rungs: rungs.iter().map(view).collect(),
        consent: serde_json::to_string(&consent).unwrap(),
        diagnosis: String::new(),
    }
}

fn seen(op: &NodeOp) -> Seen {
    match op {
        NodeOp::Stopped { .. } => Seen::Process { alive: true },
        NodeOp::Rules { .. } => Seen::Rules { there: vec![] },
        _ => Seen::Unit { invocation: "a".into(), active: "active".into() },
    }
}

/// A run's lines, and its ending.
pub fn run(id: &str, rung: Rung, op: NodeOp, ending: Ending) -> Vec<What> {
    let before = seen(&op);
    let steps = vec![Step {
        id: 0,
        op,
        finding: FINDING.into(),
        because: "it captures the API server".into(),
        on_unhealthy: OnUnhealthy::Hold,
        optional: false,
    }];
    let plan = NodePlan {
        format: FORMAT,
        incident: "i-1".into(),
        rung,
        findings: vec![FINDING.into()],
        policy: "p".into(),
        steps,
        deadline_ms: 60_000,
    };
    let well = ending == Ending::Recovered;
    let health = if well { Health::Well } else { Health::Unwell };
    let findings = if well { vec![] } else { vec![FINDING.into()] };
    let events: Vec<Event<NodeOp>> = vec![
        Event::Opened { plan, by: "operator alice".into() },
        Event::Began { step: 0, before },
        Event::Ended { step: 0, outcome: Outcome::Done },
        Event::Judged { health, findings, summary: "looked again".into() },
        Event::Closed { ending },
    ];
    let base = u64::from(rung.number()) * 10_000;
    let line = |(seq, event): (usize, Event<NodeOp>)| {
        let seq = seq as u64;
        let ms = base + seq * 100;
        let stamp = Stamp { boot: "b".into(), ms, wall_ms: NOON + ms };
        let json = serde_json::to_string(&Entry { seq, stamp, event }).unwrap();
        let (run, rung) = (id.to_owned(), rung.word().to_owned());
        What::Line(wire::RunLine { run, rung, json, text: "shown by the agent".into() })
    };
    events.into_iter().enumerate().map(line).collect()
}

pub fn note(text: &str) -> What {
    What::Note(wire::Note { wall_ms: NOON, kind: "guard".into(), text: text.into() })
}

pub fn end(ending: &str, text: &str, lacks: &[&str]) -> What {
    What::End(wire::End {
        wall_ms: NOON + 60_000,
        ending: ending.into(),
        text: text.into(),
        lacks: lacks.iter().map(|l| (*l).into()).collect(),
    })
}

impl Story {
    /// These lines, without surprises.
    pub fn of(lines: &[Vec<What>]) -> Self {
        Self { lines: lines.concat(), breaks_after: None, hangs: false, heals: false }
    }

    /// Quiet is enough.
    pub fn recovered() -> Self {
        let lines = vec![
            vec![note("guard raised for 203.0.113.10")],
            run("r-1", Rung::Quiet, stop(), Ending::Unwell),
            run("r-2", Rung::Clean, rules(), Ending::Recovered),
            vec![note("guard lowered"), end("recovered", "well for 30 s", &[])],
        ];
        Self { heals: true, ..Self::of(&lines) }
    }

    /// It ended some other way.
    pub fn ended(ending: &str, lacks: &[&str]) -> Self {
        let first = run("r-1", Rung::Quiet, stop(), Ending::Unwell);
        Self::of(&[first, vec![end(ending, "so it is", lacks)]])
    }
}
