//! One HTTPS exchange at a time, on a connection of its own, so that it is always known whether anything was sent.
//!
//! Redirects are not followed: the token goes to the configured host and nowhere else.

use crate::secret::Secret;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// TCP must connect within this, and TLS must be done within as much again.
const CONNECT: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const MOST: usize = 4 << 20;
/// GitHub's and the provider's fronts refuse who does not say who he is.
const AGENT: &str = concat!("lifeline-ctl/", env!("CARGO_PKG_VERSION"));

/// Where it is, and whom there is believed.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// `https://host[:port]`, without a path.
    pub api: &'a str,
    /// Believed instead of the system's authorities.
    pub ca: Option<&'a Path>,
    /// How long one answer may take.
    pub timeout: Duration,
}

/// One question or wish.
pub trait Ask {
    /// Its method.
    fn method(&self) -> Method;
    /// Its path.
    fn path(&self) -> String;
    /// What goes with it; it may hold a secret, so it is never shown.
    fn body(&self) -> Option<zeroize::Zeroizing<String>>;
    /// The form of answers that is wanted.
    fn accept(&self) -> &'static str {
        "application/json"
    }
}

/// Why no answer came.
#[derive(Debug)]
pub enum Missed {
    /// Nothing was sent.
    Unsent(String),
    /// It was sent, and what became of it is not known.
    Unclear(String),
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Body, as text.
    pub body: String,
    /// When to come back, if it was said.
    pub wait: Option<Duration>,
    /// Does it call itself JSON?
    pub json: bool,
}

/// The way there.
pub struct Wire {
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
    token: Secret,
    answer: Duration,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wire to {}:{}", self.host, self.port)
    }
}

