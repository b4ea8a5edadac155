//! The report as Markdown with a Mermaid timeline.

use super::clean::Clean;
use super::{Incident, Run, Taken, ending_word, health_word, outcome_words, say};
use crate::clock::Stamp;
use crate::engine::{Event, Outcome};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;

/// Writes the report of an incident.
pub fn markdown(incident: &Incident, runs: &[Run<'_>]) -> String {
    let mut page = Page(String::new());
    head(&mut page, incident, runs);
    verdicts(&mut page, runs);
    for run in runs {
        done(&mut page, run);
    }
    left_alone(&mut page, runs);
    undoing(&mut page, incident, runs);
    timeline(&mut page, incident, runs);
    page.0
}

/// A Markdown text under construction. Free text goes in as [`Clean`] only.
struct Page(String);

impl Page {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn heading(&mut self, text: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "\n## {text}\n\n");
    }

    fn item(&mut self, text: &Clean) {
        let _ = writeln!(self.0, "- {}", text.cell());
    }

    fn row(&mut self, cells: &[Clean]) {
        let cells: Vec<_> = cells.iter().map(Clean::cell).collect();
        let _ = writeln!(self.0, "| {} |", cells.join(" | "));
    }

    fn table(&mut self, names: &[&str]) {
        let _ = writeln!(self.0, "| {} |\n|{}", names.join(" | "), "---|".repeat(names.len()));
    }
}

