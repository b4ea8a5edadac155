//! The stand-in for kube-apiserver: a TLS endpoint with leases and nodes, and the part of the controller manager that
//! calls a node not ready.
//!
//! What it copies:
//! - HTTP/1.1 and HTTP/2 over TLS 1.2/1.3 with client certificates; user and groups from the subject
//!   (`apiserver/pkg/authentication/request/x509`); a node may write its own lease and node alone (`plugin/pkg/auth/authorizer/node`);
//! - `coordination.k8s.io/v1` leases and `v1` nodes with optimistic concurrency by resourceVersion;
//! - the node lifecycle controller: looks every 5 s, a node is Unknown 50 s after its lease was last *seen to change*, tainted
//!   unreachable, and well again when the kubelet says so (`pkg/controller/nodelifecycle`, grace period of v1.32 and later);
//! - `/cacerts`, `/ping` and `/v1-k3s/connect` as a k3s server has them.
//!
//! It keeps nothing over a restart but the log of leases.

mod answers;
mod cluster;
mod identity;
pub mod lease;
mod objects;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use tokio::{net::TcpListener, time::timeout};
use tokio_rustls::TlsAcceptor;

use self::{cluster::Cluster, identity::Identity};
use super::http;
use crate::say;

/// How often the node lifecycle controller looks (`--node-monitor-period`).
const MONITOR_PERIOD: Duration = Duration::from_secs(5);
/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The arguments; their defaults are where k3s keeps these things on a server.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where to listen: both families
    #[arg(long, default_value = "[::]:6443")]
    listen: SocketAddr,
    /// The serving certificate
    #[arg(long, default_value = "/var/lib/rancher/k3s/server/tls/serving-kube-apiserver.crt")]
    cert: PathBuf,
    /// Its key
    #[arg(long, default_value = "/var/lib/rancher/k3s/server/tls/serving-kube-apiserver.key")]
    key: PathBuf,
    /// The authority that clients' certificates come from
    #[arg(long, default_value = "/var/lib/rancher/k3s/server/tls/client-ca.crt")]
    client_ca: PathBuf,
    /// The authority that is handed out at /cacerts
    #[arg(long, default_value = "/var/lib/rancher/k3s/server/tls/server-ca.crt")]
    server_ca: PathBuf,
    /// Pod networks of the nodes, NAME=CIDR
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "tethys=10.42.0.0/24,calypso=10.42.1.0/24,styx=10.42.2.0/24"
    )]
    pod_cidr: Vec<String>,
    /// Every renewal and every change of readiness is written here, a line of JSON each
    #[arg(long, default_value = "/var/lib/lifeline-lab/leases.jsonl")]
    lease_log: PathBuf,
}

/// Serves until it is killed.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let tls = TlsAcceptor::from(Arc::new(tls(&args)?));
    let ca = std::fs::read(&args.server_ca)
        .with_context(|| format!("read server CA: {}", args.server_ca.display()))?;
    let log = lease::Log::open(&args.lease_log)
        .with_context(|| format!("open lease log: {}", args.lease_log.display()))?;
    let cidrs = args.pod_cidr.iter().filter_map(|given| given.split_once('='));
    let cidrs = cidrs.map(|(name, cidr)| (name.to_owned(), cidr.to_owned())).collect();
    let cluster = Arc::new(Mutex::new(Cluster::new(&ca, cidrs, log)));
    let listener = bind(args.listen).await?;
    say!("Serving securely on {}", args.listen);
    tokio::spawn(monitor(Arc::clone(&cluster)));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(cause) => {
                say!("accept: {cause}");
                continue;
            }
        };
        let (tls, cluster, ca) = (tls.clone(), Arc::clone(&cluster), ca.clone());
        tokio::spawn(async move {
            let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(stream)).await else { return };
            let who = Identity::of(stream.get_ref().1.peer_certificates());
            http::serve(stream, move |request| {
                answers::answer(request, who.clone(), Arc::clone(&cluster), ca.clone())
            })
            .await;
        });
    }
}

/// The address may come up after us.
async fn bind(at: SocketAddr) -> anyhow::Result<TcpListener> {
    let mut tries = 0;
    loop {
        match TcpListener::bind(at).await {
            Err(cause) if cause.kind() == std::io::ErrorKind::AddrNotAvailable && tries < 100 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            done => return done.with_context(|| format!("listen: {at}")),
        }
    }
}

async fn monitor(cluster: Arc<Mutex<Cluster>>) {
    let mut tick = tokio::time::interval(MONITOR_PERIOD);
    loop {
        tick.tick().await;
        cluster::lock(&cluster).monitor(lease::boottime());
    }
}

fn tls(args: &Args) -> anyhow::Result<ServerConfig> {
    let clients = Arc::new(http::authorities(&args.client_ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(clients, http::provider())
        .allow_unauthenticated()
        .build()
        .context("prepare the check of client certificates")?;
    server_config(&args.cert, &args.key, verifier)
}

fn server_config(
    cert: &Path,
    key: &Path,
    verifier: Arc<dyn rustls::server::danger::ClientCertVerifier>,
) -> anyhow::Result<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(http::provider())
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(http::certificates(cert)?, http::private_key(key)?)
        .with_context(|| format!("use serving certificate: {}", cert.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