impl Wire {
    /// Prepares everything; dials nobody. The text says why nobody could be believed.
    pub fn new(place: &Place<'_>, token: Secret) -> Result<Self, String> {
        let uri: Uri = place.api.parse().map_err(|_| "no address".to_owned())?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots(place.ca)?)
            .with_no_client_auth();
        Ok(Self { host, port, tls: Arc::new(tls), token, answer: place.timeout })
    }

    /// Whose words are shown must not show the token.
    pub fn token(&self) -> &Secret {
        &self.token
    }

    /// Sends a call and reads the answer.
    pub async fn exchange(&self, call: &impl Ask) -> Result<Reply, Missed> {
        let unsent = Missed::Unsent;
        let stream = self.connect().await.map_err(unsent)?;
        let request = self.request(call).map_err(unsent)?;
        let unclear = Missed::Unclear;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| unsent(e.to_string()))?;
        // It ends with the exchange: when the sender is dropped, or when the time is up.
        let talk = async {
            let exchange = async {
                let response = sender.send_request(request).await?;
                let (head, body) = response.into_parts();
                let body = Limited::new(body, MOST).collect().await;
                Ok::<_, hyper::Error>((head, body.map(http_body_util::Collected::to_bytes)))
            };
            tokio::pin!(exchange, connection);
            tokio::select! {
                done = &mut exchange => done,
                // The other side closed, perhaps without TLS's own goodbye; what it had said before is still to be read.
                broke = &mut connection => {
                    exchange.await.map_err(|e| broke.err().unwrap_or(e))
                }
            }
        };
        let (head, body) = match timeout(self.answer, talk).await {
            Err(_) => return Err(unclear(format!("no answer within {} s", self.answer.as_secs()))),
            Ok(Err(e)) => {
                return Err(unclear(format!(
                    "the connection broke off: {}",
                    crate::obstacle::chain(&e)
                )));
            }
            Ok(Ok(done)) => done,
        };
        let body = body.map_err(|e| unclear(format!("its answer cannot be read: {e}")))?;
        let text =
            |name: HeaderName| head.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
        // GitHub says it so, in seconds since the epoch, when the hour's questions are spent.
        let number = |name| text(name).and_then(|t| t.trim().parse::<i64>().ok());
        let spent = (number(HeaderName::from_static("x-ratelimit-remaining")) == Some(0))
            .then(|| number(HeaderName::from_static("x-ratelimit-reset")))
            .flatten()
            .map(|at| at.saturating_sub(jiff::Timestamp::now().as_second()).max(0))
            .and_then(|s| u64::try_from(s).ok())
            .map(Duration::from_secs);
        Ok(Reply {
            status: head.status,
            body: String::from_utf8_lossy(&body).into_owned(),
            wait: text(RETRY_AFTER).and_then(|t| wait(t, jiff::Timestamp::now())).or(spent),
            json: text(CONTENT_TYPE).is_some_and(|t| t.contains("json")),
        })
    }

    fn request(&self, call: &impl Ask) -> Result<Request<Full<Bytes>>, String> {
        let bearer = zeroize::Zeroizing::new(format!("Bearer {}", self.token.expose()));
        let mut authorization = HeaderValue::from_str(&bearer)
            .map_err(|_| "the token has characters no token has".to_owned())?;
        authorization.set_sensitive(true);
        let host = match self.port {
            443 => self.host.clone(),
            port => format!("{}:{port}", self.host),
        };
        let mut request = Request::builder()
            .method(call.method())
            .uri(call.path())
            .header(HOST, host)
            .header(ACCEPT, call.accept())
            .header(USER_AGENT, AGENT)
            .header(AUTHORIZATION, authorization);
        let body = match call.body() {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::copy_from_slice(body.as_bytes())
            }
            None => Bytes::new(),
        };
        request.body(Full::new(body)).map_err(|e| e.to_string())
    }

    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let target = (self.host.as_str(), self.port);
        let found = match timeout(CONNECT, tokio::net::lookup_host(target)).await {
            Ok(Ok(found)) => found,
            Ok(Err(e)) => return Err(format!("look {} up: {e}", self.host)),
            Err(_) => {
                return Err(format!(
                    "look {} up: no answer within {} s",
                    self.host,
                    CONNECT.as_secs()
                ));
            }
        };
        let mut last = format!("{} has no address", self.host);
        // A name with a dozen dead addresses must not cost a minute.
        for address in found.take(4) {
            let tcp = match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => tcp,
                Ok(Err(e)) => {
                    last = format!("connect to {address}: {e}");
                    continue;
                }
                Err(_) => {
                    last =
                        format!("connect to {address}: no answer within {} s", CONNECT.as_secs());
                    continue;
                }
            };
            let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
            let connector = TlsConnector::from(Arc::clone(&self.tls));
            match timeout(CONNECT, connector.connect(name, tcp)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(e)) => last = format!("TLS with {address}: {e}"),
                Err(_) => {
                    last = format!("TLS with {address}: no answer within {} s", CONNECT.as_secs());
                }
            }
        }
        Err(last)
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        return match added {
            0 => Err("this machine has no certificate authorities".to_owned()),
            _ => Ok(roots),
        };
    };
    let wrong = |e: String| format!("{}: {e}", path.display());
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))?;
    for der in certificates {
        let der = der.map_err(|e| wrong(e.to_string()))?;
        roots.add(der).map_err(|e| wrong(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

/// `Retry-After` is a number of seconds, or a moment (RFC 9110, 10.2.3).
fn wait(text: &str, now: jiff::Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let moment = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    let seconds = moment.as_second().saturating_sub(now.as_second());
    u64::try_from(seconds.max(0)).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_retry_after_are_understood() {
        let now = "2025-10-13T12:00:00Z".parse().unwrap();
        assert_eq!(wait("30", now), Some(Duration::from_secs(30)));
        assert_eq!(wait("Mon, 13 Oct 2025 12:00:07 GMT", now), Some(Duration::from_secs(7)));
        assert_eq!(wait("Mon, 13 Oct 2025 11:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(wait("soon", now), None);
    }
}
