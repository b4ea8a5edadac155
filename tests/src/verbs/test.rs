//! `cargo lab test`.

#![allow(clippy::print_stdout, reason = "results go to stdout")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use lifeline_lab::beside::{Beside, Share};
use lifeline_lab::lab::{self, Lab, Wish};
use lifeline_lab::progress::Progress;
use lifeline_lab::real::ahead::Ahead;
use lifeline_lab::state::Gear;
use lifeline_lab::trial::{self, Summary};
use lifeline_lab::{incident, real, traces};

use super::{raised, workspace};

/// The incident among the cases of the real gear.
const INCIDENT: &str =
    "real_incident_by_hand_leaves_marks_by_operator_none_and_by_itself_nobody_notices";
/// The exit node comes, is met, and comes again; `cargo lab incident --real` looks on for five minutes.
const ALONE: Duration = Duration::from_secs(75);
const GONE: &str = "real_down_leaves_no_process_namespace_mount_cgroup_or_device";

/// Arguments of `test`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only live cases whose name contains one of these
    filters: Vec<String>,
    /// Install missing packages without asking
    #[arg(long, env = "CI", value_parser = clap::builder::FalseyValueParser::new())]
    yes: bool,
    /// Only the live cases
    #[arg(long)]
    live: bool,
    /// Only the live cases of the real cluster, and the incident told there
    #[arg(long)]
    real: bool,
    /// Everything: first all of the above without --real, then all with it
    #[arg(long, conflicts_with = "real")]
    both: bool,
    /// Try the live cases without --real in this many labs beside each other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8), conflicts_with = "keep")]
    labs: u8,
    /// Only this share of them, such as 2/3
    #[arg(long, hide = true, requires = "live")]
    share: Option<Share>,
    /// Where to write what came of them
    #[arg(long, hide = true, requires = "share")]
    summary: Option<PathBuf>,
    /// Name the live cases
    #[arg(long)]
    list: bool,
    /// Leave the lab up afterwards
    #[arg(long, conflicts_with = "both")]
    keep: bool,
}

/// Runs the workspace's tests and the live cases.
pub fn run(args: &Args, progress: &Progress) -> anyhow::Result<ExitCode> {
    let gears: &[Gear] = match (args.real, args.both) {
        (true, _) => &[Gear::Real],
        (_, true) => &[Gear::Quick, Gear::Real],
        _ => &[Gear::Quick],
    };
    if args.list {
        let all =
            gears.iter().flat_map(|g| trial::all(*g).into_iter().chain(trial::long(*g).to_vec()));
        all.for_each(|case| println!("{}", case.name));
        args.both.then(|| println!("{INCIDENT}\n{GONE}"));
        return Ok(ExitCode::SUCCESS);
    }
    let ahead = if args.both { Some(Ahead::begin(args.yes)?) } else { None };
    if !args.live && !args.real {
        workspace::test(progress)?;
    }
    if args.share.is_none() {
        workspace::build(progress)?;
    }
    let mut summary = Summary::default();
    if !args.real {
        summary.take(on_stand_ins(args, progress)?);
    }
    if let Some(path) = &args.summary {
        let text = serde_json::to_string(&summary).context("write the summary")?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(ahead) = ahead {
        ahead.done(progress)?;
    }
    if args.real || args.both {
        summary.take(on_the_cluster(args, progress)?);
    }
    Ok(told(&summary))
}

/// The cases of the quick gear, in one lab or in several beside each other.
fn on_stand_ins(args: &Args, progress: &Progress) -> anyhow::Result<Summary> {
    let of = usize::from(args.labs);
    let mine = args.share.unwrap_or(Share { nth: 1, of });
    let mut others = Vec::new();
    if args.share.is_none() && of > 1 {
        // What all of them need is made once, before they look for it at the same time.
        Lab::up(&Wish { yes: args.yes, mode: "observe".to_owned(), gear: Gear::Quick }, progress)?;
        let mut live = vec!["test".to_owned(), "--live".to_owned()];
        live.extend(args.filters.iter().cloned());
        live.extend(args.yes.then(|| "--yes".to_owned()));
        for nth in 2..=of {
            others.push(Beside::begin(Share { nth, of }, &live)?);
        }
    }
    let mut summary = raised(args.yes, args.keep, Gear::Quick, progress, |lab| {
        Ok(trial::run(lab, &args.filters, |place| mine.has(place), progress)?)
    })?;
    if of > 1 {
        lab::down(progress)?;
    }
    for other in others {
        summary.take(other.done()?);
    }
    Ok(summary)
}

/// The cases of the real gear, then the incident on the same cluster, then what is left of all that.
fn on_the_cluster(args: &Args, progress: &Progress) -> anyhow::Result<Summary> {
    let wanted = |name: &str| {
        args.filters.is_empty() || args.filters.iter().any(|f| name.contains(f.as_str()))
    };
    let mut summary = raised(args.yes, args.keep, Gear::Real, progress, |lab| {
        let mut summary =
            trial::run(lab, &args.filters, |place| Share::WHOLE.has(place), progress)?;
        if wanted(INCIDENT) {
            let report = std::env::temp_dir().join("lifeline-incident-report.md");
            let seen = real::incident::tell(lab, &report, ALONE, progress)
                .map_err(|error| format!("{error:#}"))
                .and_then(|acts| {
                    progress.say(format!("\n{}", incident::table(&acts)));
                    real::judge::judge(&acts)
                });
            summary.note(INCIDENT, seen, progress);
        }
        Ok(summary)
    })?;
    if !args.keep && wanted(GONE) {
        let left = traces::ours()?;
        let seen = if left.is_empty() { Ok(()) } else { Err(left.join("\n")) };
        summary.note(GONE, seen, progress);
    }
    Ok(summary)
}

/// The summary, its count alone on the last line.
fn told(summary: &trial::Summary) -> ExitCode {
    for (name, why) in &summary.failed {
        println!("\n{name}:\n{why}");
    }
    if summary.left_out > 0 {
        println!(
            "{} live cases were left out: not asked for, or tried only by name",
            summary.left_out
        );
    }
    if summary.again > 0 {
        println!("{} live cases were tried twice", summary.again);
    }
    println!("{} passed, {} failed", summary.passed, summary.failed.len());
    if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
