//! Whether anything is left whose name, or whose namespace's name, contains a word.

use super::{Check, Said};
use crate::cluster::inventory::{self, Object};
use crate::cluster::{AT_ONCE, Cluster, kinds, quiet};
use crate::words::count;
use futures_util::{FutureExt, StreamExt, stream};

/// Looks at every object of every kind, roles and definitions too.
pub async fn look(cluster: &Cluster, word: &str) -> Check {
    let what = format!("remnants of {word}");
    let kinds = match kinds::look(cluster).await {
        Ok(kinds) => kinds,
        Err(e) => return Check::unseen(what, &e),
    };
    let mut seen = inventory::look(cluster, &kinds, None).await;
    let wide = kinds.all.into_iter().filter(|k| !k.namespaced);
    let one = |kind: kinds::Kind| async move {
        let listed = inventory::list(cluster, &kind, None).await;
        (kind, listed)
    };
    // Made before they are awaited: a future that keeps the closure cannot be moved between threads.
    let calls: Vec<_> = wide.map(|kind| one(kind).boxed()).collect();
    let asked = stream::iter(calls).buffer_unordered(AT_ONCE);
    for (kind, listed) in asked.collect::<Vec<_>>().await {
        match listed {
            Ok(objects) => seen.objects.extend(objects),
            Err(_) => seen.unknown.push(kinds::Unknown { what: kind.word(), why: String::new() }),
        }
    }
    let of = |o: &&Object| {
        o.name.contains(word) || o.namespace.as_deref().is_some_and(|n| n.contains(word))
    };
    let left: Vec<&Object> = seen.objects.iter().filter(of).collect();
    let unknown: Vec<&str> = seen.unknown.iter().map(|u| u.what.as_str()).collect();
    match (left.is_empty(), unknown.is_empty()) {
        (false, _) => Check::new(what, Said::Bad, quiet::listed(&left)),
        (true, true) => Check::new(what, Said::Good, "none among the objects of all kinds"),
        (true, false) => {
            let told = format!("none seen, but could not list {}", unknown.join(", "));
            Check::new(
                format!("{what}, {} unseen", count(unknown.len(), "kind")),
                Said::Unknown,
                told,
            )
        }
    }
}
