//! What Lifeline reaches, measured on live nodes: each figure beside a baseline of the same run, with its target.
//!
//! No figure fails a run: machines are noisy, and a table that says by how much a target is missed is worth more than one
//! that is not printed.

mod capture;
mod figure;
mod footprint;
mod kills;
pub(crate) mod probe;

use anyhow::Context;
use serde::Serialize;

pub use figure::{Figure, Series, table};

use crate::lab::{self, Lab, Wish};
use crate::progress::Progress;
use crate::state::Gear;

/// What is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Wanted {
    /// Only these figures, such as T1; all, without
    pub figures: Vec<String>,
    /// Samples of each timing; the baseline by hand takes half a minute a sample, and a tenth as many are taken
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// SIGKILLs of the agent in the middle of heals, for T8
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub kills: u32,
    /// Seed of what is random; printed, so that a run can be repeated
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where the figures are written as JSON
    #[arg(long, default_value = "bench.json")]
    pub json: std::path::PathBuf,
}

impl Wanted {
    fn any(&self, ids: &[&str]) -> bool {
        self.figures.is_empty()
            || self.figures.iter().any(|f| ids.iter().any(|id| id.eq_ignore_ascii_case(f)))
    }

    /// A tenth of the runs, at least one.
    fn few(&self) -> u32 {
        (self.runs / 10).max(1)
    }
}

/// A group of figures that are measured in one lab.
struct Group {
    mode: &'static str,
    ids: &'static [&'static str],
    measure: fn(&Lab, &Wanted, &Progress) -> anyhow::Result<Vec<Figure>>,
}

const GROUPS: &[Group] = &[
    Group { mode: "guard", ids: &["T1"], measure: capture::guarded },
    Group { mode: "heal", ids: &["T2", "T3"], measure: capture::healed },
    Group { mode: "guard", ids: &["T9", "T10", "T11"], measure: footprint::measure },
    Group { mode: "observe", ids: &["T8"], measure: kills::measure },
];

/// Measures, and writes the JSON file. A group that fails is told and does not take the others with it.
pub fn measure(wanted: &Wanted, yes: bool, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut failed = Vec::new();
    for group in GROUPS.iter().filter(|g| wanted.any(g.ids)) {
        let wish = Wish { yes, mode: group.mode.to_owned(), gear: Gear::Quick };
        let done = Lab::up(&wish, progress)
            .context("raise the lab")
            .and_then(|lab| (group.measure)(&lab, wanted, progress));
        lab::down(progress)?;
        match done {
            Ok(more) => figures.extend(more.into_iter().filter(|f| wanted.any(&[f.id]))),
            Err(why) => {
                progress.say(format!("{}: {why:#}", group.ids.join(", ")));
                failed.push(group.ids.join(", "));
            }
        }
    }
    write(&figures, wanted)?;
    anyhow::ensure!(failed.is_empty(), "not measured: {}", failed.join("; "));
    Ok(figures)
}

#[derive(Serialize)]
struct Record<'a> {
    version: &'static str,
    cores: usize,
    kernel: String,
    taken: String,
    figures: &'a [Figure],
}

fn write(figures: &[Figure], wanted: &Wanted) -> anyhow::Result<()> {
    let record = Record {
        version: env!("CARGO_PKG_VERSION"),
        cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        taken: jiff::Timestamp::now().to_string(),
        figures,
    };
    let text = serde_json::to_string_pretty(&record).context("write the figures")?;
    std::fs::write(&wanted.json, text + "\n")
        .with_context(|| format!("write {}", wanted.json.display()))
}
