//! The same by one command: `ctl recover`, followed as it runs, with its journals as the clock for what is seen from nowhere else.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::desk::{self, Desk};
use super::marks::{Mark, Marks};
use crate::incident::NODE;
use crate::lab::Lab;
use crate::progress::Progress;
use crate::real::culprit::SPACE;
use crate::real::incident::OTHER;
use crate::run;

/// Beside the power cycle a minute is aimed at; this only bounds what hangs.
const LIMIT: Duration = Duration::from_secs(600);

/// The one command: everything is agreed to beforehand, what cannot be undone by its name.
pub const RECOVER: [&str; 8] =
    ["recover", "--namespace", SPACE, "--yes", "--confirm", SPACE, "--confirm", OTHER];

/// How it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    /// All that it said.
    pub said: String,
}

/// Runs it to its end.
pub fn recover(lab: &Lab, desk: &Desk, args: &[&str], progress: &Progress) -> anyhow::Result<Ran> {
    progress.say(format!("laptop$ ctl {}", args.join(" ")));
    let mut command = desk.command(lab, &[&["ctl"], args].concat())?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("run ctl recover")?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let said = Mutex::new(String::new());
    let status = thread::scope(|scope| {
        scope.spawn(|| relay(out, &said, progress));
        scope.spawn(|| relay(err, &said, progress));
        run::wait(&mut child, LIMIT)
    })
    .context("wait for ctl recover")?;
    let Some(status) = status else {
        bail!("ctl recover did not end within {} s", LIMIT.as_secs());
    };
    let said = said.into_inner().unwrap_or_default();
    Ok(Ran { code: status.code(), said })
}

fn relay(from: Option<impl Read>, said: &Mutex<String>, progress: &Progress) {
    for line in from.into_iter().flat_map(|f| BufReader::new(f).lines().map_while(Result::ok)) {
        progress.say(format!("    {line}"));
        if let Ok(mut said) = said.lock() {
            said.push_str(&line);
            said.push('\n');
        }
    }
}

/// The journals of the newest recovery, by name.
#[must_use]
pub fn journals() -> Vec<PathBuf> {
    let mut newest: Vec<PathBuf> =
        listed(&desk::journals().join("lab/recover")).into_iter().filter(|p| p.is_dir()).collect();
    newest.sort();
    let mut found = newest.last().map(|dir| listed(dir)).unwrap_or_default();
    found.retain(|p| p.extension().is_some_and(|e| e == "journal"));
    found.sort();
    found
}

fn listed(dir: &std::path::Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

/// A journal's whole lines: each a checksum, a space, and JSON.
#[must_use]
pub fn lines(journal: &[u8]) -> Vec<Value> {
    let text = String::from_utf8_lossy(journal);
    let whole = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
    let json = whole.filter_map(|l| l.split_once(' ').map(|(_, json)| json));
    json.filter_map(|j| serde_json::from_str(j).ok()).collect()
}

/// The journal of the phase in which the cluster is verified.
fn verification() -> Option<Vec<u8>> {
    let of_phase =
        |p: &&PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("08-verify"));
    journals().iter().rfind(of_phase).and_then(|p| fs::read(p).ok())
}

/// Nodes from which no pod has reached the Service by its name, by the same journal.
#[must_use]
pub fn unreached() -> Vec<&'static str> {
    let journal = verification().unwrap_or_default();
    let told: Vec<String> = lines(&journal).iter().map(Value::to_string).collect();
    let reached = |node: &&str| {
        let good = format!("{} from {node}: good, reachable", desk::SERVICE);
        told.iter().any(|line| line.contains(&good))
    };
    [NODE, OTHER].into_iter().filter(|node| !reached(node)).collect()
}

/// When the cluster was verified, by the journal of that phase.
pub fn take_verified(marks: &Marks) {
    let Some(journal) = verification() else { return };
    let Some(wall) = lines(&journal).last().and_then(|l| l["stamp"]["wall_ms"].as_u64()) else {
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ago = now.saturating_sub(Duration::from_millis(wall));
    if let Some(at) = Instant::now().checked_sub(ago) {
        marks.set(Mark::Verified, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_is_no_line() {
        let text = b"1b2c3d4e {\"seq\":0,\"stamp\":{\"wall_ms\":7}}\n1b2c3d4f {\"seq\":1,\"st";
        let lines = lines(text);
        assert_eq!((lines.len(), lines[0]["stamp"]["wall_ms"].as_u64()), (1, Some(7)));
    }
}
