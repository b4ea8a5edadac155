//! Disruption budgets, counted before anything is evicted: a dry run admits each pod by itself and so says yes to all of them.

use super::hearing::Hearing;
use super::inventory::all;
use super::pods::PodFact;
use super::{Cluster, ClusterError};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::core::{Selector, SelectorExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a budget allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// `namespace/name`.
    pub name: String,
    /// Evictions it allows now.
    pub allowed: i32,
    /// Pods of it that are healthy.
    pub healthy: i32,
    /// Pods of it that must be.
    pub desired: i32,
    /// Pods of it that are to be evicted and count.
    pub counted: Vec<String>,
    /// Why it does not let all of them go at once; nothing when it does.
    pub trouble: Option<String>,
}

/// The budgets that say something about these pods.
pub async fn look(
    cluster: &Cluster,
    evict: &[PodFact],
    hearing: Hearing,
) -> Result<Vec<Budget>, ClusterError> {
    let budgets = cluster.api::<PodDisruptionBudget>(None);
    let every = all("its disruption budgets", &budgets, &ListParams::default()).await?;
    Ok(every.iter().filter_map(|b| count(b, evict, hearing)).collect())
}

/// What a budget says about pods that are all evicted.
fn count(budget: &PodDisruptionBudget, evict: &[PodFact], hearing: Hearing) -> Option<Budget> {
    let spec = budget.spec.as_ref()?;
    let namespace = budget.metadata.namespace.as_deref()?;
    let covered = evict.iter().filter(|p| p.namespace == namespace);
    let covered: Vec<&PodFact> = covered.filter(|p| selects(budget, &p.labels)).collect();
    if covered.is_empty() {
        return None;
    }
    let status = budget.status.as_ref();
    let healthy = status.and_then(|s| s.current_healthy).unwrap_or(0);
    let desired = status.and_then(|s| s.desired_healthy).unwrap_or(0);
    let allowed = status.and_then(|s| s.disruptions_allowed).unwrap_or(0);
    // The server's own rule: a pod that is not ready takes nothing from the budget while enough others are.
    let always = spec.unhealthy_pod_eviction_policy.as_deref() == Some("AlwaysAllow");
    let unready_go = always || (healthy >= desired && desired > 0);
    let counts = |p: &&&PodFact| {
        let gone = p.deleting.is_some() || p.finished;
        !gone && (p.ready || !unready_go)
    };
    let counted: Vec<String> = covered.iter().filter(counts).map(|p| p.words()).collect();
    let unready: Vec<&&PodFact> = covered.iter().filter(|p| !p.ready).collect();
    let short = usize::try_from(allowed).unwrap_or(0) < counted.len();
    let dead = hearing != Hearing::Heard && healthy < desired && !unready.is_empty();
    let trouble = short.then(|| {
        if dead {
            let names: Vec<String> = unready.iter().map(|p| p.words()).collect();
            format!(
                "it blocks on the dead pods themselves: {healthy} of {desired} are healthy because {} no longer answer",
                names.join(", ")
            )
        } else if allowed == 0 {
            format!("it allows nothing now: {healthy} are healthy and {desired} must be")
        } else {
            format!("it allows {allowed} at a time; the others wait for replacements")
        }
    });
    let name = budget.metadata.name.clone().unwrap_or_default();
    Some(Budget {
        name: format!("{namespace}/{name}"),
        allowed,
        healthy,
        desired,
        counted,
        trouble,
    })
}

/// An empty selector takes every pod, none takes no pod.
fn selects(budget: &PodDisruptionBudget, labels: &BTreeMap<String, String>) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.clone());
    let Some(selector) = selector else { return false };
    // One that cannot be read might take it: then it does.
    Selector::try_from(selector).map_or(true, |s| s.matches(labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn budget(allowed: i32, healthy: i32, desired: i32) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "apps"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}},
            "status": {"disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": desired,
                "expectedPods": 3}}))
        .unwrap()
    }

    fn pod(name: &str, ready: &str) -> PodFact {
        let pod = json!({"metadata": {"name": name, "namespace": "apps", "labels": {"app": "web"}},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        serde_json::from_value::<Pod>(pod).unwrap().into()
    }

    #[test]
    fn three_pods_are_more_than_a_budget_of_one_and_a_dry_run_of_each_would_not_say_so() {
        let pods = [pod("a", "True"), pod("b", "True"), pod("c", "True")];
        let said = count(&budget(1, 3, 2), &pods, Hearing::Heard).unwrap();
        assert_eq!(said.counted.len(), 3);
        assert!(said.trouble.unwrap().contains("1 at a time"));
        assert_eq!(count(&budget(3, 3, 0), &pods, Hearing::Heard).unwrap().trouble, None);
    }

    #[test]
    fn a_budget_that_blocks_on_the_dead_pod_itself_is_said_to() {
        let dead = [pod("a", "False")];
        let said = count(&budget(0, 1, 2), &dead, Hearing::Silent).unwrap().trouble.unwrap();
        assert!(said.contains("the dead pods themselves") && said.contains("apps/a"), "{said}");
        let alive = count(&budget(0, 1, 2), &[pod("a", "True")], Hearing::Heard).unwrap();
        assert!(alive.trouble.unwrap().contains("allows nothing now"));
    }

    #[test]
    fn an_unready_pod_takes_nothing_while_enough_others_are_healthy() {
        let said = count(&budget(0, 2, 2), &[pod("a", "False")], Hearing::Heard).unwrap();
        assert_eq!((said.counted.len(), said.trouble), (0, None));
    }

    #[test]
    fn pods_of_other_labels_and_namespaces_are_none_of_its_business() {
        let mut other = pod("a", "True");
        other.namespace = "else".into();
        assert_eq!(count(&budget(0, 1, 1), &[other], Hearing::Heard), None);
    }
}
