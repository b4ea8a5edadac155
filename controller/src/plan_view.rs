//! A plan as an operator reads it before agreeing: rung by rung, what and why, and what cannot be undone.

use crate::agent::verdict;
use crate::consent::UpTo;
use crate::out::{Paint, Tone};
use crate::words;
use lifeline_core::plan::Rung;
use lifeline_proto::v1::{LastResort, PlanReply, RungView, StepView};
use serde::Serialize;
use std::fmt::Write;

/// `-o json` of a plan.
#[derive(Debug, Serialize)]
pub struct PlanJson {
    verdict: &'static str,
    summary: String,
    /// The guard first; later rungs are a forecast.
    rungs: Vec<RungJson>,
    /// Never by default: `--up-to reset`, `--up-to reboot`.
    last: Vec<LastJson>,
}

#[derive(Debug, Serialize)]
struct LastJson {
    rung: RungJson,
    /// Why it is not to be had; `null` when it is.
    refused: Option<String>,
}

#[derive(Debug, Serialize)]
struct RungJson {
    number: u32,
    name: String,
    /// Only if the rungs before it do not suffice.
    if_still_needed: bool,
    digest: Option<String>,
    findings: Vec<String>,
    steps: Vec<StepJson>,
}

#[derive(Debug, Serialize)]
struct StepJson {
    what: String,
    because: String,
    kind: String,
    details: Vec<String>,
    /// Why it cannot be undone; `null` when it can.
    irreversible: Option<String>,
}

/// The rungs the engine would run: all but the guard.
pub fn engine_rungs(plan: &PlanReply) -> impl Iterator<Item = &RungView> {
    plan.rungs.iter().filter(|r| r.number > Rung::Guard.number())
}

/// The rungs that do not ask what the trouble is, as far as they are to be had.
pub fn last_rungs(plan: &PlanReply) -> impl Iterator<Item = &RungView> {
    let offered = plan.last.iter().filter(|l| l.refused.is_empty());
    offered.filter_map(|l| l.rung.as_ref()).filter(|r| !r.steps.is_empty())
}

/// What is left when nothing else is known, and what it costs to have it; nothing for a node that needs none.
pub fn offers(node: &str, plan: &PlanReply, up_to: Option<UpTo>) -> Vec<String> {
    let limit = up_to.map_or(0, UpTo::number);
    let offer = |l: &LastResort| {
        let r = l.rung.as_ref().filter(|r| r.number > limit || !l.refused.is_empty())?;
        match (l.refused.is_empty(), r.number > limit) {
            (true, _) => Some(format!(
                "never by default: rung {} {}, {} steps; ctl heal {node} --rung {1}",
                r.number,
                r.name,
                r.steps.len()
            )),
            (false, false) => Some(format!("no {}: {}", r.name, l.refused)),
            (false, true) => None,
        }
    };
    plan.last.iter().filter_map(offer).collect()
}

/// For machines.
pub fn json(plan: &PlanReply) -> PlanJson {
    let first = engine_rungs(plan).map(|r| r.number).next();
    let step = |s: &StepView| StepJson {
        what: s.what.clone(),
        because: s.because.clone(),
        kind: s.kind.clone(),
        details: s.details.clone(),
        irreversible: (!s.irreversible.is_empty()).then(|| s.irreversible.clone()),
    };
    let rung = |r: &RungView| RungJson {
        number: r.number,
        name: r.name.clone(),
        if_still_needed: first.is_some_and(|f| r.number > f),
        digest: (!r.digest.is_empty()).then(|| r.digest.clone()),
        findings: r.findings.clone(),
        steps: r.steps.iter().map(step).collect(),
    };
    let last = |l: &LastResort| {
        let refused = (!l.refused.is_empty()).then(|| l.refused.clone());
        Some(LastJson { rung: rung(l.rung.as_ref()?), refused })
    };
    PlanJson {
        verdict: verdict(plan.verdict).word(),
        summary: plan.summary.clone(),
        rungs: plan.rungs.iter().map(rung).collect(),
        last: plan.last.iter().filter_map(last).collect(),
    }
}

