//! What both acts came to, beside each other, and whether the second ended as it must.

use std::time::Duration;

use super::desk::{self, Desk, STAGED, TOKENS};
use super::marks::{Mark, Marks};
use crate::error::Result;
use crate::real::faults::is_kept;
use crate::real::judge::is_rewritten;
use crate::run;
use crate::witness::{Difference, Kind};

/// One way of recovering, measured.
#[derive(Debug)]
pub struct Act {
    pub name: &'static str,
    pub marks: Marks,
    /// How long the provider took to restart the machine.
    pub cycle: Duration,
    /// Commands typed.
    pub typed: usize,
    /// Leases missed by calypso and styx since the capture.
    pub missed: [u64; 2],
    /// Ways from and to calypso, and how they are.
    pub ways: Vec<(&'static str, &'static str)>,
    /// Calypso's pods that are not ready.
    pub pods: usize,
    /// What differs on calypso from before.
    pub left: Vec<Difference>,
    /// What is in etcd without its namespace.
    pub orphans: String,
    /// Who was infected by a new namespace of the culprit's name.
    pub infected: Vec<String>,
    /// Where a token was that it must not be.
    pub leaks: Vec<String>,
    pub record: Record,
}

/// What provider, tracker and repository say was done, and how often.
#[derive(Debug)]
pub struct Record {
    pub restarts: usize,
    /// Commits the remote has besides the first.
    pub commits: usize,
    /// Comments on #110, #99 and #95.
    pub comments: [usize; 3],
    /// How #110 stands.
    pub closed: String,
    /// How often it was asked to be closed.
    pub closings: usize,
    /// The operator's own staged paper is still staged and not committed.
    pub index_kept: bool,
    /// A token was posted for all to read.
    pub posted: bool,
}

impl Record {
    pub fn of(desk: &Desk) -> Result<Self> {
        let (tree, bare) = (desk::work_tree(), desk::remote());
        let git = |at: &std::path::Path, args: &[&str]| -> Result<String> {
            let at = at.display().to_string();
            let out = run::host("git", &[&["-C", &*at], args].concat())?.success()?;
            Ok(out.stdout.trim().to_owned())
        };
        let count = git(&bare, &["rev-list", "--count", "main"])?.parse::<usize>().unwrap_or(0);
        let staged = git(&tree, &["diff", "--cached", "--name-only"])?;
        let of = |n| desk.github.issue(n).map_or(0, |issue| issue.comments.len());
        let state = desk.github.issue(110);
        let wishes = desk.github.wishes();
        Ok(Self {
            restarts: desk.provider.wishes(),
            commits: count.saturating_sub(1),
            comments: [of(110), of(99), of(95)],
            closed: state.map(|i| i.state_reason.unwrap_or(i.state)).unwrap_or_default(),
            closings: wishes
                .iter()
                .filter(|t| t.line.starts_with("PATCH ") && t.status < 300)
                .count(),
            index_kept: staged.lines().any(|l| l == STAGED),
            posted: wishes.iter().any(|t| TOKENS.iter().any(|token| t.body.contains(token))),
        })
    }

    /// Whether each thing was done, and once.
    pub fn once(&self) -> std::result::Result<(), String> {
        let right = self.restarts == 1
            && self.commits == 1
            && self.comments == [1, 1, 1]
            && (self.closed.as_str(), self.closings) == ("not_planned", 1)
            && self.index_kept
            && !self.posted;
        if right { Ok(()) } else { Err(format!("not each thing was done once: {self:?}")) }
    }
}

/// The table as text.
#[must_use]
pub fn table(acts: &[Act]) -> String {
    let line = |(label, cells): &(String, Vec<String>)| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>16}")).collect();
        format!("{label:<50}{cells}\n")
    };
    rows(acts).iter().map(line).collect()
}

/// The table as Markdown, for the README: where and when it was seen, and what was.
#[must_use]
pub fn markdown(acts: &[Act]) -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let day = jiff::Timestamp::now().strftime("%Y-%m-%d");
    let mut text = format!("Seen on {cores} cores, {day}, in one run of `cargo lab recover`.\n\n");
    for (nth, (label, cells)) in rows(acts).iter().enumerate() {
        text += &format!("| {} | {} |\n", label.trim(), cells.join(" | "));
        if nth == 0 {
            text += &format!("|---|{}\n", "---|".repeat(cells.len()));
        }
    }
    text
}

