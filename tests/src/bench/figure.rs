//! A measured quantity: its samples, its median and tail, and how it stands beside a baseline of the same run.

use serde::Serialize;

/// Samples of one quantity, measured one way.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// How it was measured.
    pub by: String,
    pub unit: &'static str,
    pub samples: Vec<f64>,
}

impl Series {
    pub fn new(by: impl Into<String>, unit: &'static str, samples: Vec<f64>) -> Self {
        Self { by: by.into(), unit, samples }
    }

    /// The value that this share of the samples does not exceed, by the nearest rank: no sample is invented.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        // The nearest rank is 1 to n; a share above 1 or below 0 means the ends.
        let rank = (share * sorted.len() as f64).ceil().clamp(1.0, sorted.len().max(1) as f64);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to 1 ..= n just above"
        )]
        sorted.get(rank as usize - 1).copied()
    }

    #[must_use]
    pub fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }

    fn shown(&self) -> String {
        let n = self.samples.len();
        match (self.median(), self.quantile(0.99)) {
            (Some(median), Some(_)) if n == 1 => format!("{} {}", number(median), self.unit),
            (Some(median), Some(tail)) => {
                format!("{} {}, p99 {} (n={n})", number(median), self.unit, number(tail))
            }
            _ => "not measured".to_owned(),
        }
    }
}

/// Three significant digits, without an exponent.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v.fract() == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// One row of the table: ours, what it must reach, and what it is measured against.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// T0 to T16.
    pub id: &'static str,
    pub what: String,
    pub target: &'static str,
    /// Whether the target is reached; nothing where it could not be measured.
    pub met: Option<bool>,
    pub ours: Series,
    pub baseline: Option<Series>,
    /// By how much it is missed and why, and what else the reader must know.
    pub note: String,
}

/// A share of the samples, and what it may be at most.
#[derive(Debug, Clone, Copy)]
pub struct Limit(pub f64, pub f64);

impl Figure {
    /// Judges it by these limits; by how much one is missed goes in front of the note.
    #[must_use]
    pub fn within(mut self, limits: &[Limit]) -> Self {
        if self.ours.samples.is_empty() {
            self.met = None;
            return self;
        }
        let missed = |Limit(share, most): &Limit| {
            let value = self.ours.quantile(*share).filter(|v| v > most)?;
            let which = match (self.ours.samples.len(), *share) {
                (1, _) => String::new(),
                (_, s) if s >= 1.0 => "most ".to_owned(),
                (_, s) if s > 0.5 => format!("p{:.0} ", s * 100.0),
                _ => "median ".to_owned(),
            };
            let by = if *most > 0.0 {
                format!(", {} × what it may be", number(value / most))
            } else {
                String::new()
            };
            Some(format!("missed: {which}{} {}{by}", number(value), self.ours.unit))
        };
        let mut said: Vec<String> = limits.iter().filter_map(missed).collect();
        self.met = Some(said.is_empty());
        if !self.note.is_empty() {
            said.push(self.note);
        }
        self.note = said.join("; ");
        self
    }
}

/// The table as Markdown, as the README carries it; what there is to say of a row stands below it.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| # | what | target | Lifeline | measured against, same run | ratio | reached |\n|---|---|---|---|---|---|---|\n",
    );
    let mut notes: Vec<String> = Vec::new();
    for f in figures {
        let baseline = f.baseline.as_ref();
        let against =
            baseline.map_or_else(|| "–".to_owned(), |b| format!("{}: {}", b.by, b.shown()));
        let ratio = match (f.ours.median(), baseline.and_then(Series::median)) {
            (Some(ours), Some(theirs)) if ours > 0.0 && theirs > 0.0 => {
                format!("{} ×", number(theirs / ours))
            }
            _ => "–".to_owned(),
        };
        let mut met = match f.met {
            Some(true) => "yes".to_owned(),
            Some(false) => "**no**".to_owned(),
            None => "not measured".to_owned(),
        };
        if !f.note.is_empty() {
            let same = notes.iter().position(|n| *n == f.note);
            let at = same.unwrap_or_else(|| {
                notes.push(f.note.clone());
                notes.len() - 1
            });
            met += &format!(" ({})", at + 1);
        }
        text += &format!(
            "| {} | {} | {} | {} | {against} | {ratio} | {met} |\n",
            f.id,
            f.what,
            f.target,
            f.ours.shown()
        );
    }
    if !notes.is_empty() {
        text.push('\n');
    }
    for (at, note) in notes.iter().enumerate() {
        text += &format!("{}. {note}\n", at + 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(samples: &[f64]) -> Series {
        Series::new("ours", "ms", samples.to_vec())
    }

    fn figure(samples: &[f64]) -> Figure {
        Figure {
            id: "T1",
            what: "capture".into(),
            target: "≤ 300 ms",
            met: None,
            ours: series(samples),
            baseline: Some(Series::new("by hand", "ms", vec![3_000.0])),
            note: String::new(),
        }
    }

    #[test]
    fn a_quantile_is_a_sample_and_never_between_two() {
        let s = series(&[9.0, 1.0, 5.0, 3.0]);
        assert_eq!(s.median(), Some(3.0));
        assert_eq!(s.quantile(0.99), Some(9.0));
        assert_eq!(s.quantile(0.0), Some(1.0));
        assert_eq!(series(&[]).median(), None);
    }

    #[test]
    fn a_row_says_how_many_samples_and_how_many_times_better() {
        let row = table(&[figure(&[200.0, 400.0, 300.0]).within(&[Limit(0.5, 300.0)])]);
        let row = row.lines().nth(2).unwrap_or_default();
        assert!(row.contains("300 ms, p99 400 (n=3)"), "{row}");
        assert!(row.contains("by hand: 3000 ms | 10 × | yes |"), "{row}");
    }

    #[test]
    fn by_how_much_a_target_is_missed_stands_below_the_table_in_front_of_why() {
        let mut slow = figure(&[200.0, 600.0, 450.0]);
        slow.note = "the disk is slow".into();
        let text = table(&[slow.within(&[Limit(0.5, 300.0), Limit(0.99, 1_000.0)])]);
        assert!(text.contains("| **no** (1) |\n\n1. missed: median 450 ms, 1.50 × what it may be; the disk is slow\n"), "{text}");
    }

    #[test]
    fn a_note_that_two_rows_share_is_said_once() {
        let mut one = figure(&[1.0]);
        one.note = "said once".into();
        let text = table(&[one.clone(), one]);
        assert_eq!(text.matches("(1)").count(), 2, "{text}");
        assert_eq!(text.matches("said once").count(), 1, "{text}");
    }

    #[test]
    fn what_was_not_measured_is_not_called_reached() {
        let mut none = figure(&[]);
        none.baseline = None;
        let text = table(&[none.within(&[Limit(0.5, 300.0)])]);
        assert!(text.contains("| not measured | – | – | not measured |"), "{text}");
    }
}
