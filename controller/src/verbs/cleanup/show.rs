//! What a clean-up would do, and what is lost by it, in words.

use crate::cluster::inventory::Object;
use crate::cluster::namespace::Seen;
use crate::words::count;
use std::collections::BTreeMap;

/// The plan and the losses, a line each.
pub fn lines(seen: &Seen) -> Vec<String> {
    let objects = &seen.inventory.objects;
    let state = match (&seen.uid, seen.terminating) {
        (None, _) => "does not exist any more, and objects of it do",
        (Some(_), true) => "is to be gone already, and is not",
        (Some(_), false) => "is active",
    };
    let mut lines = vec![format!("Namespace {} {state}.", seen.name)];
    for (word, number) in kinds(objects) {
        lines.push(format!("  {number:>5}  {word}"));
    }
    for what in &seen.inventory.unknown {
        lines.push(format!("  could not be listed: {} ({})", what.what, what.why));
    }
    let claims = objects.iter().filter(|o| o.kind.is("", "PersistentVolumeClaim")).count();
    if claims > 0 {
        lines.push(format!(
            "  {}: the data on them is lost unless their class retains it",
            count(claims, "volume claim")
        ));
    }
    let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in &seen.pods {
        *nodes.entry(pod.node.as_deref().unwrap_or("no node")).or_default() += 1;
    }
    for (node, number) in nodes {
        lines.push(format!("  {} on {node}", count(number, "pod")));
    }
    let held = objects.iter().filter(|o| !o.finalizers.is_empty() && o.kind.kind != "Namespace");
    for object in held.take(8) {
        lines.push(format!(
            "  {} has finalizers: {}",
            object.words(),
            object.finalizers.join(", ")
        ));
    }
    for said in &seen.said {
        lines.push(format!("  its conditions say, and may be wrong: {said}"));
    }
    match &seen.services {
        Some(services) => {
            for service in services {
                lines.push(format!("  API service {}", service.words()));
            }
        }
        None => lines.push("  API services could not be asked for".to_owned()),
    }
    lines
}

/// How many of each kind.
pub fn kinds(objects: &[Object]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for object in objects {
        *kinds.entry(object.kind.word()).or_default() += 1;
    }
    kinds
}
