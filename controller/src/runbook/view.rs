//! A recovery as it is shown: the plan before, what is under way, how it ended.

use super::card::PHASES;
use super::conduct::{NodeEnd, Told};
use super::leg::LegEnd;
use super::opened::{Opened, Origin};
use super::report::Told as Run;
use crate::config::Record;
use crate::out::{Paint, Tone};
use crate::words::span_ms;
use lifeline_core::engine::Event;
use serde::Serialize;

/// Phases that have something to do.
fn phases(opened: &Opened, record: Option<&Record>) -> Vec<(u8, String)> {
    let unwell: Vec<&str> =
        opened.nodes.iter().filter(|n| !n.is_well()).map(|n| n.name.as_str()).collect();
    let of = |number: u8| {
        let namespace = opened.namespace.as_deref();
        match number {
            2 => namespace.map(|n| format!("namespace {n}")),
            5 => namespace.map(|n| format!("namespace {n}")),
            3 | 4 | 7 => (!unwell.is_empty()).then(|| unwell.join(", ")),
            6 => (!unwell.is_empty()).then(|| "only who stays dead".to_owned()),
            9 => opened.report.clone().map(|path| match record {
                Some(r) => {
                    let issues = r.github.iter().flat_map(|g| &g.issues);
                    let list: Vec<_> = issues.map(|i| format!("#{}", i.number)).collect();
                    format!("{path} {}", list.join(" ")).trim_end().to_owned()
                }
                None => path,
            }),
            _ => Some(String::new()),
        }
    };
    PHASES.iter().filter_map(|p| Some((p.number, of(p.number)?))).collect()
}

/// The plan, for people.
pub fn plan(
    opened: &Opened,
    record: Option<&Record>,
    refused: &dyn Fn(&str) -> Option<String>,
) -> String {
    let mut lines = vec![format!("Cluster {}, as it was found:", opened.cluster)];
    for node in &opened.nodes {
        lines.push(format!("  {} ({}): {}", node.name, node.from.words(), node.words()));
    }
    lines.extend(opened.gaps.iter().map(|g| format!("  not seen: {g}")));
    lines.extend(opened.suspects.iter().map(|s| format!("  could have done it: {}", s.words())));
    let loose = |s: &&super::opened::Named| Some(&s.namespace) != opened.namespace.as_ref();
    if let Some(suspect) = opened.suspects.iter().find(loose) {
        let how = match &opened.namespace {
            None => format!("--namespace {}", suspect.namespace),
            Some(_) => format!(
                "ctl cleanup culprit --stop {}",
                suspect.workload.split(' ').next().unwrap_or_default()
            ),
        };
        lines.push(format!(
            "  {} goes on while nodes are healed, and may take them again; to stop it first: {how}",
            suspect.workload
        ));
    }
    lines.push(String::new());
    lines.push("What would be done:".to_owned());
    let mut sum = 0;
    for (number, about) in phases(opened, record) {
        let Some(p) = PHASES.iter().find(|p| p.number == number) else { continue };
        sum += if number == 6 { 0 } else { p.estimate_s };
        let about = if about.is_empty() { String::new() } else { format!(": {about}") };
        lines.push(format!("  {number}  {}{about}", p.title));
        lines.push(format!("     when {}; about {} s; asks {}", p.when, p.estimate_s, p.asks));
        if number == 3 {
            for node in opened.nodes.iter().filter(|n| !n.is_well()) {
                let first = match &node.unreached {
                    None => "its agent".to_owned(),
                    Some(_) => "its agent, which cannot be reached now".to_owned(),
                };
                let then = match refused(&node.name) {
                    None => "its provider's restart".to_owned(),
                    Some(why) => format!("no restart by its provider ({why})"),
                };
                lines.push(format!("     {}: {first}; then {then}; then its console", node.name));
            }
        }
    }
    lines.push(format!("About {} all in all, besides restarts.", span_ms(u64::from(sum) * 1_000)));
    lines.join("\n")
}

/// `-o json` of the plan.
#[derive(Debug, Serialize)]
pub struct PlanJson<'a> {
    cluster: &'a str,
    uid: Option<&'a str>,
    namespace: Option<&'a str>,
    nodes: Vec<NodeJson<'a>>,
    /// Workloads that could have done it.
    suspects: &'a [super::opened::Named],
    phases: Vec<PhaseJson>,
    not_seen: &'a [String],
}

#[derive(Debug, Serialize)]
struct NodeJson<'a> {
    node: &'a str,
    /// `typed`, `ctl.toml` or `cluster`: why it is looked after.
    from: Origin,
    well: bool,
    verdict: Option<&'a str>,
    ready: Option<bool>,
    boot: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct PhaseJson {
    phase: u8,
    title: &'static str,
    about: String,
    estimate_s: u32,
    asks: &'static str,
}

