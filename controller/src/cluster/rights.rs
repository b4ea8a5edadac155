//! What each verb must be allowed to do: printed as roles, and asked of the API server before anything begins.
//!
//! Secrets and `finalize` stand in a role of their own, for the day when nothing else helps.

use super::kinds::Kinds;
use super::{AT_ONCE, Cluster, ClusterError, Refusal, ask};
use futures_util::{StreamExt, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use serde::{Deserialize, Serialize};

/// Verbs that need rights.
pub const VERBS: [&str; 6] = ["cleanup", "cordon", "drain", "delete", "verify", "recover"];

/// Something that must be allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Right {
    /// The group; empty for the core.
    pub group: String,
    /// The resource, with its part: `pods/eviction`.
    pub resource: String,
    /// What with it.
    pub verbs: Vec<String>,
}

fn right(group: &str, resource: &str, verbs: &[&str]) -> Right {
    let verbs = verbs.iter().map(|v| (*v).to_owned()).collect();
    Right { group: group.to_owned(), resource: resource.to_owned(), verbs }
}

/// What a verb must be allowed; a clean-up needs every kind there is, but for secrets.
pub fn of(verb: &str, kinds: &Kinds) -> Vec<Right> {
    // Everyone asks which cluster this is.
    let mut rights = vec![right("", "namespaces", &["get", "list"])];
    let looks = [right("", "nodes", &["get", "list"]), right("", "pods", &["get", "list"])];
    match verb {
        "cordon" => rights.push(right("", "nodes", &["get", "list", "patch"])),
        "drain" => rights.extend([
            right("", "nodes", &["get", "list", "patch"]),
            right("", "pods", &["get", "list"]),
            right("", "pods/eviction", &["create"]),
            right("policy", "poddisruptionbudgets", &["list"]),
        ]),
        "delete" => rights.extend([
            right("", "nodes", &["get", "list", "patch", "delete"]),
            right("", "pods", &["get", "list"]),
        ]),
        // Without a namespace to clean up; with one, the clean-up's besides.
        "recover" => {
            for verb in ["drain", "delete", "verify"] {
                rights.extend(of(verb, kinds));
            }
            // By which recoveries from two machines keep out of each other's way.
            rights.push(right("coordination.k8s.io", "leases", &["get", "create", "update"]));
        }
        "verify" => {
            rights.extend(looks);
            rights.push(right("", "pods", &["get", "list", "create", "delete"]));
            rights.push(right("", "pods/log", &["get"]));
            rights.extend(
                kinds
                    .all
                    .iter()
                    .filter(|k| !is_secret(&k.plural, &k.group))
                    .map(|k| right(&k.group, &k.plural, &["list"])),
            );
        }
        _ => {
            rights = vec![
                right("", "namespaces", &["get", "list", "create", "patch", "delete"]),
                right("", "nodes", &["get", "list"]),
                right("apiregistration.k8s.io", "apiservices", &["list"]),
            ];
            let ours = kinds.all.iter().filter(|k| k.namespaced && k.kind != "Event");
            rights.extend(
                ours.filter(|k| !is_secret(&k.plural, &k.group))
                    .map(|k| right(&k.group, &k.plural, &["get", "list", "patch", "delete"])),
            );
        }
    }
    rights
}

/// What it takes to forget the password of a wiped machine.
pub fn forget() -> Vec<Right> {
    vec![right("", "secrets", &["get", "delete"])]
}

/// What only the last resort needs.
pub fn break_glass() -> Vec<Right> {
    vec![
        right("", "secrets", &["get", "list", "patch", "delete"]),
        right("", "namespaces/finalize", &["update"]),
    ]
}

fn is_secret(plural: &str, group: &str) -> bool {
    plural == "secrets" && group.is_empty()
}

/// A `ClusterRole` as YAML.
pub fn role(name: &str, rights: &[Right]) -> String {
    let quoted =
        |verbs: &[String]| verbs.iter().map(|v| format!("\"{v}\"")).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: {name}\nrules:\n"
    );
    for right in rights {
        text.push_str(&format!(
            "- apiGroups: [\"{}\"]\n  resources: [\"{}\"]\n  verbs: [{}]\n",
            right.group,
            right.resource,
            quoted(&right.verbs)
        ));
    }
    text
}

/// What of it is not allowed; each as `verb resource.group`.
pub async fn lacking(cluster: &Cluster, rights: &[Right]) -> Result<Vec<String>, ClusterError> {
    let mut wanted: Vec<(String, String, String)> = rights
        .iter()
        .flat_map(|r| r.verbs.iter().map(|v| (r.group.clone(), r.resource.clone(), v.clone())))
        .collect();
    wanted.sort();
    wanted.dedup();
    let calls = wanted.into_iter().map(|(group, resource, verb)| async move {
        let told = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
        let allowed = allowed(cluster, &group, &resource, &verb).await?;
        Ok((!allowed).then(|| format!("{verb} {told}")))
    });
    let all: Vec<Result<Option<String>, ClusterError>> =
        stream::iter(calls).buffer_unordered(AT_ONCE).collect().await;
    let mut lacking =
        all.into_iter().filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
    lacking.sort();
    Ok(lacking)
}

async fn allowed(
    cluster: &Cluster,
    group: &str,
    resource: &str,
    verb: &str,
) -> Result<bool, ClusterError> {
    let (resource, part) = match resource.split_once('/') {
        Some((resource, part)) => (resource, Some(part.to_owned())),
        None => (resource, None),
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: part,
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let (reviews, how) = (cluster.wide::<SelfSubjectAccessReview>(), PostParams::default());
    let answer = ask("which rights you have", reviews.create(&how, &review)).await?;
    Ok(answer.status.is_some_and(|s| s.allowed))
}

/// Refuses to begin what could not be brought to its end.
pub async fn must(cluster: &Cluster, verb: &str, kinds: &Kinds) -> Result<(), super::Failure> {
    let lacking = lacking(cluster, &of(verb, kinds)).await?;
    if lacking.is_empty() {
        return Ok(());
    }
    let few: Vec<&str> = lacking.iter().take(5).map(String::as_str).collect();
    let more = lacking.len() - few.len();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Refusal::new(
        format!("begin {verb}"),
        format!("your user may not: {}{rest}", few.join(", ")),
        format!("nothing was done; the role it needs: ctl rights {verb}"),
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::super::kinds::Kind;
    use super::*;

    #[test]
    fn a_clean_up_needs_every_kind_but_secrets_and_no_finalize() {
        let all = vec![
            Kind::known("", "v1", "Secret", "secrets"),
            Kind::known("apps", "v1", "DaemonSet", "daemonsets"),
        ];
        let kinds = Kinds { all, ..Kinds::default() };
        let role = role("lifeline-cleanup", &of("cleanup", &kinds));
        assert!(
            role.contains("daemonsets") && !role.contains("secrets") && !role.contains("finalize"),
            "{role}"
        );
        let last = super::role("x", &break_glass());
        assert!(last.contains("secrets") && last.contains("namespaces/finalize"));
    }
}
