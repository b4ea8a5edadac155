//! Stands in for Hostinger's API: an HTTPS server with the published paths and documents, and with every way of failing
//! that a client has to live through.
//!
//! It copies: bare arrays without pages for machines, pages of fifteen for actions, `message` and `correlation_id` in
//! errors, `errors` by field in a 422, a front that refuses who names no User-Agent with a page for people, a machine
//! that is locked while an action goes on. It does not copy: anything that costs money, and says so when asked.

mod answers;
mod state;
mod trouble;

pub use state::{Hand, Machine, Told};
pub use trouble::{On, Trouble, What};

use crate::standin::http;
use anyhow::Context as _;
use rustls::ServerConfig;
use state::State;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_rustls::TlsAcceptor;

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
        let at = listener.local_addr().context("ask where the provider listens")?;
        listener.set_nonblocking(true).context("listen without blocking")?;
        let tls = ServerConfig::builder_with_provider(http::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(http::certificates(cert)?, http::private_key(key)?)?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let me = self.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime of the provider")?;
        let serve = async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let (me, acceptor) = (me.clone(), acceptor.clone());
                tokio::spawn(async move {
                    // Who cannot agree on TLS with us is not told more than TLS tells him.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    http::serve(stream, move |request| answers::answer(me.clone(), request)).await;
                });
            }
        };
        std::thread::Builder::new()
            .name("provider".to_owned())
            .spawn(move || runtime.block_on(serve))
            .context("start the provider")?;
        Ok(at)
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
