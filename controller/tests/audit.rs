//! `ctl audit` against an API server that answers as one does: lists, a kind that may not be listed, a namespace that is gone.

use crate::agent::StandIn;
use crate::api::{self, Asked, list, worker};
use crate::desk::Desk;
use serde_json::{Value, json};

fn set(namespace: &str, name: &str, pod: &Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"selector": {}, "template": {"spec": pod}}})
}

fn answer(asked: &Asked) -> (u16, Value) {
    assert_eq!(asked.method, "GET", "it only reads: {}", asked.path);
    let october = json!({"hostNetwork": true, "containers": [{"name": "tailscale", "image": "tailscale/tailscale",
        "args": ["--exit-node=x"], "securityContext": {"privileged": true}}]});
    let proxy = json!({"hostNetwork": true, "containers": [{"name": "p", "image": "kube-proxy", "securityContext": {"privileged": true}}]});
    let made = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "tailscale-worker", "uid": "u", "controller": true}]);
    match asked.path.as_str() {
        "/apis/apps/v1/daemonsets" => list(&[
            set("kube-system", "kube-proxy", &proxy),
            set("tailscale-system", "tailscale-worker", &october),
        ]),
        "/api/v1/pods" => list(&[
            json!({"metadata": {"namespace": "tailscale-system", "name": "tailscale-worker-x", "ownerReferences": made}, "spec": october}),
        ]),
        "/api/v1/namespaces" => list(&[json!({"metadata": {"name": "kube-system"}})]),
        "/api/v1/nodes" => list(&[
            json!({"metadata": {"name": "tethys", "labels": {"node-role.kubernetes.io/control-plane": "true"}}}),
            json!({"metadata": {"name": "calypso"}}),
            json!({"metadata": {"name": "styx"}}),
        ]),
        "/apis/batch/v1/cronjobs" => (
            403,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden",
                "message": "cronjobs.batch is forbidden: User \"alice\" cannot list", "metadata": {}}),
        ),
        _ => list(&[]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_do_it_again_is_named_and_what_could_not_be_read_is_said() {
    let desk = Desk::new().await;
    let (agent_at, _agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[agent_at]);
    api::kubeconfig(&desk, &api::serve(answer).await);
    let found =
        desk.ctl(&["audit", "--kubeconfig", "kubeconfig", "-o", "json"]).await.exits(1).json();
    let named: Vec<_> = found["workloads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| (w["name"].as_str().unwrap(), w["grade"].as_str().unwrap()))
        .collect();
    assert_eq!(named, [("tailscale-worker", "critical"), ("kube-proxy", "warning")]);
    let orphans: Vec<_> =
        found["orphans"].as_array().unwrap().iter().map(|o| o["kind"].as_str().unwrap()).collect();
    assert_eq!(orphans, ["DaemonSet", "Pod"]);
    // The control plane has no agent, calypso's answers, styx has no address anywhere.
    let bare: Vec<_> = found["unguarded"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["node"].as_str().unwrap())
        .collect();
    assert_eq!(bare, ["styx"]);
    assert_eq!(found["policy"], false);
    assert_eq!(found["unread"][0]["what"], "CronJob");
    let table = desk.ctl(&["audit", "--kubeconfig", "kubeconfig"]).await.exits(1).stdout;
    assert!(table.contains("critical  DaemonSet tailscale-system/tailscale-worker"), "{table}");
    assert!(table.contains("it wakes when somebody makes a namespace of that name"), "{table}");
    assert!(table.contains("CronJob: cronjobs.batch is forbidden"), "{table}");
}

#[tokio::test]
async fn the_policy_is_printed_without_asking_anybody() {
    let desk = Desk::new().await;
    let text = desk.ctl(&["audit", "--policy", "--allow", "calico-system"]).await.exits(0).stdout;
    assert!(
        text.contains("kind: ValidatingAdmissionPolicyBinding") && text.contains("'calico-system'"),
        "{text}"
    );
    desk.ctl(&["audit", "--policy", "--allow", "a'b"]).await.exits(2);
    desk.ctl(&["audit", "--kubeconfig", "gone"])
        .await
        .exits(1)
        .says("use kubeconfig gone")
        .says("Hint:");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_only_the_kubeconfig_knows_is_asked_where_the_cluster_says_it_is() {
    let desk = Desk::new().await;
    let (at, _styx) = api::at_home("styx", &desk).await;
    desk.configure(&[at]);
    let text = desk.read("ctl.toml");
    desk.write("ctl.toml", text.split("[nodes.calypso]").next().unwrap());
    let nodes = [worker("styx", &at.ip().to_string()), worker("hades", "127.0.0.1")];
    let server = move |asked: &Asked| match asked.path.as_str() {
        "/api/v1/nodes" => list(&nodes),
        "/apis/batch/v1/cronjobs" => list(&[]),
        _ => answer(asked),
    };
    api::kubeconfig(&desk, &api::serve(server).await);
    let found = desk.ctl(&["audit", "-o", "json"]).await.exits(3).json();
    let bare = found["unguarded"].as_array().unwrap();
    assert_eq!((bare.len(), &bare[0]["node"]), (1, &"hades".into()), "{bare:?}");
    let why = bare[0]["why"].as_str().unwrap();
    assert!(why.contains("127.0.0.1:7443") && !why.contains("ctl.toml"), "{why}");
}
