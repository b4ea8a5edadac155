//! T7: acts on states made by chance in which nothing is to be touched; the core's own test is run and its states are counted.

use std::process::Stdio;

use anyhow::Context;

use super::{Figure, Limit, Series, Wanted};
use crate::cargo::{self, MANIFEST};
use crate::progress::Progress;

const TEST: &str = "what_is_healthy_foreign_or_wanted_is_never_touched";

/// Runs the test with this run's seed.
pub fn measure(wanted: &Wanted, progress: &Progress) -> anyhow::Result<Figure> {
    let seed = wanted.seed.unwrap_or_else(super::seed);
    progress.say(format!("T7: states by chance, seed {seed}"));
    let mut cargo = cargo::command();
    cargo.args(["test", "--workspace", "--locked", "--manifest-path", MANIFEST]);
    cargo.args(["--test", "random", TEST, "--", "--exact", "--nocapture"]);
    let out = cargo.env("SEED", seed.to_string()).stdin(Stdio::null()).output();
    let out = out.context("run cargo test")?;
    let said = String::from_utf8_lossy(&out.stdout);
    let told = String::from_utf8_lossy(&out.stderr);
    let states = states(&said);
    let wrong = if out.status.success() {
        anyhow::ensure!(states > 0, "the test says nothing of its states: {said}");
        0.0
    } else {
        // It ends at the first.
        anyhow::ensure!(said.contains("SEED="), "the test did not run: {said}{told}");
        1.0
    };
    let first = told.lines().find(|l| l.contains("ROUND=")).unwrap_or_default();
    let mut note = format!("seed {seed}; {}", verdicts(&said).unwrap_or_default());
    if wrong > 0.0 {
        note = format!("it ended at the first, {first}; {note}");
    }
    let figure = Figure {
        id: "T7",
        what: format!(
            "wrong acts over {states} states by chance, healthy, foreign, moved or not this node's fault (core alone)"
        ),
        target: "0 of 10 000",
        met: None,
        ours: Series::new("core", "acts", vec![wrong]),
        baseline: None,
        note,
    };
    let mut figure = figure.within(&[Limit(1.0, 0.0)]);
    if states < 10_000 {
        figure.met = figure.met.filter(|met| !met);
    }
    Ok(figure)
}

/// The line in which the test says how many states got which verdict: `{Healthy: 5000, Moved: 2000}`.
fn verdicts(said: &str) -> Option<&str> {
    let line = said.lines().find(|l| l.contains("Healthy: "))?;
    Some(line.split_once('{')?.1.split_once('}')?.0)
}

fn states(said: &str) -> u64 {
    let number = |part: &str| part.split(": ").nth(1)?.trim().parse::<u64>().ok();
    verdicts(said).map_or(0, |v| v.split(", ").filter_map(number).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_counted_over_all_verdicts() {
        let said = "running 1 test\nSEED=7\n{Healthy: 5981, Moved: 2107, Upstream: 1212, Unknown: 700}\ntest x ... ok\n";
        assert_eq!(states(said), 10_000);
        assert_eq!(states("SEED=7\ntest x ... FAILED\n"), 0);
    }
}
