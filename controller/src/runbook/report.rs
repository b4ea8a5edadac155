//! A recovery told as Markdown, from its journals alone: this machine's runs and what agents told of theirs.
//!
//! Reports leave the house: all free text goes through core's [`Clean`], which blanks secrets out.

use super::book::Noted;
use super::card::PHASES;
use super::op::RunbookOp;
use super::opened::Opened;
use crate::kept::Kept;
use crate::words::{clock, date, span_ms};
use lifeline_core::engine::{Entry, Event, Outcome};
use lifeline_core::report::{Clean, ending_word, health_word, outcome_words};
use std::fmt::Write;

/// One run of the recovery.
#[derive(Clone, Debug)]
pub struct Told {
    /// `03-heal-calypso.1`.
    pub name: String,
    /// Its journal.
    pub entries: Vec<Entry<RunbookOp>>,
}

/// Everything that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Story<'a> {
    /// How it began.
    pub opened: &'a Opened,
    /// Its runs, in the order they began.
    pub runs: &'a [Told],
    /// What was noted between them.
    pub notes: &'a [Noted],
    /// What agents told.
    pub kept: &'a [Kept],
}

/// The mark by which a report is known to be this recovery's.
pub fn mark(id: &str) -> String {
    format!("<!-- lifeline recovery {id} -->")
}

fn cell(text: &str) -> String {
    let one = Clean::of(text).to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    one.replace('|', "\\|").replace('<', "&lt;").replace('>', "&gt;")
}

/// Without what Mermaid takes for syntax.
fn label(text: &str) -> String {
    let clean = Clean::of(text).to_string().replace([':', ';', '#', '`', '"', ','], " ");
    let words = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = words.chars().take(80).collect();
    if short.len() < words.len() { short + "…" } else { short }
}

impl Told {
    fn phase(&self) -> u8 {
        self.name.get(..2).and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    fn op(&self, step: u32) -> Option<&RunbookOp> {
        let Event::Opened { plan, .. } = &self.entries.first()?.event else { return None };
        plan.steps.iter().find(|s| s.id == step).map(|s| &s.op)
    }

    /// What became of each step: its op, when it began and ended, and how.
    pub fn steps(&self) -> Vec<Taken<'_>> {
        let Some(Event::Opened { plan, .. }) = self.entries.first().map(|e| &e.event) else {
            return Vec::new();
        };
        let mut taken: Vec<Taken<'_>> =
            plan.steps.iter().map(|s| Taken { op: &s.op, began: None, ended: None }).collect();
        for entry in &self.entries {
            let at = entry.stamp.wall_ms;
            match &entry.event {
                Event::Began { step, .. } => {
                    if let Some(t) = taken.get_mut(*step as usize) {
                        t.began = t.began.or(Some(at));
                    }
                }
                Event::Ended { step, outcome } => {
                    if let Some(t) = taken.get_mut(*step as usize) {
                        t.ended = Some((at, outcome));
                    }
                }
                _ => {}
            }
        }
        taken
    }

