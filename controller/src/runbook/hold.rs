//! Takes the cluster's lease for a run, and keeps it: what [`claim`](super::claim) decides is done here.
//!
//! It never keeps a recovery from being made: where the API server cannot be asked, or does not let this user, the run goes on
//! without, and says so once. Where somebody else is seen to be at it, nothing more is begun.

use super::claim::{Claimant, Holder, LASTS, NAME, Next, SPACE, Watch};
use super::opened::Opened;
use crate::cluster::pin::{self, Pin};
use crate::cluster::{Cluster, ClusterError, ask};
use crate::interrupt::interruptible;
use crate::obstacle::chain;
use crate::out::Out;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Notify};
use tokio::time::{sleep, timeout};

/// Between two renewals.
const BEAT: Duration = Duration::from_secs(5);
/// Between two looks at somebody else's.
const POLL: Duration = Duration::from_secs(1);
/// What was seen so long ago is looked at again before anything is begun: the machine may have slept.
const STALE: Duration = Duration::from_secs(20);
/// Giving it back keeps nobody waiting.
const BACK: Duration = Duration::from_secs(5);
/// Somebody else may write at the same moment.
const AGAIN: usize = 3;

/// Somebody else is at it.
#[derive(Debug, thiserror::Error)]
pub enum Taken {
    /// Nothing was begun.
    #[error("recover cluster {cluster}: {} is at it, since {}", holder.who, holder.since)]
    Before {
        /// Which.
        cluster: String,
        /// Who.
        holder: Holder,
    },
    /// Nothing more was begun.
    #[error("recover cluster {cluster}: {} has taken it over, since {}", holder.who, holder.since)]
    Meanwhile {
        /// Which.
        cluster: String,
        /// Who.
        holder: Holder,
    },
}

/// A moment, by both clocks of this machine: the one stands still while it sleeps, the other can be set.
#[derive(Clone, Copy, Debug)]
struct Moment(Instant, jiff::Timestamp);

impl Moment {
    fn now() -> Self {
        Self(Instant::now(), jiff::Timestamp::now())
    }

    fn age(self) -> Duration {
        let wall = jiff::Timestamp::now().duration_since(self.1);
        self.0.elapsed().max(wall.try_into().unwrap_or_default())
    }
}

#[derive(Debug, Default)]
struct State {
    /// It is certain that the kubeconfig leads to the run's cluster.
    certain: bool,
    watch: Watch,
    /// When it was written last.
    renewed: Option<Moment>,
    /// Why it could not be written, until it is.
    without: Option<String>,
    /// That was said.
    said: bool,
    lost: Option<Holder>,
}

/// The lease of a run.
#[derive(Debug)]
pub struct Hold<'a> {
    cluster: Option<&'a Cluster>,
    opened: &'a Opened,
    me: Claimant,
    out: Out,
    state: Mutex<State>,
    /// When it was looked at last.
    looked: std::sync::Mutex<Option<Moment>>,
    lost: Notify,
}

fn said(error: &ClusterError) -> String {
    let role = if error.code() == Some(403) { "; the role: ctl rights recover" } else { "" };
    format!("{}{role}", chain(error))
}

impl<'a> Hold<'a> {
    /// Asks nobody yet.
    pub fn new(
        cluster: Option<&'a Cluster>,
        pin: &Result<Pin, String>,
        opened: &'a Opened,
        out: Out,
    ) -> Self {
        let without = pin.as_ref().err().cloned();
        let state = State { certain: pin.is_ok(), without, ..State::default() };
        Self {
            cluster,
            opened,
            me: Claimant::of(opened),
            out,
            state: Mutex::new(state),
            looked: std::sync::Mutex::default(),
            lost: Notify::new(),
        }
    }

    /// Does the work while it has the lease, and gives that back. `None` when waiting for it was interrupted, and nothing was begun.
    pub async fn around<T>(&self, work: impl Future<Output = T>) -> Result<Option<T>, Taken> {
        let Some(taken) = interruptible(self.take()).await else { return Ok(None) };
        taken?;
        let done = Box::pin(work).await;
        self.release().await;
        Ok(Some(done))
    }

    /// Takes it before anything is done; refused where somebody else is at it.
    async fn take(&self) -> Result<(), Taken> {
        let mut state = self.state.lock().await;
        if state.without.is_some() {
            // It could not be asked a moment ago. It is tried again beside the work.
            self.say_without(&mut state);
            self.looked(Some(Moment::now()));
            return Ok(());
        }
        drop(state);
        let cluster = self.opened.cluster.clone();
        self.claim().await.map_err(|holder| Taken::Before { cluster, holder })
    }

