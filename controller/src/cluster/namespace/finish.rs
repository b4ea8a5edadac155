//! From "it is to be gone" to "it is gone": enumerating again and again, and helping where it hangs.

use super::{Done, Ending, Limits, Permit, Seen, delete};
use crate::cluster::inventory::{self, Object};
use crate::cluster::journal::{Event, Journal, Target};
use crate::cluster::pods;
use crate::cluster::{
    Cluster, ClusterError, Failure, Refusal, Say, ask, hearing, kinds, merge, orphans, quiet,
    services, strip,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_come_by_the_second_first_and_by_the_beat_later() {
        let beat = Duration::from_secs(10);
        let after = |s| pause(Duration::from_secs(s), beat).as_secs();
        assert_eq!([after(0), after(6), after(60)], [2, 3, 10]);
    }
}
