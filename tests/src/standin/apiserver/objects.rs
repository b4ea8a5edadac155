//! What can be read from a node's JSON and done to it; pure.

use serde_json::{Value, json};

/// The conditions that become Unknown together (`nodeConditionTypes` of the lifecycle controller).
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

pub fn condition<'a>(node: &'a Value, kind: &str) -> Option<&'a Value> {
    node["status"]["conditions"].as_array()?.iter().find(|found| found["type"] == kind)
}

pub fn ready(node: &Value) -> Option<&str> {
    condition(node, "Ready")?["status"].as_str()
}

pub fn set_unknown(node: &mut Value) {
    for found in node["status"]["conditions"].as_array_mut().into_iter().flatten() {
        if CONDITIONS.iter().any(|kind| found["type"] == *kind) {
            found["status"] = json!("Unknown");
            found["reason"] = json!("NodeStatusUnknown");
            found["message"] = json!("Kubelet stopped posting node status.");
            found["lastTransitionTime"] = json!(now());
        }
    }
}

/// The node's taints with those of the controller added or taken away; `null` for none, as an absent field.
pub fn taints(node: &Value, unreachable: bool) -> Value {
    let mut taints: Vec<Value> = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let present = taints.iter().any(|taint| taint["key"] == UNREACHABLE);
    if unreachable && !present {
        for effect in ["NoSchedule", "NoExecute"] {
            taints.push(json!({"key": UNREACHABLE, "effect": effect, "timeAdded": now()}));
        }
    }
    if !unreachable {
        taints.retain(|taint| taint["key"] != UNREACHABLE);
    }
    if taints.is_empty() { Value::Null } else { json!(taints) }
}

pub fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (field, change) in patch {
                if change.is_null() {
                    object.remove(field);
                } else if field == "conditions" {
                    merge_conditions(
                        object.entry(field.clone()).or_insert_with(|| json!([])),
                        change,
                    );
                } else if !field.starts_with("$setElementOrder") {
                    merge(object.entry(field.clone()).or_insert(Value::Null), change);
                }
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

fn merge_conditions(present: &mut Value, changes: &Value) {
    let Some(present) = present.as_array_mut() else { return };
    for change in changes.as_array().into_iter().flatten() {
        match present.iter_mut().find(|found| found["type"] == change["type"]) {
            Some(found) => merge(found, change),
            None => present.push(change.clone()),
        }
    }
}

pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Value {
        json!({"metadata": {"name": "calypso"}, "spec": {}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-11-23T09:00:00Z"},
            {"type": "DiskPressure", "status": "False"}]}})
    }

    #[test]
    fn a_patch_merges_conditions_by_type_and_null_deletes() {
        let mut object = node();
        object["spec"]["unschedulable"] = json!(true);
        let patch = json!({"spec": {"unschedulable": null}, "status": {"$setElementOrder/conditions": [],
            "conditions": [{"type": "Ready", "status": "False"}]}});
        merge(&mut object, &patch);
        assert_eq!(ready(&object), Some("False"));
        assert_eq!(condition(&object, "DiskPressure").unwrap()["status"], "False");
        assert!(object["spec"].get("unschedulable").is_none());
    }
}
