//! The log of leases: when each node's heartbeat came, and how many were missed.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The kubelet's beat: a quarter of the lease's 40 s.
const BEAT: Duration = Duration::from_secs(10);

/// What happened to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Its lease was made or renewed.
    Renewed,
    /// Its Ready condition became True.
    Ready,
    /// Its Ready condition became Unknown.
    NotReady,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The wall clock, to show.
    pub wall: String,
    /// Milliseconds since boot, to reckon with.
    pub boottime_ms: u64,
    /// The node.
    pub node: String,
    /// What happened.
    pub what: What,
}

/// The log, written line by line.
#[derive(Debug)]
pub struct Log(Option<File>);

impl Log {
    /// Opens the log for appending, with its folder.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        OpenOptions::new().create(true).append(true).open(path).map(|file| Self(Some(file)))
    }

    /// A log that forgets.
    #[cfg(test)]
    pub fn none() -> Self {
        Self(None)
    }

    /// Appends one line.
    pub fn append(&mut self, node: &str, what: What, at: Duration) {
        let entry = Entry {
            wall: jiff::Timestamp::now().to_string(),
            boottime_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            node: node.to_owned(),
            what,
        };
        let Some(file) = &mut self.0 else { return };
        let line = serde_json::to_string(&entry).unwrap_or_default();
        if let Err(cause) = writeln!(file, "{line}") {
            crate::say!("write lease log: {cause}");
        }
    }
}

/// Reads a log; a line that is being written just now is left out.
#[must_use]
pub fn parse(text: &str) -> Vec<Entry> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// How many beats a node missed between two moments: for every gap between renewals, the beats that had room in it.
///
/// The gap that is open at `to` counts as far as it goes. The beat jitters by up to 4 %, so a gap counts rounded.
#[must_use]
pub fn missed(entries: &[Entry], node: &str, from: Duration, to: Duration) -> u64 {
    let millis = |moment: Duration| u64::try_from(moment.as_millis()).unwrap_or(u64::MAX);
    let (from, to) = (millis(from), millis(to));
    let mut renewals: Vec<u64> = (entries.iter())
        .filter(|entry| {
            entry.node == node && entry.what == What::Renewed && entry.boottime_ms <= to
        })
        .map(|entry| entry.boottime_ms)
        .collect();
    renewals.sort_unstable();
    // The last renewal before the window is the start of the first gap.
    let first = renewals.partition_point(|at| *at < from).saturating_sub(1);
    let mut moments = renewals.split_off(first.min(renewals.len()));
    if moments.is_empty() {
        moments.push(from);
    }
    let beat = millis(BEAT);
    let closed: u64 =
        moments.windows(2).map(|gap| ((gap[1] - gap[0] + beat / 2) / beat).saturating_sub(1)).sum();
    // The gap that is still open has missed only the beats that are over.
    let open =
        moments.last().map_or(0, |last| (to - last.min(&to)).saturating_sub(beat / 20) / beat);
    closed + open
}

/// The clock of all entries: it does not jump and counts while the machine sleeps.
#[must_use]
pub fn boottime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renewals(seconds: &[u64]) -> Vec<Entry> {
        let entry = |at: &u64| Entry {
            wall: String::new(),
            boottime_ms: at * 1000,
            node: "calypso".into(),
            what: What::Renewed,
        };
        seconds.iter().map(entry).collect()
    }

    fn missed_between(log: &[Entry], from: u64, to: u64) -> u64 {
        missed(log, "calypso", Duration::from_secs(from), Duration::from_secs(to))
    }

    #[test]
    fn a_steady_beat_misses_nothing() {
        assert_eq!(missed_between(&renewals(&[0, 10, 20, 30, 40]), 5, 42), 0);
    }

    #[test]
    fn a_gap_misses_the_beats_that_had_room_in_it() {
        assert_eq!(missed_between(&renewals(&[0, 10, 20, 50, 60]), 5, 62), 2);
        assert_eq!(missed_between(&renewals(&[0, 10, 34, 44]), 12, 44), 1);
        assert_eq!(missed_between(&renewals(&[0, 10, 36, 46]), 12, 46), 2);
    }

    #[test]
    fn the_gap_that_is_still_open_counts_too() {
        assert_eq!(missed_between(&renewals(&[0, 10]), 12, 15), 0);
        assert_eq!(missed_between(&renewals(&[0, 10]), 12, 55), 4);
        assert_eq!(missed_between(&[], 0, 35), 3);
    }

    #[test]
    fn other_nodes_and_readiness_do_not_count() {
        let mut log = renewals(&[0, 10, 20]);
        log.push(Entry { node: "styx".into(), ..log[0].clone() });
        log.push(Entry { what: What::NotReady, boottime_ms: 15_000, ..log[0].clone() });
        assert_eq!(missed_between(&log, 0, 22), 0);
        assert_eq!(missed(&log, "styx", Duration::ZERO, Duration::from_secs(25)), 2);
    }

    #[test]
    fn the_log_is_read_back_and_a_torn_last_line_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/leases.jsonl");
        let mut log = Log::open(&path).unwrap();
        log.append("calypso", What::Renewed, Duration::from_millis(1234));
        log.append("calypso", What::NotReady, Duration::from_millis(5678));
        let text = std::fs::read_to_string(&path).unwrap();
        let read = parse(&format!("{text}{{\"wall\":"));
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].boottime_ms, read[1].what), (1234, What::NotReady));
    }
}
