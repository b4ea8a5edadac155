//! What is counted and not timed: foreign differences over the catalogue (T6), acts on near misses (T7), kills survived (T8). It
//! can be shared among labs, and a lab's share is written down for the one that began it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::damage::{self, Row};
use super::kills::{self, Heal};
use super::{Figure, Limit, Series, Wanted};
use crate::beside::Share;
use crate::lab::Lab;
use crate::progress::Progress;
use crate::trial::Ground;

pub const IDS: &[&str] = &["T6", "T7", "T8"];

/// What came of it so far.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    rows: Vec<Row>,
    by_hand: Vec<Row>,
    heals: Vec<Heal>,
}

impl Tally {
    /// Counts one lab's share.
    pub fn count(
        lab: &Lab,
        wanted: &Wanted,
        share: Share,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let ground = Ground::new(lab, progress)?;
        let mut tally = Self::default();
        if wanted.any(&["T6", "T7"]) {
            tally.rows = damage::catalogue(&ground, wanted.any(&["T6"]), share, progress);
        }
        if wanted.any(&["T6"]) {
            tally.by_hand = damage::by_hand(lab, &ground, share, progress);
        }
        if wanted.any(&["T8"]) {
            tally.heals = kills::fire(lab, &ground, wanted, share, progress);
        }
        ground.leave();
        Ok(tally)
    }

    /// Adds another lab's.
    pub fn take(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.by_hand.extend(other.by_hand);
        self.heals.extend(other.heals);
    }

    /// The figures that are asked for.
    pub fn figures(&self, wanted: &Wanted) -> Vec<Figure> {
        let (misses, faults): (Vec<&Row>, Vec<&Row>) = self.rows.iter().partition(|r| r.near_miss);
        let mut figures = Vec::new();
        if wanted.any(&["T6"]) {
            figures.push(rows(
                "T6",
                "what is neither as in health nor as in sickness after `ctl heal`, a fault of the catalogue each",
                "0 foreign rules, routes, chains, processes, files changed",
                &faults,
                Some(&self.by_hand),
            ));
        }
        if wanted.any(&["T7"]) {
            let what = "what `ctl heal` changes where nothing is to be touched, a near miss of the catalogue each";
            figures.push(rows("T7", what, "0", &misses, None));
        }
        if wanted.any(&["T8"]) {
            figures.push(self.killed());
        }
        figures
    }

    fn killed(&self) -> Figure {
        let shots: Vec<&String> = self.heals.iter().flat_map(|h| &h.shots).collect();
        let mut moments: BTreeMap<&str, usize> = BTreeMap::new();
        for shot in &shots {
            *moments.entry(shot.as_str()).or_default() += 1;
        }
        let moments: Vec<String> = moments.iter().map(|(m, n)| format!("{n} {m}")).collect();
        let bad: Vec<String> = self
            .heals
            .iter()
            .filter_map(|h| {
                h.bad.as_ref().map(|why| format!("seed {} ({}): {why}", h.seed, h.fault))
            })
            .collect();
        let seeds = self.heals.iter().map(|h| h.seed);
        let from = seeds.min().unwrap_or_default();
        let mut note = format!(
            "{} kills in {} heals, seeds from {from}, at these moments: {}",
            shots.len(),
            self.heals.len(),
            moments.join(", ")
        );
        for why in &bad {
            note += "; ";
            note += &one_line(why);
        }
        let samples = self.heals.iter().map(|h| f64::from(u8::from(h.bad.is_some()))).collect();
        let figure = Figure {
            id: "T8",
            what: format!(
                "{} SIGKILLs at random moments of {} heals: how many heals ended neither recovered nor as before, or left k3s-agent stopped",
                shots.len(),
                self.heals.len()
            ),
            target: "none, of ≥ 500 kills",
            met: None,
            ours: Series::new("the agent", "of a heal", samples),
            baseline: None,
            note,
        };
        let mut figure = figure.within(&[Limit(1.0, 0.0)]);
        figure.ours = Series::new("the agent", "heals", vec![bad.len() as f64]);
        if shots.len() < 500 {
            figure.met = figure.met.filter(|met| !met);
        }
        figure
    }
}

