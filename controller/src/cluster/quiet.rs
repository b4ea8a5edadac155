//! Stopping workloads so that nothing makes their pods anew: in a way that can be taken back, and for good.
//!
//! A DaemonSet gets a node selector that no node has (its pods are gone in 2 s, whatever its update strategy), the others are
//! scaled to nothing or suspended; what was there before stays in an annotation.

use super::inventory::Object;
use super::journal::{Journal, Target};
use super::kinds::Kind;
use super::{Cluster, ClusterError, Failure, Say, ask, merge, remove};
use kube::api::DynamicObject;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::sleep;

/// No node carries this label, and it is what a quarantined DaemonSet asks for.
const NOWHERE: &str = "lifeline/quarantine";
/// What was there before.
const BEFORE: &str = "lifeline/before-quarantine";
/// Somebody else may write to the object at the same time.
const AGAIN: usize = 4;
/// How long the garbage collector is given for what belongs to a deleted controller.
const COLLECTED: Duration = Duration::from_secs(5);

/// Does it make pods?
pub fn makes_pods(kind: &Kind) -> bool {
    switch(kind).is_some()
}

/// How a workload is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Switch {
    Selector,
    Replicas,
    Suspend,
}

fn switch(kind: &Kind) -> Option<Switch> {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("apps", "DaemonSet") => Some(Switch::Selector),
        ("apps", "Deployment" | "StatefulSet" | "ReplicaSet") | ("", "ReplicationController") => {
            Some(Switch::Replicas)
        }
        ("batch", "Job" | "CronJob") => Some(Switch::Suspend),
        _ => None,
    }
}

/// What is patched to switch it off; nothing when it is off.
fn off(kind: &Kind, object: &Value) -> Option<Value> {
    let (was, spec) = match switch(kind)? {
        Switch::Selector => {
            let selector = &object["spec"]["template"]["spec"]["nodeSelector"];
            if selector.get(NOWHERE).is_some() {
                return None;
            }
            let nowhere = json!({ NOWHERE: "true" });
            (selector.clone(), json!({"template": {"spec": {"nodeSelector": nowhere}}}))
        }
        Switch::Replicas => {
            let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1);
            if replicas == 0 {
                return None;
            }
            (json!(replicas), json!({"replicas": 0}))
        }
        Switch::Suspend => {
            if object["spec"]["suspend"] == true {
                return None;
            }
            (json!(false), json!({"suspend": true}))
        }
    };
    Some(json!({"metadata": {"annotations": {BEFORE: was.to_string()}}, "spec": spec}))
}

/// What is patched to switch it on again; nothing when it was not us who switched it off.
fn on(kind: &Kind, object: &Value) -> Option<Value> {
    let was = object["metadata"]["annotations"][BEFORE].as_str()?;
    let was: Value = serde_json::from_str(was).ok()?;
    let spec = match switch(kind)? {
        // Its own keys were never taken out.
        Switch::Selector => json!({"template": {"spec": {"nodeSelector": {NOWHERE: null}}}}),
        Switch::Replicas => json!({"replicas": was}),
        Switch::Suspend => json!({"suspend": was}),
    };
    Some(json!({"metadata": {"annotations": {BEFORE: null}}, "spec": spec}))
}

