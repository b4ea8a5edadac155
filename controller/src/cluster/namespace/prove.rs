//! Proof that a namespace is gone: not found, empty lists, and for a while nothing new.

use super::Limits;
use crate::cluster::inventory::{self, Object};
use crate::cluster::kinds::{self, Unknown};
use crate::cluster::{Cluster, ClusterError, Say, ask};
use k8s_openapi::api::core::v1::Namespace;
use serde::{Deserialize, Serialize};
use std::time::Instant;
use tokio::time::sleep;

/// What the proof showed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Proof {
    /// 404 and empty lists, for as long as was asked for.
    pub proven: bool,
    /// What came back.
    pub returned: Vec<Object>,
    /// The namespace came back.
    pub again: bool,
    /// What could not be listed, and so is not proven.
    pub unknown: Vec<Unknown>,
}

/// Watches that nothing of it comes back.
pub async fn prove(
    cluster: &Cluster,
    name: &str,
    limits: &Limits,
    say: &mut Say<'_>,
) -> Result<Proof, ClusterError> {
    say(format!("watching for {} s that nothing comes back to {name}", limits.quiet.as_secs()));
    let kinds = kinds::look(cluster).await?;
    let (begun, mut proof) = (Instant::now(), Proof::default());
    loop {
        let spaces = cluster.wide::<Namespace>();
        let space = ask(format!("namespace {name}"), spaces.get_metadata_opt(name)).await?;
        proof.again = space.is_some();
        let now = inventory::look(cluster, &kinds, Some(name)).await;
        (proof.returned, proof.unknown) = (now.objects, now.unknown);
        if proof.again || !proof.returned.is_empty() {
            return Ok(proof);
        }
        if begun.elapsed() >= limits.quiet {
            proof.proven = true;
            return Ok(proof);
        }
        sleep(limits.beat.min(limits.quiet.saturating_sub(begun.elapsed()))).await;
    }
}
