//! What restart, rescue and recreate have in common: a machine that is certain and may be touched, a diary, one wish.

use super::desk::{Desk, Found};
use super::proof::{self, Boots};
use crate::error::{CommandError, Kind};
use crate::interrupt::interruptible;
use crate::provider::act::Act;
use crate::provider::call::Call;
use crate::provider::diary::{Diary, Event, Open, Wish};
use crate::provider::shape::{Action, Progress};
use crate::sight::Sight;
use std::time::Duration;

/// A wish that was sent longer ago than this is history: what came of it says nothing of today.
const OLD: Duration = Duration::from_secs(3600);

/// One wish, prepared.
#[derive(Debug)]
pub struct Work<'a> {
    /// Where the work is done from.
    pub desk: &'a Desk,
    /// The node.
    pub node: &'a str,
    /// Its machine.
    pub found: Found,
    /// Its boot before.
    pub boots: Boots,
    /// The node as the API server saw it before; `None` when it could not be asked, or the wish was sent earlier.
    pub sight: Option<Sight>,
    /// A wish of the same kind that was cut off, and is gone on with.
    pub pending: Option<Open>,
    /// The newest action before.
    newest: u64,
    diary: Diary,
    wish: Wish,
}

impl<'a> Work<'a> {
    /// Makes sure of everything that can be made sure of, without changing anything.
    pub async fn prepare(desk: &'a Desk, node: &'a str, wish: Wish) -> Result<Self, CommandError> {
        let sight = async { desk.cluster.as_ref()?.look(node).await.ok() };
        let eyes = async {
            Ok::<_, CommandError>(tokio::join!(desk.members(), proof::boots(desk, node), sight))
        };
        let (found, (members, boots, sight)) = tokio::try_join!(desk.find(node), eyes)?;
        desk.worker_only(node, &found, members.as_deref())?;
        let mut diary = Diary::open(&desk.config.cluster, node)?;
        let pending = pending(desk, node, &found, wish, &mut diary)?;
        let newest = match &pending {
            Some(open) => open.newest,
            None => free(desk, node, &found).await?,
        };
        // What is seen now of a wish that was sent earlier may be from after it.
        let sight = sight.filter(|_| pending.is_none());
        Ok(Self { desk, node, found, boots, sight, pending, newest, diary, wish })
    }

    /// The boot to compare with: that of the wish that is gone on with, if there is one.
    pub fn before(&self) -> Option<String> {
        match &self.pending {
            Some(open) => open.boot.clone(),
            None => self.boots.known().map(Into::into),
        }
    }

    /// Sends the wish (or finds the one that was sent), and follows it to its end. Ctrl-C stops only the watching.
    pub async fn carry_out(
        &mut self,
        call: &Call,
        limit: Duration,
    ) -> Result<Action, CommandError> {
        let done = interruptible(self.carry(call, limit)).await;
        done.unwrap_or_else(|| Err(self.interrupted()))
    }

    /// The same, for a caller who hears Ctrl-C himself.
    pub async fn carry(&mut self, call: &Call, limit: Duration) -> Result<Action, CommandError> {
        let out = self.desk.out;
        let say = |line: &str| out.say(line);
        let (machine, newest, wish) = (self.found.id, self.newest, self.wish);
        if self.pending.is_none() {
            self.diary.note(Event::Opened {
                wish,
                machine,
                was: self.found.machine.words(),
                boot: self.boots.known().map(Into::into),
                newest,
            })?;
        }
        let known = self.pending.as_ref().and_then(|p| p.action);
        let resumed = self.pending.is_some();
        let mut act = Act { api: &self.desk.api, diary: &mut self.diary, wish, machine, newest };
        let work = async {
            let id = match (known, resumed) {
                (Some(id), _) => id,
                (None, true) => match act.look_up().await? {
                    Some(id) => act.found(id)?,
                    None => return Ok(None),
                },
                (None, false) => act.send(call, &say).await?,
            };
            act.follow(id, limit, &say).await.map(Some)
        };
        match work.await {
            Ok(Some(action)) => Ok(action),
            Ok(None) => {
                self.close("the provider never knew of it")?;
                Err(CommandError::failed(format!(
                    "go on with the {} of {}: it was cut off, and the provider knows of no such action",
                    self.wish.verb(),
                    self.node
                ))
                .hinted(format!("it was not taken; begin anew: ctl vps {} {}", self.wish.verb(), self.node)))
            }
            Err(error) => {
                use crate::provider::act::ActError;
                if matches!(error, ActError::Failed { .. }) {
                    self.close("the provider says it failed")?;
                }
                Err(self.open_still(error.into()))
            }
        }
    }

