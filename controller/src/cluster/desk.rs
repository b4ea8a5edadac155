//! What every verb of the cluster's side starts from: the configuration, the API server, and certainty which one it is.

use super::journal::{Journal, JournalError};
use super::pin::{self, Pin};
use super::{Cluster, Refusal};
use crate::cli::Global;
use crate::config::Config;
use crate::error::CommandError;
use crate::out::Out;

/// Where the work is done from.
#[derive(Debug)]
pub struct Desk {
    /// Where words go.
    pub out: Out,
    /// The configuration.
    pub config: Config,
    /// The API server.
    pub cluster: Cluster,
    /// Which one it certainly is.
    pub pin: Pin,
}

impl Desk {
    /// Reads configuration and kubeconfig, and asks the API server who it is.
    pub async fn open(global: &Global, out: Out) -> Result<Self, CommandError> {
        let config = Config::load(global.config.as_deref())?;
        let Some(path) = &config.kubeconfig else {
            let why = format!("{} names no kubeconfig", config.path.display());
            let hint =
                "add one:\n\n  kubeconfig = \"/etc/rancher/k3s/k3s.yaml\"\n  context = \"default\"";
            return Err(Refusal::new("ask the API server", why, hint).into());
        };
        let cluster = Cluster::open(path, config.context.as_deref()).await?;
        let pin =
            pin::certain(&cluster, &config.cluster).await.map_err(super::trouble::Failure::from)?;
        Ok(Self { out, config, cluster, pin })
    }

    /// The journal of a subject, `namespace-x` or `node-x`, ours alone from here on.
    pub fn journal(&self, subject: &str, what: impl Into<String>) -> Result<Journal, JournalError> {
        Journal::open(&self.config.cluster, subject, &self.pin, what)
    }

    /// Says a line of progress.
    pub fn say(&self) -> impl FnMut(String) + Send + use<> {
        let out = self.out;
        move |line| out.say(line)
    }
}
