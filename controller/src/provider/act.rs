//! Has the provider do something, once: written down before it is sent, looked up when its fate is unclear, followed to its end.

use super::api::{Api, Fate};
use super::call::Call;
use super::diary::{Diary, DiaryError, Event, Wish};
use super::error::ProviderError;
use super::shape::{Action, Progress};
use crate::obstacle::chain;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// A wish that was certainly not taken is sent again this often.
const TRIES: u32 = 3;
/// A wish whose fate is unclear is looked for this often, and this long after the last look.
const LOOKS: [u64; 6] = [0, 1, 2, 4, 8, 15];
/// Between two looks at an action, at the end.
const POLL: Duration = Duration::from_secs(5);

/// Why it was not done, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The diary cannot be kept.
    #[error(transparent)]
    Diary(#[from] DiaryError),
    /// It was certainly not taken.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// It was sent, and cannot be found.
    #[error("have the provider {wish}: what became of it is not known ({why}), and {} s later it knows of no new action", LOOKS.iter().sum::<u64>())]
    Lost {
        /// What was wished.
        wish: &'static str,
        /// What came back.
        why: String,
    },
    /// Something else began meanwhile.
    #[error(
        "have the provider {wish}: action {other} began meanwhile, and whose it is cannot be told"
    )]
    Foreign {
        /// What was wished.
        wish: &'static str,
        /// The other action.
        other: String,
    },
    /// The provider says it failed.
    #[error("have the provider {wish}: its action {action} ended with an error")]
    Failed {
        /// What was wished.
        wish: &'static str,
        /// The action.
        action: String,
    },
    /// It is not done yet.
    #[error("have the provider {wish}: its action {action} is not done after {} s{}", limit.as_secs(), last.as_ref().map(|l| format!(" ({l})")).unwrap_or_default())]
    Late {
        /// What was wished.
        wish: &'static str,
        /// The action.
        action: String,
        /// How long we waited.
        limit: Duration,
        /// The last trouble with asking, if any.
        last: Option<String>,
    },
}

/// A machine, and what is wished of it.
#[derive(Debug)]
pub struct Act<'a> {
    /// The provider.
    pub api: &'a Api,
    /// Where it is written down.
    pub diary: &'a mut Diary,
    /// Which.
    pub wish: Wish,
    /// The machine's number.
    pub machine: u64,
    /// The newest action before.
    pub newest: u64,
}

impl Act<'_> {
    /// Sends the wish, and says which action it became. A wish whose fate is unclear is looked up.
    pub async fn send(
        &mut self,
        call: &Call,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<u64, ActError> {
        let mut tries = 0;
        loop {
            tries += 1;
            self.diary.note(Event::Sending)?;
            match self.api.wish(call).await {
                Fate::Accepted(action) => {
                    let id = action.id.unwrap_or_default();
                    self.diary.note(Event::Accepted { action: id })?;
                    return Ok(id);
                }
                Fate::Refused(error) => {
                    self.diary.note(Event::NotTaken { why: chain(&error) })?;
                    return Err(error.into());
                }
                Fate::NotYet(error, wait) => {
                    self.diary.note(Event::NotTaken { why: chain(&error) })?;
                    if tries == TRIES {
                        return Err(error.into());
                    }
                    say(&format!("{}; trying again in {} s", chain(&error), wait.as_secs()));
                    sleep(wait).await;
                    // Somebody else may have done it meanwhile.
                    if let Some(id) = self.ours().await? {
                        return self.found(id);
                    }
                }
                Fate::Unclear(why) => {
                    self.diary.note(Event::Unclear { why: why.clone() })?;
                    say(&format!(
                        "What became of it is not known ({why}); looking at the machine's actions …"
                    ));
                    return match self.look_up().await? {
                        Some(id) => self.found(id),
                        None => Err(ActError::Lost { wish: self.wish.verb(), why }),
                    };
                }
            }
        }
    }

    /// Looks for the action of a wish that may have been taken, for a while: it appears after it is taken.
    pub async fn look_up(&self) -> Result<Option<u64>, ActError> {
        for pause in LOOKS {
            sleep(Duration::from_secs(pause)).await;
            if let Some(id) = self.ours().await? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Writes down which action it is.
    pub fn found(&mut self, action: u64) -> Result<u64, ActError> {
        self.diary.note(Event::Found { action })?;
        Ok(action)
    }

    async fn ours(&self) -> Result<Option<u64>, ActError> {
        let all = self.api.actions(self.machine, self.newest).await?;
        let newer: Vec<&Action> =
            all.iter().filter(|a| a.id.is_some_and(|id| id > self.newest)).collect();
        let fits = |a: &&&Action| a.name.as_deref().is_some_and(|n| self.wish.fits(n));
        // The first that fits: a later one is somebody's who came after us.
        match (newer.iter().rev().find(fits), newer.first()) {
            (Some(ours), _) => Ok(ours.id),
            (None, Some(other)) => {
                Err(ActError::Foreign { wish: self.wish.verb(), other: other.words() })
            }
            (None, None) => Ok(None),
        }
    }

    /// Follows an action to its end.
    pub async fn follow(
        &mut self,
        id: u64,
        limit: Duration,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<Action, ActError> {
        let begun = Instant::now();
        let (mut pause, mut told) = (Duration::from_secs(1), String::new());
        let mut action = Action { id: Some(id), ..Action::default() };
        loop {
            let last = match self.api.action(self.machine, id).await {
                Ok(seen) => {
                    action = Action { id: Some(id), ..seen };
                    None
                }
                Err(error) if error.is_passing() => Some(chain(&error)),
                Err(error) => return Err(error.into()),
            };
            let state = action.state.clone().unwrap_or_else(|| "of unknown state".to_owned());
            if told != state && last.is_none() {
                say(&format!("Action {}: {state}.", action.words()));
                told.clone_from(&state);
            }
            match action.progress() {
                Progress::Success => {
                    self.diary.note(Event::Ended { state })?;
                    return Ok(action);
                }
                Progress::Error => {
                    self.diary.note(Event::Ended { state })?;
                    return Err(ActError::Failed {
                        wish: self.wish.verb(),
                        action: action.words(),
                    });
                }
                Progress::Going | Progress::Unknown => {}
            }
            if begun.elapsed() > limit {
                return Err(ActError::Late {
                    wish: self.wish.verb(),
                    action: action.words(),
                    limit,
                    last,
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(POLL);
        }
    }
}
