//! Incidents and their runs: one at a time, each in a task of its own, so that a caller who hangs up stops nothing.

pub mod body;
pub mod book;
pub mod confirm;
pub mod heal;
pub mod index;
pub mod node;
pub mod outside;
pub mod reboot;
pub mod refused;
pub mod resume;
mod rung;
pub mod story;
pub mod tell;
pub mod told;
pub mod undo;

use crate::alone;
use crate::clock::Clock;
use crate::event;
use crate::lines;
use crate::roles::Operator;
use crate::sight::Sight;
use crate::store::Store;
use book::{Asked, Book, Mark};
use index::{Index, Summary};
use lifeline_core::alone::Past;
use lifeline_core::metrics::Tally;
use lifeline_core::plan::Consent;
use lifeline_core::policy::Policy;
pub use node::Node;
pub use refused::Refused;
use refused::{printable, sound};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use story::{Story, What};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The caller's name for it.
    pub id: String,
    /// What.
    pub asked: Asked,
}

/// All incidents of this node, and the one under way.
#[derive(Debug)]
pub struct Runs<N> {
    inner: Arc<Inner<N>>,
}

impl<N> Clone for Runs<N> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

/// What an incident's task needs.
#[derive(Debug)]
pub struct Inner<N> {
    node: Arc<N>,
    sight: Arc<Sight<N>>,
    store: Arc<Store>,
    policy: Arc<Policy>,
    clock: Clock,
    dir: PathBuf,
    name: String,
    state: Mutex<State>,
    /// Why the agent does not repair what it would.
    held_back: Mutex<Option<String>>,
    leaving: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    index: Index,
    live: Option<Live>,
    tally: Tally,
}

/// The incident under way.
#[derive(Debug)]
struct Live {
    story: Arc<Story>,
    /// Who asked to cancel it.
    cancel: watch::Sender<Option<String>>,
    /// Which run was confirmed, and by whom.
    confirm: watch::Sender<Option<(String, String)>>,
    task: Option<JoinHandle<()>>,
}

/// The parts of a daemon that recoveries are made of.
#[derive(Debug)]
pub struct Parts<N> {
    /// The machine.
    pub node: Arc<N>,
    /// Its looks.
    pub sight: Arc<Sight<N>>,
    /// Its memory.
    pub store: Arc<Store>,
    /// What is allowed.
    pub policy: Arc<Policy>,
    /// This boot.
    pub clock: Clock,
    /// Its name, part of every incident's.
    pub name: String,
}

