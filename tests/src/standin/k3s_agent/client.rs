//! The kubelet's connection to the API server: one, kept open, HTTP/2 over TLS.
//!
//! Copies client-go: a ping after 30 s without a byte, dead 15 s later (`apimachinery/pkg/util/net/http.go`); a request has
//! 10 s (`cmd/kubelet/app/server.go`, the heartbeat client); connections are closed on demand (`closeAllConns`).

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use tokio::{net::TcpStream, sync::Mutex, task::AbortHandle, time::timeout};
use tokio_rustls::TlsConnector;

use crate::standin::http;

const READ_IDLE: Duration = Duration::from_secs(30);
const PING: Duration = Duration::from_secs(15);
const REQUEST: Duration = Duration::from_secs(10);

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body; `null` when it is not JSON.
    pub body: Value,
}

struct Open {
    send: http2::SendRequest<Full<Bytes>>,
    task: AbortHandle,
}

/// The connection, dialled when it is needed.
pub struct Client {
    at: SocketAddr,
    tls: TlsConnector,
    open: Mutex<Option<Open>>,
}

/// The kubelet's TLS, from k3s's files.
pub fn tls(data: &Path) -> anyhow::Result<TlsConnector> {
    let roots = http::authorities(&data.join("server-ca.crt"))?;
    let chain = http::certificates(&data.join("client-kubelet.crt"))?;
    let key = http::private_key(&data.join("client-kubelet.key"))?;
    let mut config = ClientConfig::builder_with_provider(http::provider())
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .context("use the kubelet's certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Opens an HTTP/2 connection over TLS and returns its two halves.
pub async fn dial(
    at: SocketAddr,
    tls: &TlsConnector,
    keep_alive: bool,
) -> anyhow::Result<(
    http2::SendRequest<Full<Bytes>>,
    http2::Connection<
        TokioIo<tokio_rustls::client::TlsStream<TcpStream>>,
        Full<Bytes>,
        TokioExecutor,
    >,
)> {
    let stream = TcpStream::connect(at).await.with_context(|| format!("dial {at}"))?;
    let stream = tls
        .connect(ServerName::IpAddress(at.ip().into()), stream)
        .await
        .context("TLS handshake")?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    if keep_alive {
        builder.timer(TokioTimer::new()).keep_alive_interval(READ_IDLE);
        builder.keep_alive_timeout(PING).keep_alive_while_idle(true);
    }
    builder.handshake(TokioIo::new(stream)).await.context("HTTP/2 handshake")
}

/// Reads a whole answer.
pub async fn send(
    to: &mut http2::SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Answer> {
    let answer = to.send_request(request).await.context("send request")?;
    let status = answer.status();
    let body = answer.into_body().collect().await.context("read answer")?.to_bytes();
    Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or_default() })
}

impl Client {
    /// A client of the API server behind that address.
    #[must_use]
    pub fn new(at: SocketAddr, tls: TlsConnector) -> Self {
        Self { at, tls, open: Mutex::new(None) }
    }

    /// One request, bounded in time.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let content = if method == Method::PATCH {
            "application/strategic-merge-patch+json"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.at))
            .header("accept", "application/json")
            .header("content-type", content)
            .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
            .context("make request")?;
        let done = timeout(REQUEST, async { send(&mut self.connection().await?, request).await });
        done.await.unwrap_or_else(|_| {
            Err(anyhow!(
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            ))
        })
    }

    async fn connection(&self) -> anyhow::Result<http2::SendRequest<Full<Bytes>>> {
        let mut open = self.open.lock().await;
        if let Some(found) = open.as_ref()
            && !found.send.is_closed()
        {
            return Ok(found.send.clone());
        }
        let (send, connection) = dial(self.at, &self.tls, true).await?;
        let task = tokio::spawn(async move {
            if let Err(cause) = connection.await {
                crate::say!("http2: client connection lost: {cause}");
            }
        });
        *open = Some(Open { send: send.clone(), task: task.abort_handle() });
        Ok(send)
    }

    /// Closes the connection; the next request dials anew.
    pub async fn close_all(&self) {
        if let Some(open) = self.open.lock().await.take() {
            open.task.abort();
        }
    }
}
