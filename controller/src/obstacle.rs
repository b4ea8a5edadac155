//! What stood between us and an agent, in words an operator can use.
//!
//! TLS 1.3 tells a client that its certificate was refused only after the client believes the handshake done; by then it
//! looks like "broken pipe". So the connection is listened to ([`Listening`]) until the other side has said its first word.

use crate::tls::NotThatAgent;
use crate::words::local_date_s;
use rustls::{AlertDescription, CertificateError};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::{Code, Status};

/// Why a path did not lead to the agent.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// Its name could not be looked up.
    #[error("look its name up: {0}")]
    Resolve(io::Error),
    /// No connection.
    #[error("connect: {0}")]
    Connect(io::Error),
    /// Nothing came back.
    #[error("{stage}: no answer within {} s", limit.as_secs())]
    Silent {
        /// What was being done.
        stage: &'static str,
        /// How long.
        limit: Duration,
    },
    /// Its certificate is another authority's.
    #[error("its certificate was not issued by the authority in your configuration")]
    WrongCa,
    /// Its certificate is too old.
    #[error("its certificate has expired{}", when(*.0))]
    Expired(Option<i64>),
    /// Its certificate is too young.
    #[error("its certificate is not valid yet{}", when(*.0))]
    NotYet(Option<i64>),
    /// Its certificate is another's.
    #[error("its certificate is for {}, not for {wanted}", found.join(", "))]
    OtherName {
        /// Whom we called.
        wanted: String,
        /// Names it has.
        found: Vec<String>,
    },
    /// Its certificate is the cluster's, but no agent's.
    #[error(transparent)]
    NotThatAgent(NotThatAgent),
    /// The agent on this machine is another node's.
    #[error("the agent there is {found}'s")]
    OtherNode {
        /// Whose.
        found: String,
    },
    /// It refused our certificate.
    #[error("your client certificate was not accepted: {0}")]
    NotAccepted(String),
    /// It does not speak TLS.
    #[error("what answers there does not speak TLS 1.3: {0}")]
    NotTls(rustls::Error),
    /// Anything else TLS.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    /// The connection broke off.
    #[error("the connection broke off: {0}")]
    Broken(String),
    /// SSH does not lead there.
    #[error(transparent)]
    Ssh(crate::ssh::SshError),
    /// It answered with an error.
    #[error("it answered: {}", .0.message())]
    Answered(Status),
}

fn when(at: Option<i64>) -> String {
    at.map(|s| format!(" ({})", local_date_s(s))).unwrap_or_default()
}

impl Obstacle {
    /// From a failed handshake.
    pub fn from_handshake(error: &io::Error) -> Self {
        match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(e) => Self::from_tls(e.clone()),
            None => Self::Broken(error.to_string()),
        }
    }

    fn from_tls(error: rustls::Error) -> Self {
        use rustls::Error as E;
        let seconds = |t: rustls::pki_types::UnixTime| i64::try_from(t.as_secs()).ok();
        match error {
            E::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => {
                // Two authorities of clusters of one name differ only in their keys: "bad signature".
                Self::WrongCa
            }
            E::InvalidCertificate(CertificateError::Expired) => Self::Expired(None),
            E::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
                Self::Expired(seconds(not_after))
            }
            E::InvalidCertificate(CertificateError::NotValidYet) => Self::NotYet(None),
            E::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
                Self::NotYet(seconds(not_before))
            }
            E::InvalidCertificate(CertificateError::NotValidForNameContext {
                expected,
                presented,
            }) => {
                let names = presented.iter().map(|p| plain_name(p));
                // The URI says the same as the name, and is for programs.
                let found = names.filter(|n| !n.starts_with("lifeline:")).collect();
                Self::OtherName { wanted: expected.to_str().into_owned(), found }
            }
            E::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<NotThatAgent>() {
                    Some(not) => Self::NotThatAgent(not.clone()),
                    None => Self::Tls(E::InvalidCertificate(CertificateError::Other(other))),
                }
            }
            E::AlertReceived(alert) => match refusal(alert) {
                Some(why) => Self::NotAccepted(why.to_owned()),
                None => Self::Tls(E::AlertReceived(alert)),
            },
            E::InvalidMessage(_) | E::PeerIncompatible(_) | E::NoApplicationProtocol => {
                Self::NotTls(error)
            }
            other => Self::Tls(other),
        }
    }

    /// From a channel that could not be opened.
    pub fn from_transport(error: &tonic::transport::Error, fate: &Fate) -> Self {
        fate.obstacle().unwrap_or_else(|| Self::Broken(chain(error)))
    }

    /// From a first question that failed.
    pub fn from_status(status: Status, fate: &Fate) -> Self {
        if let Some(obstacle) = fate.obstacle() {
            return obstacle;
        }
        match status.code() {
            Code::Unauthenticated => Self::NotAccepted(status.message().to_owned()),
            Code::Unavailable | Code::Unknown if std::error::Error::source(&status).is_some() => {
                Self::Broken(chain(&status))
            }
            _ => Self::Answered(status),
        }
    }

    /// What to try.
    pub fn hint(&self, node: &str) -> Option<String> {
        Some(match self {
            Self::WrongCa => "compare `ctl pki show` of ca in your configuration with /etc/lifeline's ca.crt on the node: one of the two is another cluster's".into(),
            Self::Expired(_) => format!("issue a new one: ctl pki agent {node} …; until then: ctl --socket /run/lifeline/agent.sock on the node"),
            Self::NotYet(_) => "compare the clocks of both machines".into(),
            Self::OtherName { .. } | Self::NotThatAgent(_) | Self::OtherNode { .. } => {
                format!("the address is another machine's: check [nodes.{node}] in the configuration")
            }
            Self::NotAccepted(_) => "check yours: ctl pki show operator.crt; the agent wants one of its own cluster's authority, in date and not denied".into(),
            Self::Connect(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                "the machine lives and its agent does not listen: systemctl status lifeline-agent".into()
            }
            Self::Connect(e) if e.kind() == io::ErrorKind::PermissionDenied => "the socket is root's: use sudo".into(),
            Self::NotTls(_) => "something else listens on that port".into(),
            _ => return None,
        })
    }
}

