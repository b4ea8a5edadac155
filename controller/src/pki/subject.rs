//! The name in a certificate: cluster, role, and who.

use super::PkiError;
use std::fmt;

/// What a certificate's holder may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Serves on a node; may ask nobody anything.
    #[value(skip)]
    Agent,
    /// May look and act.
    Operator,
    /// May look.
    Viewer,
}

impl Role {
    /// As it is written in the URI.
    pub fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }
}

/// Who a certificate is for: `lifeline://CLUSTER/ROLE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Cluster.
    pub cluster: String,
    /// Role.
    pub role: Role,
    /// Node or person.
    pub name: String,
}

impl Subject {
    /// Checks the names and puts them together.
    pub fn new(cluster: &str, role: Role, name: &str) -> Result<Self, PkiError> {
        self::cluster(cluster)?;
        match role {
            Role::Agent => host("node", name)?,
            Role::Operator | Role::Viewer => person(name)?,
        }
        Ok(Self { cluster: cluster.into(), role, name: name.into() })
    }

    /// Reads the URI; `None` when it is none of ours.
    pub fn parse(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix("lifeline://")?.split('/');
        let (cluster, role, name) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let role =
            [Role::Agent, Role::Operator, Role::Viewer].into_iter().find(|r| r.word() == role)?;
        Self::new(cluster, role, name).ok()
    }

    /// As it stands in the certificate.
    pub fn uri(&self) -> String {
        format!("lifeline://{}/{}/{}", self.cluster, self.role.word(), self.name)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of cluster {}", self.role.word(), self.name, self.cluster)
    }
}

/// The URI of a cluster's certificate authority.
pub fn authority(cluster: &str) -> String {
    format!("lifeline://{cluster}/ca")
}

/// The cluster of a certificate authority's URI.
pub fn authority_of(uri: &str) -> Option<&str> {
    uri.strip_prefix("lifeline://")?.strip_suffix("/ca").filter(|c| !c.contains('/'))
}

/// Checks a cluster's name: short, because it stands in every certificate and message.
pub fn cluster(name: &str) -> Result<(), PkiError> {
    if name.len() > 63 {
        let why = "it must have at most 63 characters";
        return Err(PkiError::Name { what: "cluster", name: name.into(), why });
    }
    host("cluster", name)
}

/// Checks a name that is also a host name: Kubernetes names nodes by RFC 1123, and TLS checks it as a DNS name.
pub fn host(what: &'static str, name: &str) -> Result<(), PkiError> {
    let bad = |why| Err(PkiError::Name { what, name: name.into(), why });
    if name.is_empty() || name.len() > 253 {
        return bad("it must have 1 to 253 characters");
    }
    for label in name.split('.') {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if label.is_empty() || label.len() > 63 || !label.chars().all(inner) {
            return bad(
                "only lower-case letters, digits, - and . may stand in it, as in a host name",
            );
        }
        if label.starts_with('-') || label.ends_with('-') {
            return bad("no part of it may begin or end with -");
        }
    }
    Ok(())
}

fn person(name: &str) -> Result<(), PkiError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(fine) {
        return Err(PkiError::Name {
            what: "name",
            name: name.into(),
            why: "only letters, digits and . _ @ - may stand in it, at most 64",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_reads_as_it_was_written() {
        for uri in ["lifeline://lab/agent/calypso", "lifeline://lab/viewer/b.o@b"] {
            assert_eq!(Subject::parse(uri).unwrap().uri(), uri);
        }
    }

    #[test]
    fn a_uri_that_is_not_ours_is_nobody() {
        for uri in [
            "lifeline://lab/root/eve",
            "lifeline://lab/operator",
            "lifeline://lab/operator/eve/x",
            "lifeline://lab/operator/",
            "lifeline:///operator/eve",
            "https://lab/operator/eve",
            "lifeline://lab/operator/../agent",
        ] {
            assert_eq!(Subject::parse(uri), None, "{uri}");
        }
    }

    #[test]
    fn an_authority_is_no_subject() {
        assert_eq!(Subject::parse(&authority("lab")), None);
        assert_eq!(authority_of(&authority("lab")), Some("lab"));
        assert_eq!(authority_of("lifeline://lab/operator/ca"), None);
    }
}
