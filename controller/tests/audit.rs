//! `ctl audit` against an API server that answers as one does: lists, a kind that may not be listed, a namespace that is gone.

use crate::agent::StandIn;
use crate::desk::Desk;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn set(namespace: &str, name: &str, pod: &Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"selector": {}, "template": {"spec": pod}}})
}

fn answer(path: &str) -> (u16, Value) {
    let list = |items: Vec<Value>| {
        (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}))
    };
    let october = json!({"hostNetwork": true, "containers": [{"name": "tailscale", "image": "tailscale/tailscale",
        "args": ["--exit-node=x"], "securityContext": {"privileged": true}}]});
    let proxy = json!({"hostNetwork": true, "containers": [{"name": "p", "image": "kube-proxy", "securityContext": {"privileged": true}}]});
    let made = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "tailscale-worker", "uid": "u", "controller": true}]);
    match path {
        "/apis/apps/v1/daemonsets" => list(vec![
            set("kube-system", "kube-proxy", &proxy),
            set("tailscale-system", "tailscale-worker", &october),
        ]),
        "/api/v1/pods" => list(vec![
            json!({"metadata": {"namespace": "tailscale-system", "name": "tailscale-worker-x", "ownerReferences": made}, "spec": october}),
        ]),
        "/api/v1/namespaces" => list(vec![json!({"metadata": {"name": "kube-system"}})]),
        "/api/v1/nodes" => list(vec![
            json!({"metadata": {"name": "tethys", "labels": {"node-role.kubernetes.io/control-plane": "true"}}}),
            json!({"metadata": {"name": "calypso"}}),
            json!({"metadata": {"name": "styx"}}),
        ]),
        "/apis/batch/v1/cronjobs" => (
            403,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden",
                "message": "cronjobs.batch is forbidden: User \"alice\" cannot list", "metadata": {}}),
        ),
        _ => list(vec![]),
    }
}

async fn serve(mut stream: TcpStream) {
    let mut buffer = vec![0; 16_384];
    let mut have = 0;
    while let Ok(n @ 1..) = stream.read(&mut buffer[have..]).await {
        have += n;
        let text = String::from_utf8_lossy(&buffer[..have]).into_owned();
        if !text.contains("\r\n\r\n") {
            continue;
        }
        have = 0;
        assert!(text.starts_with("GET "), "it only reads: {text}");
        let path = text.split(' ').nth(1).unwrap().split('?').next().unwrap().to_owned();
        let (code, body) = answer(&path);
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_do_it_again_is_named_and_what_could_not_be_read_is_said() {
    let desk = Desk::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    desk.write("kubeconfig", &format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\nclusters:\n- name: lab\n  cluster:\n    server: http://{at}\nusers:\n- name: me\n  user: {{}}\n\
         contexts:\n- name: lab\n  context:\n    cluster: lab\n    user: me\n"
    ));
    let (agent_at, _agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[agent_at]);
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
    // The control plane has no agent, calypso's answers, styx is unknown to ctl.toml.
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
