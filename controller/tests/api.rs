//! An API server's stand-in: each test says what it answers; [`usual`] is a small cluster that is well.

#[cfg(target_os = "linux")]
use crate::agent::StandIn;
use crate::desk::Desk;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A question.
pub struct Asked {
    pub method: String,
    /// Without what stands behind `?`.
    pub path: String,
    pub body: Value,
    /// With it.
    #[cfg(target_os = "linux")]
    whole: String,
    /// Lines of its head that say in which form something comes, and is wanted.
    #[cfg(target_os = "linux")]
    forms: Vec<(String, String)>,
}

/// Serves; gives its address.
pub async fn serve(answer: impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move { connection(stream, &*answer).await });
        }
    });
    format!("http://{at}")
}

/// Question after question, until the other side hangs up.
async fn connection(mut stream: TcpStream, answer: &(dyn Fn(&Asked) -> (u16, Value) + Sync)) {
    let mut heard = Vec::new();
    let mut buffer = vec![0; 16_384];
    loop {
        let Ok(n @ 1..) = stream.read(&mut buffer).await else { return };
        heard.extend_from_slice(&buffer[..n]);
        let Some(end) = heard.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&heard[..end]).into_owned();
        let length = head.lines().find_map(|l| {
            let (name, value) = l.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
        });
        let all = end + 4 + length.unwrap_or(0);
        if heard.len() < all {
            continue;
        }
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let asked = Asked {
            method: method.to_owned(),
            path: path.split('?').next().unwrap().to_owned(),
            #[cfg(target_os = "linux")]
            whole: path.to_owned(),
            #[cfg(target_os = "linux")]
            forms: forms(&head),
            body: serde_json::from_slice(&heard[end + 4..all]).unwrap_or_default(),
        };
        heard.drain(..all);
        let (code, body) = answer(&asked);
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

#[cfg(target_os = "linux")]
fn forms(head: &str) -> Vec<(String, String)> {
    let lines = head.lines().filter_map(|l| l.split_once(": "));
    let ours = lines.filter(|(name, _)| {
        ["accept", "content-type"].iter().any(|wanted| name.eq_ignore_ascii_case(wanted))
    });
    ours.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Passes everything on to a real API server; what is to happen just before something is asked there happens in `between`.
#[cfg(target_os = "linux")]
pub async fn passed_on(
    kubeconfig: &std::path::Path,
    between: impl Fn(&Asked) + Send + Sync + 'static,
) -> String {
    use kube::config::{KubeConfigOptions, Kubeconfig};
    // Whoever was first.
    drop(rustls::crypto::ring::default_provider().install_default());
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    serve(move |asked| {
        between(asked);
        let mut request = http::Request::builder().method(asked.method.as_str()).uri(&asked.whole);
        for (name, value) in &asked.forms {
            request = request.header(name, value);
        }
        let body = match &asked.body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let call = async {
            let answer = client.send(request.body(body.into()).unwrap()).await.unwrap();
            let code = answer.status().as_u16();
            let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
            (code, serde_json::from_slice(&body.to_bytes()).unwrap())
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(call))
    })
    .await
}

/// Has the desk's configuration lead there.
pub fn kubeconfig(desk: &Desk, server: &str) {
    desk.write(
        "kubeconfig",
        &format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: lab\n  cluster:\n    server: {server}\nusers:\n- name: me\n  user: {{}}\n\
             contexts:\n- name: lab\n  context:\n    cluster: lab\n    user: me\ncurrent-context: lab\n"
        ),
    );
    let text = desk.read("ctl.toml");
    desk.write("ctl.toml", &format!("kubeconfig = \"kubeconfig\"\n{text}"));
}

/// A list of objects.
pub fn list(items: &[Value]) -> (u16, Value) {
    (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// A worker that is Ready, at this InternalIP.
pub fn worker(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": format!("uid-of-{name}")},
        "spec": {}, "status": {"addresses": [{"type": "InternalIP", "address": address}],
            "nodeInfo": {"bootID": "b"}, "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn kinds(group: &str, resources: &[(&str, &str)]) -> (u16, Value) {
    let resource = |(plural, kind): &(&str, &str)| {
        json!({"resource": plural, "scope": "Namespaced", "verbs": ["get", "list", "patch", "delete"],
            "responseKind": {"group": group, "version": "v1", "kind": kind}})
    };
    let resources: Vec<_> = resources.iter().map(resource).collect();
    let versions = json!([{"version": "v1", "freshness": "Current", "resources": resources}]);
    (
        200,
        json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
            "items": [{"metadata": {"name": group}, "versions": versions}]}),
    )
}

/// A cluster with these nodes, the kinds pod and DaemonSet, and nothing in it; its user may do all but this, `create pods/eviction`.
pub fn usual(asked: &Asked, nodes: &[Value], but: &str) -> (u16, Value) {
    if asked.path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" {
        let of = &asked.body["spec"]["resourceAttributes"];
        let word = |key: &str| of[key].as_str().unwrap_or_default().to_owned();
        let part = if word("subresource").is_empty() { "" } else { "/" };
        let wanted = format!("{} {}{part}{}", word("verb"), word("resource"), word("subresource"));
        let mut answer = asked.body.clone();
        answer["status"] = json!({"allowed": wanted != but});
        return (201, answer);
    }
    match asked.path.as_str() {
        "/api" => kinds("", &[("pods", "Pod")]),
        "/apis" => kinds("apps", &[("daemonsets", "DaemonSet")]),
        "/api/v1/nodes" => list(nodes),
        "/api/v1/namespaces/kube-system" => (
            200,
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": "c1"}}),
        ),
        "/api/v1/namespaces" => list(&[json!({"metadata": {"name": "kube-system", "uid": "c1"}})]),
        path => match path.strip_prefix("/api/v1/nodes/") {
            Some(name) => {
                let mut node =
                    nodes.iter().find(|n| n["metadata"]["name"] == name).unwrap().clone();
                if asked.method == "PATCH" {
                    node["spec"]["unschedulable"] = asked.body["spec"]["unschedulable"].clone();
                }
                (200, node)
            }
            None => list(&[]),
        },
    }
}

/// An agent at the port where agents listen, at an address of this machine that no other test of this or another run has.
#[cfg(target_os = "linux")]
pub async fn at_home(node: &str, desk: &Desk) -> (std::net::SocketAddr, Arc<StandIn>) {
    use std::sync::atomic::{AtomicU8, Ordering};
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = [127, 100 | (high >> 2), low, NEXT.fetch_add(1, Ordering::Relaxed)];
    StandIn::named(node).serve_at(desk, node, "pki", (ip, 7443).into()).await
}
