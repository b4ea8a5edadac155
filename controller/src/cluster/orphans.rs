//! Objects in a namespace that no longer exists: what `finalize` leaves behind, and what wakes when a namespace of that name
//! is made again.
//!
//! They can be deleted and not changed there. Only for finalizers that hold them the namespace is made again, emptied, and
//! deleted as usual; by then nothing is left in it that makes pods.

use super::hearing;
use super::inventory::{self, Object};
use super::journal::{Journal, Target};
use super::kinds::{self, Unknown};
use super::namespace::{Done, Ending, Permit};
use super::pods;
use super::{Cluster, ClusterError, Failure, Say, ask, quiet, strip};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, ObjectMeta, PostParams};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::sleep;

/// Written on a namespace that was made again only to be emptied.
const MADE_AGAIN: &str = "lifeline/made-again-to-be-emptied";
/// What is deleted without a finalizer is gone at once.
const SOON: Duration = Duration::from_millis(700);

/// Was it made again only to be emptied?
pub fn made_again(space: &Namespace) -> bool {
    space.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MADE_AGAIN))
}

/// Objects of namespaces that do not exist.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Orphans {
    /// By the name of the namespace.
    pub spaces: BTreeMap<String, Vec<Object>>,
    /// What could not be listed.
    pub unknown: Vec<Unknown>,
}

/// Lists every kind everywhere, and compares with the namespaces there are.
pub async fn look(cluster: &Cluster) -> Result<Orphans, ClusterError> {
    let kinds = kinds::look(cluster).await?;
    let before = names(cluster).await?;
    let all = inventory::look(cluster, &kinds, None).await;
    // One that was made or deleted while the rest was listed is none of ours.
    let after = names(cluster).await?;
    let known: BTreeSet<String> = before.into_iter().chain(after).collect();
    let mut orphans = Orphans { unknown: all.unknown, ..Orphans::default() };
    for object in all.objects {
        let space = object.namespace.clone().unwrap_or_default();
        if !known.contains(&space) {
            orphans.spaces.entry(space).or_default().push(object);
        }
    }
    Ok(orphans)
}

/// Every namespace.
pub async fn names(cluster: &Cluster) -> Result<Vec<String>, ClusterError> {
    let spaces = cluster.wide::<Namespace>();
    let every = ListParams::default();
    let all = ask("its namespaces", spaces.list_metadata(&every)).await?;
    Ok(all.items.into_iter().filter_map(|n| n.metadata.name).collect())
}

/// Removes what is left in a namespace that is gone; what holds the rest, if anything does.
pub async fn clear(
    cluster: &Cluster,
    name: &str,
    permit: Permit,
    done: &mut Done,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<Option<Ending>, Failure> {
    quiet::delete_makers(cluster, &done.left, journal, say).await?;
    let hearings = hearing::look(cluster).await?;
    let mut live = pods::of_namespace(cluster, Some(name)).await?;
    // No kubelet can finish them, heard or not: what it says of a pod is refused where its namespace is missing.
    live.iter_mut().for_each(|p| p.deleting = p.deleting.or(Some(0)));
    let forced = pods::end(cluster, &live, (&hearings, Duration::MAX), journal, say).await?;
    pods::add(&mut done.unproven, forced);
    quiet::delete(cluster, &done.left, journal, say).await?;
    sleep(SOON).await;
    let kinds = kinds::look(cluster).await?;
    done.left = inventory::look(cluster, &kinds, Some(name)).await.objects;
    let stuck: Vec<Object> = done
        .left
        .iter()
        .filter(|o| o.deleting.is_some() && !o.finalizers.is_empty())
        .cloned()
        .collect();
    if stuck.is_empty() {
        return Ok(None);
    }
    if !permit.strip {
        return Ok(Some(Ending::Finalizers));
    }
    // Made again, the namespace would wake them.
    if done.left.iter().any(|o| quiet::makes_pods(&o.kind) && o.deleting.is_none()) {
        return Ok(None);
    }
    make_again(cluster, name, journal, say).await?;
    strip::strip(cluster, &stuck, journal, say).await?;
    done.stripped.extend(stuck);
    Ok(None)
}

async fn make_again(
    cluster: &Cluster,
    name: &str,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<(), Failure> {
    let target = Target { name: format!("namespace/{name}"), uid: String::new() };
    journal.intent("make again, to take finalizers off what is in it", vec![target])?;
    let space = Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(BTreeMap::from([(MADE_AGAIN.to_owned(), "true".to_owned())])),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    let spaces = cluster.wide::<Namespace>();
    let how = PostParams::default();
    match ask(format!("namespace {name}"), spaces.create(&how, &space)).await {
        Err(e) if e.is_conflict() => {}
        other => drop(other?),
    }
    say(format!("namespace {name} was made again, only to take finalizers off what is in it"));
    Ok(())
}
