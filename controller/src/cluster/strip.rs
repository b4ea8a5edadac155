//! Taking finalizers off objects that nobody lets go: asked for, written down before, and only from the very object seen.

use super::inventory::Object;
use super::journal::{Event, Journal};
use super::{Cluster, Failure, Say, merge, quiet};
use serde_json::json;

/// Takes all finalizers off.
pub async fn strip(
    cluster: &Cluster,
    objects: &[Object],
    journal: &mut Journal,
    say: &mut Say<'_>,
) -> Result<(), Failure> {
    for object in objects {
        let what = format!("finalizers of {}", object.words());
        journal.note(Event::Before { what: what.clone(), state: json!(object.finalizers) })?;
        journal.intent("strip finalizers", vec![quiet::target(object)])?;
        // A uid in a patch is a precondition.
        let patch = json!({"metadata": {"uid": object.uid, "finalizers": null}});
        let api = object.api(cluster);
        match merge(format!("the removal of {what}"), &api, &object.name, &patch).await {
            Err(e) if e.is_missing() || e.is_conflict() => {}
            other => drop(other?),
        }
        say(format!("took {what}: {}", object.finalizers.join(", ")));
    }
    Ok(())
}
