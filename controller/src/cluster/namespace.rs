//! Cleaning a namespace away: what makes its pods first, then the pods, then the namespace, and proof by enumeration.
//!
//! Its conditions are shown and not believed ("All content successfully removed" is said with content left). `finalize` is
//! the last resort: it leaves in etcd what was not listed, and a DaemonSet that is left wakes with the next namespace of that
//! name. So it is asked for only when every kind could be listed, nothing is left, and two nudges did not help.

use super::hearing;
use super::inventory::{self, Inventory, Object};
use super::journal::{Event, Journal, Target};
use super::kinds::{self, Unknown};
use super::owner::Owner;
use super::pods::{self, PodFact};
use super::services::{self, Stale};
use super::{
    Cluster, ClusterError, Failure, Refusal, Say, ask, merge, orphans, quiet, remove, strip,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Written on a namespace so that its controller looks again now and not in some minutes.
const NUDGE: &str = "lifeline/nudged";
/// So many nudges that do not help, and it will not go by itself.
const NUDGES: u32 = 2;
/// A nudge shows within this time.
const TAKES: Duration = Duration::from_secs(6);

/// How often a namespace was nudged, and when last.
#[derive(Default)]
struct Nudges {
    done: u32,
    last: Option<Instant>,
}

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
    journal.intent("delete", vec![target])?;
    // When it is on its way already, or another one has taken its name, the next look tells which.
    let spaces = cluster.wide::<Namespace>();
    remove(format!("the end of namespace {name}"), &spaces, (name, uid), None).await?;
    say(format!("namespace {name} is to be gone"));
    Ok(())
}

