//! Questions, which are asked again while that can help, and wishes, which are sent once and whose fate is told apart.

use super::call::Call;
use super::error::ProviderError;
use super::shape::{Action, Complaint, Machine, Page};
use crate::config::Provider;
use crate::https::{Missed, Place, Reply, Wire};
use crate::secret::Secret;
use http::StatusCode;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::sleep;

/// Between two tries of a question, when nobody says how long.
const PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// After a 429 that says nothing more.
const BUSY: Duration = Duration::from_secs(5);
/// Who is told to come back later than this is told so, instead of being kept waiting.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pages of actions: what was asked for a moment ago is on the first.
const PAGES: u32 = 20;

/// What became of a wish.
#[derive(Debug)]
pub enum Fate {
    /// It is being done.
    Accepted(Action),
    /// It certainly is not, and asking again would not help.
    Refused(ProviderError),
    /// It certainly is not, and it may be sent after this while.
    NotYet(ProviderError, Duration),
    /// Nobody knows: it has to be looked up, and is never sent again blindly.
    Unclear(String),
}

/// The provider.
#[derive(Debug)]
pub struct Api {
    wire: Wire,
}

impl Api {
    /// Prepares everything; dials nobody.
    pub fn new(provider: &Provider, token: Secret) -> Result<Self, ProviderError> {
        let (ca, timeout) = (provider.ca.as_deref(), provider.timeout);
        let place = Place { api: &provider.api, ca, timeout };
        Ok(Self { wire: Wire::new(&place, token).map_err(ProviderError::Trust)? })
    }

    /// Every machine of the account.
    pub async fn machines(&self) -> Result<Vec<Machine>, ProviderError> {
        self.ask(&Call::Machines).await
    }

    /// One machine.
    pub async fn machine(&self, id: u64) -> Result<Machine, ProviderError> {
        self.ask(&Call::Machine(id)).await
    }

    /// One action.
    pub async fn action(&self, machine: u64, id: u64) -> Result<Action, ProviderError> {
        self.ask(&Call::Action(machine, id)).await
    }

    /// What was done to a machine, newest first; all that is newer than `since` is certainly among it.
    pub async fn actions(&self, machine: u64, since: u64) -> Result<Vec<Action>, ProviderError> {
        let mut all: Vec<Action> = Vec::new();
        for page in 1..=PAGES {
            let answer: Page = self.ask(&Call::Actions(machine, page)).await?;
            let found = answer.data.unwrap_or_default();
            let meta = answer.meta.unwrap_or_default();
            let last = found.is_empty()
                || u64::from(page) * meta.per_page.unwrap_or(0) >= meta.total.unwrap_or(0);
            // No order is promised: only where newest visibly come first does an old one end the search.
            let sorted = found.len() > 1 && found.is_sorted_by(|a, b| a.id >= b.id);
            let old = found.iter().any(|a| a.id.is_some_and(|id| id <= since));
            all.extend(found);
            if last || (sorted && old) {
                break;
            }
        }
        all.sort_by_key(|a| std::cmp::Reverse(a.id));
        all.dedup_by_key(|a| a.id);
        Ok(all)
    }

    /// Asks, and asks again while the trouble is a passing one.
    async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ProviderError> {
        // Whatever is asked here is a question; should it ever be a wish, it is sent once.
        let mut pauses = PAUSES.iter().take(if call.acts() { 0 } else { PAUSES.len() });
        loop {
            let error = match self.once(call).await {
                Ok(reply) => match self.document(call, &reply) {
                    Ok(document) => return Ok(document),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let Some(pause) = pauses.next().filter(|_| error.is_passing()) else {
                return Err(error);
            };
            let pause = match &error {
                ProviderError::Busy { wait, .. } => wait.unwrap_or(BUSY),
                _ => *pause,
            };
            if pause > PATIENCE {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    /// Sends a wish, once.
    pub async fn wish(&self, call: &Call) -> Fate {
        let reply = match self.once(call).await {
            Ok(reply) => reply,
            Err(ProviderError::Unclear { why, .. }) => return Fate::Unclear(why),
            Err(error @ ProviderError::Busy { wait, .. }) => {
                let wait = wait.unwrap_or(BUSY);
                return match wait > PATIENCE {
                    true => Fate::Refused(error),
                    false => Fate::NotYet(error, wait),
                };
            }
            Err(error @ ProviderError::Unsent { .. }) => return Fate::NotYet(error, PAUSES[1]),
            Err(error) => return Fate::Refused(error),
        };
        match self.document::<Action>(call, &reply) {
            Ok(action) if action.id.is_some() => Fate::Accepted(action),
            Ok(_) => Fate::Unclear("its answer names no action".to_owned()),
            Err(error) => Fate::Unclear(format!(
                "its answer is no action: {}",
                crate::obstacle::chain(&error)
            )),
        }
    }

    /// One exchange, its status judged.
    async fn once(&self, call: &Call) -> Result<Reply, ProviderError> {
        let what = call.what();
        let reply = match self.wire.exchange(call).await {
            Ok(reply) => reply,
            Err(Missed::Unsent(why)) => return Err(ProviderError::Unsent { what, why }),
            Err(Missed::Unclear(why)) => return Err(ProviderError::Unclear { what, why }),
        };
        let status = reply.status.as_u16();
        let why = self.words(&reply);
        match reply.status {
            s if s.is_success() => Ok(reply),
            StatusCode::TOO_MANY_REQUESTS => Err(ProviderError::Busy { what, wait: reply.wait }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(ProviderError::Unauthorised { what, status, why })
            }
            // The other side gave up listening to us: what it had heard by then is not known.
            StatusCode::REQUEST_TIMEOUT => {
                Err(ProviderError::Unclear { what, why: format!("{status}: {why}") })
            }
            s if s.is_client_error() || s.is_redirection() => {
                Err(ProviderError::Refused { what, status, why })
            }
            _ => Err(ProviderError::Unclear { what, why: format!("{status}: {why}") }),
        }
    }

    fn document<T: DeserializeOwned>(
        &self,
        call: &Call,
        reply: &Reply,
    ) -> Result<T, ProviderError> {
        // A page for people with status 200 is what a front or a captive portal sends.
        if !reply.json || reply.body.trim_start().starts_with('<') {
            let why = format!("it answered with something else than JSON: {}", self.words(reply));
            return Err(ProviderError::Unclear { what: call.what(), why });
        }
        serde_json::from_str(&reply.body)
            .map_err(|source| ProviderError::Form { what: call.what(), source })
    }

    /// A stranger's words: short, on one line, without our token.
    fn words(&self, reply: &Reply) -> String {
        let said = match serde_json::from_str::<Complaint>(&reply.body) {
            Ok(complaint) if complaint.says_something() => complaint.words(),
            _ if reply.body.trim().is_empty() => "it said nothing".to_owned(),
            _ => format!("\"{}\"", reply.body.trim()),
        };
        let line: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let line = self.wire.token().redact(&line);
        match line.char_indices().nth(200) {
            Some((at, _)) => format!("{}…", &line[..at]),
            None => line,
        }
    }
}
