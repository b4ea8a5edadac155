//! The last resorts on a real API server: `finalize`, a node's way out of its cluster, pods' addresses that change on the way back.

use crate::control::{clean, desk, get, is_there, kubectl, namespace, pod, shared};
use crate::desk::{Desk, interrupt, until};

/// Nobody listens there.
const DEAD: &str = "127.0.0.1:1";

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_namespace_that_does_not_go_is_finalized_only_when_that_is_said() {
    let Some(control) = shared() else { return };
    // A finalizer of the namespace's own, whose owner is not there any more: no content, no pod, and no end.
    control
        .apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: ownerless}\nspec: {finalizers: [lab.example/gone]}\n")
        .unwrap();
    let desk = desk(&control.admin()).await;
    let ran = clean(&desk, "ownerless", &["--limit", "100s"]).await.exits(4);
    ran.says("--finalize").says("kube-controller-manager");
    let finalizers = &get(control, &["namespace", "ownerless"])["spec"]["finalizers"];
    assert_eq!(*finalizers, serde_json::json!(["lab.example/gone"]), "Kubernetes' own has gone");
    let ran = clean(&desk, "ownerless", &["--limit", "100s", "--finalize"]).await.exits(0);
    assert_eq!(ran.json()["done"]["finalized"], true, "{ran:?}");
    assert!(!is_there(control, &["namespace", "ownerless"]));
    let journal = desk.read(".local/state/lifeline/lab/namespace-ownerless.jsonl");
    assert!(journal.contains("lab.example/gone"), "what was there is written down: {journal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_addresses_that_changed_with_a_nodes_return_are_said_and_what_that_asks_for() {
    let Some(control) = shared() else { return };
    control.node("stays", "True").unwrap();
    let from = |range: &str| {
        let spec = format!("{{\"spec\":{{\"podCIDR\":\"{range}\",\"podCIDRs\":[\"{range}\"]}}}}");
        kubectl(control, &["patch", "node", "moves", "--type=merge", "-p", &spec]);
    };
    control.node("moves", "Unknown").unwrap();
    from("10.42.7.0/24");
    let desk = desk(&control.admin()).await;
    desk.ctl(&["delete", "moves", "--confirm", "moves"]).await.exits(0);
    control.node("moves", "True").unwrap();
    from("10.42.8.0/24");
    let ran = desk.ctl(&["delete", "moves", "--restore", "-o", "json"]).await.exits(3);
    assert_eq!(ran.json()["pod_cidrs"], serde_json::json!([["10.42.7.0/24"], ["10.42.8.0/24"]]));
    let told = desk.ctl(&["delete", "moves", "--restore"]).await.exits(3).stdout;
    assert!(told.contains("were from 10.42.7.0/24 and are from 10.42.8.0/24"), "{told}");
    assert!(told.contains("ctl baseline accept moves"), "{told}");
}

