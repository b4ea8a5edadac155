//! An agent that serves on loopback under a throw-away authority, and who calls it.
#![allow(dead_code, reason = "each test uses some of it")]

use super::stage::{self, Stage};
use arc_swap::ArcSwapOption;
use lifeline_agent::clock::Clock;
use lifeline_agent::config::{Limits, Tls};
use lifeline_agent::papers::Papers;
use lifeline_agent::serve::service::{About, Service};
use lifeline_agent::serve::{answer, door};
use lifeline_agent::sight::Sight;
use lifeline_agent::store::Store;
use lifeline_agent::tls::Trust;
use lifeline_core::policy::Policy;
use lifeline_proto::v1 as wire;
use lifeline_proto::v1::lifeline_client::LifelineClient;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType, SerialNumber, date_time_ymd,
};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub type Client = LifelineClient<Channel>;
pub type Authority = CertifiedIssuer<'static, KeyPair>;

pub fn authority() -> Authority {
    named_authority("Lifeline CA of lab")
}

pub fn named_authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate as its authority would give it; each case changes one thing.
pub struct Wanted<'a> {
    pub uri: &'a str,
    pub usage: ExtendedKeyUsagePurpose,
    pub expired: bool,
    pub serial: u64,
}

pub const OPERATOR: Wanted<'static> = Wanted {
    uri: "lifeline://lab/operator/alice",
    usage: ExtendedKeyUsagePurpose::ClientAuth,
    expired: false,
    serial: 7,
};
pub const VIEWER: Wanted<'static> = Wanted { uri: "lifeline://lab/viewer/bob", ..OPERATOR };

pub fn issue(by: &Authority, wanted: &Wanted<'_>) -> Identity {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(wanted.uri.try_into().unwrap())];
    params.extended_key_usages = vec![wanted.usage.clone()];
    params.serial_number = Some(SerialNumber::from(wanted.serial));
    if wanted.expired {
        params.not_after = date_time_ymd(2001, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, by).unwrap();
    Identity::from_pem(cert.pem(), key.serialize_pem())
}

/// An agent that serves on loopback.
pub struct Agent {
    pub at: SocketAddr,
    pub local: PathBuf,
    pub trust: Arc<ArcSwapOption<Trust>>,
    pub papers: Arc<Papers>,
    pub stage: Arc<Stage>,
    pub dir: tempfile::TempDir,
}

pub fn write_server(dir: &Path, ca: &Authority) -> Tls {
    let mut params = CertificateParams::new(vec!["calypso".to_string()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, ca).unwrap();
    let put = |name: &str, text: String| {
        std::fs::write(dir.join(name), text).unwrap();
        dir.join(name)
    };
    Tls {
        ca: put("ca.crt", ca.pem()),
        cert: put("agent.crt", cert.pem()),
        key: put("agent.key", key.serialize_pem()),
        denied_serials: vec!["0x0D".to_string()],
        denied: dir.join("denied-serials"),
    }
}

pub async fn agent(ca: &Authority) -> (Agent, Tls) {
    let dir = tempfile::tempdir().unwrap();
    let stage = Arc::new(Stage::of("r1-exit-node", &Clock::read().unwrap()));
    let tls = write_server(dir.path(), ca);
    let any = "127.0.0.1:0".parse().unwrap();
    let Served { at, local, trust, papers } =
        serve(any, "calypso", "lab", &tls, &stage, dir.path()).await;
    (Agent { at, local, trust, papers, stage, dir }, tls)
}

/// Where an agent is reached, and whom it believes.
pub struct Served {
    pub at: SocketAddr,
    pub local: PathBuf,
    pub trust: Arc<ArcSwapOption<Trust>>,
    pub papers: Arc<Papers>,
}

/// Serves over TLS and locally, for as long as the runtime lives.
pub async fn serve(
    at: SocketAddr,
    name: &str,
    cluster: &str,
    tls: &Tls,
    stage: &Arc<Stage>,
    dir: &Path,
) -> Served {
    let clock = Clock::read().unwrap();
    let trust = Arc::new(ArcSwapOption::from_pointee(Trust::load(tls, cluster).unwrap()));
    let runs = stage::start(stage, dir, &clock).await;
    let (store, _) = Store::open(dir);
    let (store, policy) = (Arc::new(store), Arc::new(Policy::default()));
    let sight = Arc::new(Sight::new(stage.clone(), store.clone(), policy.clone(), clock.clone()));
    sight.look().await;
    let about = About { node: name.into(), cluster: cluster.into(), boot: clock.boot().into() };
    let papers = Papers::new(tls.clone(), cluster, name, trust.clone());
    let service = Service {
        runs,
        sight,
        store,
        node: stage.clone(),
        policy,
        trust: trust.clone(),
        papers: papers.clone(),
        about: Arc::new(about),
    };
    let limits = Limits { handshake_ms: 60_000, ..Limits::default() };
    let listener = door::listen(at, 0x40).unwrap();
    let at = listener.local_addr().unwrap();
    let local = dir.join("agent.sock");
    let guests = door::open(listener, trust.clone(), &limits);
    let locals = door::open_locally(door::listen_locally(&local).unwrap());
    for door in [guests, locals] {
        let (service, limits) = (service.clone(), limits.clone());
        tokio::spawn(async move { answer(service, door, &limits, std::future::pending()).await });
    }
    Served { at, local, trust, papers }
}

impl Agent {
    pub async fn dial(&self, ca: &Authority, who: Option<Identity>) -> Result<Client, String> {
        self.dial_at(self.at, ca, who).await
    }

    /// By way of another address.
    pub async fn dial_at(
        &self,
        at: SocketAddr,
        ca: &Authority,
        who: Option<Identity>,
    ) -> Result<Client, String> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca.pem()))
            .domain_name("calypso");
        if let Some(who) = who {
            tls = tls.identity(who);
        }
        let endpoint = Endpoint::from_shared(format!("https://{at}"))
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(20));
        endpoint.connect().await.map(LifelineClient::new).map_err(|e| all(&e))
    }

    /// What somebody hears who is turned away in the handshake.
    pub async fn turned_away(&self, ca: &Authority, who: Option<Identity>) -> String {
        match self.dial(ca, who).await {
            Err(why) => why,
            Ok(mut client) => all(&client.status(wire::StatusRequest {}).await.unwrap_err()),
        }
    }
}

pub fn all(error: &dyn std::error::Error) -> String {
    lifeline_agent::sight::chain(error)
}
