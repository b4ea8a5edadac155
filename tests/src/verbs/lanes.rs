//! Live cases in several labs beside each other.

use std::path::Path;

use lifeline_lab::beside::{Beside, Queue, Share};
use lifeline_lab::state::Gear;
use lifeline_lab::trial::Summary;

/// Labs at work, which take the cases of a gear from one queue.
#[derive(Debug)]
pub struct Lanes {
    labs: Vec<Beside>,
    /// The queue's folder: it is there for as long as they are.
    queue: tempfile::TempDir,
}

impl Lanes {
    /// Begins one for each of these places of all labs there are; each takes its lab down at its end.
    pub fn begin(
        gear: Gear,
        (places, of): (std::ops::RangeInclusive<usize>, usize),
        filters: &[String],
        yes: bool,
    ) -> anyhow::Result<Self> {
        let queue = tempfile::tempdir()?;
        let cases = if gear == Gear::Real { "--real" } else { "--live" };
        let mut args = vec!["test".to_owned(), cases.to_owned()];
        args.extend(filters.iter().cloned());
        args.extend(yes.then(|| "--yes".to_owned()));
        args.extend(["--queue".to_owned(), queue.path().display().to_string()]);
        let labs = places.map(|nth| Beside::begin(Share { nth, of }, &args));
        Ok(Self { labs: labs.collect::<Result<_, _>>()?, queue })
    }

    /// For whoever takes cases besides.
    pub fn queue(&self) -> Queue {
        Queue::new(Path::new(self.queue.path()))
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
