//! Namespaces that do not go, on a real API server: rows C1, C2, C5, C6 and C7 of the catalogue. What `ctl` says is checked
//! with `kubectl`.

use crate::api;
use crate::control::{clean, desk, get, is_there, kubectl, namespace, pod, pods, shared, start};
use crate::desk::Desk;
use lifeline_lab::real::apiserver::Control;
use std::time::{Duration, Instant};

/// A namespace with pods on a node that is not heard, on its way out.
fn stuck(control: &Control, name: &str, node: &str, number: usize) {
    control.node(node, "Unknown").unwrap();
    namespace(control, name);
    let all: String = (0..number).map(|i| pod(name, &format!("p{i}"), node, 3600)).collect();
    control.apply(&all).unwrap();
    kubectl(control, &["delete", "namespace", name, "--wait=false"]);
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_pods_of_a_dead_node_and_their_namespace_go_in_one_go() {
    let Some(control) = shared() else { return };
    stuck(control, "many", "dead-many", 500);
    let deleting = |p: &serde_json::Value| p["metadata"]["deletionTimestamp"].is_string();
    wait("all are Terminating", || {
        let list = get(control, &["pods", "-n", "many"]);
        list["items"].as_array().unwrap().iter().all(deleting)
    });
    assert_eq!(pods(control, "many"), 500);
    let desk = desk(&control.admin()).await;
    let ran = clean(&desk, "many", &[]).await.exits(0);
    let done = &ran.json()["done"];
    assert_eq!(done["unproven"].as_array().unwrap().len(), 500, "{done}");
    println!("500 pods and their namespace, with 3 s of proof: {} s", ran.json()["seconds"]);
    assert!(!is_there(control, &["namespace", "many"]));
    assert_eq!(pods(control, "many"), 0);
    let journal = desk.read(".local/state/lifeline/lab/namespace-many.jsonl");
    assert!(journal.contains("\"ending\":\"gone\""), "{journal}");
    assert_eq!(journal.matches("\"name\":\"pod/many/").count(), 500, "each with its uid, before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_protected_or_missing_is_refused_and_the_name_must_be_typed() {
    let Some(control) = shared() else { return };
    namespace(control, "typed");
    let desk = desk(&control.admin()).await;
    clean(&desk, "kube-system", &[]).await.exits(2).says("the cluster lives in it");
    clean(&desk, "typd", &[]).await.exits(2).says("no such namespace").says("did you mean typed?");
    let ran = desk.ctl(&["cleanup", "namespace", "typed", "--yes"]).await;
    ran.exits(2).says("--confirm was not given");
    let ran = desk.ctl(&["cleanup", "namespace", "typed", "--yes", "--confirm", "other"]).await;
    ran.exits(2).says("other is another name");
    let plan = desk.ctl(&["cleanup", "namespace", "typed", "--plan"]).await.exits(0);
    assert!(plan.stdout.contains("delete namespace typed"), "{plan:?}");
    assert!(is_there(control, &["namespace", "typed"]));
    let (code, text) = desk.typed(&["cleanup", "namespace", "typed"], "tpyed\n").await;
    assert_eq!(code, 3, "{text}");
    assert!(is_there(control, &["namespace", "typed"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_finalizers_hold_is_named_and_let_go_only_when_that_is_said() {
    let Some(control) = shared() else { return };
    stuck(control, "held", "dead-held", 1);
    namespace(control, "held2");
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, namespace: held2, finalizers: [lab.example/keep]}\n";
    control.apply(map).unwrap();
    let desk = desk(&control.admin()).await;
    let ran = clean(&desk, "held2", &["--limit", "90s"]).await.exits(4);
    ran.says("configmap/held (lab.example/keep)").says("--strip-finalizers");
    assert!(is_there(control, &["configmap", "held", "-n", "held2"]));
    let ran = clean(&desk, "held2", &["--strip-finalizers", "--limit", "90s"]).await.exits(0);
    assert_eq!(ran.json()["done"]["stripped"][0]["name"], "held");
    assert!(!is_there(control, &["namespace", "held2"]));
    let journal = desk.read(".local/state/lifeline/lab/namespace-held2.jsonl");
    assert!(journal.contains("lab.example/keep"), "what was taken off is written down");
    clean(&desk, "held", &[]).await.exits(0);
}

/// A DaemonSet like the culprit's, with a mark of its owner.
fn culprit(namespace: &str, node: &str, marks: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: tailscale, namespace: {namespace}, {marks}}}\n\
         spec:\n  selector: {{matchLabels: {{app: t}}}}\n  template:\n    metadata: {{labels: {{app: t}}}}\n    spec:\n      \
         hostNetwork: true\n      nodeSelector: {{kubernetes.io/hostname: {node}}}\n      tolerations: [{{operator: Exists}}]\n      \
         containers: [{{name: t, image: docker.io/lab/tailscale, securityContext: {{privileged: true}}}}]\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_flux_puts_back_is_not_touched_before_flux_is_suspended() {
    let Some(control) = shared() else { return };
    control.node("dead-flux", "Unknown").unwrap();
    namespace(control, "owned");
    let marks = "labels: {kustomize.toolkit.fluxcd.io/name: vpn, kustomize.toolkit.fluxcd.io/namespace: flux-system}";
    control.apply(&culprit("owned", "dead-flux", marks)).unwrap();
    wait("its pod is there", || pods(control, "owned") == 1);
    let desk = desk(&control.admin()).await;
    let ran = clean(&desk, "owned", &[]).await.exits(2);
    ran.says("Flux Kustomization flux-system/vpn")
        .says("flux suspend kustomization vpn -n flux-system");
    assert_eq!(pods(control, "owned"), 1);
    clean(&desk, "owned", &["--owner-suspended"]).await.exits(0);
    assert!(!is_there(control, &["namespace", "owned"]));
    assert_eq!(pods(control, "owned"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_culprit_is_found_quarantined_and_released() {
    let Some(control) = shared() else { return };
    control.node("dead-vpn", "Unknown").unwrap();
    namespace(control, "vpn");
    control.apply(&culprit("vpn", "dead-vpn", "labels: {a: b}")).unwrap();
    wait("its pod is there", || pods(control, "vpn") == 1);
    let desk = desk(&control.admin()).await;
    let listed = desk.ctl(&["cleanup", "culprit", "-o", "json"]).await.exits(0).json();
    let all = listed["suspects"].as_array().unwrap();
    let found = all.iter().find(|s| s["workload"] == "vpn/tailscale (DaemonSet)").unwrap();
    assert_eq!((&found["likely"], &found["vpn"]), (&true.into(), &"tailscale".into()), "{found}");
    assert_eq!(found["pods"][0]["node"], "dead-vpn");
    desk.ctl(&["cleanup", "culprit", "--stop", "vpn/other", "--yes"])
        .await
        .exits(2)
        .says("there are: ");
    let ran = desk.ctl(&["cleanup", "culprit", "--stop", "vpn/tailscale", "--yes"]).await.exits(0);
    ran.says("unproven: whether the processes of vpn/tailscale-");
    assert_eq!(pods(control, "vpn"), 0);
    desk.ctl(&["cleanup", "culprit", "--release", "vpn/tailscale"]).await.exits(0);
    wait("its pod is there again", || pods(control, "vpn") == 1);
    let set = get(control, &["daemonset", "tailscale", "-n", "vpn"]);
    let selector = &set["spec"]["template"]["spec"]["nodeSelector"];
    assert_eq!(*selector, serde_json::json!({"kubernetes.io/hostname": "dead-vpn"}));
    clean(&desk, "vpn", &[]).await.exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_made_anew_under_its_name_while_the_stuck_one_is_forced_survives() {
    let Some(control) = shared() else { return };
    control.node("dead-again", "Unknown").unwrap();
    namespace(control, "again");
    control.apply(&culprit("again", "dead-again", "labels: {a: b}")).unwrap();
    wait("its pod is there", || pods(control, "again") == 1);
    let stuck = get(control, &["pods", "-n", "again"])["items"][0]["metadata"].clone();
    let name = stuck["name"].as_str().unwrap().to_owned();
    // Somebody is quicker: between the look and the deletion the name has passed to another pod.
    let (path, made) =
        (format!("/api/v1/namespaces/again/pods/{name}"), pod("again", &name, "dead-again", 0));
    let (forced, again) = (std::sync::Once::new(), ["-n", "again", "--force", "--grace-period=0"]);
    let server = api::passed_on(&control.admin(), move |asked| {
        if asked.method == "DELETE" && asked.path == path {
            forced.call_once(|| {
                kubectl(control, &[&["delete", "pod", &name], &again[..]].concat());
                control.apply(&made).unwrap();
            });
        }
    })
    .await;
    let desk = Desk::new().await;
    desk.write("ctl.toml", "cluster = \"lab\"\n");
    api::kubeconfig(&desk, &server);
    let ran =
        desk.ctl(&["cleanup", "culprit", "--stop", "again/tailscale", "--yes"]).await.exits(0);
    assert!(ran.stdout.contains("none of its pods is left"), "{ran:?}");
    let journal = desk.read(".local/state/lifeline/lab/culprit-again-tailscale.jsonl");
    assert!(journal.contains("force-delete: 1 of 1 taken"), "{journal}");
    let left = get(control, &["pods", "-n", "again"])["items"].as_array().unwrap().clone();
    let left: Vec<_> = left.iter().map(|p| &p["metadata"]).collect();
    assert_eq!((left.len(), &left[0]["name"]), (1, &stuck["name"]));
    assert!(left[0]["uid"] != stuck["uid"] && left[0]["deletionTimestamp"].is_null(), "{left:?}");
    clean(&desk, "again", &[]).await.exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_a_finalized_namespace_are_found_and_gone_and_infect_nobody_again() {
    let Some(control) = shared() else { return };
    control.node("dead-orphan", "Unknown").unwrap();
    namespace(control, "orphaned");
    let marks = "finalizers: [lab.example/keep]";
    control.apply(&culprit("orphaned", "dead-orphan", marks)).unwrap();
    wait("its pod is there", || pods(control, "orphaned") == 1);
    kubectl(control, &["delete", "namespace", "orphaned", "--wait=false"]);
    let finalize = "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"orphaned\"},\"spec\":{\"finalizers\":[]}}";
    let desk = desk(&control.admin()).await;
    desk.write("finalize.json", finalize);
    let file = desk.path("finalize.json").display().to_string();
    kubectl(control, &["replace", "--raw", "/api/v1/namespaces/orphaned/finalize", "-f", &file]);
    wait("the namespace is gone", || !is_there(control, &["namespace", "orphaned"]));
    assert!(
        is_there(control, &["daemonset", "tailscale", "-n", "orphaned"]),
        "what the seed's finalize leaves"
    );
    let found = desk.ctl(&["cleanup", "orphans", "-o", "json"]).await.exits(3).json();
    let kinds: Vec<_> = found["spaces"]["orphaned"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| &o["kind"]["kind"])
        .collect();
    assert!(kinds.contains(&&"DaemonSet".into()), "{kinds:?}");
    let ran = clean(&desk, "orphaned", &["--strip-finalizers"]).await.exits(0);
    println!("orphans, with 3 s of proof: {} s", ran.json()["seconds"]);
    ran.says("was made again, only to take finalizers off");
    assert!(!is_there(control, &["namespace", "orphaned"]));
    namespace(control, "orphaned");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(pods(control, "orphaned"), 0, "a namespace of that name infects nobody again");
    assert!(!is_there(control, &["daemonset", "tailscale", "-n", "orphaned"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_service_that_does_not_answer_is_named_waited_for_and_never_deleted() {
    // It keeps every namespace from going: not for the shared one.
    let Some(control) = start() else { return };
    namespace(&control, "unlisted");
    namespace(&control, "metrics");
    control.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: backend, namespace: metrics}\nspec: {selector: {app: m}, ports: [{port: 443}]}\n\
         ---\napiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: v1.metrics.lab.example}\n\
         spec: {group: metrics.lab.example, version: v1, groupPriorityMinimum: 100, versionPriority: 10, insecureSkipTLSVerify: true,\n  \
         service: {namespace: metrics, name: backend}}\n",
    )
    .unwrap();
    let service = || get(&control, &["apiservice", "v1.metrics.lab.example"]);
    wait("it is known to be down", || {
        service()["status"]["conditions"]
            .as_array()
            .is_some_and(|c| c.iter().any(|c| c["status"] == "False"))
    });
    let desk = desk(&control.admin()).await;
    let ran = clean(&desk, "unlisted", &["--limit", "100s"]).await.exits(5);
    ran.says("v1.metrics.lab.example does not answer")
        .says("service metrics/backend")
        .says("never deleted");
    assert_eq!(service()["metadata"]["name"], "v1.metrics.lab.example");
    kubectl(&control, &["delete", "apiservice", "v1.metrics.lab.example"]);
    clean(&desk, "unlisted", &[]).await.exits(0);
    assert!(!is_there(&control, &["namespace", "unlisted"]));
}