    /// Does the work while the lease is kept; stops it when somebody else has taken that.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> Result<T, Taken> {
        let cluster = self.opened.cluster.clone();
        let work = Box::pin(work);
        tokio::select! {
            biased;
            done = work => Ok(done),
            holder = self.keep() => Err(Taken::Meanwhile { cluster, holder }),
        }
    }

    /// Returns when something may be begun: never, when somebody else is at it, for then the work is stopped.
    pub async fn turn(&self) {
        let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|at| at.age() < STALE) || self.claim().await.is_ok() {
            return;
        }
        self.lost.notify_one();
        std::future::pending::<()>().await;
    }

    /// Gives it back. Where that does not work it ends by itself.
    async fn release(&self) {
        let back = async {
            let state = self.state.lock().await;
            let ours = state.renewed.is_some() && state.without.is_none() && state.lost.is_none();
            let cluster = self.cluster.filter(|_| ours)?;
            let api = cluster.once::<Lease>(SPACE);
            let found = ask("the lease", api.get_opt(NAME)).await.ok()??;
            let free = self.me.given_back(found)?;
            ask("the lease", api.replace(NAME, &PostParams::default(), &free)).await.ok()
        };
        drop(timeout(BACK, back).await);
    }

    async fn keep(&self) -> Holder {
        loop {
            tokio::select! {
                () = sleep(BEAT) => {}
                () = self.lost.notified() => {}
            }
            if let Err(holder) = self.claim().await {
                return holder;
            }
        }
    }

    /// Takes it, or keeps it; who else has it is watched until it is known whether he is still there.
    async fn claim(&self) -> Result<(), Holder> {
        let mut state = self.state.lock().await;
        if let Some(holder) = &state.lost {
            return Err(holder.clone());
        }
        let mut told = false;
        loop {
            let next = self.step(&mut state).await;
            // Who waits to begin something waits until this is known.
            self.looked(Some(Moment::now()).filter(|_| !matches!(next, Ok(Next::Wait(_)))));
            match next {
                Ok(Next::Take) => {
                    if state.said {
                        self.out.say("From now on recoveries from other machines are kept out.");
                    }
                    (state.without, state.said) = (None, false);
                    state.renewed = Some(Moment::now());
                    return Ok(());
                }
                Ok(Next::Wait(holder)) if state.renewed.is_none() => {
                    if !told {
                        let (who, since) = (&holder.who, &holder.since);
                        self.out.say(format!("{who} has been at it since {since}: waiting to see whether that run is alive …"));
                        told = true;
                    }
                    sleep(POLL).await;
                }
                // It was ours.
                Ok(Next::Held(holder) | Next::Wait(holder)) => {
                    state.lost = Some(holder.clone());
                    return Err(holder);
                }
                Err(why) => {
                    state.without = Some(why);
                    // As long as it lasts nobody else takes it.
                    if state.renewed.is_none_or(|at| at.age() > LASTS) {
                        self.say_without(&mut state);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Looks once, and writes when it may be written.
    async fn step(&self, state: &mut State) -> Result<Next, String> {
        let Some(cluster) = self.cluster else {
            return Err(state.without.clone().unwrap_or_default());
        };
        if !state.certain {
            let here = pin::certain(cluster, &self.opened.cluster).await.map_err(|e| chain(&e))?;
            if self.opened.uid.as_ref().is_some_and(|uid| *uid != here.uid) {
                return Err(format!("it was begun on another cluster than {}", here.uid));
            }
            state.certain = true;
        }
        let (api, how) = (cluster.once::<Lease>(SPACE), PostParams::default());
        let what = format!("the lease {SPACE}/{NAME}");
        let mut failed = String::new();
        for _ in 0..AGAIN {
            let found = ask(&what, api.get_opt(NAME)).await.map_err(|e| said(&e))?;
            if found.is_none() && state.renewed.is_some() {
                // How a run is stopped from elsewhere: made again at once, it could not be.
                return Ok(Next::Held(Holder::nobody()));
            }
            let spec = found.as_ref().and_then(|lease| lease.spec.as_ref());
            let next = state.watch.next(&self.me, spec, Instant::now());
            if next != Next::Take {
                return Ok(next);
            }
            let there = found.is_some();
            let ours = self.me.lease(found);
            let written = match there {
                true => ask(&what, api.replace(NAME, &how, &ours)).await,
                false => ask(&what, api.create(&how, &ours)).await,
            };
            match written {
                Ok(_) => return Ok(Next::Take),
                // Somebody was quicker: looked at again.
                Err(e) if e.is_conflict() || e.is_missing() => failed = said(&e),
                Err(e) => return Err(said(&e)),
            }
        }
        Err(failed)
    }

    fn looked(&self, at: Option<Moment>) {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn say_without(&self, state: &mut State) {
        if !state.said {
            let why = state.without.as_deref().unwrap_or_default();
            self.out.say(format!(
                "This run goes on, and keeps no recovery from another machine out meanwhile: {why}"
            ));
            state.said = true;
        }
    }
}