fn rows(
    id: &'static str,
    what: &str,
    target: &'static str,
    rows: &[&Row],
    by_hand: Option<&[Row]>,
) -> Figure {
    let samples = |rows: &[&Row]| -> Vec<f64> {
        rows.iter().filter(|r| r.failed.is_none()).map(|r| r.changed.len() as f64).collect()
    };
    let mut notes: Vec<String> = Vec::new();
    for row in rows {
        if let Some(why) = &row.failed {
            notes.push(format!("{} was not measured: {}", row.fault, one_line(why)));
        } else if !row.changed.is_empty() {
            notes.push(format!("{}: {}", row.fault, one_line(&row.changed.join(", "))));
        }
    }
    let baseline = by_hand.filter(|all| !all.is_empty()).map(|all| {
        let ids: Vec<&str> = all.iter().map(|r| r.fault.as_str()).collect();
        let by = format!("the runbook's commands by a script, on {}", ids.join(", "));
        Series::new(by, "differences", samples(&all.iter().collect::<Vec<_>>()))
    });
    let failed = rows.iter().any(|r| r.failed.is_some());
    let mut figure = Figure {
        id,
        what: what.to_owned(),
        target,
        met: None,
        ours: Series::new("ctl heal", "differences", samples(rows)),
        baseline,
        note: notes.join("; "),
    }
    .within(&[Limit(1.0, 0.0)]);
    if failed {
        // Nothing bad was seen is not the same as nothing bad is there.
        figure.met = figure.met.filter(|met| !met);
    }
    figure
}

/// Fit for a line of a table.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line: String = words.join(" ").chars().take(300).collect();
    line.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fault: &str, changed: &[&str], failed: Option<&str>) -> Row {
        Row {
            fault: fault.to_owned(),
            near_miss: false,
            changed: changed.iter().map(ToString::to_string).collect(),
            failed: failed.map(ToOwned::to_owned),
        }
    }

    fn heal(seed: u64, shots: usize, bad: Option<&str>) -> Heal {
        Heal {
            seed,
            fault: "R1".to_owned(),
            shots: vec!["began".to_owned(); shots],
            bad: bad.map(ToOwned::to_owned),
        }
    }

    fn t6(rows: Vec<Row>) -> Figure {
        let tally = Tally { rows, ..Tally::default() };
        let wanted = Wanted {
            figures: vec!["T6".to_owned()],
            runs: 1,
            kills: 1,
            seed: None,
            labs: 1,
            counted: Vec::new(),
            json: "x".into(),
        };
        tally.figures(&wanted).remove(0)
    }

    #[test]
    fn a_row_that_could_not_be_measured_is_not_called_clean() {
        assert_eq!(t6(vec![row("R1", &[], None)]).met, Some(true));
        let figure = t6(vec![row("R1", &[], None), row("R2", &[], Some("no power"))]);
        assert_eq!((figure.met, figure.ours.samples.len()), (None, 1));
        assert!(figure.note.contains("R2 was not measured: no power"), "{}", figure.note);
    }

    #[test]
    fn what_was_changed_is_named_with_its_fault() {
        let figure = t6(vec![row("R1", &["rule4 - 100: from all lookup 7"], None)]);
        assert_eq!(figure.met, Some(false));
        assert!(figure.note.contains("R1: rule4 - 100"), "{}", figure.note);
    }

    #[test]
    fn kills_of_all_labs_count_and_a_bad_end_is_named_with_its_seed() {
        let mut tally = Tally { heals: vec![heal(7, 300, None)], ..Tally::default() };
        assert_eq!(tally.killed().met, None, "300 are too few to tell");
        tally.take(Tally { heals: vec![heal(8, 200, None)], ..Tally::default() });
        assert_eq!(tally.killed().met, Some(true));
        tally.take(Tally {
            heals: vec![heal(9, 1, Some("k3s-agent was left failed"))],
            ..Tally::default()
        });
        let figure = tally.killed();
        assert_eq!((figure.met, figure.ours.samples), (Some(false), vec![1.0]));
        assert!(figure.note.contains("seed 9 (R1): k3s-agent was left failed"), "{}", figure.note);
    }
}