/// For people.
pub fn render(node: &str, plan: &PlanReply, up_to: Option<UpTo>, paint: Paint) -> String {
    let mut text = format!("{node} is {}\n", words::verdict(verdict(plan.verdict), paint));
    if !plan.summary.is_empty() {
        text = format!("{text}{}\n", plan.summary);
    }
    let offers = offers(node, plan, up_to);
    let limit = up_to.map_or(0, UpTo::number);
    let last: Vec<&RungView> = last_rungs(plan).filter(|r| r.number <= limit).collect();
    if last.is_empty() && plan.rungs.iter().all(|r| r.steps.is_empty()) {
        let offers = offers.iter().map(|o| format!("\n{o}")).collect::<String>();
        return format!("{text}\nNothing is to be done.{offers}");
    }
    let first = engine_rungs(plan).map(|r| r.number).next();
    for r in plan.rungs.iter().chain(last).filter(|r| !r.steps.is_empty()) {
        let note = match (up_to, first) {
            (Some(limit), _) if r.number > limit.number() => {
                format!("not allowed by --up-to {}", limit.word())
            }
            (_, Some(f)) if r.number > f => "if still needed".to_owned(),
            _ => String::new(),
        };
        let found = if r.findings.is_empty() {
            String::new()
        } else {
            format!("for {}", r.findings.join(", "))
        };
        let notes: Vec<_> = [found, note].into_iter().filter(|n| !n.is_empty()).collect();
        let head = format!("rung {} {}", r.number, r.name);
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{}", paint.tone(Tone::Strong, head));
        if !notes.is_empty() {
            let _ = write!(text, "  {}", paint.tone(Tone::Dim, notes.join("; ")));
        }
        text.push('\n');
        for (i, s) in r.steps.iter().enumerate() {
            step(&mut text, i + 1, s, paint);
        }
    }
    for offer in offers {
        let _ = write!(text, "\n{}", paint.tone(Tone::Dim, offer));
    }
    text.trim_end().to_owned()
}

fn step(text: &mut String, number: usize, s: &StepView, paint: Paint) {
    let _ = writeln!(text, "  {number}. {}", s.what);
    for detail in &s.details {
        let _ = writeln!(text, "       {detail}");
    }
    if !s.because.is_empty() {
        let _ = writeln!(text, "     {}", paint.tone(Tone::Dim, format!("because {}", s.because)));
    }
    if !s.irreversible.is_empty() {
        let _ = writeln!(
            text,
            "     {}",
            paint.tone(Tone::Warn, format!("for good: {}", s.irreversible))
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(number: u32, name: &str, steps: Vec<StepView>) -> RungView {
        let findings = vec!["exit-node/tailscale".into()];
        RungView { number, name: name.into(), steps, digest: "d".into(), findings }
    }

    fn plan() -> PlanReply {
        let step = |what: &str, details: &[&str], irreversible: &str| StepView {
            what: what.into(),
            because: "it captures the API server".into(),
            details: details.iter().map(|d| (*d).into()).collect(),
            irreversible: irreversible.into(),
            ..StepView::default()
        };
        PlanReply {
            verdict: 2,
            summary: "the API server leaves by tailscale0".into(),
            rungs: vec![
                RungView {
                    findings: vec![],
                    ..rung(1, "guard", vec![step("guard 4 destinations", &[], "")])
                },
                rung(2, "quiet", vec![step("stop tailscaled (pid 812)", &[], "it stays stopped")]),
                rung(
                    3,
                    "clean",
                    vec![step("policy rules (IPv4): remove 2", &["- 5210", "- 5270"], "")],
                ),
                rung(4, "reconnect", vec![]),
            ],
            ..PlanReply::default()
        }
    }

    #[test]
    fn a_plan_is_shown_rung_by_rung_and_later_ones_are_marked() {
        assert_eq!(
            render("calypso", &plan(), None, Paint(false)),
            "calypso is Captured
the API server leaves by tailscale0

rung 1 guard
  1. guard 4 destinations
     because it captures the API server

rung 2 quiet  for exit-node/tailscale
  1. stop tailscaled (pid 812)
     because it captures the API server
     for good: it stays stopped

rung 3 clean  for exit-node/tailscale; if still needed
  1. policy rules (IPv4): remove 2
       - 5210
       - 5270
     because it captures the API server"
        );
    }

    #[test]
    fn rungs_beyond_the_limit_are_marked() {
        let text = render("calypso", &plan(), Some(UpTo::Quiet), Paint(false));
        assert!(
            text.contains("rung 3 clean  for exit-node/tailscale; not allowed by --up-to quiet"),
            "{text}"
        );
        assert!(text.contains("rung 2 quiet  for exit-node/tailscale\n"), "{text}");
    }

    #[test]
    fn nothing_to_do_is_said_in_words() {
        let none = PlanReply { verdict: 1, ..PlanReply::default() };
        assert_eq!(
            render("styx", &none, None, Paint(false)),
            "styx is Healthy\n\nNothing is to be done."
        );
    }
}
