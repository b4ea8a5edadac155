//! Nodes as objects, on a real API server: cordon, drain and deletion, rows C3, C4 and C9 of the catalogue.

use crate::control::{
    configure, desk, get, is_there, kubectl, namespace, pod, pods, shared, start,
};
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_cordoned_and_uncordoned_and_a_mistyped_one_is_guessed() {
    let Some(control) = shared() else { return };
    control.node("cordoned", "True").unwrap();
    let desk = desk(&control.admin()).await;
    let unschedulable = || get(control, &["node", "cordoned"])["spec"]["unschedulable"] == true;
    desk.ctl(&["cordon", "cordoned"]).await.exits(0);
    assert!(unschedulable());
    desk.ctl(&["cordon", "cordoned"]).await.exits(0).says("cordoned is cordoned already");
    desk.ctl(&["uncordon", "cordoned"]).await.exits(0);
    assert!(!unschedulable());
    desk.ctl(&["cordon", "cordond"]).await.exits(2).says("did you mean cordoned?");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_pods_are_drained_beside_kubectl_in_the_same_run() {
    let Some(control) = shared() else { return };
    let mut seconds = Vec::new();
    for who in ["ctl", "kubectl"] {
        let (space, node) = (format!("drained-by-{who}"), format!("node-of-{who}"));
        control.node(&node, "True").unwrap();
        namespace(control, &space);
        let all: String = (0..300).map(|i| pod(&space, &format!("p{i}"), &node, 0)).collect();
        control.apply(&all).unwrap();
        let begun = Instant::now();
        if who == "ctl" {
            let desk = desk(&control.admin()).await;
            let ran = desk.ctl(&["drain", &node, "--yes"]).await.exits(2);
            ran.says("nothing makes it anew: --force").says("the node was not touched");
            assert!(get(control, &["node", &node])["spec"]["unschedulable"].is_null());
            let begun = Instant::now();
            desk.ctl(&["drain", &node, "--yes", "--force"]).await.exits(0);
            seconds.push(begun.elapsed().as_secs_f64());
        } else {
            kubectl(control, &["drain", &node, "--force", "--timeout=170s"]);
            seconds.push(begun.elapsed().as_secs_f64());
        }
        assert_eq!(pods(control, &space), 0);
        assert_eq!(get(control, &["node", &node])["spec"]["unschedulable"], true);
    }
    println!("drain of 300 pods: ctl {:.1} s, kubectl {:.1} s", seconds[0], seconds[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_allows_nothing_is_named_and_the_drain_ends_and_goes_on_later() {
    let Some(control) = shared() else { return };
    control.node("budgeted", "True").unwrap();
    namespace(control, "budgeted");
    control.apply(&pod("budgeted", "web", "budgeted", 0)).unwrap();
    control
        .apply("apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web, namespace: budgeted}\n\
                spec: {minAvailable: 1, selector: {matchLabels: {app: budgeted}}}\n")
        .unwrap();
    let ready = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
    kubectl(
        control,
        &[
            "patch",
            "pod",
            "web",
            "-n",
            "budgeted",
            "--subresource=status",
            "--type=merge",
            "-p",
            ready,
        ],
    );
    for _ in 0..100 {
        if get(control, &["pdb", "web", "-n", "budgeted"])["status"]["currentHealthy"] == 1 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let desk = desk(&control.admin()).await;
    let drain = ["drain", "budgeted", "--yes", "--force", "--limit", "7s"];
    let ran = desk.ctl(&drain).await.exits(5);
    ran.says("budget budgeted/web: it allows nothing now: 1 are healthy and 1 must be")
        .says("The disruption budget web needs 1 healthy pods")
        .says("it stays cordoned");
    assert_eq!(get(control, &["node", "budgeted"])["spec"]["unschedulable"], true);
    assert_eq!(pods(control, "budgeted"), 1);
    kubectl(control, &["delete", "pdb", "web", "-n", "budgeted"]);
    desk.ctl(&drain).await.exits(0);
    assert_eq!(pods(control, "budgeted"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_drained_without_waiting_for_what_nobody_can_say() {
    let Some(control) = shared() else { return };
    control.node("dead-drained", "Unknown").unwrap();
    namespace(control, "dead-drained");
    control.apply(&pod("dead-drained", "web", "dead-drained", 3600)).unwrap();
    let desk = desk(&control.admin()).await;
    let ran = desk.ctl(&["drain", "dead-drained", "--yes", "--force"]).await.exits(0);
    assert!(ran.stdout.contains("is not proven: the node is not heard"), "{ran:?}");
    let pod = get(control, &["pod", "web", "-n", "dead-drained"]);
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_node_gets_back_what_it_was_when_it_registers_again() {
    let Some(control) = shared() else { return };
    // Pods can be placed there whatever becomes of the other.
    control.node("stays", "True").unwrap();
    control.node("returns", "Unknown").unwrap();
    kubectl(control, &["label", "node", "returns", "gpu=yes"]);
    kubectl(control, &["taint", "node", "returns", "gpu=yes:NoSchedule"]);
    kubectl(control, &["cordon", "returns"]);
    kubectl(
        control,
        &["create", "secret", "generic", "returns.node-password.k3s", "-n", "kube-system"],
    );
    let desk = desk(&control.admin()).await;
    desk.ctl(&["delete", "returns"]).await.exits(2).says("--confirm was not given");
    desk.ctl(&["delete", "returns", "--confirm", "styx"]).await.exits(2);
    assert!(is_there(control, &["node", "returns"]));
    desk.ctl(&["delete", "returns", "--confirm", "returns"]).await.exits(0);
    assert!(!is_there(control, &["node", "returns"]));
    let secret = ["secret", "returns.node-password.k3s", "-n", "kube-system"];
    assert!(is_there(control, &secret), "a machine that keeps its disk knows its password");
    control.node("returns", "True").unwrap();
    desk.ctl(&["delete", "returns", "--restore"])
        .await
        .exits(0)
        .says("put back 1 label, 1 taint, and the cordon");
    let node = get(control, &["node", "returns"]);
    assert_eq!(node["metadata"]["labels"]["gpu"], "yes");
    assert_eq!(node["spec"]["unschedulable"], true);
    let taints = node["spec"]["taints"].as_array().unwrap();
    assert!(taints.iter().any(|t| t["key"] == "gpu" && t["effect"] == "NoSchedule"), "{taints:?}");
    let wiped = ["delete", "returns", "--confirm", "returns", "--machine-wiped"];
    desk.ctl(&wiped).await.exits(2).says("its kubelet is heard");
    assert!(is_there(control, &["node", "returns"]), "the node is not deleted either");
    control.say_ready("returns", "Unknown").unwrap();
    desk.ctl(&wiped).await.exits(0);
    assert!(!is_there(control, &secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_is_not_deleted() {
    let Some(control) = shared() else { return };
    control.node("server", "True").unwrap();
    kubectl(control, &["label", "node", "server", "node-role.kubernetes.io/control-plane=true"]);
    let desk = desk(&control.admin()).await;
    let ran = desk.ctl(&["delete", "server", "--confirm", "server"]).await.exits(2);
    ran.says("it carries the control plane");
    assert!(is_there(control, &["node", "server"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_that_cannot_be_used_is_an_error_with_a_hint() {
    let Some(control) = shared() else { return };
    let desk = desk(&control.admin()).await;
    let good = std::fs::read_to_string(control.admin()).unwrap();
    let cordon = ["cordon", "calypso"];
    configure(&desk, &desk.path("nowhere"));
    desk.ctl(&cordon).await.exits(2).says("use kubeconfig").says("k3s keeps one in");
    desk.write(
        "other",
        &good
            .replace("name: lab", "name: else")
            .replace("current-context: lab", "current-context: else"),
    );
    configure(&desk, &desk.path("other"));
    desk.ctl(&cordon).await.exits(2).says("kubectl config get-contexts");
    let exec = "user:\n    exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, args: [-c, \"exit 7\"], interactiveMode: Never}";
    let at = good.find("user:\n    client-certificate").unwrap();
    let end = good.find("contexts:").unwrap();
    desk.write("exec", &format!("{}{exec}\n{}", &good[..at], &good[end..]));
    configure(&desk, &desk.path("exec"));
    desk.ctl(&cordon).await.exits(1).says("proves who you are failed");
    desk.write("none", &format!("{}user: {{token: expired}}\n{}", &good[..at], &good[end..]));
    configure(&desk, &desk.path("none"));
    desk.ctl(&cordon)
        .await
        .exits(1)
        .says("401 Unauthorized")
        .says("has expired, or is another cluster's");
    let nobody = control.kubeconfig("nobody", "nobody", None).unwrap();
    configure(&desk, &nobody);
    desk.ctl(&cordon).await.exits(1).says("403 Forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_that_leads_to_another_cluster_than_before_is_refused() {
    let (Some(one), Some(other)) = (shared(), start()) else { return };
    one.node("pinned", "True").unwrap();
    other.node("pinned", "True").unwrap();
    let desk = desk(&one.admin()).await;
    desk.ctl(&["cordon", "pinned"]).await.exits(0);
    configure(&desk, &other.admin());
    desk.ctl(&["cordon", "pinned"]).await.exits(2).says("leads to another one");
    assert!(get(&other, &["node", "pinned"])["spec"]["unschedulable"].is_null());
}
