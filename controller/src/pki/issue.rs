//! Making certificates: the authority, agents, operators and viewers.

use super::authority::{self as held, Ca};
use super::card::Card;
use super::subject::{self, Role, Subject, authority};
use super::{PkiError, Shelf, seal};
use crate::files::{self, Present};
use crate::secret::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

/// Clocks of nodes and laptops differ; a certificate is valid a little before it is made.
const BACKDATE: Duration = Duration::hours(1);

/// A certificate's lifetime from now.
#[derive(Clone, Copy, Debug)]
pub struct Days(pub u16);

impl Days {
    fn window(self) -> Result<(OffsetDateTime, OffsetDateTime), PkiError> {
        let now = OffsetDateTime::now_utc();
        let from = now.checked_sub(BACKDATE).ok_or(PkiError::Clock)?;
        let until = now.checked_add(Duration::days(self.0.into())).ok_or(PkiError::Clock)?;
        Ok((from, until))
    }
}

/// Files that were written.
#[derive(Debug)]
pub struct Written {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// What it says.
    pub card: Card,
}

/// Creates a cluster's certificate authority, its key encrypted if there is a passphrase; refuses to touch one that is there.
pub fn init(
    cluster: &str,
    dir: &Path,
    days: Days,
    passphrase: Option<&Secret>,
) -> Result<Written, PkiError> {
    subject::cluster(cluster)?;
    let (cert, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    for path in [&cert, &key] {
        if path.symlink_metadata().is_ok() {
            return Err(files::FileError::Exists { path: path.clone() }.into());
        }
    }
    let issue = |source| PkiError::Issue { subject: format!("the authority of {cluster}"), source };
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, cluster);
    params.distinguished_name.push(DnType::CommonName, format!("Lifeline CA of {cluster}"));
    // Constrained(0): what it signs cannot sign on.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(&authority(cluster)).map_err(issue)?];
    (params.not_before, params.not_after) = days.window()?;
    let pair = KeyPair::generate().map_err(issue)?;
    let made = params.self_signed(&pair).map_err(issue)?;
    let text = match passphrase {
        Some(passphrase) => seal::seal(&pair, passphrase).map_err(PkiError::Seal)?,
        None => pair.serialize_pem().into(),
    };
    files::create_dir(dir)?;
    files::write(&key, &text, 0o600, Present::Keep)?;
    files::write(&cert, &made.pem(), 0o644, Present::Keep)?;
    let card = Card::from_file(&cert)?;
    Ok(Written { cert, key, card })
}

/// Issues an agent's certificate: it serves, under its node's name and addresses, and may call nobody.
pub fn agent(
    node: &str,
    addresses: &[IpAddr],
    ca: &Ca,
    out: &Path,
    days: Days,
) -> Result<Written, PkiError> {
    let signer = Signer::open(ca)?;
    let (params, subject) = signer.server(node, addresses)?;
    signer.issue(params, &subject, &Shelf::in_dir(out, "agent"), days)
}

/// A certificate whose key we have never seen.
#[derive(Debug)]
pub struct Signed {
    /// The certificate.
    pub cert: String,
    /// The authority's.
    pub ca: String,
}

/// Signs what `lifeline-agent request-certificate` printed. Of the request only the key counts: names are given here.
pub fn signed(
    node: &str,
    addresses: &[IpAddr],
    ca: &Ca,
    request: &str,
    days: Days,
) -> Result<Signed, PkiError> {
    let signer = Signer::open(ca)?;
    let (params, subject) = signer.server(node, addresses)?;
    let issue = |source| PkiError::Issue { subject: subject.to_string(), source };
    // Whoever sent it has the key: the request is signed with it.
    let request = CertificateSigningRequestParams::from_pem(request).map_err(issue)?;
    let params = signer.complete(params, &subject, days)?;
    let made = params.signed_by(&request.public_key, &signer.issuer).map_err(issue)?;
    Ok(Signed { cert: made.pem(), ca: signer.pem })
}

/// The cluster whose authority lies in that directory.
pub fn cluster_of(dir: &Path) -> Result<String, PkiError> {
    let path = dir.join("ca.crt");
    let card = Card::from_file(&path)?;
    let why = "it is no Lifeline authority";
    card.authority().map(str::to_owned).ok_or(PkiError::NotOurCa { path, why })
}

/// Issues an operator's or viewer's certificate: it calls, and serves nothing.
pub fn operator(
    name: &str,
    role: Role,
    ca: &Ca,
    shelf: &Shelf,
    days: Days,
) -> Result<Written, PkiError> {
    let signer = Signer::open(ca)?;
    let subject = Subject::new(&signer.cluster, role, name)?;
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    signer.issue(params, &subject, shelf, days)
}

fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(text.try_into()?))
}

/// An authority that was read from its directory.
struct Signer {
    cluster: String,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    until: OffsetDateTime,
}

impl Signer {
    fn open(ca: &Ca) -> Result<Self, PkiError> {
        let (cert, key) = (ca.dir.join("ca.crt"), ca.dir.join("ca.key"));
        let not_ours = |why| PkiError::NotOurCa { path: cert.clone(), why };
        let card = Card::from_file(&cert)?;
        let cluster = card.authority().ok_or_else(|| not_ours("it is no Lifeline authority"))?;
        let now = OffsetDateTime::now_utc();
        let until =
            OffsetDateTime::from_unix_timestamp(card.until_s).map_err(|_| PkiError::Clock)?;
        if until <= now {
            return Err(not_ours("it has expired"));
        }
        let parse = |path: &Path, source: rcgen::Error| PkiError::Parse {
            path: path.to_owned(),
            why: source.to_string(),
        };
        let pair = held::key(ca)?;
        let pem = files::read(&cert)?;
        let der = super::card::chain(&cert)?;
        let first = der.first().ok_or_else(|| not_ours("there is no certificate in it"))?;
        if !signs(first, &pair) {
            return Err(PkiError::KeyMismatch { cert, key });
        }
        let issuer = Issuer::from_ca_cert_der(first, pair).map_err(|e| parse(&cert, e))?;
        Ok(Self { cluster: cluster.to_owned(), pem, issuer, until })
    }

    /// What every agent's certificate says: it serves, under its node's name and addresses.
    fn server(
        &self,
        node: &str,
        addresses: &[IpAddr],
    ) -> Result<(CertificateParams, Subject), PkiError> {
        let subject = Subject::new(&self.cluster, Role::Agent, node)?;
        let mut params = CertificateParams::default();
        let issue = |source| PkiError::Issue { subject: subject.to_string(), source };
        params.subject_alt_names = vec![SanType::DnsName(node.try_into().map_err(issue)?)];
        params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Ok((params, subject))
    }

    /// Whose it is, what its key is for, and from when to when.
    fn complete(
        &self,
        mut params: CertificateParams,
        subject: &Subject,
        days: Days,
    ) -> Result<CertificateParams, PkiError> {
        let issue = |source| PkiError::Issue { subject: subject.to_string(), source };
        params.distinguished_name.push(DnType::OrganizationName, subject.cluster.as_str());
        params.distinguished_name.push(DnType::CommonName, subject.name.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names.push(uri(&subject.uri()).map_err(issue)?);
        let (from, until) = days.window()?;
        // A certificate that outlives its authority only seems to be valid.
        (params.not_before, params.not_after) = (from, until.min(self.until));
        Ok(params)
    }

    fn issue(
        &self,
        params: CertificateParams,
        subject: &Subject,
        shelf: &Shelf,
        days: Days,
    ) -> Result<Written, PkiError> {
        let Shelf { cert, key, ca } = shelf.clone();
        // Renewing is fine; taking somebody else's place by a mistyped directory is not.
        if cert.symlink_metadata().is_ok() {
            let found = Card::from_file(&cert)?.whose();
            if found.as_ref() != Some(subject) {
                let found = found.map_or_else(|| "somebody unknown".to_owned(), |s| s.to_string());
                return Err(PkiError::Other { path: cert, found, wanted: subject.to_string() });
            }
        }
        if ca.symlink_metadata().is_ok() && files::read(&ca)? != self.pem {
            return Err(PkiError::Other {
                path: ca,
                found: "another authority".into(),
                wanted: format!("the authority of cluster {}", self.cluster),
            });
        }
        let issue = |source| PkiError::Issue { subject: subject.to_string(), source };
        let params = self.complete(params, subject, days)?;
        let pair = KeyPair::generate().map_err(issue)?;
        let made = params.signed_by(&pair, &self.issuer).map_err(issue)?;
        for path in [&cert, &key, &ca] {
            files::create_dir(path.parent().unwrap_or_else(|| Path::new("/")))?;
        }
        files::write(&ca, &self.pem, 0o644, Present::Replace)?;
        files::write(&key, &pair.serialize_pem(), 0o600, Present::Replace)?;
        files::write(&cert, &made.pem(), 0o644, Present::Replace)?;
        let card = Card::from_file(&cert)?;
        Ok(Written { cert, key, card })
    }
}

/// Does the key belong to the certificate?
fn signs(cert: &[u8], pair: &KeyPair) -> bool {
    use rcgen::PublicKeyData;
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(cert)
        .is_ok_and(|(_, c)| c.public_key().raw == pair.subject_public_key_info())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn lab() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("pki");
        init("lab", &ca, Days(30), None).unwrap();
        (dir, ca)
    }

