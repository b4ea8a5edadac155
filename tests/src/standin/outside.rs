//! What the services beyond the cluster share: HTTPS on a thread of its own, and what was asked of them.

use super::http::{self, Answer};
use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, StatusCode};
use rustls::ServerConfig;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Method and path.
    pub line: String,
    /// Its body.
    pub body: String,
    /// The status it was answered with, 0 for none.
    pub status: u16,
    /// When it came.
    pub at: Instant,
}

impl Told {
    /// A request that has just come.
    #[must_use]
    pub fn now(line: String, body: String) -> Self {
        Self { line, body, status: 0, at: Instant::now() }
    }
}

/// Serves on a thread of its own for as long as the process lives, so that a caller needs no runtime.
pub fn serve<F, R>(
    name: &'static str,
    listener: TcpListener,
    (cert, key): (&Path, &Path),
    answer: F,
) -> anyhow::Result<SocketAddr>
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let at = listener.local_addr().with_context(|| format!("ask where the {name} listens"))?;
    listener.set_nonblocking(true).context("listen without blocking")?;
    let tls = ServerConfig::builder_with_provider(http::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(http::certificates(cert)?, http::private_key(key)?)?;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .with_context(|| format!("start the runtime of the {name}"))?;
    let serve = async move {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, acceptor) = (answer.clone(), acceptor.clone());
            tokio::spawn(async move {
                // Who cannot agree on TLS with us is not told more than TLS tells him.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                http::serve(stream, answer).await;
            });
        }
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(serve))
        .with_context(|| format!("start the {name}"))?;
    Ok(at)
}

/// What stands in front of such a service answers people, not programs.
#[must_use]
pub fn page_for_people(status: u16) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let page = "<!DOCTYPE html>\n<html><head><title>Just a moment...</title></head><body>Checking your browser</body></html>";
    let mut answer = http::text(status, page);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=UTF-8"));
    answer
}

/// Closes the connection under the client: a handler cannot, one that panics does, and nothing else.
pub fn hang_up() -> ! {
    std::panic::resume_unwind(Box::new("hang up"))
}
