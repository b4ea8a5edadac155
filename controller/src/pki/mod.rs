//! Who is who: one certificate authority per cluster, agents that only serve, operators and viewers that only call.
//!
//! A role is a URI in the certificate (`lifeline://CLUSTER/operator/NAME`) *and* an extended key usage, so a node's key
//! that was stolen impersonates nobody towards another agent.

pub mod authority;
pub mod card;
pub mod issue;
pub mod seal;
pub mod subject;

use crate::files;
use std::path::{Path, PathBuf};

/// Where a certificate goes, with its key and its authority.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority's certificate.
    pub ca: PathBuf,
}

impl Shelf {
    /// In a directory, under the usual names.
    pub fn in_dir(dir: &Path, stem: &str) -> Self {
        let at = |name: String| dir.join(name);
        Self {
            cert: at(format!("{stem}.crt")),
            key: at(format!("{stem}.key")),
            ca: dir.join("ca.crt"),
        }
    }
}

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// A name that cannot stand in a certificate.
    #[error("use {what} {name:?}: {why}")]
    Name {
        /// What it names.
        what: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No certificate authority of ours.
    #[error("use {} as certificate authority: {why}", path.display())]
    NotOurCa {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Certificate and key are not a pair.
    #[error("use {} with {}: the key does not belong to the certificate", key.display(), cert.display())]
    KeyMismatch {
        /// Certificate.
        cert: PathBuf,
        /// Key.
        key: PathBuf,
    },
    /// The target directory holds another subject's certificate.
    #[error("write {}: it is the certificate of {found}, not of {wanted}", path.display())]
    Other {
        /// File.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it would become.
        wanted: String,
    },
    /// Not a certificate, or not a key.
    #[error("read {}: {why}", path.display())]
    Parse {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The library refused.
    #[error("issue the certificate of {subject}")]
    Issue {
        /// Whose.
        subject: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The authority's key could not be encrypted.
    #[error("encrypt the authority's key: {0}")]
    Seal(String),
    /// This machine's clock is outside of what a certificate can say.
    #[error("read this machine's clock: it is before 1970 or after 9999")]
    Clock,
}
