//! Many nodes: all are asked, those that fail are named, and the others' answers stand.

use crate::agent::StandIn;
use crate::api::kubeconfig;
use crate::desk::Desk;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_nodes_each_has_its_line_and_each_failure_its_reason() {
    let desk = Desk::new().await;
    let (at, _calypso) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    let (styx_at, _styx) = StandIn::named("styx").serve(&desk, "styx", "pki").await;
    // A listener that accepts and says nothing: each of those takes its limit, beside the others.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    desk.configure(&[at]);
    let mut text = desk.read("ctl.toml") + &format!("[nodes.styx]\naddresses = [\"{styx_at}\"]\n");
    for n in 0..198 {
        let at = if n < 20 { silent.local_addr().unwrap() } else { "127.0.0.1:9".parse().unwrap() };
        text.push_str(&format!("[nodes.dead-{n:03}]\naddresses = [\"{at}\"]\n"));
    }
    desk.write("ctl.toml", &text);
    let begun = Instant::now();
    let ran = desk.ctl(&["status", "-o", "json"]).await.exits(1);
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "one after the other they take longer than this"
    );
    let list = ran.json()["nodes"].as_array().unwrap().clone();
    assert_eq!(list.len(), 200);
    let names: Vec<_> = list.iter().map(|n| n["node"].as_str().unwrap()).collect();
    assert!(names.is_sorted(), "they are in the order of the configuration's names");
    let well: Vec<_> = list
        .iter()
        .filter(|n| n["verdict"] == "Healthy")
        .map(|n| n["node"].as_str().unwrap())
        .collect();
    assert_eq!(well, ["calypso", "styx"]);
    assert_eq!(list.iter().filter(|n| n["error"].is_string()).count(), 198);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_shown_again_and_again_until_it_is_interrupted() {
    let desk = Desk::new().await;
    let (at, agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let child = desk
        .command(&["status", "--watch", "1s"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while agent.state().asked.len() < 3 {
        assert!(Instant::now() < until, "it asked {} times", agent.state().asked.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let out = child.wait_with_output().await.unwrap();
    assert_eq!(out.status.code(), Some(0), "Ctrl-C is how it ends");
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.matches("calypso").count() >= 2 && !text.contains('\u{1b}'), "{text}");
}

/// An API server that knows these nodes, by their InternalIP; the agents' port is the usual one. Leases are renewed now, and nobody has
/// a pod.
async fn api_server(nodes: serde_json::Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 16_384];
            let n = stream.read(&mut request).await.unwrap();
            let asked = String::from_utf8_lossy(&request[..n]).into_owned();
            let path = asked.split(' ').nth(1).unwrap().split('?').next().unwrap();
            let items = match path {
                "/api/v1/nodes" => nodes.clone(),
                "/api/v1/pods" => serde_json::json!([]),
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases" => {
                    let now =
                        jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string();
                    let lease = |n: &serde_json::Value| {
                        serde_json::json!({"metadata": {"name": n["metadata"]["name"]},
                        "spec": {"renewTime": now, "leaseDurationSeconds": 40}})
                    };
                    nodes.as_array().unwrap().iter().map(lease).collect()
                }
                "/api/v1/namespaces/kube-system" => serde_json::json!([]),
                path if path.starts_with("/apis/apps/v1/") => serde_json::json!([]),
                _ => {
                    let none =
                        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    stream.write_all(none.as_bytes()).await.unwrap();
                    continue;
                }
            };
            let list = match path {
                "/api/v1/namespaces/kube-system" => {
                    serde_json::json!({"apiVersion": "v1", "kind": "Namespace",
                    "metadata": {"name": "kube-system", "uid": "c1"}})
                }
                _ => {
                    serde_json::json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
                }
            };
            let body = list.to_string();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length";
            let answer = format!("{head}: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    format!("http://{at}")
}

fn member(name: &str, address: &str, labels: &serde_json::Value) -> serde_json::Value {
    serde_json::json!({"metadata": {"name": name, "labels": labels},
        "status": {"addresses": [{"type": "ExternalIP", "address": "198.51.100.1"}, {"type": "InternalIP", "address": address}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_the_file_does_not_name_are_found_in_the_cluster() {
    let desk = Desk::new().await;
    let (at, _calypso) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let control = serde_json::json!({"node-role.kubernetes.io/control-plane": "true"});
    let nodes = serde_json::json!([
        member("styx", "127.0.0.9", &serde_json::json!({})),
        member("calypso", "127.0.0.8", &serde_json::json!({})),
        member("tethys", "127.0.0.7", &control),
    ]);
    kubeconfig(&desk, &api_server(nodes).await);
    let all = desk.ctl(&["status", "-o", "json"]).await.exits(1).json();
    let list = all["nodes"].as_array().unwrap();
    assert_eq!(list.len(), 2, "{all}");
    assert_eq!((&list[0]["node"], &list[0]["verdict"]), (&"calypso".into(), &"Healthy".into()));
    assert_eq!(list[0]["via"], at.to_string(), "the file's word counts first");
    assert_eq!(list[1]["node"], "styx");
    assert!(list[1]["error"].as_str().unwrap().contains("127.0.0.9:7443"), "{all}");
    // A recovery looks after both, and says where each name is from; who is Ready and has no agent is let be.
    let plan = desk.ctl(&["recover", "--plan"]).await.exits(3).stdout;
    assert!(plan.contains("calypso (from ctl.toml): its agent says Healthy"), "{plan}");
    assert!(plan.contains("styx (found in the cluster): its agent cannot be asked"), "{plan}");
    // One by name, of whom the file says nothing; and one of whom nobody does.
    desk.ctl(&["diagnose", "styx"]).await.exits(1).says("127.0.0.9:7443");
    desk.ctl(&["diagnose", "hades"]).await.exits(2).says("the cluster's workers: calypso, styx");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_could_not_be_had_is_not_a_whole_one() {
    let desk = Desk::new().await;
    let (at, agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    kubeconfig(&desk, "http://127.0.0.1:9");
    // The agents' word stands by itself; that nobody else was asked is said.
    let ran = desk.ctl(&["status", "-o", "json"]).await.exits(0);
    assert_eq!(ran.json()["nodes"][0]["verdict"], "Healthy");
    let why = ran.json()["nodes"][0]["cluster"]["error"].as_str().unwrap().to_owned();
    assert!(why.contains("the cluster could not be asked"), "{why}");
    ran.says("the cluster could not be asked").says("Shown is what ctl.toml names");
    let alone = desk.ctl(&["status", "--no-cluster", "-o", "json"]).await.exits(0);
    assert!(alone.json()["nodes"][0]["cluster"].is_null() && alone.stderr.is_empty(), "{alone:?}");
    desk.ctl(&["status", "calypso"]).await.exits(0);
    desk.ctl(&["status", "styx"]).await.exits(2).says("the cluster could not be asked");
    desk.ctl(&["pki", "revoke", "1a:2b", "--yes"]).await.exits(1).says("say which nodes");
    assert!(agent.state().denied.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_names_no_node_and_a_cluster_that_is_not_heard_leave_nothing_to_show() {
    let desk = Desk::new().await;
    let (at, _agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    kubeconfig(&desk, "http://127.0.0.1:9");
    let text = desk.read("ctl.toml");
    desk.write("ctl.toml", text.split("[nodes.calypso]").next().unwrap());
    desk.ctl(&["status"]).await.exits(2).says("no node is configured").says("could not be had");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_says_nothing_does_not_hold_up_the_agents() {
    let desk = Desk::new().await;
    let (at, _agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    kubeconfig(&desk, &format!("http://{}", silent.local_addr().unwrap()));
    let begun = Instant::now();
    let mut child = desk
        .command(&["status"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (mut shown, mut buffer) = (String::new(), vec![0; 4096]);
    while !shown.contains("Healthy") {
        let n = stdout.read(&mut buffer).await.unwrap();
        assert!(n > 0, "it ended, and showed {shown:?}");
        shown.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    let came = begun.elapsed();
    let done = child.wait_with_output().await.unwrap();
    let took = begun.elapsed();
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).contains("no answer within 3 s"), "{done:?}");
    assert!(
        took - came > Duration::from_millis(300),
        "the agents came after {came:?}, all after {took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cluster_says_stands_beside_the_agents_word_and_a_contradiction_is_named() {
    let desk = Desk::new().await;
    let (at, _agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let mut node = member("calypso", "127.0.0.8", &serde_json::json!({}));
    node["spec"] = serde_json::json!({"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]});
    node["status"]["nodeInfo"] =
        serde_json::json!({"bootID": "b", "kubeletVersion": "v1.34.2+k3s1"});
    node["status"]["conditions"] = serde_json::json!([{"type": "Ready", "status": "Unknown",
        "reason": "NodeStatusUnknown", "lastTransitionTime": "2025-10-13T12:00:00Z"}]);
    kubeconfig(&desk, &api_server(serde_json::json!([node])).await);
    let ran = desk.ctl(&["status", "-o", "json"]).await.exits(3);
    let calypso = &ran.json()["nodes"][0];
    assert_eq!(
        (&calypso["verdict"], &calypso["cluster"]["ready"]),
        (&"Healthy".into(), &false.into())
    );
    assert_eq!(calypso["cluster"]["kubelet"], "v1.34.2+k3s1");
    assert_eq!(calypso["cluster"]["lease"]["renewing"], true);
    // Scripts read them: none goes, none is called otherwise.
    let fields: Vec<_> =
        calypso["cluster"].as_object().unwrap().keys().map(String::as_str).collect();
    let promised = [
        "boot", "cordoned", "gaps", "kubelet", "lease", "pods", "ready", "reason", "since",
        "taints",
    ];
    assert_eq!(fields, promised);
    assert!(calypso["disagreement"].as_str().unwrap().contains("says itself why"), "{calypso}");
    let shown = desk.ctl(&["status"]).await.exits(3).stdout;
    for words in [
        "NotReady (NodeStatusUnknown)",
        "unreachable:NoExecute",
        "calypso: its agent says Healthy, the cluster says NotReady",
    ] {
        assert!(shown.contains(words), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_several_nodes_does_not_wait_for_a_silent_one_and_does_not_call_it_out_of_reach()
{
    let desk = Desk::new().await;
    let (at, _calypso) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    // It takes the connection and says nothing: a handshake has 3 s for that.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    desk.configure(&[at]);
    let silent = silent.local_addr().map(|at| (silent, at)).unwrap();
    let styx = format!("[nodes.styx]\naddresses = [\"{}\"]\n", silent.1);
    desk.write("ctl.toml", &(desk.read("ctl.toml") + &styx));
    let begun = Instant::now();
    let ran = desk.ctl(&["status"]).await.exits(5);
    assert!(begun.elapsed() < Duration::from_millis(2_800), "{:?}", begun.elapsed());
    assert!(ran.stdout.contains("no answer yet"), "{ran:?}");
    assert!(!format!("{ran:?}").contains("no path led"), "{ran:?}");
    let ran = ran.says("No answer yet, and not waited for any longer: ").says("--wait 10s");
    assert!(!ran.stdout.contains("cannot be asked"), "{ran:?}");
    // Whoever answers meanwhile is shown; and for machines it is said in a field of its own.
    let ran = desk.ctl(&["status", "--wait", "2s", "-o", "json"]).await.exits(5);
    let nodes = ran.json()["nodes"].clone();
    assert_eq!(
        (&nodes[0]["verdict"], &nodes[0]["not_waited_for"]),
        (&"Healthy".into(), &serde_json::Value::Null)
    );
    assert_eq!(nodes[1]["not_waited_for"], true);
    assert!(nodes[1]["error"].as_str().unwrap().contains("no answer yet after 2000 ms"), "{nodes}");
    // Who waits to the end is told what was in the way; so is who asks for one node, or for a document.
    let ran =
        desk.ctl(&["status", "--wait", "20s"]).await.exits(1).says("no path led to its agent");
    assert!(ran.stdout.contains("Healthy") && ran.stdout.contains("cannot be asked"), "{ran:?}");
    desk.ctl(&["status", "styx"]).await.exits(1).says("no path led to its agent");
    let ran = desk.ctl(&["status", "-o", "json"]).await.exits(1);
    assert!(ran.json()["nodes"][1]["not_waited_for"].is_null(), "{ran:?}");
    desk.ctl(&["status", "--wait", "0s"]).await.exits(2);
}