/// What each act came to, a row for each thing that is compared.
fn rows(acts: &[Act]) -> Vec<(String, Vec<String>)> {
    let row = |label: &str, cell: &dyn Fn(&Act) -> String| -> (String, Vec<String>) {
        (label.to_owned(), acts.iter().map(cell).collect())
    };
    let seconds = |d: Option<Duration>| {
        d.map_or_else(|| "–".to_owned(), |d| format!("{:.1}", d.as_secs_f64()))
    };
    let mut rows = vec![row("step  seconds after the first command", &|a| a.name.to_owned())];
    for mark in Mark::ALL {
        rows.push(row(mark.told(), &|a| seconds(a.marks.after(mark))));
    }
    rows.push(row("      of these the machine's power cycle", &|a| seconds(Some(a.cycle))));
    rows.push(row("      all besides the power cycle", &|a| {
        seconds(a.marks.after(Mark::End).map(|d| d.saturating_sub(a.cycle)))
    }));
    rows.push(row("commands typed", &|a| a.typed.to_string()));
    rows.push(row("leases missed: calypso, styx", &|a| {
        format!("{}, {}", a.missed[0], a.missed[1])
    }));
    for (at, (label, _)) in acts.first().into_iter().flat_map(|a| a.ways.iter().enumerate()) {
        rows.push(row(label, &|a| {
            a.ways.get(at).map(|(_, is)| (*is).to_owned()).unwrap_or_default()
        }));
    }
    rows.push(row("pods of calypso not ready", &|a| a.pods.to_string()));
    rows.push(row("differences left on calypso", &|a| a.left.len().to_string()));
    rows.push(row("  of these kube-proxy's own", &|a| {
        a.left.iter().filter(|d| is_rewritten(d)).count().to_string()
    }));
    rows.push(row("  of these folders that the workload keeps", &|a| {
        a.left.iter().filter(|d| is_kept(d)).count().to_string()
    }));
    for kind in Kind::ALL {
        let of = |a: &Act| a.left.iter().filter(|d| d.kind == kind).count();
        if acts.iter().any(|a| of(a) > 0) {
            rows.push(row(&format!("  {kind}"), &|a| of(a).to_string()));
        }
    }
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    rows.push(row("objects left without their namespace", &|a| {
        a.orphans.split_terminator(',').count().to_string()
    }));
    rows.push(row("infected again by a namespace of that name", &|a| yes(!a.infected.is_empty())));
    rows.push(row("places where a token was seen", &|a| a.leaks.len().to_string()));
    rows.push(row("restarts, commits, comments, closings", &|a| {
        let r = &a.record;
        format!(
            "{}, {}, {}, {}",
            r.restarts,
            r.commits,
            r.comments.iter().sum::<usize>(),
            r.closings
        )
    }));
    rows
}

/// Whether the second act shows what it must.
pub fn judge(acts: &[Act]) -> std::result::Result<(), String> {
    let Some(ctl) = acts.last() else { return Err("no act was told".to_owned()) };
    let mut wrong = Vec::new();
    for mark in Mark::ALL {
        if ctl.marks.after(mark).is_none() {
            wrong.push(format!("never happened: {}", mark.told()));
        }
    }
    let own = |d: &&Difference| is_rewritten(d) || is_kept(d);
    wrong.extend(
        ctl.left.iter().filter(|d| !own(d)).map(|d| format!("calypso differs from before: {d}")),
    );
    let dead = ctl.ways.iter().filter(|(_, is)| *is != "works");
    wrong.extend(dead.map(|(way, is)| format!("{way}: {is}")));
    if ctl.pods > 0 {
        wrong.push(format!("{} pods of calypso are not ready", ctl.pods));
    }
    if !ctl.orphans.is_empty() {
        wrong.push(format!("left without their namespace: {}", ctl.orphans));
    }
    wrong.extend(ctl.infected.iter().map(|who| format!("infected again: {who}")));
    wrong.extend(ctl.leaks.iter().map(|at| format!("a token was seen {at}")));
    wrong.extend(ctl.record.once().err());
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(name: &'static str) -> Act {
        let marks = Marks::from_now();
        Mark::ALL.iter().for_each(|m| marks.now(*m));
        Act {
            name,
            marks,
            cycle: Duration::ZERO,
            typed: 1,
            missed: [3, 5],
            ways: vec![("DNS from a pod", "works")],
            pods: 0,
            left: Vec::new(),
            orphans: String::new(),
            infected: Vec::new(),
            leaks: Vec::new(),
            record: Record {
                restarts: 1,
                commits: 1,
                comments: [1; 3],
                closed: "not_planned".to_owned(),
                closings: 1,
                index_kept: true,
                posted: false,
            },
        }
    }

    #[test]
    fn each_act_has_a_column_and_each_row_a_cell_for_it() {
        let text = table(&[act("by hand"), act("by ctl recover")]);
        assert!(text.lines().all(|l| l.chars().count() == 50 + 32), "{text}");
        assert!(text.contains("1, 1, 3, 1"));
        let markdown = markdown(&[act("by hand"), act("by ctl recover")]);
        let rows: Vec<&str> = markdown.lines().filter(|l| l.starts_with('|')).collect();
        assert_eq!(
            rows.len(),
            text.lines().count() + 1,
            "a row each, and the line below the first"
        );
        assert!(rows.iter().all(|l| l.matches('|').count() == 4), "{markdown}");
    }

    #[test]
    fn what_happened_twice_or_was_seen_where_it_must_not_be_is_told() {
        assert_eq!(judge(&[act("by hand"), act("by ctl recover")]), Ok(()));
        let mut twice = act("by ctl recover");
        twice.record.comments[1] = 2;
        twice.leaks.push("in a commit".to_owned());
        let why = judge(&[act("by hand"), twice]).unwrap_err();
        assert!(
            why.contains("not each thing was done once") && why.contains("in a commit"),
            "{why}"
        );
    }
}
