//! Ctrl-C in the middle of what is done to the cluster, on a real API server: it says what is under way and how to go on, and the
//! same command ends well.

use crate::control::{desk, get, is_there, kubectl, namespace, pod, shared};
use crate::desk::{interrupt, until};
use lifeline_lab::real::apiserver::Control;

fn gone(control: &Control, namespace: &str, pod: &str) {
    kubectl(control, &["delete", "pod", pod, "-n", namespace, "--force", "--grace-period=0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_interrupted_leaves_its_cordon_and_is_gone_on_with() {
    let Some(control) = shared() else { return };
    control.node("cut-drained", "True").unwrap();
    namespace(control, "cut-drained");
    // Its kubelet has an hour, and there is none.
    control.apply(&pod("cut-drained", "slow", "cut-drained", 3600)).unwrap();
    let desk = desk(&control.admin()).await;
    let drain = ["drain", "cut-drained", "--yes", "--force"];
    let run = desk.begin(&drain);
    let slow = ["pod", "slow", "-n", "cut-drained"];
    until("it is evicted", || get(control, &slow)["metadata"]["deletionTimestamp"].is_string())
        .await;
    let ran = interrupt(run).await.exits(5);
    ran.says("drain cut-drained: interrupted; it stays cordoned, evicted pods go on ending")
        .says("under way: evict pod/cut-drained/slow")
        .says("go on: ctl drain cut-drained; take it back: ctl uncordon cut-drained");
    assert_eq!(get(control, &["node", "cut-drained"])["spec"]["unschedulable"], true);
    gone(control, "cut-drained", "slow");
    desk.ctl(&drain).await.exits(0).says("cut-drained is cordoned already");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_is_interrupted_is_gone_on_with_though_the_node_is_gone() {
    let Some(control) = shared() else { return };
    control.node("stays", "True").unwrap();
    control.node("cut-deleted", "Unknown").unwrap();
    kubectl(control, &["label", "node", "cut-deleted", "gpu=yes"]);
    namespace(control, "cut-deleted");
    control.apply(&pod("cut-deleted", "slow", "cut-deleted", 3600)).unwrap();
    let secret = "cut-deleted.node-password.k3s";
    kubectl(control, &["create", "secret", "generic", secret, "-n", "kube-system"]);
    let desk = desk(&control.admin()).await;
    let delete = ["delete", "cut-deleted", "--confirm", "cut-deleted", "--machine-wiped"];
    let run = desk.begin(&delete);
    until("the node is gone", || !is_there(control, &["node", "cut-deleted"])).await;
    let ran = interrupt(run).await.exits(5);
    ran.says("delete cut-deleted: interrupted; the node may be deleted already")
        .says("under way: delete node/cut-deleted")
        .says("go on: ctl delete cut-deleted --confirm cut-deleted --machine-wiped")
        .says("node-cut-deleted.jsonl");
    assert!(is_there(control, &["secret", secret, "-n", "kube-system"]), "it comes last");
    // What was not done to its end is said to be not done, too.
    let pending = ["delete", "cut-deleted", "--confirm", "cut-deleted", "--limit", "1s"];
    if is_there(control, &["pod", "slow", "-n", "cut-deleted"]) {
        desk.ctl(&pending).await.exits(5).says("of it are still in the API");
        gone(control, "cut-deleted", "slow");
    }
    desk.ctl(&delete).await.exits(0).says("is deleted already, and that has not ended");
    assert!(!is_there(control, &["secret", secret, "-n", "kube-system"]));
    // What it was is kept through all of that.
    control.node("cut-deleted", "True").unwrap();
    desk.ctl(&["delete", "cut-deleted", "--restore"]).await.exits(0).says("put back 1 label");
    // And a node that nobody has begun to delete is not there, as ever.
    kubectl(control, &["delete", "node", "cut-deleted"]);
    desk.ctl(&delete).await.exits(2).says("the cluster has none of that name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_up_that_is_interrupted_is_gone_on_with_and_proven_though_the_namespace_is_gone() {
    let Some(control) = shared() else { return };
    namespace(control, "cut-cleaned");
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, namespace: cut-cleaned, finalizers: [lab.example/keep]}\n";
    control.apply(map).unwrap();
    let desk = desk(&control.admin()).await;
    let clean = [
        "cleanup",
        "namespace",
        "cut-cleaned",
        "--yes",
        "--confirm",
        "cut-cleaned",
        "--quiet",
        "3s",
    ];
    let space = ["namespace", "cut-cleaned"];
    let cut = async |begun: usize| {
        let run = desk.begin(&clean);
        let held = ["configmap", "held", "-n", "cut-cleaned"];
        let journal = ".local/state/lifeline/lab/namespace-cut-cleaned.jsonl";
        until("it is begun", || {
            let text = std::fs::read_to_string(desk.path(journal)).unwrap_or_default();
            text.matches("\"event\":\"opened\"").count() == begun
        })
        .await;
        until("it is held", || get(control, &held)["metadata"]["deletionTimestamp"].is_string())
            .await;
        let ran = interrupt(run).await.exits(5);
        ran.says("clean up namespace cut-cleaned: interrupted; what was deleted stays deleted")
            .says("run it again to go on: ctl cleanup namespace cut-cleaned")
    };
    let ran = cut(1).await;
    assert!(ran.stderr.contains("under way: ") || ran.stderr.contains("seen last: "), "{ran:#?}");
    // Gone on with, and cut again.
    cut(2).await;
    let free = r#"{"metadata":{"finalizers":null}}"#;
    kubectl(
        control,
        &["patch", "configmap", "held", "-n", "cut-cleaned", "--type=merge", "-p", free],
    );
    let mut nudge = 0;
    until("the control plane ends it without us", || {
        nudge += 1;
        let note = format!("nudge={nudge}");
        let nudged = ["annotate", "--overwrite", "namespace", "cut-cleaned", &note];
        drop(control.kubectl(&nudged).unwrap());
        !is_there(control, &space)
    })
    .await;
    let ran = desk.ctl(&clean).await.exits(0).says("is gone already, and that is not proven");
    assert!(ran.stdout.contains("gone, and nothing came back"), "{ran:?}");
    desk.ctl(&clean).await.exits(2).says("there is no such namespace, and nothing in it");
}
