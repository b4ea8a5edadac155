//! The API server's view: two renewals of the lease that were seen to happen, Ready, the boot, no taint, the pods.

use crate::agent::StandIn;
use crate::desk::{Desk, Ran};
use crate::story::Story;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers as an API server does about one node and its pod: the lease is renewed with each look, as the kubelet would every
/// 10 s. From the given look on node and pod are well; before, the node is marked as one that is not heard.
async fn api_server(well_from: u32) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let looks = Arc::new(AtomicU32::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&looks), well_from));
        }
    });
    format!("http://{at}")
}

async fn answer(mut stream: TcpStream, looks: Arc<AtomicU32>, well_from: u32) {
    let mut buffer = vec![0; 16_384];
    let mut have = 0;
    loop {
        let Ok(n @ 1..) = stream.read(&mut buffer[have..]).await else { return };
        have += n;
        let text = String::from_utf8_lossy(&buffer[..have]).into_owned();
        if !text.contains("\r\n\r\n") {
            continue;
        }
        have = 0;
        let well = looks.load(Ordering::Relaxed) >= well_from;
        let path = text.split(' ').nth(1).unwrap().split('?').next().unwrap().to_owned();
        let (code, body) = match path.as_str() {
            "/api/v1/nodes/calypso" => {
                let ready = json!({"type": "Ready", "status": if well { "True" } else { "Unknown" },
                    "reason": if well { "KubeletReady" } else { "NodeStatusUnknown" }});
                let taint = json!({"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"});
                let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "calypso"},
                    "spec": {"taints": if well { json!([]) } else { json!([taint]) }},
                    "status": {"conditions": [ready], "nodeInfo": {"bootID": "b"}}});
                ("200 OK", node.to_string())
            }
            "/api/v1/pods" => {
                assert!(text.contains("fieldSelector=spec.nodeName%3Dcalypso"), "{text}");
                let ready =
                    json!([{"type": "Ready", "status": if well { "True" } else { "False" }}]);
                let container = json!({"name": "web", "ready": true, "image": "", "imageID": "", "restartCount": 0});
                let pod = json!({"metadata": {"name": "web", "namespace": "apps", "uid": "u"},
                    "status": {"phase": "Running", "conditions": ready, "containerStatuses": [container]}});
                let list =
                    json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [pod]});
                ("200 OK", list.to_string())
            }
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/calypso" => {
                let second = looks.fetch_add(1, Ordering::Relaxed) % 60;
                (
                    "200 OK",
                    format!(
                        r#"{{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{{"name":"calypso"}},"spec":{{"renewTime":"2025-10-13T12:00:{second:02}.000000Z"}}}}"#
                    ),
                )
            }
            other => (
                "404 Not Found",
                format!(
                    r#"{{"kind":"Status","status":"Failure","code":404,"reason":"NotFound","message":"{other} not found"}}"#
                ),
            ),
        };
        let head = format!(
            "HTTP/1.1 {code}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn heal(server: &str, agent: StandIn) -> (Desk, Ran) {
    let desk = Desk::new().await;
    let (at, _agent) = agent.serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let config = desk.read("ctl.toml");
    desk.write("ctl.toml", &format!("kubeconfig = \"kubeconfig\"\ncontext = \"lab\"\n{config}"));
    desk.write(
        "kubeconfig",
        &format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: lab\n  cluster:\n    server: {server}\nusers:\n- name: me\n  user: {{}}\n\
             contexts:\n- name: lab\n  context:\n    cluster: lab\n    user: me\n"
        ),
    );
    let ran = desk.ctl(&["heal", "calypso", "--yes", "-o", "json", "--report", "r.md"]).await;
    (desk, ran)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_renewals_and_ready_are_the_proof() {
    let (desk, ran) = heal(&api_server(0).await, StandIn::captured(vec![Story::recovered()])).await;
    let ran =
        ran.exits(0).says("The API server sees calypso Ready, lease renewed 2025-10-13T12:00:00");
    let cluster = &ran.json()["cluster"];
    assert_eq!((&cluster["proven"], &cluster["renewals"]), (&true.into(), &2.into()), "{cluster}");
    assert_eq!(cluster["before"]["renewed"], "2025-10-13T12:00:00.000000Z");
    assert!(desk.read("r.md").contains("- lease renewals seen to happen after the heal: 2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proof_waits_for_ready_for_the_taint_to_go_and_for_the_pod() {
    // Node, pods and lease are asked side by side: the fifth is well in the fourth look at the earliest.
    let (desk, ran) = heal(&api_server(5).await, StandIn::captured(vec![Story::recovered()])).await;
    let ran =
        ran.exits(0).says("NotReady (NodeStatusUnknown)").says("1 of 1 pods not ready, tainted");
    let cluster = &ran.json()["cluster"];
    assert!(cluster["renewals"].as_u64() > Some(2), "{cluster}");
    assert_eq!(
        (&cluster["before"]["ready"], &cluster["after"]["ready"]),
        (&false.into(), &true.into())
    );
    assert_eq!(cluster["after"]["pods"][0]["name"], "apps/web");
    assert!(desk.read("r.md").contains("- before: NotReady (NodeStatusUnknown)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_out_of_reach_does_not_keep_an_agent_from_healing() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let agent = StandIn::captured(vec![Story::ended("rolled-back", &[])]);
    let (_desk, ran) = heal(&format!("http://{nobody}"), agent).await;
    ran.exits(3).says("The API server could not be asked: ask the API server for node calypso");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_healthy_by_both_accounts_needs_no_proof() {
    let (_desk, ran) = heal(&api_server(0).await, StandIn::calypso()).await;
    let ran = ran.exits(0).says("sees calypso Ready");
    assert_eq!(ran.json()["cluster"], serde_json::Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heal_that_ended_before_the_proof_is_proven_when_it_is_run_again() {
    let (_desk, ran) = heal(&api_server(3).await, StandIn::calypso()).await;
    assert_eq!(ran.exits(0).json()["cluster"]["proven"], true);
}
