//! What a recovery and a heal by other means begin with: who can be asked, which cluster it is, how its nodes were.

use super::opened::{Named, Opened};
use crate::cli::Global;
use crate::cluster::pin::{self, Pin, PinError};
use crate::cluster::{Cluster, culprit};
use crate::error::CommandError;
use crate::obstacle::chain;
use crate::session::Session;
use crate::sight::Sight;
use crate::verbs::vps::desk::Desk;
use std::collections::BTreeMap;

/// Names a recovery and its directory: when it was begun, and a few letters by chance.
pub fn id() -> Result<String, CommandError> {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S");
    Ok(format!("{now}-{}", &crate::session::request_id()?[..4]))
}

/// How the API server saw each node that is not well.
pub async fn before(cluster: Option<&Cluster>, opened: &Opened) -> BTreeMap<String, Sight> {
    let mut before = BTreeMap::new();
    let Some(cluster) = cluster else { return before };
    for node in opened.nodes.iter().filter(|n| !n.is_well()) {
        if let Ok(sight) = cluster.look(&node.name).await {
            before.insert(node.name.clone(), sight);
        }
    }
    before
}

/// Workloads that could have done it, and run; what could not be listed is a gap.
pub async fn suspects(cluster: Option<&Cluster>) -> Result<Vec<Named>, String> {
    let Some(cluster) = cluster else { return Ok(Vec::new()) };
    let all = culprit::look(cluster).await.map_err(|e| format!("its workloads: {}", chain(&e)))?;
    Ok(all.iter().filter(|s| s.likely() && !s.pods.is_empty()).map(Named::from).collect())
}

/// Everybody who can be asked, and why others cannot.
pub async fn open(
    session: &Session,
    global: &Global,
) -> (Option<Cluster>, Result<Desk, String>, Vec<String>) {
    let mut gaps = Vec::new();
    let config = session.config.as_ref();
    let cluster = async {
        let config = config?;
        Some(Cluster::open(config.kubeconfig.as_ref()?, config.context.as_deref()).await)
    };
    let provider = async {
        if config.is_some_and(|c| c.provider().is_err()) {
            return Err("no [provider] is configured".to_owned());
        }
        let desk = Desk::open(global, session.out).await.map_err(|e| e.to_string())?;
        desk.with_eyes(global).await.map_err(|e| e.to_string())
    };
    let (cluster, provider) = tokio::join!(cluster, provider);
    let cluster = match cluster {
        Some(Ok(cluster)) => Some(cluster),
        Some(Err(e)) => {
            gaps.push(format!("the API server: {}", chain(&e)));
            None
        }
        None => None,
    };
    (cluster, provider, gaps)
}

/// Which cluster it is. Another one than is known by this name is refused; one that does not answer is only not acted on.
pub async fn pinned(
    cluster: Option<&Cluster>,
    name: &str,
) -> Result<Result<Pin, String>, CommandError> {
    let Some(cluster) = cluster else {
        return Ok(Err("no API server is configured, or it cannot be asked".to_owned()));
    };
    match pin::certain(cluster, name).await {
        Ok(pin) => Ok(Ok(pin)),
        Err(PinError::Cluster(e)) => Ok(Err(chain(&e))),
        Err(error) => Err(crate::cluster::Failure::from(error).into()),
    }
}
