//! Who calls: a certificate's name becomes an [`Operator`] or a [`Viewer`], values a handler must hold before it acts.
//!
//! Why values: a handler that forgets to ask does not compile, because what it calls wants the value, and only this file
//! makes one. The name is a URI, `lifeline://CLUSTER/operator/NAME`, so that no host name and no Kubernetes identity can be
//! mistaken for it.

use std::fmt;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// May act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    name: String,
}

/// May look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    name: String,
    /// Evidence carries process arguments and addresses: operators only.
    evidence: bool,
}

/// A caller whose certificate is in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// May act and look.
    Operator(Operator),
    /// May look.
    Viewer(Viewer),
}

impl Operator {
    /// As it is journalled: `operator alice`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Viewer {
    /// As it is logged: `viewer bob`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// May it see evidence?
    pub fn sees_evidence(&self) -> bool {
        self.evidence
    }
}

impl Caller {
    /// Root on this very node, over the local socket.
    pub fn local(uid: u32, own: u32) -> Result<Self, Refused> {
        // Whoever runs the agent could do by hand all the agent can.
        if uid == 0 || uid == own {
            return Ok(Self::Operator(Operator { name: "root (local)".to_string() }));
        }
        Err(Refused::NotRoot { uid })
    }

    /// The right to act.
    ///
    /// # Errors
    /// When the caller may only look.
    pub fn operator(self) -> Result<Operator, Refused> {
        match self {
            Self::Operator(o) => Ok(o),
            Self::Viewer(v) => Err(Refused::ViewerMayNot { name: v.name }),
        }
    }

    /// The right to look, which everybody has who has a name.
    pub fn viewer(self) -> Viewer {
        match self {
            Self::Operator(o) => Viewer { name: o.name, evidence: true },
            Self::Viewer(v) => v,
        }
    }
}

/// Why somebody is turned away; each has its own message, because the operator sees nothing else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No certificate at all.
    #[error("no client certificate was shown: use one made by `ctl pki operator`")]
    NoCertificate,
    /// Another authority's.
    #[error(
        "the client certificate was not signed by this cluster's authority: make one with this cluster's `ctl pki`"
    )]
    WrongAuthority,
    /// Too old.
    #[error("the client certificate has expired: make a new one with `ctl pki operator`")]
    Expired,
    /// Too young.
    #[error("the client certificate is not valid yet: compare the clocks of both machines")]
    NotYet,
    /// serverAuth only: an agent's own certificate.
    #[error(
        "the certificate names a server and no person: an agent's certificate may not call an agent"
    )]
    ServerOnly,
    /// On the list.
    #[error("the client certificate with serial {serial} has been denied on this node")]
    Denied {
        /// Hexadecimal.
        serial: String,
    },
    /// It cannot be parsed, or its signature is wrong.
    #[error("the client certificate cannot be read: {why}")]
    Unreadable {
        /// Why.
        why: String,
    },
    /// No name of ours.
    #[error("the client certificate has no lifeline:// name: make one with `ctl pki operator`")]
    NoRole,
    /// A name of ours that says nothing we know.
    #[error(
        "the client certificate's name {uri} is no lifeline://CLUSTER/operator/NAME nor lifeline://CLUSTER/viewer/NAME"
    )]
    BadRole {
        /// The name.
        uri: String,
    },
    /// More than one.
    #[error("the client certificate has more than one lifeline:// name")]
    SeveralRoles,
    /// For elsewhere.
    #[error("the client certificate is for cluster {theirs}, and this is a node of {ours}")]
    WrongCluster {
        /// In the certificate.
        theirs: String,
        /// In the configuration.
        ours: String,
    },
    /// Looks, and wants to act.
    #[error("{name} may look and not act: use an operator's certificate")]
    ViewerMayNot {
        /// Who.
        name: String,
    },
    /// On the local socket.
    #[error("uid {uid} may not use the agent's local socket: try as root")]
    NotRoot {
        /// Who.
        uid: u32,
    },
}

