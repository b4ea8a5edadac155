//! What the timer outside the daemon does: undoes one run that nobody confirmed, when the daemon is dead or hangs.
//!
//! The lock on the run's journal keeps the two apart: whoever has it acts, the other waits. A daemon that has it and writes
//! nothing hangs; it is killed with everything in its control group, so that nothing it started lands later. It starts again by
//! itself, and then either of us finds the run open: the journal says how far the undoing got.

use crate::act::Hands;
use crate::act::unit::{bus, call};
use crate::clock::Clock;
use crate::event;
use crate::journal::{self, Disk, JournalError};
use crate::lines::LinesError;
use lifeline_core::clock::Stamp;
use lifeline_core::diagnosis::Health;
use lifeline_core::engine::{self, Ending, Failure, Host, Judgement, is_overdue};
use lifeline_core::op::{NodeOp, Seen};
use std::path::Path;
use std::time::{Duration, Instant};

/// The daemon's unit.
const UNIT: &str = "lifeline-agent.service";
/// A daemon that holds the journal this long without writing a word hangs: its longest act is bounded by less.
const SILENCE: Duration = Duration::from_secs(20);
/// However it goes on, we do not wait for it for ever.
const LONGEST: Duration = Duration::from_secs(180);
/// SIGKILL.
const KILL: i32 = 9;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It had ended, or was none of ours to end.
    Nothing(String),
    /// It has been undone here.
    Undone(Ending),
}

/// Undoes a run if nobody confirmed it in time and nobody else does.
///
/// # Errors
/// When its journal cannot be read or written.
pub async fn undo(
    dir: &Path,
    run: &str,
    hands: Hands,
    clock: &Clock,
) -> Result<Done, JournalError> {
    let begun = Instant::now();
    let (mut length, mut grew, mut killed) = (0, Instant::now(), false);
    loop {
        let entries = journal::read(dir, run)?;
        if let Some(ending) = journal::ending(&entries) {
            return Ok(Done::Nothing(format!("run {run} has ended: {ending:?}")));
        }
        if !is_overdue(&entries, &clock.now()) {
            return Ok(Done::Nothing(format!("run {run} was confirmed, or has time left")));
        }
        match Disk::open(dir, run).await {
            Ok(mut disk) => {
                let about = event::About { run: Some(run), ..event::About::default() };
                let words =
                    format!("run {run} was not confirmed and its agent is gone: it is undone");
                event::tell(&event::OVERDUE, about, &words);
                let mut host = Alone { hands, clock };
                return engine::run(&mut host, &mut disk).await.map(Done::Undone);
            }
            Err(JournalError::File { source: LinesError::Busy { .. }, .. })
                if begun.elapsed() < LONGEST => {}
            Err(why) => return Err(why),
        }
        if entries.len() != length {
            (length, grew) = (entries.len(), Instant::now());
        }
        if grew.elapsed() > SILENCE && !killed {
            tracing::error!("the agent holds run {run} and does nothing: it is killed");
            if let Err(why) = kill().await {
                tracing::error!("{}", why.why);
            }
            killed = true;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn kill() -> Result<(), Failure> {
    let what = format!("kill {UNIT}");
    let bus = bus().await?;
    let manager = call(&what, ManagerProxy::new(&bus)).await?;
    call(&what, manager.kill_unit(UNIT, "all", KILL)).await
}

/// Hands without a judgement: how the node is now is the next agent's question.
struct Alone<'a> {
    hands: Hands,
    clock: &'a Clock,
}

impl Host<NodeOp> for Alone<'_> {
    fn now(&mut self) -> Stamp {
        self.clock.now()
    }

    async fn wait(&mut self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    async fn look(&mut self, op: &NodeOp) -> Result<Seen, String> {
        self.hands.look(op).await
    }

    async fn act(&mut self, op: &NodeOp, before: &Seen) -> Result<(), Failure> {
        self.hands.act(op, before).await
    }

    async fn judge(&mut self) -> Judgement {
        Judgement {
            health: Health::Unknown,
            findings: Vec::new(),
            summary: "not judged: undone by the timer outside the agent".to_string(),
        }
    }
}
