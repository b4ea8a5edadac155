//! `cargo lab test`.

#![allow(clippy::print_stdout, reason = "results go to stdout")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use lifeline_lab::beside::{Queue, Share};
use lifeline_lab::progress::Progress;
use lifeline_lab::real::ahead::Ahead;
use lifeline_lab::state::Gear;
use lifeline_lab::trial::{self, Summary};
use lifeline_lab::{incident, parts, real, root, traces};

use super::lanes::{Lanes, takes};
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
    /// Everything: all of the above beside each other, and the incident when they are done
    #[arg(long, conflicts_with = "real")]
    both: bool,
    /// Try the live cases without --real in this many labs beside each other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8), conflicts_with = "keep")]
    labs: u8,
    /// Which of several labs this is, such as 2/3
    #[arg(long, hide = true, requires = "queue")]
    share: Option<Share>,
    /// The folder of the queue that these labs take the cases from
    #[arg(long, hide = true, requires = "summary")]
    queue: Option<Queue>,
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
    if let (Some(queue), Some(path)) = (&args.queue, &args.summary) {
        let gear = if args.real { Gear::Real } else { Gear::Quick };
        let text = serde_json::to_string(&cases(args, gear, Some(queue), progress)?)
            .context("write the summary")?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.both {
        return everything(args, progress);
    }
    if !args.live && !args.real {
        workspace::test(progress)?;
    }
    workspace::build(progress)?;
    let summary = match (args.real, args.labs) {
        (true, _) => on_the_cluster(args, None, || Ok(Summary::default()), progress)?,
        (false, 1) => cases(args, Gear::Quick, None, progress)?,
        (false, labs) => {
            common(args, progress)?;
            root::ensure(Gear::Quick, progress)?;
            let labs = usize::from(labs);
            Lanes::begin(Gear::Quick, (1..=labs, labs), &args.filters, args.yes)?.done()?
        }
    };
    Ok(told(&summary))
}

/// What labs beside each other need of the machine is installed once, before they look for it at the same time.
fn common(args: &Args, progress: &Progress) -> anyhow::Result<()> {
    parts::check_machine()?;
    Ok(parts::ensure(progress, args.yes)?)
}

/// Most of it is waiting: the workspace's tests run beside the quick gear's cases in their labs, then beside the real gear's in two. All
/// at once was tried: with five labs and an API server for each of six tests a look took half a minute on two cores.
/// The incident is told when all of that has ended, for it counts every lost probe.
fn everything(args: &Args, progress: &Progress) -> anyhow::Result<ExitCode> {
    common(args, progress)?;
    let ahead = Ahead::begin(args.yes)?;
    workspace::build(progress)?;
    let tests = workspace::begin(progress)?;
    root::ensure(Gear::Quick, progress)?;
    let labs = usize::from(args.labs);
    // The real gear has one besides our own, which tells the incident afterwards.
    let of = labs + 1;
    let quick = Lanes::begin(Gear::Quick, (1..=labs, of), &args.filters, args.yes)?;
    let mut summary = quick.done()?;
    ahead.done(progress)?;
    let real = Lanes::begin(Gear::Real, (of..=of, of), &args.filters, args.yes)?;
    let queue = real.queue();
    let mut tested = Ok(());
    let beside = || {
        let of_real = real.done()?;
        tested = tests.done(progress);
        // Our own lab has counted them, too.
        Ok(Summary { left_out: 0, ..of_real })
    };
    summary.take(on_the_cluster(args, Some(&queue), beside, progress)?);
    let code = told(&summary);
    tested.map(|()| code)
}

/// The cases of a gear in one lab, or those of them that a queue gives it.
fn cases(
    args: &Args,
    gear: Gear,
    queue: Option<&Queue>,
    progress: &Progress,
) -> anyhow::Result<Summary> {
    raised(args.yes, args.keep, gear, progress, |lab| {
        trial::run(lab, &args.filters, |place| takes(queue, place), progress)
    })
}

/// The cases of the real gear, or those that a queue gives us; when what runs `beside` has ended, the incident on the same cluster, then what is left of all that.
fn on_the_cluster(
    args: &Args,
    queue: Option<&Queue>,
    beside: impl FnOnce() -> anyhow::Result<Summary>,
    progress: &Progress,
) -> anyhow::Result<Summary> {
    let wanted = |name: &str| {
        args.filters.is_empty() || args.filters.iter().any(|f| name.contains(f.as_str()))
    };
    let mut summary = raised(args.yes, args.keep, Gear::Real, progress, |lab| {
        let mut summary = trial::run(lab, &args.filters, |place| takes(queue, place), progress)?;
        summary.take(beside()?);
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