/// A desk that knows a node whose agent nobody reaches, and the API server.
async fn lost(kubeconfig: &std::path::Path) -> Desk {
    let desk = Desk::new().await;
    desk.configure(&[DEAD.parse().unwrap()]);
    let config = desk.read("ctl.toml").replace("[nodes.calypso]", "[nodes.lost]");
    let head = format!("kubeconfig = \"{}\"\ncontext = \"lab\"\n", kubeconfig.display());
    desk.write("ctl.toml", &format!("{head}{config}"));
    desk
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_nothing_brings_back_is_cordoned_drained_and_deleted_each_by_its_own_word() {
    let Some(control) = shared() else { return };
    control.node("stays", "True").unwrap();
    control.node("lost", "Unknown").unwrap();
    kubectl(control, &["label", "node", "lost", "gpu=yes"]);
    namespace(control, "moved");
    // Bound to the node by hand, and then adopted: its maker's next one is to be placed elsewhere.
    control.apply(&pod("moved", "web", "lost", 0)).unwrap();
    let template = "metadata: {labels: {app: moved}}\n    spec: {nodeSelector: {never: there}, containers: [{name: c, image: lab/tools}]}";
    let set = format!(
        "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {{name: web, namespace: moved}}\nspec:\n  replicas: 1\n  \
         selector: {{matchLabels: {{app: moved}}}}\n  template:\n    {template}\n"
    );
    control.apply(&set).unwrap();
    let web = ["pod", "web", "-n", "moved"];
    for _ in 0..300 {
        if get(control, &web)["metadata"]["ownerReferences"].is_array() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let desk = lost(&control.admin()).await;
    let heal = ["heal", "lost", "--yes", "-o", "json"];
    let more = |names: &[&'static str]| {
        let all = heal.iter().copied();
        all.chain(names.iter().flat_map(|n| ["--confirm", *n])).collect::<Vec<_>>()
    };
    let node = || get(control, &["node", "lost"]);
    // A general yes takes nothing out of the cluster.
    let ran = desk.ctl(&heal).await.exits(3);
    let ran = ran.says("4  leave lost cordoned, drain it, delete it");
    ran.says("agree to it beforehand: --confirm \"cordon lost\"").says("at its own console");
    assert!(node()["spec"]["unschedulable"].is_null());
    let ran = desk.ctl(&more(&["cordon lost", "drain lost"])).await.exits(3);
    ran.says("agree to it beforehand: --confirm \"delete lost\"");
    assert_eq!(node()["spec"]["unschedulable"], true);
    let gone =
        !is_there(control, &web) || get(control, &web)["metadata"]["deletionTimestamp"].is_string();
    assert!(gone, "its pod was to be evicted");
    let ran = desk.ctl(&more(&["cordon lost", "drain lost", "delete lost"])).await.exits(3);
    assert_eq!(ran.json()["result"], "unhealthy", "forgotten is not healed");
    ran.says("this gives back what was changed of it: ctl heal lost");
    assert!(!is_there(control, &["node", "lost"]));
    let journal = desk.read(".local/state/lifeline/lab/node-lost.jsonl");
    assert!(journal.contains("\"gpu\":\"yes\""), "what it was is kept for its return: {journal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_was_wiped_is_forgotten_within_a_recovery_with_the_password_k3s_keeps_of_it()
{
    // A control plane of its own: one recovery at a time acts on a cluster.
    let Some(control) = crate::control::start() else { return };
    control.node("stays", "True").unwrap();
    control.node("lost", "Unknown").unwrap();
    kubectl(&control, &["label", "node", "lost", "gpu=yes"]);
    let secret = ["secret", "lost.node-password.k3s", "-n", "kube-system"];
    let create = ["create", "secret", "generic", "lost.node-password.k3s", "-n", "kube-system"];
    kubectl(&control, &create);
    let desk = lost(&control.admin()).await;
    let wiped = ["recover", "lost", "--yes", "--machine-wiped", "lost"];
    let mistyped = ["recover", "lost", "--plan", "--machine-wiped", "lsot"];
    desk.ctl(&mistyped).await.exits(2).says("does not look after a node of that name");
    let plan = desk.ctl(&[&wiped[..], &["--plan"]].concat()).await.exits(3).stdout;
    assert!(plan.contains("lost: its machine was wiped: no restart"), "{plan}");
    // It is typed, like every deletion.
    let ran = desk.ctl(&wiped).await.exits(3);
    ran.says("agree to it beforehand: --confirm \"delete lost\"");
    assert!(is_there(&control, &["node", "lost"]) && is_there(&control, &secret));
    let again =
        ["recover", "--resume", "--yes", "--machine-wiped", "lost", "--confirm", "delete lost"];
    let run = desk.begin(&again);
    until("its password is gone", || !is_there(&control, &secret)).await;
    assert!(!is_there(&control, &["node", "lost"]), "the node goes first");
    // What comes after is the cluster's proof, which this cluster does not give.
    interrupt(run).await.exits(5);
    control.node("lost", "True").unwrap();
    desk.ctl(&["delete", "lost", "--restore"]).await.exits(0).says("put back 1 label");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_machine_that_is_off_are_let_go_of_by_name_and_of_one_that_runs_never() {
    use crate::rented::{CALYPSO, Rented};
    // A control plane of its own: the node has the name that the machine's stand-in goes by.
    let Some(control) = crate::control::start() else { return };
    control.node("stays", "True").unwrap();
    control.node("calypso", "Unknown").unwrap();
    namespace(&control, "volumes");
    control.apply(&pod("volumes", "db", "calypso", 3600)).unwrap();
    kubectl(&control, &["delete", "pod", "db", "-n", "volumes", "--wait=false"]);
    let rented = Rented::new(std::time::Duration::from_millis(300)).await;
    let config = rented.desk.read("ctl.toml");
    let at = config.split("addresses = [").nth(1).unwrap().split(']').next().unwrap().to_owned();
    let head = format!("kubeconfig = \"{}\"\ncontext = \"lab\"\n", control.admin().display());
    rented.desk.write("ctl.toml", &(head + &config.replace(&at, &format!("\"{DEAD}\""))));
    let less = ["heal", "calypso", "--yes", "-o", "json", "--confirm", "cordon calypso"];
    let heal = [&less[..], &["--confirm", "out-of-service calypso"]].concat();
    rented.desk.ctl(&heal).await.exits(3).says("is not known to be off: it is running");
    let taints = || get(&control, &["node", "calypso"])["spec"]["taints"].to_string();
    assert!(!taints().contains("out-of-service"), "{}", taints());
    rented.provider.change(CALYPSO, |m| m.state = "stopped".to_owned());
    // It is not done on a general yes.
    let ran = rented.desk.ctl(&less).await.exits(3);
    ran.says("--confirm \"out-of-service calypso\"");
    rented.desk.ctl(&heal).await.exits(3);
    assert!(taints().contains("node.kubernetes.io/out-of-service"), "{}", taints());
    assert_eq!(rented.provider.wishes(), 0);
    // The control plane's own collector comes by every 20 s.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while is_there(&control, &["pod", "db", "-n", "volumes"]) {
        assert!(std::time::Instant::now() < until, "its pod is still held");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}
