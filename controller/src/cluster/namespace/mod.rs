//! Cleaning a namespace away: what makes its pods first, then the pods, then the namespace, and proof by enumeration.
//!
//! Its conditions are shown and not believed ("All content successfully removed" is said with content left). `finalize` is
//! the last resort: it leaves in etcd what was not listed, and a DaemonSet that is left wakes with the next namespace of that
//! name. So it is asked for only when every kind could be listed, nothing is left, and two nudges did not help.

mod finish;
mod prove;

pub use finish::finish;
pub use prove::{Proof, prove};

use super::hearing;
use super::inventory::{self, Inventory, Object};
use super::journal::{Event, Journal, Target};
use super::kinds::{self, Unknown};
use super::owner::Owner;
use super::pods::{self, PodFact};
use super::services::{self, Stale};
use super::{Cluster, ClusterError, Failure, Refusal, Say, ask, orphans, quiet, remove};
use k8s_openapi::api::core::v1::Namespace;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is done to a namespace, in its journal.
const DELETE: &str = "delete";

/// A namespace and all that is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Its uid; `None` when there is no such namespace, but objects in it.
    pub uid: Option<String>,
    /// It is to be gone already.
    pub terminating: bool,
    /// What its conditions say. They lie.
    pub said: Vec<String>,
    /// Who puts it, or what is in it, back.
    pub owners: Vec<Owner>,
    /// What is in it.
    pub inventory: Inventory,
    /// Its pods.
    pub pods: Vec<PodFact>,
    /// API services that do not answer; `None` when they could not be asked for.
    pub services: Option<Vec<Stale>>,
}

/// What may be done without asking again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Permit {
    /// Take finalizers off objects that nobody lets go.
    pub strip: bool,
    /// Let the namespace go although its controller does not.
    pub finalize: bool,
}

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// All in all.
    pub all: Duration,
    /// Between two enumerations.
    pub beat: Duration,
    /// Without a new object, at the end.
    pub quiet: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            all: Duration::from_secs(180),
            beat: Duration::from_secs(10),
            quiet: Duration::from_secs(30),
        }
    }
}

/// How it ended, or what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The namespace and everything in it.
    Gone,
    /// Objects that only their finalizers hold, and nobody takes those off.
    Finalizers,
    /// An API service that does not answer: nobody knows what is in the namespace.
    Service,
    /// Nothing is in it, and it does not go.
    Empty,
    /// The time is over.
    Late,
}

/// What was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// How it ended.
    pub ending: Ending,
    /// Pods taken out of the API by force: whether their processes ended is for an agent to say.
    pub unproven: Vec<PodFact>,
    /// Objects whose finalizers were taken off, with these.
    pub stripped: Vec<Object>,
    /// `finalize` was used.
    pub finalized: bool,
    /// What is left.
    pub left: Vec<Object>,
    /// What could not be listed.
    pub unknown: Vec<Unknown>,
    /// API services that do not answer.
    pub services: Vec<Stale>,
}

/// Refuses the namespaces a cluster lives in.
pub fn unprotected(name: &str) -> Result<(), Refusal> {
    if name == "default" || name.starts_with("kube-") {
        return Err(Refusal::new(
            format!("clean up namespace {name}"),
            "the cluster lives in it; it is never cleaned up",
            "stop a single workload in it: ctl cleanup culprit --stop NAMESPACE/NAME",
        ));
    }
    Ok(())
}

