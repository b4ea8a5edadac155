//! Which kinds of objects the API server has, and which of them it could not tell: a group that does not answer is unknown,
//! never empty.

use super::{Cluster, ClusterError, ask};
use kube::core::discovery::ApiResource;
use kube::core::discovery::v2::{APIGroupDiscovery, APIGroupDiscoveryList};
use kube::core::gvk::GroupVersionKind;
use serde::{Deserialize, Serialize};

/// A kind of object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Kind {
    /// Its group; empty for the core.
    pub group: String,
    /// The version it is asked for in.
    pub version: String,
    /// Its name in objects.
    pub kind: String,
    /// Its name in paths.
    pub plural: String,
    /// Its objects are in namespaces.
    pub namespaced: bool,
}

/// What could not be seen, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// All kinds whose objects can be listed and deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// They.
    pub all: Vec<Kind>,
    /// Groups that did not answer.
    pub unknown: Vec<Unknown>,
}

impl Kind {
    /// A kind that every cluster has.
    pub fn known(group: &str, version: &str, kind: &str, plural: &str) -> Self {
        let own = |s: &str| s.to_owned();
        let (group, version) = (own(group), own(version));
        Self { group, version, kind: own(kind), plural: own(plural), namespaced: true }
    }

    /// As the client library has it.
    pub fn resource(&self) -> ApiResource {
        let gvk = GroupVersionKind::gvk(&self.group, &self.version, &self.kind);
        ApiResource::from_gvk_with_plural(&gvk, &self.plural)
    }

    /// As `kubectl` names it: `daemonsets.apps`.
    pub fn word(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// Is it this one, whatever its version?
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }
}

/// Asks for all kinds there are: two questions, whatever is installed.
pub async fn look(cluster: &Cluster) -> Result<Kinds, ClusterError> {
    let client = &cluster.client;
    let (core, groups) = tokio::join!(
        ask("its core kinds", client.list_core_api_versions_aggregated()),
        ask("its kinds", client.list_api_groups_aggregated())
    );
    let kinds = read(&[core?, groups?]);
    if kinds.all.is_empty() {
        return Err(ClusterError::Odd {
            what: "its kinds".to_owned(),
            why: "it names none; Kubernetes tells all at once from 1.26 on".to_owned(),
        });
    }
    Ok(kinds)
}

/// Of each group every kind once, in the first version that has it.
fn read(lists: &[APIGroupDiscoveryList]) -> Kinds {
    let mut kinds = Kinds::default();
    for group in lists.iter().flat_map(|l| &l.items) {
        read_group(group, &mut kinds);
    }
    kinds
}

fn read_group(group: &APIGroupDiscovery, into: &mut Kinds) {
    let name = group.metadata.as_ref().and_then(|m| m.name.clone()).unwrap_or_default();
    for version in &group.versions {
        let number = version.version.clone().unwrap_or_default();
        // What a broken API service said before it broke may still stand here, and nothing can be listed by it.
        if version.freshness.as_deref() == Some("Stale") {
            let what = format!("{name}/{number}");
            into.unknown.push(Unknown { what, why: "its API service does not answer".to_owned() });
            continue;
        }
        for resource in &version.resources {
            let has = |verb: &str| resource.verbs.iter().any(|v| v == verb);
            let plural = resource.resource.clone().unwrap_or_default();
            let seen = into.all.iter().any(|k| k.group == name && k.plural == plural);
            // What cannot be deleted is made up when it is asked for, like metrics.
            if seen || plural.is_empty() || !has("list") || !has("delete") {
                continue;
            }
            let of = resource.response_kind.as_ref().and_then(|k| k.kind.clone());
            into.all.push(Kind {
                group: name.clone(),
                version: number.clone(),
                kind: of.unwrap_or_default(),
                plural,
                namespaced: resource.scope.as_deref() == Some("Namespaced"),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn group(name: &str, versions: &serde_json::Value) -> APIGroupDiscoveryList {
        serde_json::from_value(
            json!({"items": [{"metadata": {"name": name}, "versions": versions}]}),
        )
        .unwrap()
    }

    fn resource(plural: &str, kind: &str, verbs: &[&str]) -> serde_json::Value {
        json!({"resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": verbs})
    }

    #[test]
    fn a_group_that_does_not_answer_is_unknown_and_not_empty() {
        let stale = json!([{"version": "v1beta1", "freshness": "Stale",
            "resources": [resource("pods", "PodMetrics", &["list", "delete"])]}]);
        let kinds = read(&[group("metrics.k8s.io", &stale)]);
        assert!(kinds.all.is_empty());
        assert_eq!(kinds.unknown[0].what, "metrics.k8s.io/v1beta1");
    }

    #[test]
    fn a_kind_is_listed_once_also_when_only_an_old_version_has_it() {
        let all = ["list", "delete"];
        let versions = json!([
            {"version": "v2", "freshness": "Current", "resources": [resource("as", "A", &all)]},
            {"version": "v1", "freshness": "Current",
             "resources": [resource("as", "A", &all), resource("bs", "B", &all), resource("cs", "C", &["list"])]}]);
        let kinds = read(&[group("x.io", &versions)]);
        let told: Vec<_> =
            kinds.all.iter().map(|k| format!("{} {}", k.word(), k.version)).collect();
        assert_eq!(told, ["as.x.io v2", "bs.x.io v1"]);
    }
}