fn start(incident: &Incident, runs: &[Run<'_>]) -> Option<u64> {
    let entries = runs.iter().flat_map(|r| r.entries).map(|e| e.stamp.wall_ms);
    entries.chain(incident.notes.iter().map(|n| n.wall_ms)).min()
}

fn head(page: &mut Page, incident: &Incident, runs: &[Run<'_>]) {
    let ending = match &incident.end {
        Some(end) => end.ending.as_str(),
        None => "under way",
    };
    page.line(&format!("# {}: {}", Clean::of(&incident.node).cell(), Clean::of(ending).cell()));
    page.line("");
    let mut findings: Vec<&str> = Vec::new();
    for f in runs.iter().filter_map(Run::opened).flat_map(|(plan, _)| &plan.findings) {
        if !findings.contains(&f.as_str()) {
            findings.push(f);
        }
    }
    let begun = start(incident, runs);
    page.table(&["", ""]);
    let mut row = |name: &str, value: String| page.row(&[Clean::of(name), Clean::of(&value)]);
    row("incident", incident.id.clone());
    if !findings.is_empty() {
        row("found", findings.join(", "));
    }
    if let Some(ms) = begun {
        row("began", format!("{} UTC", date(ms)));
    }
    if let Some((_, by)) = runs.first().and_then(Run::opened) {
        row("asked by", by.to_string());
    }
    if let (Some(end), Some(from)) = (&incident.end, begun) {
        let took = seconds(end.wall_ms.saturating_sub(from));
        row("ended", format!("{} UTC, {}, after {took}", date(end.wall_ms), end.ending));
        row("verdict", end.text.clone());
    }
    let rungs: Vec<_> = runs
        .iter()
        .filter_map(|r| {
            let (plan, _) = r.opened()?;
            let end = r.ending().map_or("under way", ending_word);
            Some(format!("{} ({}, {end})", plan.rung.number(), plan.rung.word()))
        })
        .collect();
    row("rungs", if rungs.is_empty() { "none".to_string() } else { rungs.join(", ") });
    if !incident.notes.is_empty() {
        page.heading("What happened");
        for note in &incident.notes {
            page.item(&Clean::of(&format!("{} {}", clock(note.wall_ms), note.text)));
        }
    }
    if !incident.proof.is_empty() {
        page.heading("Seen from the API server");
        for line in &incident.proof {
            page.item(&Clean::of(line));
        }
    }
}

fn verdicts(page: &mut Page, runs: &[Run<'_>]) {
    let judged: Vec<_> = runs
        .iter()
        .flat_map(|r| r.entries.iter().map(move |e| (r, e)))
        .filter(|(_, e)| matches!(e.event, Event::Judged { .. }))
        .collect();
    if judged.is_empty() {
        return;
    }
    page.heading("Verdicts");
    page.line("Health is judged as if Lifeline's own guard were not there.\n");
    page.table(&["time", "after rung", "health", "what was seen", "still found"]);
    for (run, entry) in judged {
        if let Event::Judged { health, findings, summary } = &entry.event {
            let rung = run.opened().map_or("?", |(plan, _)| plan.rung.word());
            let found =
                if findings.is_empty() { "nothing".to_string() } else { findings.join(", ") };
            let cells = [&clock(entry.stamp.wall_ms), rung, health_word(*health), summary, &found];
            page.row(&cells.map(Clean::of));
        }
    }
}

fn done(page: &mut Page, run: &Run<'_>) {
    let Some((plan, by)) = run.opened() else {
        page.heading(&format!("Run {}", Clean::of(run.id).cell()));
        page.line("Its journal does not begin with its plan: nothing can be told from it.");
        return;
    };
    let end = run.ending().map_or("under way", ending_word);
    page.heading(&format!("Rung {}, {}: {end}", plan.rung.number(), plan.rung.word()));
    let found = plan.findings.join(", ");
    page.line(&Clean::of(&format!("Run {}, asked by {by}, for {found}.\n", run.id)).cell());
    page.line("");
    page.table(&["began", "took", "what", "why", "how it went"]);
    for step in run.steps() {
        let began = step.began.map_or_else(|| "-".to_string(), |s| clock(s.wall_ms));
        let took = match (step.began, step.ended) {
            (Some(b), Some((e, _))) => e.since(b).map_or_else(|| "?".to_string(), seconds),
            _ => "-".to_string(),
        };
        let mut how = match step.ended {
            Some((_, outcome)) => outcome_words(outcome),
            None if step.began.is_some() => "cut off".to_string(),
            None => "not reached".to_string(),
        };
        if let Some((_, undone)) = step.undone {
            let _ = write!(how, "; undone: {}", outcome_words(undone));
        }
        page.row(&[
            Clean::of(&began),
            Clean::of(&took),
            Clean::of(&step.op.to_string()),
            Clean::of(step.because),
            Clean::of(&how),
        ]);
    }
}

fn left_alone(page: &mut Page, runs: &[Run<'_>]) {
    let mut lines = Vec::new();
    for step in runs.iter().flat_map(Run::steps) {
        let foreign =
            |o: Option<(&Stamp, &Outcome)>| o.is_some_and(|(_, o)| *o == Outcome::Foreign);
        if foreign(step.ended) || foreign(step.undone) {
            lines
                .push(format!("{}: somebody else changed it meanwhile, and it is theirs", step.op));
        } else if step.began.is_none() {
            lines.push(format!("{}: not reached", step.op));
        }
    }
    if !lines.is_empty() {
        page.heading("What was left alone");
        for line in lines {
            page.item(&Clean::of(&line));
        }
    }
}

fn undoing(page: &mut Page, incident: &Incident, runs: &[Run<'_>]) {
    let standing: Vec<_> = runs.iter().map(|r| (r, r.steps())).collect();
    let fixed = standing.iter().flat_map(|(_, s)| s).filter(|s| s.stands());
    let for_good: Vec<_> = fixed.filter_map(|s| Some((s.op, s.irreversible?))).collect();
    let undoable =
        |steps: &[Taken<'_>]| steps.iter().any(|s| s.stands() && s.irreversible.is_none());
    let hints: Vec<_> =
        standing.iter().rev().filter(|(_, s)| undoable(s)).map(|(r, _)| r.id).collect();
    if for_good.is_empty() && hints.is_empty() {
        return;
    }
    page.heading("Undoing it");
    let gap = if for_good.is_empty() { "" } else { "\n" };
    for (op, why) in for_good {
        page.item(&Clean::of(&format!("for good: {op} ({why})")));
    }
    if !hints.is_empty() {
        page.line(&format!(
            "{gap}This can be put back, newest first; what somebody changed since is left:\n"
        ));
        for id in hints {
            page.line(&format!("    ctl undo {} {}", Clean::of(&incident.node), Clean::of(id)));
        }
    }
}

fn timeline(page: &mut Page, incident: &Incident, runs: &[Run<'_>]) {
    let Some(zero) = start(incident, runs) else { return };
    let mut events: Vec<(u64, String, String)> = Vec::new();
    for note in &incident.notes {
        events.push((note.wall_ms, "agent".to_string(), note.text.clone()));
    }
    for run in runs {
        let plan = run.opened().map(|(plan, _)| plan);
        let rung = plan.map_or("run", |p| p.rung.word());
        for entry in run.entries {
            // A step's beginning says nothing its end does not say.
            if !matches!(entry.event, Event::Began { .. } | Event::UndoBegan { .. }) {
                events.push((entry.stamp.wall_ms, rung.to_string(), say(&entry.event, plan)));
            }
        }
    }
    if let Some(end) = &incident.end {
        events.push((end.wall_ms, "end".to_string(), format!("{} {}", end.ending, end.text)));
    }
    // Stable: what happened in the same millisecond stays in its journal's order.
    events.sort_by_key(|(ms, ..)| *ms);
    page.heading("Timeline");
    page.line("```mermaid\ntimeline");
    page.line(&format!(
        "    title {}, {} UTC",
        Clean::of(&incident.node).label(),
        date(zero).replace(':', " ")
    ));
    let mut section = "";
    for (ms, part, text) in &events {
        if part != section {
            page.line(&format!("    section {part}"));
            section = part;
        }
        let at = seconds(ms.saturating_sub(zero));
        page.line(&format!("        +{at} : {}", Clean::of(text).label()));
    }
    page.line("```");
}

/// `3.4 s`, from 10 s on `34 s`.
fn seconds(ms: u64) -> String {
    if ms < 10_000 {
        format!("{}.{} s", ms / 1000, ms / 100 % 10)
    } else {
        format!("{} s", ms / 1000)
    }
}

fn clock(wall_ms: u64) -> String {
    let s = wall_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

fn date(wall_ms: u64) -> String {
    let (y, m, d) = civil(wall_ms / 86_400_000);
    format!("{y:04}-{m:02}-{d:02} {}", clock(wall_ms))
}

/// Days since 1970 as a date of the Gregorian calendar, by eras of 400 years (146 097 days) beginning on 1 March.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    (era * 400 + yoe + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_at_the_edges() {
        let said = [0, 951_782_400_000, 1_709_164_800_000, 1_760_356_799_999].map(date);
        assert_eq!(
            said,
            [
                "1970-01-01 00:00:00",
                "2000-02-29 00:00:00",
                "2024-02-29 00:00:00",
                "2025-10-13 11:59:59"
            ]
        );
    }
}
