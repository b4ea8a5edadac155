//! Reports against golden files: what an operator, a git history and an issue get to read. `UPDATE=1` rewrites them.

#![allow(clippy::unwrap_used, reason = "what surprises a test ends it")]

use lifeline_core::clock::Stamp;
use lifeline_core::diagnosis::Health;
use lifeline_core::engine::{Ending, Entry, Event, Outcome};
use lifeline_core::net::Family;
use lifeline_core::observation::{Resolv, Unit};
use lifeline_core::op::{NodeOp, ProcessId, Seen};
use lifeline_core::plan::{FORMAT, NodePlan, OnUnhealthy, Rung, Step};
use lifeline_core::report::{End, Incident, Note, Run, markdown};
use std::path::Path;

/// 2025-10-13 12:00:00 UTC.
const NOON: u64 = 1_760_356_800_000;

fn stamp(ms: u64) -> Stamp {
    Stamp { boot: "b".into(), ms, wall_ms: NOON + ms }
}

fn step(id: u32, op: NodeOp, because: &str) -> Step<NodeOp> {
    let finding = "exit-node/tailscale".into();
    let on_unhealthy = OnUnhealthy::Hold;
    Step { id, op, finding, because: because.into(), on_unhealthy, optional: false }
}

fn plan(rung: Rung, steps: Vec<Step<NodeOp>>) -> NodePlan {
    NodePlan {
        format: FORMAT,
        incident: "i-1".into(),
        rung,
        findings: vec!["exit-node/tailscale".into()],
        policy: "p".into(),
        steps,
        deadline_ms: 60_000,
    }
}

fn tailscaled() -> ProcessId {
    ProcessId {
        pid: 812,
        start: 5,
        exe: "/usr/sbin/tailscaled".into(),
        inode: "1:2".into(),
        cgroup: "/".into(),
    }
}

fn journal(events: Vec<(u64, Event<NodeOp>)>) -> Vec<Entry<NodeOp>> {
    let entry = |(seq, (ms, event))| Entry { seq: seq as u64, stamp: stamp(ms), event };
    events.into_iter().enumerate().map(entry).collect()
}

fn quiet() -> Vec<Entry<NodeOp>> {
    let stop = NodeOp::Stopped { process: tailscaled(), grace_ms: 3000 };
    let by = "operator alice".into();
    let summary =
        "rules 5210 to 5270 still lead to table 52, started with --authkey=tskey-auth-k1".into();
    journal(vec![
        (
            0,
            Event::Opened {
                plan: plan(Rung::Quiet, vec![step(0, stop, "it puts its rules back")]),
                by,
            },
        ),
        (10, Event::Began { step: 0, before: Seen::Process { alive: true } }),
        (900, Event::Ended { step: 0, outcome: Outcome::Done }),
        (
            1900,
            Event::Judged {
                health: Health::Contained,
                findings: vec!["exit-node/tailscale".into()],
                summary,
            },
        ),
        (1910, Event::Closed { ending: Ending::Unwell }),
    ])
}

fn clean() -> Vec<Entry<NodeOp>> {
    let rules = NodeOp::Rules { family: Family::V4, absent: vec![], present: vec![] };
    let wanted = Resolv { text: "nameserver 192.168.2.1\n".into(), ..Resolv::default() };
    let steps = vec![
        step(0, rules, "they lead | into the tunnel"),
        step(1, NodeOp::ResolvConf { wanted }, "it names a dead resolver"),
        step(2, NodeOp::Restarted { unit: "k3s-agent.service".into() }, "its sockets are dead"),
    ];
    let private = Resolv { text: "nameserver 100.100.100.100\n".into(), ..Resolv::default() };
    let unit = Unit::default();
    journal(vec![
        (2000, Event::Opened { plan: plan(Rung::Clean, steps), by: "operator alice".into() }),
        (2010, Event::Began { step: 0, before: Seen::Rules { there: vec![] } }),
        (2050, Event::Ended { step: 0, outcome: Outcome::Done }),
        (2060, Event::Began { step: 1, before: Seen::Resolv { resolv: Some(private) } }),
        (2070, Event::Ended { step: 1, outcome: Outcome::Foreign }),
        (
            2080,
            Event::Began {
                step: 2,
                before: Seen::Unit { invocation: unit.invocation, active: unit.active },
            },
        ),
        (8080, Event::Ended { step: 2, outcome: Outcome::Done }),
        (
            9000,
            Event::Judged {
                health: Health::Well,
                findings: vec![],
                summary: "the API server answers".into(),
            },
        ),
        (9010, Event::Closed { ending: Ending::Recovered }),
    ])
}

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, wanted, "{} differs: UPDATE=1 rewrites it", path.display());
}

#[test]
fn a_recovery_is_told_from_its_journals() {
    let (one, two) = (quiet(), clean());
    let note = |ms: u64, text: &str| Note { wall_ms: NOON + ms, text: text.into() };
    let incident = Incident {
        node: "calypso".into(),
        id: "i-1".into(),
        notes: vec![note(0, "guard raised for 203.0.113.10"), note(24_000, "guard lowered")],
        end: Some(End {
            wall_ms: NOON + 39_000,
            ending: "recovered".into(),
            text: "well for 30 s".into(),
        }),
        proof: vec!["Ready since 12:00:20, two lease renewals seen".into()],
    };
    let runs = [Run { id: "r-1", entries: &one }, Run { id: "r-2", entries: &two }];
    let text = markdown(&incident, &runs);
    assert!(!text.contains("tskey"), "a key in a summary does not get into a report");
    assert!(!text.contains("100.100.100.100"), "pre-images are not printed");
    golden("recovered.md", &text);
}

#[test]
fn a_run_that_was_cut_off_says_how_far_it_got() {
    let two = clean();
    let incident = Incident { node: "calypso".into(), id: "i-1".into(), ..Incident::default() };
    golden("cut-off.md", &markdown(&incident, &[Run { id: "r-2", entries: &two[..4] }]));
}

#[test]
fn a_journal_without_its_plan_tells_nothing_and_says_so() {
    let two = clean();
    let incident = Incident { node: "calypso".into(), id: "i-1".into(), ..Incident::default() };
    let text = markdown(&incident, &[Run { id: "r-2", entries: &two[3..4] }]);
    assert!(text.contains("Its journal does not begin with its plan"), "{text}");
}