impl From<Refused> for tonic::Status {
    fn from(why: Refused) -> Self {
        let text = why.to_string();
        match why {
            Refused::NoCertificate
            | Refused::WrongAuthority
            | Refused::Expired
            | Refused::NotYet
            | Refused::ServerOnly
            | Refused::Denied { .. }
            | Refused::Unreadable { .. }
            | Refused::NoRole
            | Refused::BadRole { .. }
            | Refused::SeveralRoles => Self::unauthenticated(text),
            Refused::WrongCluster { .. }
            | Refused::ViewerMayNot { .. }
            | Refused::NotRoot { .. } => Self::permission_denied(text),
        }
    }
}

/// The serial number of a certificate, without leading zeros.
///
/// # Errors
/// When it is no certificate.
pub fn serial_of(der: &[u8]) -> Result<Vec<u8>, Refused> {
    let (_, cert) = parse_x509_certificate(der).map_err(unreadable)?;
    Ok(cert.raw_serial().iter().copied().skip_while(|b| *b == 0).collect())
}

fn unreadable(why: impl fmt::Display) -> Refused {
    Refused::Unreadable { why: why.to_string() }
}

/// Reads the role a certificate gives in a cluster. Its signature and dates are somebody else's business ([`crate::tls`]).
///
/// # Errors
/// When it gives none here.
pub fn role(der: &[u8], cluster: &str) -> Result<Caller, Refused> {
    let (_, cert) = parse_x509_certificate(der).map_err(unreadable)?;
    let usage = cert.extended_key_usage().map_err(unreadable)?;
    if !usage.is_some_and(|u| u.value.client_auth) {
        return Err(Refused::ServerOnly);
    }
    let names = cert.subject_alternative_name().map_err(unreadable)?;
    let mut uris = names.iter().flat_map(|n| &n.value.general_names).filter_map(|n| match n {
        GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or(Refused::NoRole)?;
    if uris.next().is_some() {
        return Err(Refused::SeveralRoles);
    }
    named(uri, cluster)
}

/// Is it an agent's own certificate, which serves under its node's name and calls nobody?
///
/// # Errors
/// What it is instead.
pub fn agent(der: &[u8], cluster: &str, node: &str) -> Result<(), String> {
    let (_, cert) = parse_x509_certificate(der).map_err(|e| e.to_string())?;
    let usage = cert.extended_key_usage().map_err(|e| e.to_string())?;
    if usage.is_none_or(|u| u.value.any || u.value.client_auth || !u.value.server_auth) {
        return Err("it is not for a server and nothing else".to_string());
    }
    let names = cert.subject_alternative_name().map_err(|e| e.to_string())?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|n| &n.value.general_names)
        .filter_map(|n| match n {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        })
        .collect();
    let wanted = format!("{SCHEME}{cluster}/agent/{node}");
    match uris[..] {
        [uri] if uri == wanted => Ok(()),
        _ => Err(format!("it is not for {wanted}")),
    }
}

const SCHEME: &str = "lifeline://";

fn named(uri: &str, cluster: &str) -> Result<Caller, Refused> {
    let bad =
        || Refused::BadRole { uri: uri.chars().filter(|c| !c.is_control()).take(120).collect() };
    let parts: Vec<&str> = uri.strip_prefix(SCHEME).unwrap_or_default().split('/').collect();
    let [theirs, role, name] = parts[..] else { return Err(bad()) };
    let plain = |s: &str| {
        !s.is_empty()
            && s.len() <= 64
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._@".contains(&b))
    };
    if !plain(theirs) || !plain(name) {
        return Err(bad());
    }
    let caller = match role {
        "operator" => Caller::Operator(Operator { name: format!("operator {name}") }),
        "viewer" => Caller::Viewer(Viewer { name: format!("viewer {name}"), evidence: false }),
        _ => return Err(bad()),
    };
    if theirs != cluster {
        return Err(Refused::WrongCluster {
            theirs: theirs.to_string(),
            ours: cluster.to_string(),
        });
    }
    Ok(caller)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};

    fn certificate(uris: &[&str], usage: &[ExtendedKeyUsagePurpose]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            uris.iter().map(|u| SanType::URI((*u).try_into().unwrap())).collect();
        params.extended_key_usages = usage.to_vec();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    const CLIENT: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ClientAuth];

    #[test]
    fn each_name_gives_its_role_or_its_own_refusal() {
        let table: [(&[&str], Result<&str, &str>); 12] = [
            (&["lifeline://lab/operator/alice"], Ok("operator alice")),
            (&["lifeline://lab/viewer/bob"], Ok("viewer bob")),
            (&["https://elsewhere/x", "lifeline://lab/viewer/bob"], Ok("viewer bob")),
            (
                &["lifeline://prod/operator/alice"],
                Err("is for cluster prod, and this is a node of lab"),
            ),
            (&["lifeline://lab/admin/alice"], Err("is no lifeline://CLUSTER/operator/NAME")),
            (&["lifeline://lab/operator/"], Err("is no lifeline://CLUSTER/operator/NAME")),
            (
                &["lifeline://lab/operator/alice/viewer"],
                Err("is no lifeline://CLUSTER/operator/NAME"),
            ),
            (&["lifeline://lab/operator/al ice"], Err("is no lifeline://CLUSTER/operator/NAME")),
            (&["lifeline://lab//alice"], Err("is no lifeline://CLUSTER/operator/NAME")),
            (&["https://lab/operator/alice"], Err("has no lifeline:// name")),
            (&[], Err("has no lifeline:// name")),
            (
                &["lifeline://lab/viewer/a", "lifeline://lab/operator/a"],
                Err("more than one lifeline:// name"),
            ),
        ];
        for (uris, wanted) in table {
            let found = role(&certificate(uris, CLIENT), "lab");
            match (found, wanted) {
                (Ok(caller), Ok(name)) => {
                    assert_eq!(
                        caller.clone().operator().is_ok(),
                        name.starts_with("operator"),
                        "{uris:?}"
                    );
                    assert_eq!(caller.viewer().name(), name);
                }
                (Err(why), Err(text)) => assert!(why.to_string().contains(text), "{uris:?}: {why}"),
                (found, wanted) => panic!("{uris:?}: {found:?}, wanted {wanted:?}"),
            }
        }
    }

    #[test]
    fn a_certificate_for_servers_only_names_nobody() {
        let uri = ["lifeline://lab/operator/alice"];
        for usage in [&[ExtendedKeyUsagePurpose::ServerAuth][..], &[][..]] {
            assert_eq!(role(&certificate(&uri, usage), "lab"), Err(Refused::ServerOnly));
        }
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        assert!(role(&certificate(&uri, &both), "lab").is_ok());
        assert!(matches!(role(b"rubbish", "lab"), Err(Refused::Unreadable { .. })));
    }

    #[test]
    fn a_viewer_sees_no_evidence_and_may_not_act() {
        let viewer = role(&certificate(&["lifeline://lab/viewer/bob"], CLIENT), "lab").unwrap();
        assert!(!viewer.clone().viewer().sees_evidence());
        assert_eq!(
            viewer.operator().unwrap_err().to_string(),
            "viewer bob may look and not act: use an operator's certificate"
        );
        let operator = role(&certificate(&["lifeline://lab/operator/al"], CLIENT), "lab").unwrap();
        assert!(operator.viewer().sees_evidence());
    }

    #[test]
    fn only_root_is_served_on_the_local_socket() {
        assert!(Caller::local(0, 1000).is_ok());
        assert!(Caller::local(1000, 1000).is_ok());
        assert_eq!(Caller::local(1001, 1000), Err(Refused::NotRoot { uid: 1001 }));
    }
}
