//! Stands in for GitHub's REST API, as much of it as issues need: an HTTPS server with the published paths and documents,
//! and with every way of failing that a client has to live through.
//!
//! It copies: pages of thirty with `Link` headers, comments oldest first, `message` and `documentation_url` in errors,
//! `errors` in a 422, a 404 for what a token may not see, a front that refuses who names no User-Agent, a `state_reason`
//! that is ignored when the state does not change, labels that come into being when they are first set, both kinds of
//! rate limit, a conversation that is locked, an issue that has moved. It does not copy: reactions, milestones, events.

mod answers;
mod state;

pub use super::outside::Told;
pub use super::trouble::{On, Trouble, What};
pub use state::{Comment, Issue};

use super::outside;
use state::State;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The stand-in; clones are the same one.
#[derive(Clone, Debug)]
pub struct GitHub {
    state: Arc<Mutex<State>>,
}

impl GitHub {
    /// A private repository `owner/name` with these issues, and the one token that may read and write them.
    #[must_use]
    pub fn new(token: &str, repository: &str, issues: Vec<Issue>) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(token, repository, issues))) }
    }

    /// Serves on a thread of its own for as long as the process lives, so that a caller needs no runtime.
    pub fn serve(
        &self,
        listener: TcpListener,
        cert: &Path,
        key: &Path,
    ) -> anyhow::Result<SocketAddr> {
        let me = self.clone();
        outside::serve("tracker", listener, (cert, key), move |r| answers::answer(me.clone(), r))
    }

    /// The next requests of this kind meet with this.
    pub fn trouble(&self, trouble: Trouble) {
        self.state().troubles.push_back(trouble);
    }

    /// From now on the token may read and not write.
    pub fn read_only(&self, is: bool) {
        self.state().read_only = is;
    }

    /// Changes an issue as if somebody had done so elsewhere.
    pub fn change(&self, number: u64, change: impl FnOnce(&mut Issue)) {
        if let Some(issue) = self.state().issues.iter_mut().find(|i| i.number == number) {
            change(issue);
        }
    }

    /// Somebody else comments.
    pub fn comment(&self, number: u64, author: &str, body: &str) {
        self.state().comment(number, author, body);
    }

    /// The issue as it is now, with all its comments.
    #[must_use]
    pub fn issue(&self, number: u64) -> Option<Issue> {
        self.state().issues.iter().find(|i| i.number == number).cloned()
    }

    /// What was asked, in order: `POST /repos/o/r/issues/110/comments`.
    #[must_use]
    pub fn asked(&self) -> Vec<Told> {
        self.state().asked.clone()
    }

    /// Requests that would change something.
    #[must_use]
    pub fn wishes(&self) -> Vec<Told> {
        self.asked().into_iter().filter(|t| !t.line.starts_with("GET ")).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