/// rustls presents names as its debug form: `DnsName("styx")`, `IpAddress(192.168.2.81)`.
fn plain_name(text: &str) -> String {
    let inner = text.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(text);
    inner.trim_matches('"').to_owned()
}

fn refusal(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::UnknownCA => "the agent does not know its authority",
        // A certificate of an authority of the same name and another key.
        AlertDescription::DecryptError => "the agent's authority did not issue it",
        AlertDescription::CertificateExpired => "the agent says it has expired",
        AlertDescription::CertificateRevoked => "it is denied on that node",
        AlertDescription::CertificateRequired => "the agent saw none",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => "the agent refused it",
        _ => return None,
    })
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        let more = c.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = c.source();
    }
    text
}

/// What has become of a connection.
#[derive(Debug, Default)]
pub struct Fate {
    heard: AtomicBool,
    broke: Mutex<Option<io::Error>>,
}

impl Fate {
    fn broke(&self, error: io::Error) {
        let mut broke = self.broke.lock().unwrap_or_else(PoisonError::into_inner);
        let says_more = |e: &io::Error| e.get_ref().is_some_and(|e| e.is::<rustls::Error>());
        // The alert says more than the broken pipe that comes before or after it.
        if broke.is_none() || (says_more(&error) && !broke.as_ref().is_some_and(says_more)) {
            *broke = Some(error);
        }
    }

    /// What the breaking means; `None` when nothing broke, or the other side had already spoken.
    fn obstacle(&self) -> Option<Obstacle> {
        let broke = self.broke.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        if let Some(tls) = broke.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            return Some(Obstacle::from_tls(tls.clone()));
        }
        // A server that speaks HTTP/2 speaks first. One that hangs up without a word after the handshake has seen our
        // certificate and did not want it.
        (!self.heard.load(Ordering::Relaxed)).then(|| {
            Obstacle::NotAccepted(format!("the agent hung up as soon as it had seen it ({broke})"))
        })
    }
}

/// A connection that remembers why it broke.
#[derive(Debug)]
pub struct Listening<S> {
    inner: S,
    fate: Arc<Fate>,
}

impl<S> Listening<S> {
    /// Listens to a connection.
    pub fn new(inner: S, fate: Arc<Fate>) -> Self {
        Self { inner, fate }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Listening<S> {
    /// A write failed: what the other side said before it hung up may still lie there to be read.
    fn last_words(&mut self, cx: &mut Context<'_>) {
        let mut scratch = [0; 1024];
        let mut buf = ReadBuf::new(&mut scratch);
        if let Poll::Ready(Err(e)) = Pin::new(&mut self.inner).poll_read(cx, &mut buf) {
            self.fate.broke(e);
        }
    }

    fn wrote<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(e)) = &done {
            self.fate.broke(copy(e));
            self.last_words(cx);
        }
        done
    }
}

/// `io::Error` cannot be cloned.
fn copy(e: &io::Error) -> io::Error {
    match e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(tls) => io::Error::new(e.kind(), tls.clone()),
        None => io::Error::new(e.kind(), e.to_string()),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = Pin::new(&mut self.inner).poll_read(cx, buf);
        match &done {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                self.fate.heard.store(true, Ordering::Relaxed);
            }
            Poll::Ready(Ok(())) => {
                self.fate.broke(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed"));
            }
            Poll::Ready(Err(e)) => self.fate.broke(copy(e)),
            Poll::Pending => {}
        }
        done
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(cx, done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.inner).poll_flush(cx);
        self.wrote(cx, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