/// Looks at a namespace; changes nothing.
pub async fn look(cluster: &Cluster, name: &str) -> Result<Seen, Failure> {
    unprotected(name)?;
    let spaces = cluster.wide::<Namespace>();
    let space = ask(format!("namespace {name}"), spaces.get_opt(name)).await?;
    let kinds = kinds::look(cluster).await?;
    let (inventory, pods) = tokio::join!(
        inventory::look(cluster, &kinds, Some(name)),
        pods::of_namespace(cluster, Some(name))
    );
    if space.is_none() && inventory.objects.is_empty() {
        return Err(missing(cluster, name, &inventory).await?.into());
    }
    let meta = space.as_ref().map(|s| s.metadata.clone());
    let kind = kinds::Kind {
        namespaced: false,
        ..kinds::Kind::known("", "v1", "Namespace", "namespaces")
    };
    let own = meta.map(|m| Object::of(&kind, m));
    let mut owners: Vec<Owner> =
        own.iter().chain(&inventory.objects).filter_map(|o| o.owner.clone()).collect();
    owners.sort();
    owners.dedup();
    let status = space.and_then(|s| s.status).unwrap_or_default();
    Ok(Seen {
        name: name.to_owned(),
        uid: own.as_ref().map(|o| o.uid.clone()),
        terminating: own.is_some_and(|o| o.deleting.is_some()),
        said: status
            .conditions
            .unwrap_or_default()
            .into_iter()
            .filter(|c| c.status == "True")
            .map(|c| format!("{}: {}", c.type_, c.message.unwrap_or_default()))
            .collect(),
        owners,
        inventory,
        pods: pods?,
        services: services::look(cluster).await.ok(),
    })
}

/// A clean-up that was cut off, and went to its end without us: there is no such namespace, and nothing in it.
pub fn cut_off(name: &str, open: &[Event]) -> Option<Seen> {
    let what = format!("namespace/{name}");
    let ours = |e: &Event| matches!(e, Event::Intent { act, targets } if act == DELETE && targets.iter().any(|t| t.name == what));
    open.iter().any(ours).then(|| Seen {
        name: name.to_owned(),
        uid: None,
        terminating: false,
        said: Vec::new(),
        owners: Vec::new(),
        inventory: Inventory::default(),
        pods: Vec::new(),
        services: None,
    })
}

async fn missing(
    cluster: &Cluster,
    name: &str,
    inventory: &Inventory,
) -> Result<Refusal, ClusterError> {
    let names = orphans::names(cluster).await?;
    let meant = crate::suggest::nearest(name, names.iter().map(String::as_str));
    let hint = match meant {
        Some(meant) => format!("did you mean {meant}?"),
        None => "objects left in namespaces that no longer exist: ctl cleanup orphans".to_owned(),
    };
    let why = match inventory.unknown.len() {
        0 => "there is no such namespace, and nothing in it".to_owned(),
        n => format!(
            "there is no such namespace, and nothing was found in it ({n} kinds could not be listed)"
        ),
    };
    Ok(Refusal::new(format!("clean up namespace {name}"), why, hint))
}

/// Stops what makes pods, ends the pods, and asks for the end of the namespace. May be called again at any time.
pub async fn begin(
    cluster: &Cluster,
    seen: &Seen,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<Vec<PodFact>, Failure> {
    unprotected(&seen.name)?;
    let objects = &seen.inventory.objects;
    if !seen.terminating && seen.uid.is_some() {
        quiet::stop(cluster, objects, journal, say).await?;
    }
    quiet::delete_makers(cluster, objects, journal, say).await?;
    let hearings = hearing::look(cluster).await?;
    let live = pods::of_namespace(cluster, Some(&seen.name)).await?;
    let unproven = pods::end(cluster, &live, (&hearings, Duration::ZERO), journal, say).await?;
    if let Some(uid) = &seen.uid {
        delete(cluster, &seen.name, uid, journal, say).await?;
    }
    Ok(unproven)
}

async fn delete(
    cluster: &Cluster,
    name: &str,
    uid: &str,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<(), Failure> {
    let target = Target { name: format!("namespace/{name}"), uid: uid.to_owned() };
    journal.intent(DELETE, vec![target])?;
    // When it is on its way already, or another one has taken its name, the next look tells which.
    let spaces = cluster.wide::<Namespace>();
    remove(format!("the end of namespace {name}"), &spaces, (name, uid), None).await?;
    say(format!("namespace {name} is to be gone"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_the_cluster_lives_in_is_refused() {
        for name in ["default", "kube-system", "kube-node-lease", "kube-flannel"] {
            assert!(unprotected(name).is_err(), "{name}");
        }
        assert!(
            unprotected("tailscale-system").is_ok() && unprotected("kubernetes-dashboard").is_ok()
        );
    }
}
