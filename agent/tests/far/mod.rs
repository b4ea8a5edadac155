//! The other side of a node's eth0, in a network namespace of its own: a gateway, and API servers behind it.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use super::scene::ip;
use lifeline_agent::look::Places;
use nix::sched::{CloneFlags, unshare};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::TcpListener;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

pub const API: &str = "203.0.113.10";

pub type Ca = CertifiedIssuer<'static, KeyPair>;

pub fn authority() -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "k3s-server-ca");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key in PEM.
fn signed(ca: &Ca, cn: &str, valid: std::ops::Range<i32>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, cn);
    params.not_before = rcgen::date_time_ymd(valid.start, 1, 1);
    params.not_after = rcgen::date_time_ymd(valid.end, 1, 1);
    (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

/// k3s's files of a node whose API server listens on `port`.
pub fn files(ca: &Ca, port: u16) -> (TempDir, Places) {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let (cert, key) = signed(ca, "system:node:calypso", 2020..2040);
    write("k3s/agent/client-kubelet.crt", &cert);
    write("k3s/agent/client-kubelet.key", &key);
    write("k3s/agent/server-ca.crt", &ca.pem());
    let balancer =
        format!(r#"{{"ServerURL":"https://{API}:{port}","ServerAddresses":["{API}:{port}"]}}"#);
    write("k3s/agent/etc/k3s-agent-load-balancer.json", &balancer);
    write("run/flannel/subnet.env", "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\n");
    write("etc/resolv.conf", "nameserver 192.168.2.1\n");
    write("var/lib/tailscale/tailscaled.state", "{}");
    let at = |name: &str| dir.path().join(name);
    let places = Places {
        k3s: at("k3s"),
        etc: at("etc"),
        run: at("run"),
        var: at("var"),
        bus: Some(format!("unix:path={}", at("no-bus").display())),
        ..Places::default()
    };
    (dir, places)
}

/// The other side of eth0: a gateway at 192.168.2.1, and API servers behind it, each on its port: 6443 the cluster's, 6444
/// somebody's with another CA, 6445 takes connections and says nothing, 6446 the cluster's with a certificate that has
/// expired; nobody listens on 6447.
pub fn far() -> Ca {
    let ca = authority();
    let servers = vec![
        (6443, signed(&ca, "kubernetes", 2020..2040)),
        (6444, signed(&authority(), "kubernetes", 2020..2040)),
        (6446, signed(&ca, "kubernetes", 2020..2021)),
    ];
    let (tell, told) = std::sync::mpsc::channel();
    let (moved, go) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        tell.send(nix::unistd::gettid()).unwrap();
        go.recv().unwrap();
        for args in ["link set lo up", "link set far0 up", "addr add 192.168.2.1/24 dev far0"] {
            ip(args);
        }
        ip(&format!("addr add {API}/32 dev lo"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mute = TcpListener::bind((API, 6445)).unwrap();
            for (port, (cert, key)) in servers {
                let listener = tokio::net::TcpListener::bind((API, port)).await.unwrap();
                tokio::spawn(serve(listener, acceptor(&cert, &key)));
            }
            tell.send(nix::unistd::gettid()).unwrap();
            std::future::pending::<()>().await;
            drop(mute);
        });
    });
    let tid = told.recv().unwrap();
    ip(&format!("link set far0 netns {tid}"));
    moved.send(()).unwrap();
    told.recv().unwrap();
    ca
}

fn acceptor(cert: &str, key: &str) -> TlsAcceptor {
    let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Answers every request with a lease, as the API server would.
async fn serve(listener: tokio::net::TcpListener, acceptor: TlsAcceptor) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(mut tls) = acceptor.accept(stream).await else { return };
            let mut request = vec![0; 2048];
            let Ok(n) = tls.read(&mut request).await else { return };
            let request = String::from_utf8_lossy(&request[..n]).into_owned();
            let known = request.starts_with(
                "GET /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/calypso HTTP/1.1\r\n",
            );
            let (status, body) = match known {
                true => (
                    "200 OK",
                    r#"{"kind":"Lease","spec":{"renewTime":"2026-01-02T03:04:05.678901Z"}}"#,
                ),
                false => ("404 Not Found", "{}"),
            };
            let len = body.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\n\r\n{body}");
            let _gone = tls.write_all(answer.as_bytes()).await;
            let _gone = tls.shutdown().await;
        });
    }
}
