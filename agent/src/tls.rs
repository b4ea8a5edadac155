//! Trust: certificates and keys as one value that is swapped whole, and asked again for each call.
//!
//! Why asked again: a connection lives for hours, and its certificate may expire or be denied meanwhile, or the authority
//! be replaced. Checking one signature costs about 0.1 ms; forgetting to costs the node.

use crate::config::{self, Tls};
use crate::expiry;
use crate::roles::{self, Caller, Refused};
use lifeline_core::expiry::Certificate;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why certificates cannot be used. The ones in use stay in use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read.
    #[error("read certificates from {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// A PEM file holds no certificate. Rubbish reads as an empty list, not as an error, so it is asked for.
    #[error("read certificates from {path}: there is none in it (is it PEM?)")]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// The authority's certificate is none.
    #[error("use {path} as the authority")]
    Authority {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// No verifier can be made of it.
    #[error("use {path} to check callers")]
    Verifier {
        /// Which.
        path: PathBuf,
        /// Why.
        source: VerifierBuilderError,
    },
    /// Who is denied is not known. Nobody is let in on a guess.
    #[error("read denied serial numbers from {path}")]
    Denied {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of that file is none.
    #[error(
        "read denied serial numbers from {path}, line {line}: it begins with no hexadecimal number, such as 1A:2B"
    )]
    DeniedLine {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// Certificate and key do not belong together.
    #[error("use certificate {cert} with key {key}")]
    Pair {
        /// Certificate.
        cert: PathBuf,
        /// Key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// Whom the agent believes, and how it shows itself.
#[derive(Debug)]
pub struct Trust {
    server: Arc<ServerConfig>,
    gate: Arc<Gate>,
    cluster: String,
    ends: Vec<Certificate>,
}

impl Trust {
    /// Reads everything; nothing is half-loaded.
    ///
    /// # Errors
    /// When any file cannot be used.
    pub fn load(tls: &Tls, cluster: &str) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let gate = Arc::new(Gate::new(tls, &provider)?);
        let chain = certificates(&tls.cert)?;
        let authorities = certificates(&tls.ca)?;
        let ends = chain.first().map(|own| expiry::of(own, &authorities)).unwrap_or_default();
        let key = PrivateKeyDer::from_pem_file(&tls.key)
            .map_err(|source| TlsError::Read { path: tls.key.clone(), source })?;
        let pair = |source| TlsError::Pair { cert: tls.cert.clone(), key: tls.key.clone(), source };
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(pair)?
            .with_client_cert_verifier(gate.clone())
            .with_single_cert(chain, key)
            .map_err(pair)?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        // A ticket would let a caller come back without its certificate being looked at.
        server.send_tls13_tickets = 0;
        Ok(Self { server: Arc::new(server), gate, cluster: cluster.to_string(), ends })
    }

    /// How handshakes are to be made now.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// When what is shown ends, and the authority that signed it.
    pub fn ends(&self) -> &[Certificate] {
        &self.ends
    }

    /// Serial numbers that are refused, hexadecimal.
    pub fn denied(&self) -> Vec<String> {
        self.gate.denied.iter().map(|serial| hex(serial)).collect()
    }

    /// Who shows this chain, as of now?
    ///
    /// # Errors
    /// When the chain is not to be believed, or gives no role here.
    pub fn ask(&self, chain: &[CertificateDer<'_>]) -> Result<Caller, Refused> {
        let (own, others) = chain.split_first().ok_or(Refused::NoCertificate)?;
        match self.gate.verify_client_cert(own, others, UnixTime::now()) {
            Ok(_) => roles::role(own, &self.cluster),
            Err(why) => Err(refusal(&why, own)),
        }
    }
}

/// Says in our words why TLS turned somebody away.
pub fn refusal(why: &rustls::Error, own: &[u8]) -> Refused {
    match why {
        rustls::Error::NoCertificatesPresented => Refused::NoCertificate,
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Refused::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Refused::NotYet
            }
            CertificateError::UnknownIssuer => Refused::WrongAuthority,
            // A certificate of the same name from another authority fails here.
            CertificateError::BadSignature => Refused::WrongAuthority,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Refused::ServerOnly
            }
            CertificateError::Revoked => {
                Refused::Denied { serial: hex(&roles::serial_of(own).unwrap_or_default()) }
            }
            other => Refused::Unreadable { why: format!("{other:?}") },
        },
        other => Refused::Unreadable { why: other.to_string() },
    }
}

/// A serial number as `ctl pki show` and the messages have it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":")
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// When there is none, or the file cannot be read.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |source| TlsError::Read { path: path.into(), source };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(read)?
        .collect::<Result<_, _>>()
        .map_err(read)?;
    if found.is_empty() {
        return Err(TlsError::Empty { path: path.into() });
    }
    Ok(found)
}

/// The authorities of a PEM file.
///
/// # Errors
/// When there is none, or one cannot be used.
pub fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path)? {
        roots.add(authority).map_err(|source| TlsError::Authority { path: path.into(), source })?;
    }
    Ok(roots)
}

/// The ordinary check of a client's chain, and the list of denied serial numbers.
#[derive(Debug)]
struct Gate {
    inner: Arc<dyn ClientCertVerifier>,
    denied: Vec<Vec<u8>>,
}

impl Gate {
    fn new(tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let roots = Arc::new(roots(&tls.ca)?);
        let inner = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|source| TlsError::Verifier { path: tls.ca.clone(), source })?;
        let mut denied = denied(&tls.denied)?;
        for serial in tls.denied_serials.iter().filter_map(|s| config::serial(s)) {
            if !denied.contains(&serial) {
                denied.push(serial);
            }
        }
        Ok(Self { inner, denied })
    }
}

/// The serial numbers in a file, each the first word of its line; `#` begins a remark. No file is none.
fn denied(path: &Path) -> Result<Vec<Vec<u8>>, TlsError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(TlsError::Denied { path: path.into(), source }),
    };
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let Some(word) = line.split('#').next().unwrap_or_default().split_whitespace().next()
        else {
            continue;
        };
        let bad = || TlsError::DeniedLine { path: path.into(), line: at + 1 };
        found.push(config::serial(word).ok_or_else(bad)?);
    }
    Ok(found)
}

impl ClientCertVerifier for Gate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(own, others, now)?;
        let serial = roles::serial_of(own)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if self.denied.contains(&serial) {
            return Err(rustls::Error::InvalidCertificate(CertificateError::Revoked));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
