//! `ctl recover` is killed at every step boundary and gone on with: at each entry that its journals get for the first time.
//!
//! A leg that is gone on with begins a journal of its own, whose entries are the same boundaries again; those have been tried.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::desk::Desk;
use super::operator::{self, RECOVER};
use crate::lab::Lab;
use crate::progress::Progress;
use crate::real::culprit::SPACE;
use crate::real::incident::OTHER;

const RESUME: [&str; 7] = ["recover", "--resume", "--yes", "--confirm", SPACE, "--confirm", OTHER];
/// For all of it: some thirty boundaries, a few seconds each, and a power cycle.
const LIMIT: Duration = Duration::from_secs(1800);
/// A kill comes this soon after its entry, and so in the middle of what follows it.
const EVERY: Duration = Duration::from_millis(10);

/// Which boundaries were tried, in order, and how it ended.
#[derive(Debug)]
pub struct Cut {
    pub boundaries: Vec<String>,
    pub code: Option<i32>,
}

/// Kills it again and again until nothing new is left to kill it at.
pub fn at_every_boundary(lab: &Lab, desk: &Desk, progress: &Progress) -> anyhow::Result<Cut> {
    let until = Instant::now() + LIMIT;
    let (mut known, mut boundaries) = (BTreeSet::new(), Vec::new());
    let mut args: &[&str] = &RECOVER;
    loop {
        let mut command = desk.command(lab, &[&["ctl"], args].concat())?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().context("run ctl recover")?;
        let Some(fresh) = follow(&mut child, &mut known, until)? else {
            let status = child.wait().context("wait for ctl recover")?;
            return Ok(Cut { boundaries, code: status.code() });
        };
        progress.say(format!("    killed at {}", fresh.join(" and ")));
        boundaries.extend(fresh);
        // Before it is opened there is nothing to go on with.
        if !operator::journals().is_empty() {
            args = &RESUME;
        }
    }
}

/// Follows it until it writes an entry of a new kind, and kills it there; nothing if it ends before.
fn follow(
    child: &mut Child,
    known: &mut BTreeSet<String>,
    until: Instant,
) -> anyhow::Result<Option<Vec<String>>> {
    loop {
        let fresh: Vec<String> =
            entries().into_iter().filter(|e| known.insert(e.clone())).collect();
        if !fresh.is_empty() {
            // SIGKILL: it hears nothing of it.
            child.kill().context("kill ctl recover")?;
            child.wait().context("wait for ctl recover")?;
            return Ok(Some(fresh));
        }
        if child.try_wait().context("look at ctl recover")?.is_some() {
            return Ok(None);
        }
        if Instant::now() > until {
            child.kill().context("kill ctl recover")?;
            bail!("it did not come to its end within {} s", LIMIT.as_secs());
        }
        thread::sleep(EVERY);
    }
}

/// All boundaries that stand in the journals: `03-heal-calypso began 0`.
fn entries() -> Vec<String> {
    let of = |path: &Path| {
        let leg = leg(&path.file_stem().unwrap_or_default().to_string_lossy());
        let lines = operator::lines(&fs::read(path).unwrap_or_default());
        let told = lines.into_iter().map(move |line| {
            let event = &line["event"];
            let step = event["step"].as_u64().map(|s| format!(" {s}")).unwrap_or_default();
            format!("{leg} {}{step}", event["event"].as_str().unwrap_or("?"))
        });
        told.collect::<Vec<_>>()
    };
    operator::journals().iter().flat_map(|path| of(path)).collect()
}

/// A leg that is gone on with has its number behind its name.
fn leg(stem: &str) -> String {
    match stem.rsplit_once('.') {
        Some((leg, number)) if number.parse::<u32>().is_ok() => leg.to_owned(),
        _ => stem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_that_is_gone_on_with_is_the_same_leg() {
        assert_eq!(leg("03-heal-calypso.1"), leg("03-heal-calypso.12"));
        assert_ne!(leg("03-heal-calypso.1"), leg("03-heal-styx.1"));
    }
}