/// Looks again and again until everything is gone, and helps where it hangs.
pub async fn finish(
    cluster: &Cluster,
    seen: &Seen,
    permit: Permit,
    limits: &Limits,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<Done, Failure> {
    let kinds = kinds::look(cluster).await?;
    let name = seen.name.as_str();
    let mut done = Done {
        ending: Ending::Late,
        unproven: Vec::new(),
        stripped: Vec::new(),
        finalized: false,
        left: Vec::new(),
        unknown: Vec::new(),
        services: Vec::new(),
    };
    let (begun, mut nudges, mut told) = (Instant::now(), Nudges::default(), String::new());
    loop {
        let space =
            ask(format!("namespace {name}"), cluster.wide::<Namespace>().get_opt(name)).await?;
        let now = inventory::look(cluster, &kinds, Some(name)).await;
        (done.left, done.unknown) = (now.objects, now.unknown);
        let line = state(name, space.is_some(), &done.left);
        if line != told {
            say(line.clone());
            journal.seen(line.clone())?;
            told = line;
        }
        let ending = match &space {
            None if done.left.is_empty() => Some(Ending::Gone),
            None => orphans::clear(cluster, name, permit, &mut done, journal, say).await?,
            Some(space) if !ours(space, seen) => return Err(another(name).into()),
            Some(space) => {
                if orphans::made_again(space) && space.metadata.deletion_timestamp.is_none() {
                    let uid = space.metadata.uid.clone().unwrap_or_default();
                    delete(cluster, name, &uid, journal, say).await?;
                }
                let waited = begun.elapsed();
                let emptied = empty(cluster, name, waited, &mut done, journal, say).await?;
                if emptied {
                    nudge(cluster, name, &mut nudges).await?;
                }
                match nudges.done > NUDGES {
                    true => held(cluster, space, permit, &mut done, journal, say).await?,
                    false => None,
                }
            }
        };
        if let Some(ending) = ending {
            done.ending = ending;
            break;
        }
        if begun.elapsed() > limits.all {
            break;
        }
        await_gone(cluster, name, pause(begun.elapsed(), limits.beat)).await;
    }
    Ok(done)
}

/// The one that was looked at, or one that was made again only to be emptied.
fn ours(space: &Namespace, seen: &Seen) -> bool {
    orphans::made_again(space) || (seen.uid.is_some() && space.metadata.uid == seen.uid)
}

/// At first things happen by the second.
fn pause(elapsed: Duration, beat: Duration) -> Duration {
    beat.min(Duration::from_secs(2).max(elapsed / 2))
}

/// Ends what pods there are and deletes what makes them; tells whether there were none.
async fn empty(
    cluster: &Cluster,
    name: &str,
    waited: Duration,
    done: &mut Done,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<bool, Failure> {
    quiet::delete_makers(cluster, &done.left, journal, say).await?;
    let live = pods::of_namespace(cluster, Some(name)).await?;
    if live.is_empty() {
        return Ok(true);
    }
    // Forcing a pod that only its finalizers hold changes nothing.
    let (held, free): (Vec<_>, Vec<_>) =
        live.into_iter().partition(|p| p.deleting == Some(0) && !p.finalizers.is_empty());
    let hearings = hearing::look(cluster).await?;
    let forced = pods::end(cluster, &free, (&hearings, waited), journal, say).await?;
    pods::add(&mut done.unproven, forced);
    Ok(free.is_empty() && !held.is_empty())
}

/// The namespace's controller sleeps for minutes between two looks; a change of the namespace wakes it.
async fn nudge(cluster: &Cluster, name: &str, nudges: &mut Nudges) -> Result<(), ClusterError> {
    if nudges.last.is_some_and(|at| at.elapsed() < TAKES) {
        return Ok(());
    }
    let patch = json!({"metadata": {"annotations": {NUDGE: jiff::Timestamp::now().to_string()}}});
    let spaces = cluster.wide::<Namespace>();
    match merge(format!("a nudge of namespace {name}"), &spaces, name, &patch).await {
        Err(e) if e.is_missing() => {}
        other => drop(other?),
    }
    *nudges = Nudges { done: nudges.done + 1, last: Some(Instant::now()) };
    Ok(())
}

/// Nudges did not help: says what holds it, and takes that away where it is permitted.
async fn held(
    cluster: &Cluster,
    space: &Namespace,
    permit: Permit,
    done: &mut Done,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<Option<Ending>, Failure> {
    let (stuck, moving): (Vec<Object>, Vec<Object>) =
        done.left.iter().cloned().partition(|o| o.deleting.is_some() && !o.finalizers.is_empty());
    if !stuck.is_empty() {
        if !permit.strip {
            return Ok(Some(Ending::Finalizers));
        }
        strip::strip(cluster, &stuck, journal, say).await?;
        done.stripped.extend(stuck);
        return Ok(None);
    }
    if !moving.is_empty() {
        return Ok(None);
    }
    done.services = services::look(cluster).await?;
    if !done.services.is_empty() || !kinds::look(cluster).await?.unknown.is_empty() {
        return Ok(Some(Ending::Service));
    }
    if !permit.finalize {
        return Ok(Some(Ending::Empty));
    }
    // Whatever could not be listed may be there, and would be stranded.
    if let Some(first) = done.unknown.first() {
        let why = format!("{} could not be listed: {}", first.what, first.why);
        let hint = "take the break-glass role: ctl rights --break-glass";
        return Err(Refusal::new("finalize the namespace", why, hint).into());
    }
    finalize(cluster, space.clone(), journal, say).await?;
    done.finalized = true;
    Ok(None)
}

async fn finalize(
    cluster: &Cluster,
    mut space: Namespace,
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<(), Failure> {
    let name = space.metadata.name.clone().unwrap_or_default();
    let uid = space.metadata.uid.clone().unwrap_or_default();
    // Read afresh: its resource version is the precondition.
    let now = ask(format!("namespace {name}"), cluster.wide::<Namespace>().get_opt(&name)).await?;
    match now {
        Some(now) if now.metadata.uid.as_deref() == Some(&uid) => space = now,
        _ => return Ok(()),
    }
    let was = space.spec.clone().unwrap_or_default();
    journal.note(Event::Before {
        what: format!("finalizers of namespace {name}"),
        state: json!(was.finalizers),
    })?;
    journal.intent("finalize", vec![Target { name: format!("namespace/{name}"), uid }])?;
    space.spec.get_or_insert_default().finalizers = Some(Vec::new());
    let spaces = cluster.wide::<Namespace>();
    let how = PostParams::default();
    let call = spaces.replace_subresource("finalize", &name, &how, &space);
    match ask(format!("the finalization of namespace {name}"), call).await {
        Err(e) if e.is_missing() => {}
        other => drop(other?),
    }
    say(format!("namespace {name} was let go by finalize"));
    Ok(())
}

fn another(name: &str) -> Refusal {
    Refusal::new(
        format!("clean up namespace {name}"),
        "it is gone, and somebody has made another one of that name meanwhile",
        "look at it, and at who made it, before you run this again",
    )
}

fn state(name: &str, there: bool, left: &[Object]) -> String {
    let space = if there { "is there" } else { "is gone" };
    match left.is_empty() {
        true => format!("namespace {name} {space}, nothing is in it"),
        false => {
            let all: Vec<&Object> = left.iter().collect();
            let count = crate::words::count(all.len(), "object");
            format!("namespace {name} {space}, {count} in it: {}", quiet::listed(&all))
        }
    }
}

/// Waits, and stops waiting when the namespace is gone.
async fn await_gone(cluster: &Cluster, name: &str, limit: Duration) {
    let until = Instant::now() + limit;
    while Instant::now() < until {
        sleep(Duration::from_millis(500).min(limit)).await;
        let there = cluster.wide::<Namespace>();
        // Whatever else it answers, the next look tells it.
        if let Ok(None) = ask(name, there.get_metadata_opt(name)).await {
            return;
        }
    }
}

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

    #[test]
    fn looks_come_by_the_second_first_and_by_the_beat_later() {
        let beat = Duration::from_secs(10);
        let after = |s| pause(Duration::from_secs(s), beat).as_secs();
        assert_eq!([after(0), after(6), after(60)], [2, 3, 10]);
    }
}