/// The plan, for machines.
pub fn json<'a>(opened: &'a Opened, record: Option<&Record>) -> PlanJson<'a> {
    PlanJson {
        cluster: &opened.cluster,
        uid: opened.uid.as_deref(),
        namespace: opened.namespace.as_deref(),
        nodes: opened
            .nodes
            .iter()
            .map(|n| NodeJson {
                node: &n.name,
                from: n.from,
                well: n.is_well(),
                verdict: n.verdict.as_deref(),
                ready: n.ready,
                boot: n.boot.as_deref(),
            })
            .collect(),
        suspects: &opened.suspects,
        phases: phases(opened, record)
            .into_iter()
            .filter_map(|(number, about)| {
                let p = PHASES.iter().find(|p| p.number == number)?;
                let (title, estimate_s, asks) = (p.title, p.estimate_s, p.asks);
                Some(PhaseJson { phase: number, title, about, estimate_s, asks })
            })
            .collect(),
        not_seen: &opened.gaps,
    }
}

/// What has begun and not ended.
pub fn under_way(runs: &[Run]) -> Vec<String> {
    let open = runs
        .iter()
        .filter(|r| !matches!(r.entries.last().map(|e| &e.event), Some(Event::Closed { .. })));
    open.flat_map(|run| {
        run.steps()
            .into_iter()
            .filter(|s| s.began.is_some() && s.ended.is_none())
            .map(|s| {
                let goes_on = match s.op.node() {
                    Some(node) if s.op.kind() == "node-healed" => {
                        format!("; its agent goes on by itself: ctl watch {node}")
                    }
                    Some(_) if s.op.kind() == "machine-restarted" => {
                        "; the provider goes on by itself".to_owned()
                    }
                    _ => String::new(),
                };
                format!("under way: {}{goes_on}", s.op)
            })
            .collect::<Vec<_>>()
    })
    .collect()
}

fn leg(end: &LegEnd) -> String {
    match end {
        LegEnd::Well => "done".to_owned(),
        LegEnd::WasSo(words) if words.is_empty() => "was so already".to_owned(),
        LegEnd::WasSo(words) => format!("was so already: {words}"),
        LegEnd::Declined => "not agreed to".to_owned(),
        LegEnd::Unseen(why) => format!("not done, it could not be looked at: {why}"),
        LegEnd::Unwell(why) => format!("failed: {why}"),
        LegEnd::Held(why) => format!("not at its end: {why}"),
        LegEnd::Stuck(why) => format!("stuck: {why}"),
    }
}

/// How a node ended, for people.
pub fn node(end: &NodeEnd) -> String {
    match end {
        NodeEnd::WasWell => "was well".to_owned(),
        NodeEnd::Healed(what) => format!("well again, by {what}"),
        NodeEnd::Dead(tried) => format!("not well:\n    {}", tried.join("\n    ")),
        NodeEnd::Spared(tried) => format!("left as it is:\n    {}", tried.join("\n    ")),
        NodeEnd::Wiped => "its machine was wiped: it has to join anew".to_owned(),
        NodeEnd::Held(why) => format!("not at its end: {why}"),
        NodeEnd::Stuck(why) => format!("stuck: {why}"),
    }
}

/// How it ended, for people.
pub fn told(told: &Told, opened: &Opened, paint: Paint) -> String {
    let word = told.word();
    let tone = if word.text() == "recovered" { Tone::Good } else { Tone::Bad };
    let mut lines = vec![format!("Cluster {}: {}", opened.cluster, paint.tone(tone, word.text()))];
    lines.extend(told.nodes.iter().map(|(name, end)| format!("  {name}: {}", node(end))));
    if let (Some(end), Some(namespace)) = (&told.namespace, &opened.namespace) {
        lines.push(format!("  namespace {namespace}: {}", leg(end)));
    }
    lines.push(format!("  cluster: {}", leg(&told.verified)));
    lines.extend(told.record.iter().map(|(op, end)| format!("  {op}: {}", leg(end))));
    lines.join("\n")
}

/// `-o json` of the end.
#[derive(Debug, Serialize)]
pub struct ToldJson<'a> {
    recovery: &'a str,
    cluster: &'a str,
    ending: &'static str,
    nodes: Vec<EndJson>,
    namespace: Option<String>,
    verified: String,
    record: Vec<EndJson>,
    report: Option<&'a str>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct EndJson {
    what: String,
    well: bool,
    said: String,
}

/// How it ended, for machines.
pub fn told_json<'a>(told: &Told, opened: &'a Opened) -> ToldJson<'a> {
    let well = |end: &LegEnd| matches!(end, LegEnd::Well | LegEnd::WasSo(_));
    let took = super::book::wall_ms().saturating_sub(opened.wall_ms);
    ToldJson {
        recovery: &opened.id,
        cluster: &opened.cluster,
        ending: told.word().text(),
        nodes: told
            .nodes
            .iter()
            .map(|(n, e)| EndJson { what: n.clone(), well: e.is_well(), said: node(e) })
            .collect(),
        namespace: told.namespace.as_ref().map(leg),
        verified: leg(&told.verified),
        record: told
            .record
            .iter()
            .map(|(op, e)| EndJson { what: op.kind().to_owned(), well: well(e), said: leg(e) })
            .collect(),
        report: opened.report.as_deref(),
        seconds: std::time::Duration::from_millis(took).as_secs_f64(),
    }
}