    fn ending(&self) -> &'static str {
        self.entries
            .iter()
            .rev()
            .find_map(|e| match e.event {
                Event::Closed { ending } => Some(ending_word(ending)),
                _ => None,
            })
            .unwrap_or("under way")
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    /// What was wanted.
    pub op: &'a RunbookOp,
    /// When it began.
    pub began: Option<u64>,
    /// When and how it ended.
    pub ended: Option<(u64, &'a Outcome)>,
}

/// Writes the report.
pub fn markdown(story: &Story<'_>) -> String {
    let mut page = String::new();
    head(&mut page, story);
    found(&mut page, story);
    done(&mut page, story);
    judged(&mut page, story);
    noted(&mut page, story);
    timeline(&mut page, story);
    for kept in story.kept {
        let own = kept.markdown();
        // One heading level down: it is a part of this one.
        let mut fenced = false;
        for line in own.lines() {
            fenced ^= line.starts_with("```");
            let deeper = if line.starts_with('#') && !fenced { "#" } else { "" };
            put(&mut page, &format!("{deeper}{line}"));
        }
        put(&mut page, "");
    }
    page
}

fn put(page: &mut String, line: &str) {
    page.push_str(line);
    page.push('\n');
}

fn last_ms(story: &Story<'_>) -> u64 {
    let runs = story.runs.iter().flat_map(|r| &r.entries).map(|e| e.stamp.wall_ms);
    runs.chain(story.notes.iter().map(|n| n.wall_ms)).max().unwrap_or(story.opened.wall_ms)
}

fn head(page: &mut String, story: &Story<'_>) {
    let o = story.opened;
    put(page, &mark(&o.id));
    put(page, &format!("# Recovery of cluster {}", cell(&o.cluster)));
    put(page, "");
    put(page, "| | |\n|---|---|");
    let mut row = |name: &str, value: &str| put(page, &format!("| {name} | {} |", cell(value)));
    row("recovery", &o.id);
    row("asked by", &o.by);
    row("began", &format!("{} UTC", date(o.wall_ms)));
    let end = last_ms(story);
    row(
        "last entry",
        &format!("{} UTC, after {}", date(end), span_ms(end.saturating_sub(o.wall_ms))),
    );
    if let Some(uid) = &o.uid {
        row("cluster's UID", uid);
    }
    if let Some(namespace) = &o.namespace {
        row("namespace", namespace);
    }
}

fn found(page: &mut String, story: &Story<'_>) {
    put(page, "\n## As it was found\n");
    put(page, "| node | found |\n|---|---|");
    for node in &story.opened.nodes {
        put(page, &format!("| {} | {} |", cell(&node.name), cell(&node.words())));
    }
    for gap in &story.opened.gaps {
        put(page, &format!("\n- could not be seen: {}", cell(gap)));
    }
}

fn done(page: &mut String, story: &Story<'_>) {
    put(page, "\n## What was done\n");
    put(page, "| phase | step | took | estimate | outcome |\n|---|---|---|---|---|");
    for run in story.runs {
        let phase = PHASES.iter().find(|p| p.number == run.phase());
        let estimate = phase.map_or(0, |p| p.estimate_s);
        // A report cannot tell how its own writing went.
        let told = |s: &Taken<'_>| !matches!(s.op, RunbookOp::ReportWritten { .. });
        for step in run.steps().into_iter().filter(told) {
            let took = match (step.began, step.ended) {
                (Some(from), Some((to, _))) => span_ms(to.saturating_sub(from)),
                _ => "-".to_owned(),
            };
            let outcome =
                step.ended.map_or_else(|| "not reached".to_owned(), |(_, o)| outcome_words(o));
            put(
                page,
                &format!(
                    "| {} | {} | {took} | {estimate} s | {} |",
                    run.phase(),
                    cell(&step.op.to_string()),
                    cell(&outcome)
                ),
            );
        }
    }
}

fn judged(page: &mut String, story: &Story<'_>) {
    put(page, "\n## What was seen afterwards\n");
    for run in story.runs {
        let last = run.entries.iter().rev().find_map(|e| match &e.event {
            Event::Judged { health, summary, .. } => Some((e.stamp.wall_ms, health, summary)),
            _ => None,
        });
        if let Some((at, health, summary)) = last {
            let line = format!(
                "{} UTC {}: {}, {summary} ({})",
                clock(at),
                run.name,
                health_word(*health),
                run.ending()
            );
            put(page, &format!("- {}", cell(&line)));
        }
    }
}

fn noted(page: &mut String, story: &Story<'_>) {
    if story.notes.is_empty() {
        return;
    }
    put(page, "\n## Noted on the way\n");
    for note in story.notes {
        put(page, &format!("- {} UTC {}", clock(note.wall_ms), cell(&note.text)));
    }
}

fn timeline(page: &mut String, story: &Story<'_>) {
    let zero = story.opened.wall_ms;
    put(page, "\n## Timeline\n");
    put(page, "```mermaid\ngantt");
    let day = date(zero).replace(':', " ");
    put(page, &format!("    title {} {day} UTC", label(&story.opened.cluster)));
    put(page, "    dateFormat x\n    axisFormat %H:%M:%S");
    let mut section = String::new();
    let mut count = 0;
    for run in story.runs {
        let phase = PHASES.iter().find(|p| p.number == run.phase()).map_or("?", |p| p.title);
        let name = label(phase.split([',', ';']).next().unwrap_or(phase));
        for step in run.steps() {
            let (Some(from), Some((to, outcome))) = (step.began, step.ended) else { continue };
            if name != section {
                put(page, &format!("    section {name}"));
                section.clone_from(&name);
            }
            let tag = if outcome.is_ok() { "done" } else { "crit" };
            count += 1;
            let op = label(&step.op.to_string());
            // Writing to a String cannot fail.
            let _ = writeln!(page, "    {op} :{tag}, s{count}, {from}, {}", to.max(from + 1));
        }
        // What was seen at the end of a run is a moment.
        let judged = run.entries.iter().rev().find(|e| matches!(e.event, Event::Judged { .. }));
        if let (Some(entry), Some(_)) = (judged, run.op(0)) {
            count += 1;
            let at = entry.stamp.wall_ms;
            let _ = writeln!(
                page,
                "    {} {} :milestone, s{count}, {at}, {at}",
                label(&run.name),
                run.ending()
            );
        }
    }
    put(page, "```\n");
}