    fn open_still(&self, error: CommandError) -> CommandError {
        match self.diary.pending() {
            Some(open) if open.sent && error.exit() != crate::exit::Exit::TimedOut => {
                error.hinted(format!(
                    "it may be under way; look before anything else: ctl vps {} {}",
                    self.wish.verb(),
                    self.node
                ))
            }
            _ => error,
        }
    }

    /// What Ctrl-C leaves behind.
    pub fn interrupted(&self) -> CommandError {
        let sent = self.diary.pending().is_some_and(|p| p.sent);
        let verb = self.wish.verb();
        match sent {
            true => CommandError::new(
                Kind::TimedOut,
                format!("stopped watching: the {verb} of {} goes on at the provider", self.node),
            )
            .hinted(format!("go on with it: ctl vps {verb} {}", self.node)),
            false => CommandError::new(
                Kind::TimedOut,
                format!("stopped before the {verb} of {} was sent", self.node),
            )
            .hinted("nothing was done"),
        }
    }

    /// Writes down that the node was seen in another boot.
    pub fn booted(&mut self, boot: &str, by: &str) -> Result<(), CommandError> {
        Ok(self.diary.note(Event::Booted { boot: boot.to_owned(), by: by.to_owned() })?)
    }

    /// Nothing goes on any more.
    pub fn close(&mut self, ending: &str) -> Result<(), CommandError> {
        Ok(self.diary.note(Event::Closed { ending: ending.to_owned() })?)
    }
}

/// A wish that was cut off, when it is to be gone on with.
fn pending(
    desk: &Desk,
    node: &str,
    found: &Found,
    wish: Wish,
    diary: &mut Diary,
) -> Result<Option<Open>, CommandError> {
    let Some(open) = diary.pending() else { return Ok(None) };
    let age = jiff::Timestamp::now().as_millisecond().saturating_sub(open.wall_ms);
    let old = u128::try_from(age).is_ok_and(|a| a > OLD.as_millis());
    if !open.sent || old {
        let ending = if open.sent { "nobody came back to it" } else { "it was never sent" };
        diary.note(Event::Closed { ending: ending.to_owned() })?;
        return Ok(None);
    }
    if open.machine != found.id {
        return Err(CommandError::new(
            Kind::Stuck,
            format!(
                "go on with {node}: its diary tells of machine {}, and its machine is {}",
                open.machine,
                found.machine.words()
            ),
        )
        .hinted(format!(
            "look at both; when nothing goes on any more, move {} away",
            diary.path().display()
        )));
    }
    if open.wish != wish {
        let verb = open.wish.verb();
        return Err(CommandError::failed(format!(
            "touch {node}'s machine: its {verb} has not come to its end"
        ))
        .hinted(format!("go on with that first: ctl vps {verb} {node}")));
    }
    let verb = wish.verb();
    desk.out.say(match open.action {
        Some(id) => {
            format!("Going on with the {verb} that was cut off: action {id}. Nothing is sent.")
        }
        None => format!(
            "A {verb} was cut off after it was sent: looking what became of it. Nothing is sent."
        ),
    });
    Ok(Some(open))
}

/// Nothing else is being done to the machine; the number of its newest action.
async fn free(desk: &Desk, node: &str, found: &Found) -> Result<u64, CommandError> {
    let actions = desk.api.actions(found.id, u64::MAX).await?;
    let newest = actions.first();
    if let Some(going) = newest.filter(|a| a.progress() == Progress::Going) {
        return Err(CommandError::new(
            Kind::TimedOut,
            format!(
                "touch {node}'s machine: action {} is under way since {}",
                going.words(),
                going.created_at.as_deref().unwrap_or("?")
            ),
        )
        .hinted(format!("nothing was done; wait for it: ctl vps show {node}")));
    }
    if found.machine.locked() {
        return Err(CommandError::new(Kind::TimedOut, format!("touch {node}'s machine: the provider has locked it ({})", found.machine.words()))
            .hinted(format!("nothing was done; something is being done to it already, look again: ctl vps show {node}")));
    }
    Ok(newest.and_then(|a| a.id).unwrap_or(0))
}