/// Switches workloads off. What belongs to another of them follows it; what is to be gone anyway is left alone.
pub async fn stop(
    cluster: &Cluster,
    objects: &[Object],
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<(), Failure> {
    let uids: BTreeSet<&str> = objects.iter().map(|o| o.uid.as_str()).collect();
    let follows = |o: &Object| o.controller.as_deref().is_some_and(|c| uids.contains(c));
    let wanted = objects.iter().filter(|o| makes_pods(&o.kind) && o.deleting.is_none());
    for object in wanted.filter(|o| !follows(o)) {
        journal.intent("quarantine", vec![target(object)])?;
        let told = turn(cluster, object, off).await?;
        journal.seen(format!("{}: {told}", object.words()))?;
        say(format!("{}: {told}", object.words()));
    }
    Ok(())
}

/// Switches a workload on again that was switched off by `stop`.
pub async fn release(
    cluster: &Cluster,
    object: &Object,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<(), Failure> {
    journal.intent("release", vec![target(object)])?;
    let told = match turn(cluster, object, on).await? {
        Turned::Already => "it was not in quarantine".to_owned(),
        Turned::Done => "released from quarantine".to_owned(),
        other => other.to_string(),
    };
    journal.seen(format!("{}: {told}", object.words()))?;
    say(format!("{}: {told}", object.words()));
    Ok(())
}

enum Turned {
    Done,
    Already,
    Gone,
    Another,
}

impl std::fmt::Display for Turned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Done => "quarantined, which can be taken back",
            Self::Already => "makes no pods",
            Self::Gone => "is gone",
            Self::Another => "is another one of that name now, and was left alone",
        })
    }
}

async fn turn(
    cluster: &Cluster,
    object: &Object,
    how: fn(&Kind, &Value) -> Option<Value>,
) -> Result<Turned, ClusterError> {
    let api = object.api(cluster);
    for _ in 0..AGAIN {
        let now = match ask(object.words(), api.get(&object.name)).await {
            Err(e) if e.is_missing() => return Ok(Turned::Gone),
            other => other?,
        };
        if now.metadata.uid.as_deref() != Some(&object.uid) {
            return Ok(Turned::Another);
        }
        let version = now.metadata.resource_version.clone();
        let Some(mut patch) = how(&object.kind, &whole(now)) else { return Ok(Turned::Already) };
        patch["metadata"]["resourceVersion"] = json!(version);
        let what = format!("a change of {}", object.words());
        match merge(what, &api, &object.name, &patch).await {
            Ok(_) => return Ok(Turned::Done),
            // Somebody wrote to it meanwhile; it is read again.
            Err(e) if e.is_conflict() => sleep(Duration::from_millis(200)).await,
            Err(e) if e.is_missing() => return Ok(Turned::Gone),
            Err(e) => return Err(e),
        }
    }
    Err(ClusterError::Odd {
        what: format!("a change of {}", object.words()),
        why: "somebody else changes it all the time".to_owned(),
    })
}

fn whole(object: DynamicObject) -> Value {
    let mut all = object.data;
    all["metadata"] = json!({"annotations": object.metadata.annotations});
    all
}

/// For the journal.
pub fn target(object: &Object) -> Target {
    Target { name: object.words(), uid: object.uid.clone() }
}

/// Whatever makes pods, from the top: what nothing else here makes anew.
pub fn tops(objects: &[Object]) -> Vec<Object> {
    let mut tops: Vec<Object> = Vec::new();
    for object in objects.iter().filter(|o| makes_pods(&o.kind)) {
        let mut top = object;
        // A ring of owners must not hold us.
        for _ in 0..objects.len() {
            let above = |o: &&Object| top.controller.as_deref() == Some(&o.uid);
            match objects.iter().find(above) {
                Some(found) => top = found,
                None => break,
            }
        }
        if !tops.iter().any(|t| t.uid == top.uid) {
            tops.push(top.clone());
        }
    }
    tops
}

