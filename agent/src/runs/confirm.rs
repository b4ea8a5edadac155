//! Confirming a run that would otherwise be undone. Whoever confirms is told that it was in time by the journal alone: by the
//! entry that says so, on the disk.

use crate::journal;
use crate::roles::Operator;
use crate::runs::node::Node;
use crate::runs::story::What;
use crate::runs::{Refused, Runs, printable};
use lifeline_core::engine::Event;
use lifeline_core::op::Op;
use std::time::Duration;

/// The engine writes it down before its next act; an act may take this long.
const LIMIT: Duration = Duration::from_secs(30);

impl<N: Node> Runs<N> {
    /// Confirms the run under way and waits until that is on the disk.
    ///
    /// # Errors
    /// When it is not under way, asks for no confirmation, or its undoing has begun.
    pub async fn confirm(&self, by: &Operator, run: &str) -> Result<(), Refused> {
        let story = {
            let state = self.inner.state();
            let known = state.index.of_run(run).cloned();
            let known = known.ok_or_else(|| Refused::NoRun { run: printable(run) })?;
            let live = state.live.as_ref().filter(|l| l.story.incident == known.id);
            let live = live.ok_or_else(|| Refused::Late { run: run.to_string() })?;
            let last = known.runs.last().map(String::as_str);
            if last != Some(run) {
                return Err(Refused::Late { run: run.to_string() });
            }
            live.story.clone()
        };
        let entries = journal::read(&self.inner.dir, run)?;
        let asks = journal::plan(&entries).is_some_and(|p| p.steps.iter().any(|s| s.op.asks()));
        if !asks {
            return Err(Refused::Unasked { run: run.to_string() });
        }
        let mut grew = story.grew();
        {
            let state = self.inner.state();
            let Some(live) = state.live.as_ref() else {
                return Err(Refused::Late { run: run.to_string() });
            };
            live.confirm.send_replace(Some((run.to_string(), by.name().to_string())));
        }
        let waiting = async {
            loop {
                grew.borrow_and_update();
                for item in story.since(0) {
                    let What::Entry { run: of, entry, .. } = &item.what else { continue };
                    match entry.event {
                        Event::Confirmed { .. } if of == run => return Ok(()),
                        Event::UndoBegan { .. } | Event::Closed { .. } if of == run => {
                            return Err(Refused::Late { run: run.to_string() });
                        }
                        _ => {}
                    }
                }
                if grew.changed().await.is_err() {
                    return Err(Refused::Lost);
                }
            }
        };
        tokio::time::timeout(LIMIT, waiting).await.unwrap_or(Err(Refused::Silent))
    }
}
