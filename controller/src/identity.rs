//! Who we are to agents, checked before anybody is dialled.
//!
//! A server refuses a bad client certificate in words no operator can use (TLS 1.3 merely hangs up), so everything that
//! can be known about our own certificate is known here first.

use crate::config::Tls;
use crate::files;
use crate::pki::PkiError;
use crate::pki::card::{self, Card};
use crate::pki::subject::{Role, Subject};
use crate::words::local_date_s;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use std::path::PathBuf;
use std::sync::Arc;

/// Why our own certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// A certificate cannot be read.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// No key in the key file.
    #[error("read private key {}", path.display())]
    Key {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Too old.
    #[error("use your certificate {}: it expired on {}", path.display(), local_date_s(*until_s))]
    Expired {
        /// File.
        path: PathBuf,
        /// When.
        until_s: i64,
        /// Whose.
        whose: Subject,
    },
    /// Too young.
    #[error("use your certificate {}: it is valid only from {}", path.display(), local_date_s(*from_s))]
    NotYet {
        /// File.
        path: PathBuf,
        /// When.
        from_s: i64,
    },
    /// An agent's.
    #[error("use certificate {} to call an agent: it is for servers only ({whose})", path.display())]
    ServerOnly {
        /// File.
        path: PathBuf,
        /// Whose, as far as can be said.
        whose: String,
    },
    /// None of ours.
    #[error("use your certificate {}: it names no operator and no viewer ({found})", path.display())]
    Nobody {
        /// File.
        path: PathBuf,
        /// What it names instead.
        found: String,
    },
    /// Another cluster's.
    #[error("use your certificate {}: it is for cluster {theirs}, and the configuration is for {ours}", path.display())]
    Elsewhere {
        /// File.
        path: PathBuf,
        /// In the certificate.
        theirs: String,
        /// In the configuration.
        ours: String,
    },
    /// Another authority's.
    #[error("use your certificate {}: it was not issued by the authority in {}", cert.display(), ca.display())]
    Stranger {
        /// Certificate.
        cert: PathBuf,
        /// Authority.
        ca: PathBuf,
    },
    /// Certificate and key, or the authority itself, are refused by the TLS library.
    #[error("use {} with its key", path.display())]
    Refused {
        /// Certificate.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// Certificate and key are not a pair.
    #[error("use {} with {}: the key does not belong to the certificate", cert.display(), key.display())]
    NotAPair {
        /// Certificate.
        cert: PathBuf,
        /// Key.
        key: PathBuf,
    },
}

/// Our certificate and key, and the authority we believe.
#[derive(Debug)]
pub struct Identity {
    /// Who we are.
    pub subject: Subject,
    /// Whom we believe.
    pub roots: Arc<RootCertStore>,
    /// Our certificate and what stands behind it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Our key.
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads and checks everything.
    pub fn load(tls: &Tls, cluster: &str) -> Result<Self, IdentityError> {
        let path = || tls.cert.clone();
        let mut roots = RootCertStore::empty();
        for der in card::chain(&tls.ca)? {
            roots
                .add(der)
                .map_err(|source| IdentityError::Refused { path: tls.ca.clone(), source })?;
        }
        let roots = Arc::new(roots);
        let chain = card::chain(&tls.cert)?;
        let mine = Card::from_file(&tls.cert)?;
        let whose = mine.whose();
        let found = || whose.as_ref().map_or_else(|| mine.subject.clone(), ToString::to_string);
        if !mine.client {
            return Err(IdentityError::ServerOnly { path: path(), whose: found() });
        }
        let subject = match &whose {
            Some(s) if s.role != Role::Agent => s.clone(),
            _ => return Err(IdentityError::Nobody { path: path(), found: found() }),
        };
        if subject.cluster != cluster {
            let (theirs, ours) = (subject.cluster, cluster.to_owned());
            return Err(IdentityError::Elsewhere { path: path(), theirs, ours });
        }
        let now = jiff::Timestamp::now().as_second();
        if mine.until_s <= now {
            return Err(IdentityError::Expired {
                path: path(),
                until_s: mine.until_s,
                whose: subject,
            });
        }
        if mine.from_s > now {
            return Err(IdentityError::NotYet { path: path(), from_s: mine.from_s });
        }
        let stranger = || IdentityError::Stranger { cert: path(), ca: tls.ca.clone() };
        issued_by(&roots, &chain).map_err(|()| stranger())?;
        let text = files::read_key(&tls.key)?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|source| IdentityError::Key { path: tls.key.clone(), source })?;
        pair(tls, &chain, &key)?;
        Ok(Self { subject, roots, chain, key })
    }
}

/// Asks the verifier a server would use: there is no second opinion on what "issued by" means.
fn issued_by(roots: &Arc<RootCertStore>, chain: &[CertificateDer<'static>]) -> Result<(), ()> {
    let (first, rest) = chain.split_first().ok_or(())?;
    let verifier = WebPkiClientVerifier::builder(Arc::clone(roots)).build().map_err(|_| ())?;
    verifier.verify_client_cert(first, rest, UnixTime::now()).map(|_| ()).map_err(|_| ())
}

fn pair(
    tls: &Tls,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(), IdentityError> {
    let provider = rustls::crypto::ring::default_provider();
    match rustls::sign::CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(IdentityError::NotAPair { cert: tls.cert.clone(), key: tls.key.clone() })
        }
        Err(source) => Err(IdentityError::Refused { path: tls.cert.clone(), source }),
    }
}