/// Deletes objects, each by its uid. In the background: the foreground waits for what can never go.
pub async fn delete(
    cluster: &Cluster,
    objects: &[Object],
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<(), Failure> {
    let wanted: Vec<&Object> = objects.iter().filter(|o| o.deleting.is_none()).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    journal.intent("delete", wanted.iter().map(|o| target(o)).collect())?;
    say(format!("delete {}", listed(&wanted)));
    for object in &wanted {
        let what = format!("the end of {}", object.words());
        remove(what, &object.api(cluster), (&object.name, &object.uid), None).await?;
    }
    journal.seen(format!("the API server took the end of {} objects", wanted.len()))?;
    Ok(())
}

/// Deletes what makes pods, from the top, and what the garbage collector left of it.
pub async fn delete_makers(
    cluster: &Cluster,
    objects: &[Object],
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<(), Failure> {
    let tops = tops(objects);
    delete(cluster, &tops, journal, say).await?;
    let below: Vec<&Object> = objects
        .iter()
        .filter(|o| makes_pods(&o.kind) && !tops.iter().any(|t| t.uid == o.uid))
        .collect();
    let until = tokio::time::Instant::now() + COLLECTED;
    let mut left = Vec::new();
    for object in below {
        loop {
            let api = object.api(cluster);
            let now = ask(object.words(), api.get_metadata_opt(&object.name)).await?;
            let same = |m: &kube::api::PartialObjectMeta<DynamicObject>| {
                m.metadata.uid.as_deref() == Some(&object.uid)
                    && m.metadata.deletion_timestamp.is_none()
            };
            if !now.as_ref().is_some_and(same) {
                break;
            }
            if tokio::time::Instant::now() > until {
                left.push(object.clone());
                break;
            }
            sleep(Duration::from_millis(300)).await;
        }
    }
    delete(cluster, &left, journal, say).await
}

/// The first few by name, the rest as a number.
pub fn listed(objects: &[&Object]) -> String {
    let few: Vec<String> = objects.iter().take(6).map(|o| o.words()).collect();
    match objects.len().saturating_sub(few.len()) {
        0 => few.join(", "),
        more => format!("{} and {more} more", few.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Kind {
        Kind::known("apps", "v1", "DaemonSet", "daemonsets")
    }

    fn object(kind: &Kind, name: &str, controller: Option<&str>) -> Object {
        let meta = json!({"name": name, "uid": name, "ownerReferences": controller.map(|c|
            json!([{"apiVersion": "v1", "kind": "X", "name": c, "uid": c, "controller": true}]))});
        Object::of(kind, serde_json::from_value(meta).unwrap())
    }

    #[test]
    fn a_quarantine_keeps_what_was_there_and_is_taken_back_to_it() {
        let mut live = json!({"spec": {"template": {"spec": {"nodeSelector": {"gpu": "yes"}}}}});
        let patch = off(&set(), &live).unwrap();
        assert_eq!(patch["metadata"]["annotations"][BEFORE], "{\"gpu\":\"yes\"}");
        live["spec"]["template"]["spec"]["nodeSelector"][NOWHERE] = json!("true");
        live["metadata"] = patch["metadata"].clone();
        assert_eq!(off(&set(), &live), None, "it is off already");
        let back = on(&set(), &live).unwrap();
        assert_eq!(back["spec"]["template"]["spec"]["nodeSelector"], json!({NOWHERE: null}));
        assert_eq!(on(&set(), &json!({})), None, "it was not us");
    }

    #[test]
    fn what_has_replicas_gets_them_back() {
        let kind = Kind::known("apps", "v1", "Deployment", "deployments");
        let patch = off(&kind, &json!({"spec": {"replicas": 3}})).unwrap();
        assert_eq!(patch["spec"]["replicas"], 0);
        assert_eq!(on(&kind, &patch).unwrap()["spec"]["replicas"], 3);
        assert_eq!(off(&kind, &json!({"spec": {"replicas": 0}})), None);
    }

    #[test]
    fn workloads_are_deleted_from_the_top() {
        let deployment = Kind::known("apps", "v1", "Deployment", "deployments");
        let replicas = Kind::known("apps", "v1", "ReplicaSet", "replicasets");
        let proxy = Kind::known("tailscale.com", "v1", "Connector", "connectors");
        let all = [
            object(&replicas, "rs", Some("web")),
            object(&deployment, "web", None),
            object(&set(), "ds", Some("proxy")),
            object(&proxy, "proxy", None),
            object(&Kind::known("", "v1", "ConfigMap", "configmaps"), "other", None),
        ];
        let names: Vec<_> = tops(&all).into_iter().map(|o| o.name).collect();
        assert_eq!(names, ["web", "proxy"]);
    }
}
