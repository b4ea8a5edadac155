//! The live cases of the quick gear in several labs beside each other.

use lifeline_lab::beside::{Beside, Queue, Share};
use lifeline_lab::trial::Summary;

/// Labs at work, which take the cases from one queue.
#[derive(Debug)]
pub struct Lanes {
    labs: Vec<Beside>,
    /// The queue's folder: it is there for as long as they are.
    _queue: tempfile::TempDir,
}

impl Lanes {
    /// Begins as many; each takes its lab down at its end.
    pub fn begin(labs: u8, filters: &[String], yes: bool) -> anyhow::Result<Self> {
        let queue = tempfile::tempdir()?;
        let mut args = vec!["test".to_owned(), "--live".to_owned()];
        args.extend(filters.iter().cloned());
        args.extend(yes.then(|| "--yes".to_owned()));
        args.extend(["--queue".to_owned(), queue.path().display().to_string()]);
        let of = usize::from(labs);
        let labs = (1..=of).map(|nth| Beside::begin(Share { nth, of }, &args));
        Ok(Self { labs: labs.collect::<Result<_, _>>()?, _queue: queue })
    }

    /// Waits for the end of all.
    pub fn done(self) -> anyhow::Result<Summary> {
        let mut summary = Summary::default();
        for (place, lab) in self.labs.into_iter().enumerate() {
            let mut of_lab: Summary = lab.done()?;
            // Each has counted what it was not asked for.
            of_lab.left_out *= usize::from(place == 0);
            summary.take(of_lab);
        }
        Ok(summary)
    }
}

/// What one lab takes: all, or what it gets from a queue.
pub fn takes(queue: Option<&Queue>, place: usize) -> anyhow::Result<bool> {
    queue.map_or(Ok(true), |queue| queue.take(place))
}
