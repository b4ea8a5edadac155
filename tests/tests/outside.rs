//! The stand-in for GitHub, asked over real TLS: its pages, its refusals, and that it notes what was done.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use lifeline_lab::pki::Authority;
use lifeline_lab::standin::github::{GitHub, Issue, On, Trouble, What};
use lifeline_lab::standin::http;
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

const TOKEN: &str = "github_pat_canary";

struct Desk {
    github: GitHub,
    at: SocketAddr,
    tls: TlsConnector,
    // The certificate is read once, at the start.
    _folder: tempfile::TempDir,
}

struct Reply {
    status: u16,
    link: String,
    body: Value,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let authority = Authority::new().unwrap();
        let pair = authority.kubelet_serving("github", "127.0.0.1").unwrap();
        std::fs::write(path("crt"), pair.certificate).unwrap();
        std::fs::write(path("key"), pair.key).unwrap();
        std::fs::write(path("ca"), authority.server_ca()).unwrap();
        let issues = vec![Issue::open(110, "Phase 2"), Issue::open(95, "Architecture")];
        let github = GitHub::new(TOKEN, "ryan-taylor/oceanid", issues);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = github.serve(listener, &path("crt"), &path("key")).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(http::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(http::authorities(&path("ca")).unwrap())
            .with_no_client_auth();
        Self { github, at, tls: TlsConnector::from(Arc::new(config)), _folder: folder }
    }

    async fn ask_as(&self, agent: &str, token: &str, line: &str, body: Value) -> Reply {
        let (method, path) = line.split_once(' ').unwrap();
        let tcp = tokio::net::TcpStream::connect(self.at).await.unwrap();
        let name = rustls::pki_types::ServerName::from(self.at.ip());
        let stream = self.tls.connect(name, tcp).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "github");
        if !agent.is_empty() {
            request = request.header("user-agent", agent);
        }
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = request.body(Full::new(Bytes::from(text))).unwrap();
        let response: Response<_> = sender.send_request(request).await.unwrap();
        let link = response.headers().get("link").map(|l| l.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Reply { status, link: link.unwrap_or_default(), body }
    }

    async fn ask(&self, line: &str, body: Value) -> Reply {
        self.ask_as("test", TOKEN, line, body).await
    }
}

const ISSUE: &str = "/repos/ryan-taylor/oceanid/issues/110";

#[tokio::test]
async fn who_is_unknown_or_unnamed_learns_nothing() {
    let desk = Desk::new();
    let get = format!("GET {ISSUE}");
    assert_eq!(desk.ask_as("test", "", &get, Value::Null).await.status, 404);
    assert_eq!(desk.ask_as("test", "other", &get, Value::Null).await.status, 401);
    assert_eq!(desk.ask_as("", TOKEN, &get, Value::Null).await.status, 403);
    assert_eq!(desk.ask(&get, Value::Null).await.body["state"], "open");
    assert_eq!(desk.ask("GET /repos/ryan-taylor/oceanid/issues/7", Value::Null).await.status, 404);
}

#[tokio::test]
async fn comments_come_in_pages_oldest_first() {
    let desk = Desk::new();
    for n in 0..31 {
        let body = json!({"body": format!("comment {n}")});
        assert_eq!(desk.ask(&format!("POST {ISSUE}/comments"), body).await.status, 201);
    }
    let first = desk.ask(&format!("GET {ISSUE}/comments"), Value::Null).await;
    assert_eq!(first.body.as_array().unwrap().len(), 30);
    assert_eq!(first.body[0]["body"], "comment 0");
    assert!(first.link.contains("page=2>; rel=\"next\""), "{}", first.link);
    let second = desk.ask(&format!("GET {ISSUE}/comments?page=2"), Value::Null).await;
    assert_eq!(second.body[0]["body"], "comment 30");
    assert!(!second.link.contains("next"), "{}", second.link);
    let all = desk.ask(&format!("GET {ISSUE}/comments?per_page=100"), Value::Null).await;
    assert_eq!((all.body.as_array().unwrap().len(), all.link.as_str()), (31, ""));
    assert_eq!(desk.github.wishes().len(), 31);
}

#[tokio::test]
async fn a_reason_counts_only_with_a_change_of_state() {
    let desk = Desk::new();
    let patch = format!("PATCH {ISSUE}");
    let closed = desk.ask(&patch, json!({"state": "closed", "state_reason": "not_planned"})).await;
    assert_eq!((closed.status, &closed.body["state_reason"]), (200, &json!("not_planned")));
    let again = desk.ask(&patch, json!({"state": "closed", "state_reason": "completed"})).await;
    assert_eq!(again.body["state_reason"], "not_planned");
    assert_eq!(desk.ask(&patch, json!({"state": "blocked"})).await.status, 422);
    assert_eq!(desk.github.issue(110).unwrap().state, "closed");
}

#[tokio::test]
async fn a_label_comes_into_being_when_it_is_set() {
    let desk = Desk::new();
    let labels = format!("{ISSUE}/labels");
    let set = desk.ask(&format!("POST {labels}"), json!({"labels": ["blocked"]})).await;
    assert_eq!((set.status, &set.body[0]["name"]), (200, &json!("blocked")));
    let twice = json!({"name": "blocked"});
    let made = desk.ask("POST /repos/ryan-taylor/oceanid/labels", twice).await;
    assert_eq!((made.status, &made.body["errors"][0]["code"]), (422, &json!("already_exists")));
    assert_eq!(desk.ask(&format!("DELETE {labels}/blocked"), Value::Null).await.status, 200);
    assert!(desk.github.issue(110).unwrap().labels.is_empty());
}

#[tokio::test]
async fn a_comment_can_be_posted_while_its_answer_is_lost() {
    let desk = Desk::new();
    desk.github.trouble(Trouble::granted(What::Html(502)));
    let post = format!("POST {ISSUE}/comments");
    assert_eq!(desk.ask(&post, json!({"body": "once"})).await.status, 502);
    assert_eq!(desk.github.issue(110).unwrap().comments.len(), 1);
    desk.github.trouble(Trouble::once(On::Wishes, What::Status(500)));
    assert_eq!(desk.ask(&post, json!({"body": "never"})).await.status, 500);
    desk.github.read_only(true);
    assert_eq!(desk.ask(&post, json!({"body": "never"})).await.status, 403);
    desk.github.read_only(false);
    desk.github.change(110, |i| i.locked = true);
    assert_eq!(desk.ask(&post, json!({"body": "never"})).await.status, 403);
    assert_eq!(desk.github.issue(110).unwrap().comments.len(), 1);
}
