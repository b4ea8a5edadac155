//! What Lifeline reaches, measured on live nodes: each figure beside a baseline of the same run, with its target.
//!
//! No figure fails a run: machines are noisy, and a table that says by how much a target is missed is worth more than one
//! that is not printed.

mod capture;
mod crowd;
mod damage;
mod exposure;
mod figure;
mod fleet;
mod footprint;
mod kills;
pub(crate) mod probe;
mod random;
mod range;
mod renewal;
mod tally;
mod warned;

use anyhow::Context;
use serde::Serialize;

pub use figure::{Figure, Limit, Series, table};
pub use tally::Tally;

use crate::beside::{Beside, Share};
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
    /// Share what is counted and not timed (T6 to T8) among this many labs beside each other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub labs: u8,
    /// Take up what earlier shares have counted (their --summary) instead of counting anew
    #[arg(long, hide = true)]
    pub counted: Vec<std::path::PathBuf>,
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

/// What takes time to measure: alone on the machine, one after the other.
const TIMED: &[Group] = &[
    Group { mode: "guard", ids: &["T0"], measure: warned::measure },
    Group { mode: "guard", ids: &["T1"], measure: capture::guarded },
    Group { mode: "heal", ids: &["T2", "T3"], measure: capture::healed },
    Group { mode: "guard", ids: &["T9", "T10", "T11"], measure: footprint::measure },
    Group { mode: "guard", ids: &["T14"], measure: crowd::measure },
    Group { mode: "guard", ids: &["T16"], measure: renewal::measure },
];

/// Measures, and writes the JSON file. A group that fails is told and does not take the others with it.
pub fn measure(wanted: &Wanted, yes: bool, progress: &Progress) -> anyhow::Result<Record> {
    let mut figures = Vec::new();
    let mut failed = Vec::new();
    let before = load();
    for group in TIMED.iter().filter(|g| wanted.any(g.ids)) {
        let done =
            in_a_lab(group.mode, yes, progress, |lab| (group.measure)(lab, wanted, progress));
        match done {
            Ok(more) => figures.extend(more.into_iter().filter(|f| wanted.any(&[f.id]))),
            Err(why) => failed.push(told(group.ids, &why, progress)),
        }
    }
    if wanted.any(&["T12"]) {
        match fleet::measure(wanted, progress) {
            Ok(more) => figures.extend(more),
            Err(why) => failed.push(told(&["T12"], &why, progress)),
        }
    }
    if wanted.any(&["T15"]) {
        match exposure::measure() {
            Ok(more) => figures.extend(more),
            Err(why) => failed.push(told(&["T15"], &why, progress)),
        }
    }
    if wanted.any(&["T7"]) {
        match random::measure(wanted, progress) {
            Ok(figure) => figures.push(figure),
            Err(why) => failed.push(told(&["T7"], &why, progress)),
        }
    }
    if wanted.any(tally::IDS) {
        match counted(wanted, yes, progress) {
            Ok(tally) => figures.extend(tally.figures(wanted)),
            Err(why) => failed.push(told(tally::IDS, &why, progress)),
        }
    }
    figures.sort_by_key(|f| f.id[1..].parse::<u32>().unwrap_or(u32::MAX));
    let record = Record {
        version: env!("CARGO_PKG_VERSION"),
        cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        taken: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        load: [before, load()],
        figures,
        failed,
    };
    let text = serde_json::to_string_pretty(&record).context("write the figures")?;
    std::fs::write(&wanted.json, text + "\n")
        .with_context(|| format!("write {}", wanted.json.display()))?;
    Ok(record)
}

fn told(ids: &[&str], why: &anyhow::Error, progress: &Progress) -> String {
    progress.say(format!("{}: {why:#}", ids.join(", ")));
    ids.join(", ")
}

fn in_a_lab<T>(
    mode: &str,
    yes: bool,
    progress: &Progress,
    work: impl FnOnce(&Lab) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let wish = Wish { yes, mode: mode.to_owned(), gear: Gear::Quick };
    let done = Lab::up(&wish, progress).context("raise the lab").and_then(|lab| work(&lab));
    lab::down(progress)?;
    done
}

/// What is counted, in as many labs as are wanted.
fn counted(wanted: &Wanted, yes: bool, progress: &Progress) -> anyhow::Result<Tally> {
    if !wanted.counted.is_empty() {
        return taken_up(&wanted.counted);
    }
    let of = usize::from(wanted.labs);
    let seed = wanted.seed.unwrap_or_else(seed);
    let mut others = Vec::new();
    if of > 1 {
        // What all of them need is made once, before they look for it at the same time.
        in_a_lab("observe", yes, progress, |_| Ok(()))?;
    }
    for nth in 2..=of {
        let mut args = vec!["bench".to_owned()];
        args.extend(tally::IDS.iter().filter(|id| wanted.any(&[id])).map(ToString::to_string));
        args.extend(["--kills".to_owned(), wanted.kills.to_string()]);
        args.extend(["--seed".to_owned(), seed.to_string()]);
        args.extend(yes.then(|| "--yes".to_owned()));
        others.push(Beside::begin(Share { nth, of }, &args)?);
    }
    let mine = Wanted { seed: Some(seed), ..wanted.clone() };
    let mut tally = share(&mine, Share { nth: 1, of }, yes, progress)?;
    for other in others {
        tally.take(other.done()?);
    }
    Ok(tally)
}

fn taken_up(files: &[std::path::PathBuf]) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for file in files {
        let doing = || format!("read {}", file.display());
        let text = std::fs::read_to_string(file).with_context(doing)?;
        tally.take(serde_json::from_str(&text).with_context(doing)?);
    }
    Ok(tally)
}

/// One lab's share of what is counted.
pub fn share(
    wanted: &Wanted,
    share: Share,
    yes: bool,
    progress: &Progress,
) -> anyhow::Result<Tally> {
    in_a_lab("observe", yes, progress, |lab| Tally::count(lab, wanted, share, progress))
}

fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |t| t.as_secs())
}

/// What this program was built for, as the tables say it.
fn built() -> &'static str {
    if cfg!(debug_assertions) { "debugging" } else { "release" }
}

/// The machine's load, over one minute.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|l| l.parse().ok()).unwrap_or(f64::NAN)
}

/// What a run came to.
#[derive(Debug, Serialize)]
pub struct Record {
    version: &'static str,
    cores: usize,
    kernel: String,
    taken: String,
    /// Of the machine over one minute, before and after.
    load: [f64; 2],
    figures: Vec<Figure>,
    /// Groups that could not be measured.
    pub failed: Vec<String>,
}

impl Record {
    /// The table, and under what conditions it was taken.
    #[must_use]
    pub fn told(&self) -> String {
        let [before, after] = self.load;
        let build = built();
        let mut text = format!(
            "Taken {} with version {}, built for {build}, on {} cores, Linux {}; the machine's load was {before} before and {after} after.\n\n{}",
            self.taken,
            self.version,
            self.cores,
            self.kernel,
            table(&self.figures)
        );
        if !self.failed.is_empty() {
            text += &format!("\nNot measured: {}.\n", self.failed.join("; "));
        }
        text
    }
}
