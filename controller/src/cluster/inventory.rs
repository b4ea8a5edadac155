//! What there is: every object of every kind by its metadata alone, so that no secret's value is ever here.

use super::kinds::{Kind, Kinds, Unknown};
use super::owner::{self, Owner};
use super::{AT_ONCE, Cluster, ClusterError, ask};
use crate::obstacle::chain;
use futures_util::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// So many objects in one answer.
const PAGE: u32 = 500;
/// A listing that outlives its snapshot begins again, so often.
const AGAIN: usize = 3;

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its uid: another may come to bear its name.
    pub uid: String,
    /// The uid of the controller it belongs to.
    pub controller: Option<String>,
    /// Who must agree before it goes.
    pub finalizers: Vec<String>,
    /// It is to be gone by then.
    pub deleting: Option<Timestamp>,
    /// Who puts it back.
    pub owner: Option<Owner>,
}

/// All that was seen, and what was not.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// Objects; none twice.
    pub objects: Vec<Object>,
    /// What could not be listed.
    pub unknown: Vec<Unknown>,
}

impl Object {
    /// From its metadata. Annotations stay behind: `kubectl apply` leaves whole secrets in one.
    pub fn of(kind: &Kind, meta: ObjectMeta) -> Self {
        let owner = owner::of(&meta);
        let refs = meta.owner_references.unwrap_or_default();
        Self {
            kind: kind.clone(),
            namespace: meta.namespace,
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            controller: refs.into_iter().find(|r| r.controller == Some(true)).map(|r| r.uid),
            finalizers: meta.finalizers.unwrap_or_default(),
            deleting: meta.deletion_timestamp.map(|t| t.0),
            owner,
        }
    }

    /// As `kubectl` names it: `daemonset.apps/tailscale-worker`.
    pub fn words(&self) -> String {
        let kind = self.kind.kind.to_ascii_lowercase();
        match self.kind.group.as_str() {
            "" => format!("{kind}/{}", self.name),
            group => format!("{kind}.{group}/{}", self.name),
        }
    }

    /// The objects of its kind, where it is.
    pub fn api(&self, cluster: &Cluster) -> Api<DynamicObject> {
        api(cluster, &self.kind, self.namespace.as_deref())
    }
}

/// Objects of any kind, in a namespace or everywhere.
pub fn api(cluster: &Cluster, kind: &Kind, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(name) => Api::namespaced_with(cluster.client.clone(), name, &kind.resource()),
        None => Api::all_with(cluster.client.clone(), &kind.resource()),
    }
}

/// Everything in a namespace; in all of them without one. Events are left out: they only tell of the rest.
pub async fn look(cluster: &Cluster, kinds: &Kinds, namespace: Option<&str>) -> Inventory {
    let wanted = kinds.all.iter().filter(|k| k.namespaced && k.kind != "Event");
    let one = |kind: Kind| async move {
        let listed = list(cluster, &kind, namespace).await;
        (kind, listed)
    };
    // Made before they are awaited: a future that keeps the closure cannot be moved between threads.
    let calls: Vec<_> = wanted.cloned().map(|kind| one(kind).boxed()).collect();
    let asked = stream::iter(calls).buffer_unordered(AT_ONCE).collect::<Vec<_>>();
    let mut all = Inventory { unknown: kinds.unknown.clone(), ..Inventory::default() };
    // Some kinds are served by two groups.
    let mut seen = BTreeSet::new();
    for (kind, listed) in asked.await {
        match listed {
            Ok(objects) => {
                all.objects.extend(objects.into_iter().filter(|o| seen.insert(o.uid.clone())));
            }
            // A definition that was taken away since: nothing of it can be left.
            Err(e) if e.is_missing() => {}
            Err(e) => all.unknown.push(Unknown { what: kind.word(), why: chain(&e) }),
        }
    }
    all.objects.sort_by(|a, b| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)));
    all
}

/// All objects of a kind, page by page.
pub async fn list(
    cluster: &Cluster,
    kind: &Kind,
    namespace: Option<&str>,
) -> Result<Vec<Object>, ClusterError> {
    let api = api(cluster, kind, namespace);
    let word = kind.word();
    let metas = pages(&word, |page| {
        let api = api.clone();
        async move {
            let list = api.list_metadata(&page).await?;
            let metas = list.items.into_iter().map(|o| o.metadata).collect();
            Ok((metas, list.metadata.continue_))
        }
    });
    Ok(metas.await?.into_iter().map(|m| Object::of(kind, m)).collect())
}

/// All typed objects that a selection matches, page by page.
pub async fn all<K>(what: &str, api: &Api<K>, select: &ListParams) -> Result<Vec<K>, ClusterError>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    pages(what, |page| {
        let select = ListParams {
            label_selector: select.label_selector.clone(),
            field_selector: select.field_selector.clone(),
            ..page
        };
        async move {
            let list = api.list(&select).await?;
            Ok((list.items, list.metadata.continue_))
        }
    })
    .await
}

type Page<T> = Result<(Vec<T>, Option<String>), kube::Error>;

async fn pages<T, F: Future<Output = Page<T>>>(
    what: &str,
    turn: impl Fn(ListParams) -> F,
) -> Result<Vec<T>, ClusterError> {
    let mut tries = 0;
    'again: loop {
        let (mut all, mut next) = (Vec::new(), None);
        loop {
            let page = ListParams { continue_token: next, ..ListParams::default().limit(PAGE) };
            match ask(what, turn(page)).await {
                Ok((items, more)) => {
                    all.extend(items);
                    next = more.filter(|m| !m.is_empty());
                    if next.is_none() {
                        return Ok(all);
                    }
                }
                // 410: the snapshot the pages are taken from has been compacted.
                Err(e) if e.code() == Some(410) && tries < AGAIN => {
                    tries += 1;
                    continue 'again;
                }
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_of_a_secret_is_kept_but_its_metadata() {
        let meta = json!({"name": "token", "namespace": "a", "uid": "u", "annotations":
            {"kubectl.kubernetes.io/last-applied-configuration": "{\"data\":{\"t\":\"canary\"}}"}});
        let kind = Kind::known("", "v1", "Secret", "secrets");
        let object = Object::of(&kind, serde_json::from_value(meta).unwrap());
        assert!(!format!("{object:?}").contains("canary"));
        assert_eq!(object.words(), "secret/token");
    }

    #[tokio::test]
    async fn a_listing_whose_snapshot_is_gone_begins_again() {
        let calls = std::sync::Mutex::new(Vec::new());
        let gone = || {
            let status = json!({"status": "Failure", "code": 410, "reason": "Expired"});
            kube::Error::Api(serde_json::from_value(status).unwrap())
        };
        let all = pages("x", |page| {
            let mut calls = calls.lock().unwrap();
            calls.push(page.continue_token.clone());
            let answer = match (calls.len(), page.continue_token.as_deref()) {
                (2, _) => Err(gone()),
                (_, None) => Ok((vec![1, 2], Some("more".to_owned()))),
                _ => Ok((vec![3], None)),
            };
            async move { answer }
        });
        assert_eq!(all.await.unwrap(), [1, 2, 3]);
        assert_eq!(calls.lock().unwrap().len(), 4);
    }
}
