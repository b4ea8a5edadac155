//! TLS to an agent: 1.3 only, and the one at the other end must be *that node's agent*, not just somebody of the cluster.

use crate::identity::Identity;
use crate::pki::card::Card;
use crate::pki::subject::{Role, Subject};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use std::sync::{Arc, OnceLock};

/// The certificate is the cluster's, and not this node's agent's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its certificate is for {found}, not for {wanted}")]
pub struct NotThatAgent {
    /// Whom we called.
    pub wanted: Subject,
    /// Who answered.
    pub found: String,
}

/// The certificate that was shown, believed or not.
pub type Shown = Arc<OnceLock<Vec<u8>>>;

/// Settings for calling a node's agent.
pub fn client(identity: &Identity, node: &Subject) -> Result<ClientConfig, rustls::Error> {
    watching(identity, node, Shown::default())
}

/// The same, and what was shown is kept to be looked at.
pub fn watching(
    identity: &Identity,
    node: &Subject,
    shown: Shown,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(
        Arc::clone(&identity.roots),
        Arc::clone(&provider),
    )
    .build()
    .map_err(|e| rustls::Error::General(e.to_string()))?;
    let verifier = AgentVerifier { inner, wanted: node.clone(), shown };
    let mut config = ClientConfig::builder_with_provider(provider as Arc<CryptoProvider>)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The library's verifier first, our own question after it: nothing is weakened.
#[derive(Debug)]
struct AgentVerifier {
    inner: Arc<WebPkiServerVerifier>,
    wanted: Subject,
    shown: Shown,
}

impl ServerCertVerifier for AgentVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.shown.get_or_init(|| end_entity.to_vec());
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        is_agent(end_entity, &self.wanted)
            .map_err(|e| CertificateError::Other(OtherError(Arc::new(e))))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn is_agent(der: &CertificateDer<'_>, wanted: &Subject) -> Result<(), NotThatAgent> {
    let not = |found: String| NotThatAgent { wanted: wanted.clone(), found };
    let card = Card::from_der(der).map_err(not)?;
    match card.whose() {
        Some(found) if found == *wanted && found.role == Role::Agent => Ok(()),
        Some(found) => Err(not(found.to_string())),
        None => Err(not(card.subject)),
    }
}
