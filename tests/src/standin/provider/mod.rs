//! Stands in for Hostinger's API: an HTTPS server with the published paths and documents, and with every way of failing
//! that a client has to live through.
//!
//! It copies: bare arrays without pages for machines, pages of fifteen for actions, `message` and `correlation_id` in
//! errors, `errors` by field in a 422, a front that refuses who names no User-Agent with a page for people, a machine
//! that is locked while an action goes on. It does not copy: anything that costs money, and says so when asked.

mod answers;
mod state;

pub use super::outside::Told;
pub use super::trouble::{On, Trouble, What};
pub use state::{Hand, Machine};

use super::outside;
use state::State;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The stand-in; clones are the same one.
#[derive(Clone, Debug)]
pub struct Provider {
    state: Arc<Mutex<State>>,
}

impl Provider {
    /// An account with this token and these machines; `hand` does to a machine what an action says.
    #[must_use]
    pub fn new(token: &str, machines: Vec<Machine>, hand: Hand) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(token, machines, hand))) }
    }

    /// Serves on a thread of its own for as long as the process lives, so that a caller needs no runtime.
    pub fn serve(
        &self,
        listener: TcpListener,
        cert: &Path,
        key: &Path,
    ) -> anyhow::Result<SocketAddr> {
        let me = self.clone();
        outside::serve("provider", listener, (cert, key), move |r| answers::answer(me.clone(), r))
    }

    /// The next requests of this kind meet with this.
    pub fn trouble(&self, trouble: Trouble) {
        self.state().troubles.push_back(trouble);
    }

    /// From now on restarts are said to be done, and nothing is done.
    pub fn lie(&self, lies: bool) {
        self.state().lies = lies;
    }

    /// From now on every action ends with an error.
    pub fn fail(&self, fails: bool) {
        self.state().fails = fails;
    }

    /// Changes a machine.
    pub fn change(&self, id: u64, change: impl FnOnce(&mut Machine)) {
        if let Some(machine) = self.state().machines.iter_mut().find(|m| m.id == id) {
            change(machine);
        }
    }

    /// Rents another machine, outside of what can be asked over the wire.
    pub fn add(&self, machine: Machine) {
        self.state().machines.push(machine);
    }

    /// Does something to a machine as if its owner had asked for it elsewhere.
    pub fn act(&self, machine: u64, name: &str, state: &str) -> u64 {
        self.state().begin(machine, name, state)
    }

    /// What was asked, in order: `POST /api/vps/v1/virtual-machines/2/restart`.
    #[must_use]
    pub fn asked(&self) -> Vec<Told> {
        self.state().asked.clone()
    }

    /// How often a restart was asked for.
    #[must_use]
    pub fn wishes(&self) -> usize {
        self.asked().iter().filter(|t| !t.line.starts_with("GET ")).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
