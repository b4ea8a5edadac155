//! A node's agent and its journal as seen from the host, where nothing has to be started to hit a moment of a heal.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::Signal;

use super::kills::Dice;
use crate::node::Node;
use crate::process::{self, Process};

/// Between two looks at the journal. Its entries are fsynced, some milliseconds each.
const TICK: Duration = Duration::from_millis(2);
/// systemd waits a second before it starts the agent again; a busy machine needs longer for the start.
const RESTART: Duration = Duration::from_secs(30);
/// From the operator's Enter until the incident is open.
const OPENING: Duration = Duration::from_secs(40);
/// A heal that has not come to the chosen entry by then is shot where it is.
const PATIENCE: Duration = Duration::from_secs(4);

/// The place where it is shot at.
#[derive(Debug)]
pub struct Range<'a> {
    node: &'a Node,
    journal: PathBuf,
    /// The newest incident before this heal.
    before: u64,
}

/// An incident of which the file has no end yet.
#[derive(Debug)]
struct Heal {
    id: String,
    open: bool,
}

impl<'a> Range<'a> {
    pub fn new(node: &'a Node) -> Self {
        let mut range = Self { node, journal: node.path("/var/lib/lifeline/journal"), before: 0 };
        range.before = range.numbers().max().unwrap_or(0);
        range
    }

    /// Shoots at most so often in the incident that now begins, and notes the moments that were hit, as the journal's last
    /// entry names them.
    pub fn shoot(
        &self,
        dice: &mut Dice,
        most: u64,
        moments: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        until(OPENING, || self.heal()).context("the heal opened no incident")?;
        let mut dead: Option<Process> = None;
        while (moments.len() as u64) < most {
            let agent = until(RESTART, || self.agent().filter(|a| Some(*a) != dead))
                .context("systemd has not started the agent again")?;
            self.aim(dice);
            let Some(heal) = self.heal().filter(|h| h.open) else { break };
            let moment = self.moment(&heal.id);
            ensure!(agent.alive(), "the agent ended by itself, {moment}");
            agent.signal(Signal::KILL).context("kill the agent")?;
            dead = Some(agent);
            moments.push(moment);
        }
        Ok(())
    }

    /// Waits for a moment: some time after the start, or some entries on and a little more.
    fn aim(&self, dice: &mut Dice) {
        if dice.roll(3) == 0 {
            thread::sleep(Duration::from_millis(dice.roll(1_500)));
            return;
        }
        let wanted = self.entries() + dice.roll(7);
        let begun = Instant::now();
        while self.entries() < wanted
            && begun.elapsed() < PATIENCE
            && self.heal().is_some_and(|h| h.open)
        {
            thread::sleep(TICK);
        }
        thread::sleep(Duration::from_millis(dice.roll(120)));
    }

    fn numbers(&self) -> impl Iterator<Item = u64> + use<> {
        let entries = fs::read_dir(&self.journal).into_iter().flatten().flatten();
        entries.filter_map(|e| number(&e.file_name().to_string_lossy()))
    }

    /// The incident of this heal, once it is there.
    fn heal(&self) -> Option<Heal> {
        let number = self.numbers().max().filter(|n| *n > self.before)?;
        let id = format!("{}-{number}", self.node.name());
        let text = self.text(&format!("{id}.incident"));
        Some(Heal { id, open: !text.contains("\"mark\":\"ended\"") })
    }

    /// A file's text without the space that is kept for what is still to come.
    fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.journal.join(name)).unwrap_or_default();
        let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
    }

    /// The runs' journals of this heal, in order.
    fn runs(&self, id: &str) -> Vec<String> {
        let entries = fs::read_dir(&self.journal).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|n| {
                n.strip_prefix(id).is_some_and(|r| r.starts_with('.') && r.ends_with(".jsonl"))
            })
            .collect();
        names.sort();
        names
    }

    /// Lines written so far about this heal.
    fn entries(&self) -> u64 {
        let Some(heal) = self.heal() else { return 0 };
        let names = self.runs(&heal.id).into_iter().chain([format!("{}.incident", heal.id)]);
        names.map(|n| self.text(&n).lines().count() as u64).sum()
    }

    /// Where the heal is: in which rung, and what was written last.
    fn moment(&self, id: &str) -> String {
        let runs = self.runs(id);
        let Some(run) = runs.last() else { return "before the first rung".to_owned() };
        moment_of(run, &self.text(run))
    }

    /// The daemon: a child of systemd's that leads its session. A child that the daemon forked and left behind does not.
    fn agent(&self) -> Option<Process> {
        let is_agent = |p: &Process| {
            let program = process::arguments(p.pid);
            program.first().is_some_and(|a| a.ends_with("/lifeline-agent"))
                && p.leads()
                && !program.iter().any(|a| a == "resume")
        };
        process::children(self.node.leader()).into_iter().find(is_agent)
    }
}

/// `calypso-7.incident` is number 7.
fn number(name: &str) -> Option<u64> {
    name.strip_suffix(".incident")?.rsplit_once('-')?.1.parse().ok()
}

fn moment_of(run: &str, text: &str) -> String {
    let rung = run.trim_end_matches(".jsonl").rsplit('-').next().unwrap_or_default();
    let last = text.lines().last().and_then(|l| l.split_once(' ')).map(|(_, json)| json);
    let entry: serde_json::Value =
        last.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    match entry["event"]["event"].as_str() {
        Some("began") => format!("in a step of {rung}"),
        Some("closed") => format!("after {rung}"),
        Some(_) => format!("between steps of {rung}"),
        None => format!("at the opening of {rung}"),
    }
}

fn until<T>(limit: Duration, mut seen: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = seen() {
            return Some(found);
        }
        if begun.elapsed() > limit {
            return None;
        }
        thread::sleep(TICK * 10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_named_by_rung_and_last_entry() {
        let line = |event: &str| format!("0a1b2c3d {{\"event\":{{\"event\":\"{event}\"}}}}\n");
        let run = "calypso-7.2-clean.jsonl";
        let text = line("opened") + &line("began");
        assert_eq!(moment_of(run, &text), "in a step of clean");
        assert_eq!(moment_of(run, &(text.clone() + &line("ended"))), "between steps of clean");
        assert_eq!(moment_of(run, &(text + &line("closed"))), "after clean");
        assert_eq!(moment_of(run, ""), "at the opening of clean");
    }

    #[test]
    fn an_incident_is_known_by_its_number() {
        assert_eq!(number("calypso-12.incident"), Some(12));
        assert_eq!(number("calypso-12.1-quiet.jsonl"), None);
    }
}
