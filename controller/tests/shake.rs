//! The stand-in's handshakes: as the agent does them, with what lies in its directory at that moment.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

/// Connections whose handshake is done; who fails is heard of no more.
pub fn incoming(
    listener: TcpListener,
    own: PathBuf,
    clients: PathBuf,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (inside, guests) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let (acceptor, inside) = (TlsAcceptor::from(config(&own, &clients)), inside.clone());
            tokio::spawn(async move {
                if let Ok(guest) = acceptor.accept(io).await {
                    drop(inside.send(Ok(guest)).await);
                }
            });
        }
    });
    ReceiverStream::new(guests)
}

fn config(own: &Path, clients: &Path) -> Arc<ServerConfig> {
    let all = |path: PathBuf| {
        CertificateDer::pem_file_iter(path).unwrap().collect::<Result<Vec<_>, _>>().unwrap()
    };
    let mut roots = RootCertStore::empty();
    for ca in all(clients.join("ca.crt")) {
        roots.add(ca).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            all(own.join("agent.crt")),
            PrivateKeyDer::from_pem_file(own.join("agent.key")).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}
