//! After a start: incidents that were cut off are gone on with, or closed when a reboot has made them pointless. Nothing
//! else is begun before that.

use crate::journal::{self, Disk, JournalError};
use crate::lines::LinesError;
use crate::runs::book::{self, Asked, Book, Mark};
use crate::runs::index::Summary;
use crate::runs::node::Node;
use crate::runs::story::Story;
use crate::runs::told::{End, Halt, Told};
use crate::runs::{Inner, Live, Runs};
use crate::sight::chain;
use lifeline_core::engine::Ending;
use lifeline_core::incident::Run;
use lifeline_core::plan::Rung;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long the timer outside may hold a journal.
const OTHER: Duration = Duration::from_secs(60);

/// How callers reach an incident that is gone on with.
struct Ways {
    cancel: watch::Sender<Option<String>>,
    confirm: watch::Sender<Option<(String, String)>>,
}

impl<N: Node> Runs<N> {
    /// Goes on with what was cut off. Returns when the first of them has its place, so that no new one gets before it; the
    /// rest follows in the background.
    pub async fn resume(&self) {
        let inner = self.inner.clone();
        let open = inner.state().index.open();
        let (first, rest) = match open.split_last() {
            Some((newest, older)) => (newest.clone(), older.to_vec()),
            None => return,
        };
        // One at a time is the rule, so older ones are left-overs of a file that could not be closed: no more than that.
        for old in rest {
            inner.close(&old).await;
        }
        inner.clone().take_up(first).await;
    }
}

impl<N: Node> Inner<N> {
    async fn close(&self, old: &Summary) {
        if let Ok((told, _)) = self.reopen(&old.id).await {
            let end = End::of(Ending::Void, "a later incident took its place");
            self.finish(told, Ok(end)).await;
        }
    }

    async fn reopen(&self, id: &str) -> Result<(Told, Ways), Halt> {
        let book = Book::open(&self.dir, &self.clock, id).await?;
        let story = Arc::new(Story::read(&self.dir, id)?);
        let ways = Ways { cancel: watch::Sender::new(None), confirm: watch::Sender::new(None) };
        let (cancel, confirm) = (ways.cancel.subscribe(), ways.confirm.subscribe());
        Ok((Told { book, story, cancel, confirm }, ways))
    }

    async fn take_up(self: Arc<Self>, left: Summary) {
        match self.reopen(&left.id).await {
            Ok((told, Ways { cancel, confirm })) => {
                let story = told.story.clone();
                self.state().live = Some(Live { story, cancel, confirm, task: None });
                let inner = self.clone();
                let task = tokio::spawn(async move { inner.go_on_with(told, left).await });
                if let Some(live) = self.state().live.as_mut() {
                    live.task = Some(task);
                }
            }
            Err(why) => {
                tracing::error!("incident {} cannot be gone on with: {}", left.id, chain(&why));
                if let Some(s) = self.state().index.get_mut(&left.id) {
                    (s.ending, s.said) = (Some("stuck".to_string()), chain(&why));
                }
            }
        }
    }

    async fn go_on_with(self: Arc<Self>, mut told: Told, left: Summary) {
        let end = self.recover(&mut told, &left).await;
        self.finish(told, end).await;
    }

    async fn recover(&self, told: &mut Told, left: &Summary) -> Result<End, Halt> {
        let asked = book::read(&self.dir, &left.id)?.into_iter().find_map(|l| match l.mark {
            Mark::Opened { asked, .. } => Some(asked),
            _ => None,
        });
        let Some(asked) = asked else {
            return Ok(End::of(Ending::Stuck, "its file does not say what was asked for"));
        };
        let same_boot = left.opened.boot == self.clock.boot();
        told.note(
            "resumed",
            if same_boot { "after a restart of the agent" } else { "after a reboot" },
        )
        .await?;
        if same_boot {
            self.node.hold(true).await;
        }
        let mut runs = Vec::new();
        for run in &left.runs {
            let hands = match &asked {
                Asked::Undo { run } => run,
                Asked::Heal { .. } | Asked::Reboot { .. } => run,
            };
            match self.end_run(told, run, hands).await {
                Ok(Some(ended)) => runs.push(ended),
                Ok(None) => {}
                Err(Halt::Journal(why)) if why.is_stuck() => {
                    tracing::error!("{}", chain(&why));
                    return Ok(End::of(Ending::Stuck, chain(&why)));
                }
                Err(why) => return Err(why),
            }
        }
        // A boot that one of its own runs brought is part of it: what was agreed to still is, and the clock begins anew.
        let wanted = !same_boot && runs.last().is_some_and(|r| r.rung == Rung::Reboot);
        if wanted {
            let incident = self.remembered(&left.id, &left.by, self.clock.now(), &asked, runs);
            return self.heal(told, incident).await;
        }
        if !same_boot {
            return Ok(End::of(Ending::Void, "the node was rebooted meanwhile; look again"));
        }
        match asked {
            Asked::Heal { .. } => {
                let incident =
                    self.remembered(&left.id, &left.by, left.opened.clone(), &asked, runs);
                self.heal(told, incident).await
            }
            Asked::Reboot { .. } => {
                self.node.hold(false).await;
                let text = "it was cut off before the node was asked to reboot; ask again";
                Ok(End::of(runs.pop().map_or(Ending::Void, |r| r.ending), text))
            }
            Asked::Undo { .. } => {
                self.node.hold(false).await;
                match runs.pop() {
                    Some(run) => Ok(self.undone(&run.id)),
                    None => Ok(End::of(
                        Ending::Void,
                        "it was cut off before anything was undone; ask again",
                    )),
                }
            }
        }
    }

    /// The journal of a run, when the timer outside lets go of it: what that undoes is undone.
    async fn take(&self, run: &str) -> Result<Disk, JournalError> {
        let begun = Instant::now();
        loop {
            match Disk::open(&self.dir, run).await {
                Err(JournalError::File { source: LinesError::Busy { .. }, .. })
                    if begun.elapsed() < OTHER && !self.is_leaving() =>
                {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                other => return other,
            }
        }
    }

    /// Brings one run of an incident to its end, if it has none. `None`: it was never opened.
    async fn end_run(&self, told: &Told, run: &str, hands: &str) -> Result<Option<Run>, Halt> {
        match journal::read(&self.dir, run) {
            Err(JournalError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                return Ok(None);
            }
            Err(why) => return Err(why.into()),
            Ok(entries) => {
                if let (Some(ending), Some(plan), Some(last)) =
                    (journal::ending(&entries), journal::plan(&entries), entries.last())
                {
                    let at = last.stamp.clone();
                    return Ok(Some(Run { id: run.to_string(), rung: plan.rung, ending, at }));
                }
            }
        }
        tracing::info!("run {run} is gone on with");
        let disk = self.take(run).await?;
        Ok(Some(self.go_on(told, disk, hands).await?))
    }
}