impl<N: Node> Runs<N> {
    /// Reads what there has been. [`Self::resume`] comes next.
    pub async fn open(parts: Parts<N>) -> Self {
        let dir = parts.store.journal();
        let folder = dir.clone();
        let reading = tokio::task::spawn_blocking(move || Index::read(&folder));
        let index = match tokio::time::timeout(lines::DEADLINE, reading).await {
            Ok(Ok(index)) => index,
            // What was there is not known; nothing is overwritten, because every name is made only once.
            Ok(Err(_)) | Err(_) => {
                tracing::error!("list {}: the disk does not answer", dir.display());
                Index::default()
            }
        };
        let inner = Inner {
            node: parts.node,
            sight: parts.sight,
            store: parts.store,
            policy: parts.policy,
            clock: parts.clock,
            name: parts.name,
            dir,
            state: Mutex::new(State { index, live: None, tally: Tally::default() }),
            held_back: Mutex::default(),
            leaving: watch::Sender::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Heals, or says why not. The recovery goes on without the caller. The same request gives the same incident.
    ///
    /// # Errors
    /// When another incident is under way, the request makes no sense, or it cannot be journalled.
    pub async fn heal(&self, by: &Operator, request: Request) -> Result<(String, bool), Refused> {
        self.begin(by.name(), request).await
    }

    /// Heals by itself; the incident's name.
    ///
    /// # Errors
    /// As [`Self::heal`].
    pub async fn heal_alone(&self, consent: Consent, stability_ms: u64) -> Result<String, Refused> {
        let now = self.inner.clock.now();
        // The wall clock makes the name unlike those of other boots; nothing is computed with it.
        let id = format!("alone-{}-{}", now.wall_ms, now.ms);
        let asked = Asked::Heal { consent, digest: String::new(), stability_ms };
        Ok(self.begin(alone::BY, Request { id, asked }).await?.0)
    }

    /// Why the agent does not repair what it would repair alone, for `Status`.
    pub fn hold_back(&self, why: Option<String>) {
        *self.inner.held_back.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// What [`Self::hold_back`] was told last.
    pub fn held_back(&self) -> Option<String> {
        self.inner.held_back.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn begin(&self, by: &str, request: Request) -> Result<(String, bool), Refused> {
        let (inner, by) = (self.inner.clone(), by.to_string());
        // In a task of its own: a caller who hangs up half-way leaves nothing half-begun.
        tokio::spawn(async move { inner.begin(by, request).await })
            .await
            .map_err(|_| Refused::Lost)?
    }

    /// Asks the incident under way to stop after its present step and to undo what it can.
    ///
    /// # Errors
    /// When it is not under way.
    pub fn cancel(&self, by: &Operator, incident: &str) -> Result<String, Refused> {
        let state = self.inner.state();
        let live = state.live.as_ref().ok_or(Refused::Idle)?;
        if !incident.is_empty() && incident != live.story.incident {
            return Err(match state.index.get(incident) {
                Some(_) => Refused::Idle,
                None => Refused::NoIncident { incident: incident.to_string() },
            });
        }
        live.cancel.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert_with(|| by.name().to_string());
            first
        });
        Ok(live.story.incident.clone())
    }

    /// Which incident is under way.
    pub fn under_way(&self) -> Option<String> {
        self.inner.state().live.as_ref().map(|l| l.story.incident.clone())
    }

    /// How often what has ended how, since this process began.
    pub fn tally(&self) -> Tally {
        self.inner.state().tally.clone()
    }

    /// Past incidents and the present one, newest first.
    pub fn history(&self, limit: usize) -> Vec<Summary> {
        self.inner.state().index.newest(limit)
    }

    /// What the self-heal loop knows of incidents, newest first.
    pub fn past(&self) -> Vec<Past> {
        self.inner.state().index.past()
    }

    /// The story of an incident; of the running or else the newest one when none is named.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub async fn story(&self, incident: &str) -> Result<Arc<Story>, Refused> {
        let wanted = {
            let state = self.inner.state();
            if let Some(live) = &state.live
                && (incident.is_empty() || incident == live.story.incident)
            {
                return Ok(live.story.clone());
            }
            let found = if incident.is_empty() {
                state.index.newest(1).pop()
            } else {
                state.index.get(incident).cloned()
            };
            // Only names from the index become paths.
            found.ok_or_else(|| Refused::NoIncident { incident: printable(incident) })?.id
        };
        let dir = self.inner.dir.clone();
        let reading = tokio::task::spawn_blocking(move || Story::read(&dir, &wanted));
        match tokio::time::timeout(lines::DEADLINE, reading).await {
            Ok(read) => Ok(Arc::new(read.map_err(|_| Refused::Lost)??)),
            Err(_) => Err(Refused::Silent),
        }
    }

    /// Stops beginning steps; what is under way ends its present step and is gone on with after the next start.
    pub async fn leave(&self) {
        self.inner.leaving.send_replace(true);
        let task = self.inner.state().live.as_mut().and_then(|l| l.task.take());
        if let Some(task) = task
            && let Err(why) = task.await
        {
            tracing::error!("the recovery's task: {why}");
        }
    }
}

impl<N: Node> Inner<N> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }

    async fn begin(
        self: Arc<Self>,
        by: String,
        request: Request,
    ) -> Result<(String, bool), Refused> {
        sound(&request)?;
        let (incident, story, cancel, confirm) = {
            let mut state = self.state();
            if let Some(known) = state.index.by_request(&request.id) {
                return if known.kind == index::kind(&request.asked) {
                    Ok((known.id.clone(), true))
                } else {
                    Err(Refused::Reused { request: request.id })
                };
            }
            if self.is_leaving() {
                return Err(Refused::Leaving);
            }
            if let Some(live) = &state.live {
                return Err(Refused::Busy { incident: live.story.incident.clone() });
            }
            let incident = state.index.fresh(&self.name);
            let story = Arc::new(Story::new(&incident));
            let cancel = watch::Sender::new(None);
            let confirm = watch::Sender::new(None);
            // The seat is taken before anything is awaited: two callers at once are one and a refusal.
            state.live = Some(Live {
                story: story.clone(),
                cancel: cancel.clone(),
                confirm: confirm.clone(),
                task: None,
            });
            state.index.begin(&incident, &request, &by, &self.clock.now());
            (incident, story, cancel, confirm)
        };
        let opened = Mark::Opened {
            incident: incident.clone(),
            request: request.id.clone(),
            by: by.clone(),
            asked: request.asked.clone(),
            agent: crate::VERSION.to_owned(),
        };
        match Book::create(&self.dir, &self.clock, &incident, opened).await {
            Ok((book, line)) => {
                story.push(What::Mark(line));
                self.prune();
                let about = event::About { incident: Some(&incident), ..event::About::default() };
                event::tell(&event::OPENED, about, &format!("incident {incident} opened by {by}"));
                let (cancel, confirm) = (cancel.subscribe(), confirm.subscribe());
                let told = told::Told { book, story, cancel, confirm };
                self.clone().start(told, by, request.asked);
                Ok((incident, false))
            }
            Err(why) => {
                let mut state = self.state();
                state.live = None;
                state.index.forget(&incident);
                Err(why.into())
            }
        }
    }

    /// Forgets what is too old. Nobody waits for the disk: what it does not delete now the next start does.
    fn prune(&self) {
        let old = self.state().index.overdue(&self.dir);
        if !old.is_empty() {
            drop(tokio::task::spawn_blocking(move || index::remove(&old)));
        }
    }

    /// Puts an incident into its task.
    fn start(self: Arc<Self>, told: told::Told, by: String, asked: Asked) {
        let inner = self.clone();
        let task = tokio::spawn(async move { inner.conduct(told, by, asked).await });
        if let Some(live) = self.state().live.as_mut() {
            live.task = Some(task);
        }
    }
}
