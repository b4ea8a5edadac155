//! A TLS connection to an API server, marked before it is dialled, and whether it is the cluster's own that answers.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lifeline_core::observation::Reach;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use socket2::{Domain, Protocol, SockAddr, Type};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep_until};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const EINPROGRESS: i32 = 115;
/// Between attempts.
const AGAIN: Duration = Duration::from_millis(300);
/// Attempts at a time.
const MOST: usize = 6;
/// Time enough for what answers quickly elsewhere, with three more attempts.
const AMPLE: Duration = Duration::from_secs(1);

/// Trusts the cluster's CA alone. With a client certificate when one is given.
///
/// # Errors
/// Says which file could not be read or used.
pub(super) fn config(ca: &Path, own: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let found = certificates(ca)?;
    let (added, _) = roots.add_parsable_certificates(found);
    if added == 0 {
        return Err(format!("read {}: no certificate in it", ca.display()));
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|e| format!("trust {}: {e}", ca.display()))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("set up TLS: {e}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OfTheCluster { inner }));
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| format!("read {}: {e}", key.display()))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| format!("use {}: {e}", cert.display()))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would not show the certificate again.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let why = |e: rustls::pki_types::pem::Error| format!("read {}: {e}", path.display());
    CertificateDer::pem_file_iter(path).map_err(why)?.collect::<Result<_, _>>().map_err(why)
}

/// How a call went, with the connection when it went well.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) reach: Reach,
    /// Source address the kernel chose.
    pub(super) src: Option<IpAddr>,
    pub(super) stream: Option<TlsStream<TcpStream>>,
}

/// How long a call may take: less once the same destination has answered along another way, for then the line is not slow,
/// and a heal must not wait for what is dead. On a bad line all take long, and all are waited for.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    start: Instant,
    limit: Duration,
    answered: watch::Receiver<Option<Duration>>,
}

impl Patience {
    /// Whoever gets an answer says so to the sender.
    pub(super) fn new(limit: Duration) -> (Self, watch::Sender<Option<Duration>>) {
        let (answer, answered) = watch::channel(None);
        (Self { start: Instant::now(), limit, answered }, answer)
    }

    /// How long it took until now.
    pub(super) fn taken(&self) -> Duration {
        self.start.elapsed()
    }

    /// Returns when it is used up.
    pub(super) async fn over(&self) {
        let mut answered = self.answered.clone();
        loop {
            let limit = match *answered.borrow_and_update() {
                Some(took) => self.limit.min((took * 10).max(AMPLE)),
                None => self.limit,
            };
            let end = self.start + limit;
            tokio::select! {
                () = sleep_until(end) => return,
                changed = answered.changed() => if changed.is_err() {
                    // Nobody is left who could still answer.
                    return sleep_until(end).await;
                },
            }
        }
    }
}

/// What the attempts of a call have come to so far.
#[derive(Debug, Default)]
struct Progress {
    tcp: AtomicBool,
    src: OnceLock<IpAddr>,
}

/// Dials and shakes hands until one attempt succeeds. A new one is begun while earlier ones hang: the kernel sends a lost SYN
/// again only after a second.
pub(super) async fn call(
    dst: SocketAddr,
    mark: u32,
    config: &Arc<ClientConfig>,
    patience: &Patience,
) -> Call {
    let progress = Progress::default();
    let mut attempts = FuturesUnordered::new();
    let mut again = interval(AGAIN);
    let mut over = pin!(patience.over());
    let (reach, stream) = loop {
        tokio::select! {
            () = &mut over => {
                let tcp = progress.tcp.load(Ordering::Relaxed);
                break (if tcp { Reach::TcpOnly } else { Reach::Silent }, None);
            }
            Some(ended) = attempts.next() => match ended {
                Ok(stream) => break (Reach::Tls, Some(stream)),
                // A reset, or a router's "unreachable", says nothing about the next attempt.
                Err(Reach::Silent | Reach::TcpOnly) => {}
                Err(reach) => break (reach, None),
            },
            _ = again.tick(), if attempts.len() < MOST => {
                attempts.push(attempt(dst, mark, Arc::clone(config), &progress));
            }
        }
    };
    drop(attempts);
    Call { reach, src: progress.src.get().copied(), stream }
}

async fn attempt(
    dst: SocketAddr,
    mark: u32,
    config: Arc<ClientConfig>,
    progress: &Progress,
) -> Result<TlsStream<TcpStream>, Reach> {
    let (socket, src) = dial(dst, mark).map_err(|e| unsent(&e))?;
    if let Some(src) = src {
        let _first = progress.src.set(src);
    }
    match connected(&socket).await {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => return Err(Reach::Refused),
        // A router's "unreachable", or a neighbour that does not answer: nothing came back from there.
        Err(_) => return Err(Reach::Silent),
        Ok(()) => progress.tcp.store(true, Ordering::Relaxed),
    }
    let name = ServerName::from(dst.ip());
    TlsConnector::from(config).connect(name, socket).await.map_err(|e| broken(&e))
}

/// Begins to connect and tells the source address the kernel chose, which is known at once.
fn dial(dst: SocketAddr, mark: u32) -> io::Result<(TcpStream, Option<IpAddr>)> {
    let socket = socket2::Socket::new(Domain::for_address(dst), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if mark != 0 {
        // Before connect: the SYN is routed by it, and so is all that follows.
        socket.set_mark(mark)?;
    }
    match socket.connect(&SockAddr::from(dst)) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(EINPROGRESS) => {}
        Err(e) => return Err(e),
    }
    let src = socket.local_addr().ok().and_then(|a| a.as_socket()).map(|a| a.ip());
    Ok((TcpStream::from_std(socket.into())?, src))
}

async fn connected(stream: &TcpStream) -> io::Result<()> {
    stream.writable().await?;
    match stream.take_error()? {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

/// What an error of `connect` or `send` itself says: the kernel would not send.
pub(super) fn unsent(error: &io::Error) -> Reach {
    match error.kind() {
        // On the loopback a refusal comes back at once.
        ErrorKind::ConnectionRefused => Reach::Refused,
        _ => Reach::Unsent(error.raw_os_error().unwrap_or(0)),
    }
}

/// A handshake that failed: somebody who speaks TLS but is not the cluster, or a connection that was cut.
fn broken(error: &io::Error) -> Reach {
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(_) => Reach::Stranger,
        None => Reach::TcpOnly,
    }
}

/// Accepts what the cluster's CA signed, whatever name and date are on it.
///
/// This decides whether the *path* leads to the cluster, and sends nothing secret. An endpoint may be missing among the names
/// (a load balancer in front), and a clock that jumped must not look like a stranger.
#[derive(Debug)]
struct OfTheCluster {
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for OfTheCluster {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError as Bad;
        let verify = |at| self.inner.verify_server_cert(end, between, name, ocsp, at);
        let mut verdict = verify(now);
        if let Err(rustls::Error::InvalidCertificate(
            Bad::Expired
            | Bad::ExpiredContext { .. }
            | Bad::NotValidYet
            | Bad::NotValidYetContext { .. },
        )) = &verdict
            && let Some(then) = middle(end)
        {
            verdict = verify(then);
        }
        match verdict {
            // The chain is checked before the name.
            Err(rustls::Error::InvalidCertificate(
                Bad::NotValidForName | Bad::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// A moment at which a certificate is valid.
fn middle(cert: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(cert).ok()?;
    let validity = parsed.validity();
    let mid = i64::midpoint(validity.not_before.timestamp(), validity.not_after.timestamp());
    Some(UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(mid).ok()?)))
}
