//! What a certificate says, read once and in our own terms.

use super::PkiError;
use super::subject::{Subject, authority_of};
use crate::files;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use std::net::IpAddr;
use std::path::Path;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Card {
    /// Subject's distinguished name.
    pub subject: String,
    /// Issuer's distinguished name.
    pub issuer: String,
    /// Serial number in hex, as the agent's deny list takes it.
    pub serial: String,
    /// It may sign others.
    pub ca: bool,
    /// It may stand for a server.
    pub server: bool,
    /// It may stand for a client.
    pub client: bool,
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// URIs.
    pub uris: Vec<String>,
    /// Valid from, seconds since 1970.
    pub from_s: i64,
    /// Valid until, seconds since 1970.
    pub until_s: i64,
}

impl Card {
    /// Reads a DER certificate; the error says what is wrong with it.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|e| e.to_string())?;
        let (mut dns, mut addresses, mut uris) = (Vec::new(), Vec::new(), Vec::new());
        let names = cert.subject_alternative_name().map_err(|e| e.to_string())?;
        for name in names.iter().flat_map(|n| &n.value.general_names) {
            match name {
                GeneralName::DNSName(n) => dns.push((*n).to_owned()),
                GeneralName::URI(u) => uris.push((*u).to_owned()),
                GeneralName::IPAddress(bytes) => addresses.push(address(bytes)?),
                _ => {}
            }
        }
        // No extended key usage means "for anything".
        let usage = cert.extended_key_usage().map_err(|e| e.to_string())?;
        let may = |ok: fn(&x509_parser::extensions::ExtendedKeyUsage<'_>) -> bool| {
            usage.as_ref().is_none_or(|u| u.value.any || ok(u.value))
        };
        Ok(Self {
            subject: cert.subject().to_string(),
            issuer: cert.issuer().to_string(),
            serial: cert.raw_serial().iter().map(|b| format!("{b:02x}")).collect(),
            ca: cert.is_ca(),
            server: may(|u| u.server_auth),
            client: may(|u| u.client_auth),
            dns,
            addresses,
            uris,
            from_s: cert.validity().not_before.timestamp(),
            until_s: cert.validity().not_after.timestamp(),
        })
    }

    /// Reads the first certificate of a PEM file.
    pub fn from_file(path: &Path) -> Result<Self, PkiError> {
        let chain = chain(path)?;
        let parse = |why| PkiError::Parse { path: path.to_owned(), why };
        let first = chain.first().ok_or_else(|| parse("there is no certificate in it".into()))?;
        Self::from_der(first).map_err(parse)
    }

    /// Whose it is; `None` when it is not one of ours.
    pub fn whose(&self) -> Option<Subject> {
        let mut ours = self.uris.iter().filter_map(|u| Subject::parse(u));
        let first = ours.next()?;
        // Two roles in one certificate would make it ambiguous who acts.
        ours.next().is_none().then_some(first)
    }

    /// The cluster whose authority it is.
    pub fn authority(&self) -> Option<&str> {
        self.ca.then(|| self.uris.iter().find_map(|u| authority_of(u))).flatten()
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, String> {
    if let Ok(b) = <[u8; 4]>::try_from(bytes) {
        return Ok(b.into());
    }
    <[u8; 16]>::try_from(bytes)
        .map(IpAddr::from)
        .map_err(|_| "it carries an address of odd length".into())
}

/// Reads all certificates of a PEM file; none at all is an error, not an empty chain.
pub fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let text = files::read(path)?;
    let parse = |why: String| PkiError::Parse { path: path.to_owned(), why };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| parse(e.to_string()))?;
    // Rubbish parses to zero certificates without an error.
    if chain.is_empty() {
        return Err(parse("there is no certificate in it".into()));
    }
    Ok(chain)
}

/// A moment in a document, UTC; people read [`crate::words::local_date_s`].
pub fn moment(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| format!("{seconds} s"),
        |t| t.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}
