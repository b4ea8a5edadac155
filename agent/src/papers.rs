//! The node's own certificate and the list of denied ones: changed over the wire, kept on the disk whole or not at all, and taken
//! up while serving. A bad answer never replaces a good certificate, and a private key never leaves this machine.
//!
//! Why a key and its certificate lie ready as `.next` first: two files cannot be replaced at once. The certificate goes first; whoever
//! is cut off after it finds the key that belongs to it, and ends what was begun.

use crate::config::{self, Tls};
use crate::event;
use crate::lines::DEADLINE;
use crate::roles::{self, Operator};
use crate::sight::chain;
use crate::tls::{TlsError, Trust, certificates, hex, roots};
use arc_swap::ArcSwapOption;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::{ServerName, UnixTime};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

/// So many serial numbers are taken in one call.
const AT_ONCE: usize = 64;
/// So many are kept: each handshake looks through them.
const MOST: usize = 4096;

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PapersError {
    /// What was sent cannot be used.
    #[error("{what}")]
    Sent {
        /// What is wrong, and what to try.
        what: String,
    },
    /// No key was made, or another one meanwhile.
    #[error("take the certificate: no key lies ready for it; ask for a new request first")]
    Unasked,
    /// A key could not be made.
    #[error("make a key and a request")]
    Make(#[source] rcgen::Error),
    /// A file could not be used.
    #[error("{doing} {}", path.display())]
    File {
        /// `write`.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in use cannot be read any more.
    #[error("nothing is changed")]
    Tls(#[from] TlsError),
    /// The disk hangs.
    #[error("change the certificates: the disk has not answered for {} s", DEADLINE.as_secs())]
    Silent,
}

/// Certificates on the disk, and the trust that was made of them.
#[derive(Debug)]
pub struct Papers {
    cluster: String,
    node: String,
    trust: Arc<ArcSwapOption<Trust>>,
    /// Where they lie; held while they are changed, so that two operators do not undo each other's change.
    tls: Mutex<Tls>,
}

impl Papers {
    /// Has read nothing yet.
    pub fn new(tls: Tls, cluster: &str, node: &str, trust: Arc<ArcSwapOption<Trust>>) -> Arc<Self> {
        let (cluster, node) = (cluster.to_owned(), node.to_owned());
        Arc::new(Self { cluster, node, trust, tls: Mutex::new(tls) })
    }

    /// Reads everything, from these places on; says whether it is now what is in use.
    pub fn read(&self, tls: &Tls) -> bool {
        let mut held = match self.tls.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            // It waits for a disk, and nobody waits for it here.
            Err(TryLockError::WouldBlock) => {
                tracing::error!("certificates are not read again: they are being changed just now");
                return false;
            }
        };
        held.clone_from(tls);
        match self.load(tls) {
            Ok(new) => {
                self.trust.store(Some(Arc::new(new)));
                true
            }
            Err(why) => {
                if self.trust.load().is_some() {
                    tracing::error!("the certificates in use stay in use: {}", chain(&why));
                } else {
                    let why = chain(&why);
                    tracing::error!("only the local socket is served, until SIGHUP: {why}");
                }
                false
            }
        }
    }

    /// Ends a change that was cut off between its two files.
    fn load(&self, tls: &Tls) -> Result<Trust, TlsError> {
        let why = match Trust::load(tls, &self.cluster) {
            Err(why @ TlsError::Pair { .. }) => why,
            done => return done,
        };
        let ready = Tls { key: next(&tls.key), ..tls.clone() };
        if Trust::load(&ready, &self.cluster).is_err() {
            return Err(why);
        }
        match fs::rename(&ready.key, &tls.key).and_then(|()| sync_folder(&tls.key)) {
            Ok(()) => {
                tracing::info!("a change of certificates that was cut off has been ended");
                Trust::load(tls, &self.cluster)
            }
            Err(_) => Err(why),
        }
    }

    /// Does what may wait for the disk, on another thread.
    async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &Tls) -> Result<T, PapersError> + Send + 'static,
    ) -> Result<T, PapersError> {
        let ours = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let held = ours.tls.lock().unwrap_or_else(PoisonError::into_inner);
            work(&ours, &held)
        });
        match tokio::time::timeout(DEADLINE, work).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) | Err(_) => Err(PapersError::Silent),
        }
    }

    /// Refuses these certificates from now on; gives all that are refused.
    ///
    /// # Errors
    /// When a number is none, or the caller's own, or the disk does not take it: then nothing has changed.
    pub async fn deny(
        self: &Arc<Self>,
        who: &Operator,
        own: Option<Vec<u8>>,
        serials: Vec<String>,
    ) -> Result<Vec<String>, PapersError> {
        let who = who.name().to_owned();
        self.aside(move |ours, tls| ours.deny_now(tls, &who, own.as_deref(), &serials)).await
    }

    fn deny_now(
        &self,
        tls: &Tls,
        who: &str,
        own: Option<&[u8]>,
        serials: &[String],
    ) -> Result<Vec<String>, PapersError> {
        let sent = |what: String| PapersError::Sent { what: format!("deny certificates: {what}") };
        if serials.is_empty() || serials.len() > AT_ONCE {
            return Err(sent(format!("{} serial numbers, not 1 to {AT_ONCE}", serials.len())));
        }
        let mut new = Vec::new();
        for text in serials {
            let serial = config::serial(text).filter(|s| !s.is_empty() && s.len() <= 20);
            let serial = serial.ok_or_else(|| {
                let text: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
                sent(format!("{text:?} is no serial number, such as 1A:2B"))
            })?;
            if own == Some(&serial[..]) {
                return Err(sent(format!(
                    "{} is the one you call with: use another operator's to deny it",
                    hex(&serial)
                )));
            }
            new.push(serial);
        }
        // As it is on the disk, not as it was read once: somebody may have edited it.
        let before = self.load(tls)?.denied();
        new.retain(|s| !before.contains(&hex(s)));
        new.dedup();
        if before.len() + new.len() > MOST {
            return Err(sent(format!("more than {MOST} would be denied: begin a new authority")));
        }
        let mut text = match fs::read_to_string(&tls.denied) {
            Ok(text) => text,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                "# Certificates that are no longer welcome; written by ctl pki revoke.\n".to_owned()
            }
            Err(source) => {
                return Err(PapersError::File { doing: "read", path: tls.denied.clone(), source });
            }
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        for serial in &new {
            text += &format!("{} # by {who}\n", hex(serial));
        }
        if !new.is_empty() {
            put(&tls.denied, text.as_bytes())?;
        }
        let trust = self.load(tls)?;
        let all = trust.denied();
        self.trust.store(Some(Arc::new(trust)));
        for serial in &new {
            let words = format!("{who} denied the certificate with serial {}", hex(serial));
            event::tell(&event::TRUST, event::About::default(), &words);
        }
        Ok(all)
    }

    /// Makes a key that lies ready, and a request for it.
    ///
    /// # Errors
    /// When it cannot be made or kept.
    pub async fn request(self: &Arc<Self>, who: &Operator) -> Result<String, PapersError> {
        let who = who.name().to_owned();
        self.aside(move |_, tls| {
            let request = make(&next(&tls.key))?;
            tracing::info!("{who} asked for a certificate request; a new key lies ready");
            Ok(request)
        })
        .await
    }

    /// Takes a certificate for the key that lies ready; gives its serial number.
    ///
    /// # Errors
    /// When it is not for that key, this node, now; then the one in use stays in use.
    pub async fn take(
        self: &Arc<Self>,
        who: &Operator,
        pem: String,
    ) -> Result<String, PapersError> {
        let who = who.name().to_owned();
        self.aside(move |ours, tls| ours.take_now(tls, &who, &pem)).await
    }

    fn take_now(&self, tls: &Tls, who: &str, pem: &str) -> Result<String, PapersError> {
        let ready = Tls { cert: next(&tls.cert), key: next(&tls.key), ..tls.clone() };
        if !ready.key.exists() {
            return Err(PapersError::Unasked);
        }
        put(&ready.cert, pem.as_bytes())?;
        let (trust, serial) = match self.judge(&ready) {
            Ok(good) => good,
            Err(why) => {
                drop(fs::remove_file(&ready.cert));
                return Err(why);
            }
        };
        let renamed = |from: &Path, to: &Path| {
            fs::rename(from, to).and_then(|()| sync_folder(to)).map_err(|source| {
                PapersError::File { doing: "replace", path: to.to_owned(), source }
            })
        };
        renamed(&ready.cert, &tls.cert)?;
        // Whatever becomes of this rename: the next start finds the key where it lies.
        renamed(&ready.key, &tls.key)?;
        self.trust.store(Some(Arc::new(trust)));
        let words = format!("{who} renewed this agent's certificate: serial {serial} is shown now");
        event::tell(&event::TRUST, event::About::default(), &words);
        Ok(serial)
    }

    /// Would it be believed by those who call this node?
    fn judge(&self, ready: &Tls) -> Result<(Trust, String), PapersError> {
        let sent = |why: String| PapersError::Sent { what: format!("take the certificate: {why}") };
        let trust = Trust::load(ready, &self.cluster).map_err(|why| match why {
            TlsError::Pair { .. } => sent("it is not for the key that lies ready here".to_string()),
            why => sent(chain(&why)),
        })?;
        let shown = certificates(&ready.cert)?;
        let (own, others) = shown.split_first().ok_or_else(|| sent("it is empty".to_string()))?;
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(roots(&ready.ca)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|source| TlsError::Verifier { path: ready.ca.clone(), source })?;
        let name = ServerName::try_from(self.node.clone()).map_err(|e| sent(e.to_string()))?;
        verifier
            .verify_server_cert(own, others, &name, &[], UnixTime::now())
            .map_err(|why| sent(why.to_string()))?;
        roles::agent(own, &self.cluster, &self.node).map_err(sent)?;
        let serial = roles::serial_of(own).map_err(|why| sent(why.to_string()))?;
        if trust.denied().contains(&hex(&serial)) {
            return Err(sent(format!("its serial {} is denied here", hex(&serial))));
        }
        Ok((trust, hex(&serial)))
    }
}

/// Where what is not in use yet lies.
fn next(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".next");
    name.into()
}

/// Writes a new key for root alone, and gives the request that its certificate is made from. Names are not asked for: who signs
/// decides them.
///
/// # Errors
/// When it cannot be made or written.
pub fn make(path: &Path) -> Result<String, PapersError> {
    let pair = KeyPair::generate().map_err(PapersError::Make)?;
    let request = CertificateParams::default()
        .serialize_request(&pair)
        .and_then(|r| r.pem())
        .map_err(PapersError::Make)?;
    put(path, pair.serialize_pem().as_bytes())?;
    Ok(request)
}

/// Writes a file for root alone, whole or not at all.
fn put(path: &Path, bytes: &[u8]) -> Result<(), PapersError> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let write = || {
        // Of an attempt that was cut off; nothing uses it.
        match fs::remove_file(&fresh) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        sync_folder(path)
    };
    write().map_err(|source| PapersError::File { doing: "write", path: path.to_owned(), source })
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()
}