    #[test]
    fn an_authority_is_made_once() {
        let (_dir, ca) = lab();
        let key = std::fs::read(ca.join("ca.key")).unwrap();
        let again = init("lab", &ca, Days(30), None).unwrap_err();
        assert!(matches!(again, PkiError::File(files::FileError::Exists { .. })), "{again}");
        assert_eq!(std::fs::read(ca.join("ca.key")).unwrap(), key);
        let mode = ca.join("ca.key").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_agent_only_serves_and_an_operator_only_calls() {
        let (dir, ca) = lab();
        let ip = "192.168.2.80".parse().unwrap();
        let a =
            agent("calypso", &[ip], &Ca::plain(&ca), &dir.path().join("a"), Days(9)).unwrap().card;
        assert!(a.server && !a.client && !a.ca);
        assert_eq!(
            (a.dns.as_slice(), a.addresses.as_slice()),
            (&["calypso".to_owned()][..], &[ip][..])
        );
        assert_eq!(a.whose().unwrap().uri(), "lifeline://lab/agent/calypso");
        let o = operator(
            "alice",
            Role::Viewer,
            &Ca::plain(&ca),
            &Shelf::in_dir(&dir.path().join("o"), "operator"),
            Days(7),
        )
        .unwrap()
        .card;
        assert!(o.client && !o.server && !o.ca);
        assert_eq!(o.uris, ["lifeline://lab/viewer/alice"]);
        assert_ne!(a.serial, o.serial);
    }

    #[test]
    fn renewing_is_fine_and_taking_another_subjects_place_is_not() {
        let (dir, ca) = lab();
        let out = dir.path().join("out");
        let first = operator(
            "alice",
            Role::Operator,
            &Ca::plain(&ca),
            &Shelf::in_dir(&out, "operator"),
            Days(7),
        )
        .unwrap();
        let second = operator(
            "alice",
            Role::Operator,
            &Ca::plain(&ca),
            &Shelf::in_dir(&out, "operator"),
            Days(7),
        )
        .unwrap();
        assert_ne!(first.card.serial, second.card.serial);
        let other = operator(
            "bob",
            Role::Operator,
            &Ca::plain(&ca),
            &Shelf::in_dir(&out, "operator"),
            Days(7),
        )
        .unwrap_err();
        assert!(matches!(other, PkiError::Other { .. }), "{other}");
        assert_eq!(Card::from_file(&out.join("operator.crt")).unwrap(), second.card);
    }

    #[test]
    fn a_request_is_signed_for_its_key_and_its_names_are_ours() {
        let (_dir, ca) = lab();
        let pair = KeyPair::generate().unwrap();
        let wanted = CertificateParams::new(vec!["eve.example".to_owned()]).unwrap();
        let request = wanted.serialize_request(&pair).unwrap().pem().unwrap();
        let ip = "192.168.2.80".parse().unwrap();
        let made = signed("calypso", &[ip], &Ca::plain(&ca), &request, Days(9)).unwrap();
        use rustls::pki_types::pem::PemObject;
        let der = rustls::pki_types::CertificateDer::from_pem_slice(made.cert.as_bytes()).unwrap();
        assert!(signs(&der, &pair), "it is for the key of the request");
        let card = Card::from_der(&der).unwrap();
        assert_eq!(card.dns, ["calypso"]);
        assert!(card.server && !card.client && !card.ca);
        signed("calypso", &[ip], &Ca::plain(&ca), "rubbish", Days(9)).unwrap_err();
    }

    #[test]
    fn a_key_of_another_authority_signs_nothing() {
        let (dir, ca) = lab();
        let other = dir.path().join("other");
        init("lab", &other, Days(30), None).unwrap();
        std::fs::copy(other.join("ca.key"), ca.join("ca.key")).unwrap();
        let e = agent("calypso", &[], &Ca::plain(&ca), &dir.path().join("a"), Days(1)).unwrap_err();
        assert!(matches!(e, PkiError::KeyMismatch { .. }), "{e}");
    }

    #[test]
    fn nothing_outlives_its_authority() {
        let (dir, ca) = lab();
        let until = Card::from_file(&ca.join("ca.crt")).unwrap().until_s;
        let a =
            agent("calypso", &[], &Ca::plain(&ca), &dir.path().join("a"), Days(3000)).unwrap().card;
        assert_eq!(a.until_s, until);
    }
}
