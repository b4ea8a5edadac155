//! The certificates k3s would have made: a server CA, a client CA, the API server's pair, a pair per kubelet.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use crate::error::{LabError, Result};
use crate::topology::API;

/// A certificate and its key, both PEM.
#[derive(Debug)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// The two authorities of a k3s cluster.
pub struct Authority {
    server: CertifiedIssuer<'static, KeyPair>,
    client: CertifiedIssuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    pub fn new() -> Result<Self> {
        Ok(Self { server: issuer("k3s-server-ca")?, client: issuer("k3s-client-ca")? })
    }

    #[must_use]
    pub fn server_ca(&self) -> String {
        self.server.pem()
    }

    #[must_use]
    pub fn client_ca(&self) -> String {
        self.client.pem()
    }

    /// What the API server shows; it is asked for by its address, by the Service VIP, and through the load balancer.
    pub fn api_server(&self) -> Result<Pair> {
        let address = API.split(':').next().unwrap_or_default();
        let names = [
            address,
            "10.43.0.1",
            "127.0.0.1",
            "::1",
            "localhost",
            "kubernetes",
            "tethys",
            "100.64.0.1",
        ];
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        leaf("kube-apiserver", None, &names, ExtendedKeyUsagePurpose::ServerAuth, &self.server)
    }

    /// What the kubelet of `node` says it is.
    pub fn kubelet(&self, node: &str) -> Result<Pair> {
        let name = format!("system:node:{node}");
        leaf(&name, Some("system:nodes"), &[], ExtendedKeyUsagePurpose::ClientAuth, &self.client)
    }

    /// A client of the API server.
    pub fn client(&self, name: &str, organization: Option<&str>) -> Result<Pair> {
        leaf(name, organization, &[], ExtendedKeyUsagePurpose::ClientAuth, &self.client)
    }

    /// What a kubelet shows the API server that asks it for logs.
    pub fn kubelet_serving(&self, node: &str, address: &str) -> Result<Pair> {
        let names = [node, address, "127.0.0.1"].map(str::to_owned);
        leaf(node, None, &names, ExtendedKeyUsagePurpose::ServerAuth, &self.server)
    }

    /// The operator's own access to the cluster.
    pub fn admin(&self) -> Result<Pair> {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        leaf("system:admin", Some("system:masters"), &[], usage, &self.client)
    }
}

fn issuer(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let trouble = |source| LabError::Certificate { what: name.to_owned(), source };
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().map_err(trouble)?;
    CertifiedIssuer::self_signed(params, key).map_err(trouble)
}

fn leaf(
    name: &str,
    organization: Option<&str>,
    alternatives: &[String],
    usage: ExtendedKeyUsagePurpose,
    by: &CertifiedIssuer<'static, KeyPair>,
) -> Result<Pair> {
    let trouble = |source| LabError::Certificate { what: name.to_owned(), source };
    let mut params = CertificateParams::new(alternatives.to_vec()).map_err(trouble)?;
    params.distinguished_name = named(name, organization);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(trouble)?;
    let certificate = params.signed_by(&key, by).map_err(trouble)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn named(name: &str, organization: Option<&str>) -> rcgen::DistinguishedName {
    let mut dn = rcgen::DistinguishedName::new();
    dn.push(DnType::CommonName, name);
    if let Some(organization) = organization {
        dn.push(DnType::OrganizationName, organization);
    }
    dn
}
