//! A stand-in for the agent: the same wire over the same mutual TLS; what it answers is set by each test.
//!
//! It copies the agent's manners at the wire (TLS 1.3, client certificates of one authority, ALPN h2), not its judgement.

use crate::desk::Desk;
use lifeline_core::clock::Stamp;
use lifeline_core::diagnosis::{Diagnosis, Health, Verdict};
use lifeline_proto::v1 as wire;
use lifeline_proto::v1::lifeline_server::{Lifeline, LifelineServer};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// What the agent is asked, in order.
pub type Asked = Arc<Mutex<Vec<String>>>;

/// The stand-in's state.
pub struct StandIn {
    pub node: String,
    pub cluster: String,
    pub verdict: Mutex<Verdict>,
    pub asked: Asked,
}

impl StandIn {
    /// A healthy calypso of cluster lab.
    pub fn calypso() -> Self {
        Self {
            node: "calypso".into(),
            cluster: "lab".into(),
            verdict: Mutex::new(Verdict::Healthy),
            asked: Asked::default(),
        }
    }

    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }

    /// Serves over TLS with the certificate in one directory of the desk, believing clients of one authority.
    pub async fn serve(self, desk: &Desk, cert: &str, clients: &str) -> (SocketAddr, Arc<Self>) {
        let me = Arc::new(self);
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(
                desk.read(&format!("{cert}/agent.crt")),
                desk.read(&format!("{cert}/agent.key")),
            ))
            .client_ca_root(Certificate::from_pem(desk.read(&format!("{clients}/ca.crt"))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().tls_config(tls).unwrap().add_service(service(&me));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (address, me)
    }

    /// Serves on a unix socket of the desk.
    pub fn serve_unix(self, desk: &Desk, name: &str) -> Arc<Self> {
        let me = Arc::new(self);
        let listener = UnixListener::bind(desk.path(name)).unwrap();
        let server = Server::builder().add_service(service(&me));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        me
    }
}

fn service(me: &Arc<StandIn>) -> LifelineServer<Shared> {
    LifelineServer::new(Shared(Arc::clone(me)))
}

/// A diagnosis with nothing in it but the verdict.
pub fn diagnosis(verdict: Verdict) -> Diagnosis {
    Diagnosis {
        taken: Stamp::default(),
        verdict,
        health: if verdict == Verdict::Healthy { Health::Well } else { Health::Unwell },
        guarded: false,
        summary: format!("it is {verdict}"),
        findings: vec![],
        held: vec![],
        forwarding: vec![],
    }
}

fn number(verdict: Verdict) -> i32 {
    let at = Verdict::ALL.iter().position(|v| *v == verdict).unwrap();
    i32::try_from(at).unwrap() + 1
}

struct Shared(Arc<StandIn>);

type Lines = Pin<Box<dyn Stream<Item = Result<wire::WatchReply, Status>> + Send>>;

#[tonic::async_trait]
impl Lifeline for Shared {
    async fn status(
        &self,
        _: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusReply>, Status> {
        self.0.note("status");
        let verdict = *self.0.verdict.lock().unwrap();
        Ok(Response::new(wire::StatusReply {
            version: "0.1.0".into(),
            node: self.0.node.clone(),
            cluster: self.0.cluster.clone(),
            mode: "guard".into(),
            verdict: number(verdict),
            summary: format!("it is {verdict}"),
            boot_id: "b".into(),
            age_ms: 1200,
            baseline: "learned".into(),
            ..wire::StatusReply::default()
        }))
    }

    async fn diagnose(
        &self,
        _: Request<wire::DiagnoseRequest>,
    ) -> Result<Response<wire::DiagnoseReply>, Status> {
        self.0.note("diagnose");
        let verdict = *self.0.verdict.lock().unwrap();
        let diagnosis = serde_json::to_string(&diagnosis(verdict)).unwrap();
        Ok(Response::new(wire::DiagnoseReply { verdict: number(verdict), diagnosis }))
    }

    async fn plan(
        &self,
        _: Request<wire::PlanRequest>,
    ) -> Result<Response<wire::PlanReply>, Status> {
        Err(Status::unimplemented("plan"))
    }

    async fn heal(
        &self,
        _: Request<wire::HealRequest>,
    ) -> Result<Response<wire::HealReply>, Status> {
        Err(Status::unimplemented("heal"))
    }

    type WatchStream = Lines;

    async fn watch(&self, _: Request<wire::WatchRequest>) -> Result<Response<Lines>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty().map(Ok))))
    }

    async fn cancel(
        &self,
        _: Request<wire::CancelRequest>,
    ) -> Result<Response<wire::CancelReply>, Status> {
        Err(Status::unimplemented("cancel"))
    }

    async fn undo(
        &self,
        _: Request<wire::UndoRequest>,
    ) -> Result<Response<wire::UndoReply>, Status> {
        Err(Status::unimplemented("undo"))
    }

    async fn history(
        &self,
        _: Request<wire::HistoryRequest>,
    ) -> Result<Response<wire::HistoryReply>, Status> {
        Err(Status::unimplemented("history"))
    }

    async fn baseline(
        &self,
        _: Request<wire::BaselineRequest>,
    ) -> Result<Response<wire::BaselineReply>, Status> {
        Err(Status::unimplemented("baseline"))
    }
}
