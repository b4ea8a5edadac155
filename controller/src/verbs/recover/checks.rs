//! What refuses a recovery before it begins, and what is said beforehand of what it will not be able to do.

use super::Args;
use crate::cluster::namespace;
use crate::cluster::pin::Pin;
use crate::cluster::{Cluster, Failure, kinds, rights};
use crate::error::CommandError;
use crate::obstacle::chain;
use crate::runbook::book;
use crate::runbook::opened::Opened;

/// Refuses where another recovery of this cluster was begun and has not ended.
pub(super) fn none_is_open(cluster: &str) -> Result<(), CommandError> {
    let Some(open) = book::unfinished(cluster)? else { return Ok(()) };
    let again = match open.heal_of() {
        Some(node) => format!("go on with it: ctl heal {node}"),
        None => "go on with it: ctl recover --resume".to_owned(),
    };
    Err(CommandError::usage(format!("recover: recovery {} has not ended", open.id))
        .hinted(again)
        .hinted("or leave it as it is: ctl recover --anew"))
}

/// Refuses a namespace that is protected, that does not exist, or that somebody would put back; what could not be seen is said.
pub(super) async fn checked_namespace(
    args: &Args,
    name: &str,
    cluster: Option<&Cluster>,
) -> Result<Option<String>, CommandError> {
    namespace::unprotected(name).map_err(Failure::from)?;
    let Some(cluster) = cluster else { return Ok(None) };
    let seen = match namespace::look(cluster, name).await {
        Ok(seen) => seen,
        Err(Failure::Cluster(e)) => {
            return Ok(Some(format!("namespace {name}: {}", chain(&e))));
        }
        Err(error) => return Err(error.into()),
    };
    // What could not be brought to its end is not begun.
    let kinds = kinds::look(cluster).await?;
    rights::must(cluster, "cleanup", &kinds).await?;
    match seen.owners.iter().find(|o| o.is_told_first()).filter(|_| !args.owner_suspended) {
        Some(owner) => Err(CommandError::usage(format!(
            "recover: namespace {name}: {} {}",
            owner.words(),
            owner.does()
        ))
        .hinted(format!("nothing was done; {}; then add --owner-suspended", owner.suspend()))),
        None => Ok(None),
    }
}

/// What of the last resort and of the proof is not allowed: said before anybody agrees, because it would only fail midway. What a
/// clean-up lacks refuses it.
pub(super) async fn may(cluster: Option<&Cluster>, wiped: bool) -> Option<String> {
    let cluster = cluster?;
    let asked = async {
        let kinds = kinds::look(cluster).await?;
        let mut needs = rights::of("recover", &kinds);
        needs.extend(wiped.then(rights::forget).into_iter().flatten());
        rights::lacking(cluster, &needs).await
    };
    match asked.await {
        Ok(lacking) if lacking.is_empty() => None,
        Ok(lacking) => {
            let few: Vec<&str> = lacking.iter().take(5).map(String::as_str).collect();
            let more = lacking.len() - few.len();
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            let secrets = lacking.iter().any(|l| l.ends_with(" secrets"));
            let and = if secrets { ", ctl rights --break-glass" } else { "" };
            Some(format!(
                "Your user may not: {}{rest}; what needs it will fail. The role: ctl rights recover{and}",
                few.join(", ")
            ))
        }
        Err(e) => Some(format!("What your user may do could not be asked: {}", chain(&e))),
    }
}

/// A name that was mistyped must not have another node's disk taken for what it is not.
pub(super) fn wiped_are_looked_after(
    wiped: &[String],
    opened: &Opened,
) -> Result<(), CommandError> {
    let names: Vec<&str> = opened.nodes.iter().map(|n| n.name.as_str()).collect();
    match wiped.iter().find(|w| !names.contains(&w.as_str())) {
        None => Ok(()),
        Some(node) => Err(CommandError::usage(format!(
            "recover: --machine-wiped {node}: this recovery does not look after a node of that name"
        ))
        .hinted(format!("nothing was done; it looks after {}", names.join(", ")))),
    }
}

/// A journal tells of one cluster; what it says of another would be done to the wrong one.
pub(super) fn same_cluster(
    opened: &Opened,
    context: Option<&str>,
    pin: Option<&Pin>,
) -> Result<(), CommandError> {
    if let (Some(began), Some(here)) = (&opened.uid, pin)
        && *began != here.uid
    {
        return Err(CommandError::usage(format!(
            "go on with recovery {}: it was begun on cluster {began}, and this one is {}",
            opened.id, here.uid
        ))
        .hinted("nothing was done; name that cluster's configuration with --config"));
    }
    if opened.context.as_deref() == context {
        return Ok(());
    }
    let word = |c: Option<&str>| c.unwrap_or("the current one").to_owned();
    Err(CommandError::usage(format!(
        "go on with recovery {}: it was begun with context {}, and the configuration names {}",
        opened.id,
        word(opened.context.as_deref()),
        word(context)
    ))
    .hinted("nothing was done; name that cluster's configuration with --config"))
}
