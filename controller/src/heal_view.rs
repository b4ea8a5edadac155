//! What `ctl heal` found and did, in a few lines for people and one document for machines.

use crate::exit::Exit;
use crate::out::{Paint, Tone};
use crate::proof::Proof;
use crate::record::{Record, RunJson};
use crate::words;
use lifeline_core::diagnosis::{Diagnosis, Verdict};
use lifeline_core::report::{Taken, ending_word};
use serde::Serialize;
use std::time::Duration;

/// All there is to tell.
pub struct Told<'a> {
    /// The node.
    pub node: &'a str,
    /// The path it was reached by last.
    pub via: &'a str,
    /// How it ended.
    pub exit: Exit,
    /// The last verdict.
    pub verdict: Option<Verdict>,
    /// Our guard stood at the last look.
    pub guarded: Option<bool>,
    /// Incidents that were followed.
    pub records: &'a [Record],
    /// The API server's view.
    pub proof: Option<&'a Proof>,
    /// Where the report was written.
    pub report: Option<String>,
    /// How long it all took.
    pub took: Duration,
    /// What was tried where its agent could not be asked.
    pub other: Option<OtherJson>,
}

/// A node brought back, or not, by other means than its own agent.
#[derive(Clone, Debug, Serialize)]
pub struct OtherJson {
    /// Names the journal, in `~/.local/state/lifeline/CLUSTER/recover/`.
    pub journal: String,
    /// How it ended: what brought it back, or that nothing did.
    pub said: String,
    /// What was in the way of each means, in order.
    pub tried: Vec<String>,
}

/// `-o json` of `ctl heal`: one document at the end.
#[derive(Serialize)]
pub struct HealJson<'a> {
    node: &'a str,
    via: &'a str,
    /// As the exit code: `done`, `failed`, `usage`, `unhealthy`, `stuck`, `timed-out`.
    result: &'static str,
    exit: u8,
    verdict: Option<&'static str>,
    guarded: Option<bool>,
    seconds: f64,
    /// Each heal that was asked for, or found under way, in order.
    incidents: Vec<IncidentJson<'a>>,
    /// The API server's view; `null` without a kubeconfig, or when nothing was done.
    cluster: Option<&'a Proof>,
    report: Option<String>,
    /// Only where its agent could not be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    other_means: Option<OtherJson>,
}

#[derive(Serialize)]
struct IncidentJson<'a> {
    incident: &'a str,
    /// `null` when it was still under way.
    ending: Option<&'a str>,
    text: Option<&'a str>,
    lacks: Vec<String>,
    runs: Vec<RunJson>,
}

/// For machines.
pub fn json<'a>(told: &Told<'a>) -> HealJson<'a> {
    let incident = |r: &'a Record| IncidentJson {
        incident: &r.incident,
        ending: r.ending(),
        text: r.end.as_ref().map(|e| e.text.as_str()),
        lacks: r.end.as_ref().map(|e| e.lacks.clone()).unwrap_or_default(),
        runs: r.json(),
    };
    HealJson {
        node: told.node,
        via: told.via,
        result: match told.exit {
            Exit::Done => "done",
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::Unhealthy => "unhealthy",
            Exit::Stuck => "stuck",
            Exit::TimedOut => "timed-out",
        },
        exit: told.exit.code(),
        verdict: told.verdict.map(Verdict::word),
        guarded: told.guarded,
        seconds: (told.took.as_secs_f64() * 10.0).round() / 10.0,
        incidents: told.records.iter().map(incident).collect(),
        cluster: told.proof,
        report: told.report.clone(),
        other_means: told.other.clone(),
    }
}

/// What was found, before the plan.
pub fn found(d: &Diagnosis, paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    for f in &d.findings {
        lines.push(format!("  found {}  {}", f.key(), words::severity(f.severity, paint)));
        lines.extend(f.evidence.iter().map(|e| format!("    {e}")));
    }
    lines.extend(d.held.iter().map(|h| format!("  held back {}: {}", h.fault, h.why)));
    lines
}

/// For people.
pub fn summary(told: &Told<'_>, paint: Paint) -> String {
    let verdict =
        told.verdict.map_or_else(|| "in an unknown state".into(), |v| words::verdict(v, paint));
    let guard = match told.guarded {
        Some(true) => ", and our guard still stands",
        Some(false) if told.verdict == Some(Verdict::Healthy) => ", without our guard",
        _ => "",
    };
    let mut lines = vec![format!("{} is {verdict}{guard}", told.node)];
    let took = words::span_ms(u64::try_from(told.took.as_millis()).unwrap_or(u64::MAX));
    match told.records {
        [] if told.exit == Exit::Done => lines.push("nothing had to be done".into()),
        [] => {}
        records => {
            let runs: Vec<_> = records.iter().flat_map(Record::borrowed).collect();
            let rungs: Vec<_> = runs
                .iter()
                .filter_map(|r| {
                    Some((r.opened()?.0.rung.word(), r.ending().map_or("under way", ending_word)))
                })
                .map(|(rung, ending)| format!("{rung} ({ending})"))
                .collect();
            let ending = records.last().and_then(Record::ending).unwrap_or("under way");
            lines.push(format!("{ending} after {took}: {}", rungs.join(", ")));
            let steps: Vec<_> = runs.iter().flat_map(|r| r.steps()).collect();
            lines.extend(remarks(&steps));
        }
    }
    match told.proof {
        Some(p) if p.proven => lines.push(p.words()),
        Some(p) => lines.push(paint.tone(Tone::Warn, p.words())),
        None => {}
    }
    if let Some(record) = told.records.last() {
        lines.push(match &told.report {
            Some(path) => format!("report: {path}"),
            None => format!("the whole story: ctl report {} {}", told.node, record.incident),
        });
    }
    lines.join("\n")
}

fn remarks(steps: &[Taken<'_>]) -> Vec<String> {
    use lifeline_core::engine::Outcome;
    let mut lines = Vec::new();
    for s in steps {
        match (s.ended.map(|(_, o)| o), s.irreversible) {
            (Some(Outcome::Foreign), _) => {
                lines.push(format!("left alone, somebody else changed it: {}", s.op));
            }
            (Some(Outcome::Failed { why, .. }), _) => {
                lines.push(format!("failed: {}: {why}", s.op));
            }
            (Some(Outcome::Done), Some(_)) if s.stands() => {
                lines.push(format!("for good: {}", s.op));
            }
            _ => {}
        }
    }
    lines
}
