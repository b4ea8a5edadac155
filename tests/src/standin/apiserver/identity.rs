//! Who a client is, by its certificate, and what it may do.

use hyper::Method;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Name};

/// A client. One without a certificate is anonymous.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// The common name; empty for the anonymous.
    pub user: String,
    /// The organisations.
    pub groups: Vec<String>,
}

impl Identity {
    /// The identity in a verified chain.
    #[must_use]
    pub fn of(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let leaf = chain.and_then(<[_]>::first);
        leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok())
            .map_or_else(Self::default, |(_, leaf)| Self::named(leaf.subject()))
    }

    fn named(subject: &X509Name<'_>) -> Self {
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().map(str::to_owned)
        };
        Self {
            user: subject.iter_common_name().find_map(|name| text(name).ok()).unwrap_or_default(),
            groups: subject.iter_organization().filter_map(|name| text(name).ok()).collect(),
        }
    }

    /// Whether nobody has vouched for this client.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.user.is_empty()
    }

    fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// Whether this client may do that to an object of that name.
    #[must_use]
    pub fn may(&self, method: &Method, kind: &str, name: Option<&str>) -> bool {
        if self.is_in("system:masters") {
            return true;
        }
        let Some(node) = self.user.strip_prefix("system:node:") else { return false };
        if !self.is_in("system:nodes") {
            return false;
        }
        match kind {
            "nodes" | "pods" | "namespaces" if *method == Method::GET => true,
            "leases" | "nodes" => name == Some(node) && *method != Method::DELETE,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(user: &str, group: &str) -> Identity {
        Identity { user: user.into(), groups: vec![group.into()] }
    }

    #[test]
    fn a_node_writes_its_own_objects_alone() {
        let calypso = who("system:node:calypso", "system:nodes");
        assert!(calypso.may(&Method::PUT, "leases", Some("calypso")));
        assert!(!calypso.may(&Method::PUT, "leases", Some("styx")));
        assert!(calypso.may(&Method::GET, "nodes", Some("styx")));
        assert!(!calypso.may(&Method::PATCH, "nodes", Some("styx")));
        assert!(!calypso.may(&Method::DELETE, "nodes", Some("calypso")));
    }

    #[test]
    fn masters_may_all_and_strangers_nothing() {
        assert!(who("system:admin", "system:masters").may(&Method::DELETE, "nodes", Some("styx")));
        assert!(!who("system:node:calypso", "").may(&Method::GET, "nodes", None));
        assert!(!Identity::default().may(&Method::GET, "nodes", None));
    }

    #[test]
    fn user_and_groups_come_from_the_certificate() {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:calypso");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let found = Identity::of(Some(&[CertificateDer::from(der)]));
        assert_eq!(found, who("system:node:calypso", "system:nodes"));
        assert!(Identity::of(None).is_anonymous());
    }
}
