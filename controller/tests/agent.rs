//! A stand-in for the agent: the same wire over the same mutual TLS; what it answers is set by each test.
//! It copies the agent's manners at the wire (TLS 1.3, client certificates of one authority, ALPN h2), not its judgement.
//!
//! Longer than most files: one stand-in answers the whole wire.

use crate::desk::Desk;
use crate::shake;
use crate::story::{self, Story};
use lifeline_core::baseline::Baseline;
use lifeline_core::clock::Stamp;
use lifeline_core::diagnosis::{Diagnosis, Health, Verdict};
use lifeline_core::plan::{Consent, Rung};
use lifeline_proto::v1 as wire;
use lifeline_proto::v1::lifeline_server::{Lifeline, LifelineServer};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

fn wall_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap()
}

/// What changes while it serves.
pub struct State {
    pub verdict: Verdict,
    /// The boot it is in.
    pub boot: String,
    /// How far its clock is ahead of the real one, milliseconds.
    pub ahead_ms: i64,
    /// Diagnoses that still find our guard standing.
    pub guarded: u32,
    /// Plans, in order; the last one stays.
    pub plans: VecDeque<wire::PlanReply>,
    /// What becomes of each heal, in order.
    pub stories: VecDeque<Story>,
    /// Opened incidents, by request id: `i-1`, `i-2`…
    pub opened: Vec<(String, Story)>,
    /// So many answers to a heal get lost on their way.
    pub lost: u32,
    /// The same of plans.
    pub lost_plans: u32,
    /// A heal is refused with this.
    pub refuses: Option<Status>,
    /// A diagnosis is refused with this.
    pub blind: Option<Status>,
    /// The incident under way.
    pub running: String,
    pub asked: Vec<String>,
    /// Serial numbers it refuses.
    pub denied: Vec<String>,
    /// A key that waits for its certificate.
    pub ready: Option<String>,
    /// Pages of its log, in order.
    pub pages: VecDeque<wire::LogsReply>,
    /// What a drill shows; refused without one.
    pub drill: Option<wire::DrillReply>,
    /// Uids of pods that have processes there.
    pub alive: Vec<String>,
    /// Where its certificate and key lie.
    pub papers: PathBuf,
}

/// The stand-in.
pub struct StandIn {
    pub node: String,
    pub cluster: String,
    pub state: Mutex<State>,
}

impl StandIn {
    /// A healthy calypso of cluster lab.
    pub fn calypso() -> Self {
        Self {
            node: "calypso".into(),
            cluster: "lab".into(),
            state: Mutex::new(State {
                verdict: Verdict::Healthy,
                boot: "b".into(),
                ahead_ms: 0,
                guarded: 0,
                plans: [story::plan(&[])].into(),
                stories: VecDeque::new(),
                opened: Vec::new(),
                lost: 0,
                lost_plans: 0,
                refuses: None,
                blind: None,
                running: String::new(),
                asked: Vec::new(),
                denied: Vec::new(),
                ready: None,
                pages: VecDeque::new(),
                drill: None,
                alive: Vec::new(),
                papers: PathBuf::new(),
            }),
        }
    }

    /// A healthy node of another name.
    pub fn named(node: &str) -> Self {
        Self { node: node.into(), ..Self::calypso() }
    }

    /// A captured calypso, which these stories befall.
    pub fn captured(stories: Vec<Story>) -> Self {
        let me = Self::calypso();
        {
            let mut state = me.state();
            state.verdict = Verdict::Captured;
            state.plans =
                [story::plan(&[(Rung::Quiet, story::stop()), (Rung::Clean, story::rules())])]
                    .into();
            state.stories = stories.into();
        }
        me
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What it was asked.
    pub fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    /// Consents it was given.
    pub fn consents(&self) -> Vec<Consent> {
        let asked = self.asked();
        let heals = asked.iter().filter_map(|a| a.strip_prefix("heal "));
        heals.map(|h| serde_json::from_str(h.split_once(' ').unwrap().1).unwrap()).collect()
    }

    fn note(&self, what: impl Into<String>) {
        self.state().asked.push(what.into());
    }

    /// Serves over TLS with the certificate in one directory of the desk, believing clients of one authority.
    pub async fn serve(self, desk: &Desk, cert: &str, clients: &str) -> (SocketAddr, Arc<Self>) {
        self.serve_at(desk, cert, clients, ([127, 0, 0, 1], 0).into()).await
    }

    /// The same at an address of its own.
    pub async fn serve_at(
        self,
        desk: &Desk,
        cert: &str,
        clients: &str,
        at: SocketAddr,
    ) -> (SocketAddr, Arc<Self>) {
        self.state().papers = desk.path(cert);
        let me = Arc::new(self);
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let guests = shake::incoming(listener, desk.path(cert), desk.path(clients));
        tokio::spawn(Server::builder().add_service(service(&me)).serve_with_incoming(guests));
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
        let state = self.0.state();
        Ok(Response::new(wire::StatusReply {
            version: "0.1.0".into(),
            node: self.0.node.clone(),
            cluster: self.0.cluster.clone(),
            mode: "guard".into(),
            verdict: number(state.verdict),
            summary: format!("it is {}", state.verdict),
            incident: state.running.clone(),
            boot_id: state.boot.clone(),
            age_ms: 1200,
            baseline: "learned".into(),
            denied_serials: state.denied.clone(),
            now_ms: wall_ms().saturating_add_signed(state.ahead_ms),
            ..wire::StatusReply::default()
        }))
    }

    async fn diagnose(
        &self,
        _: Request<wire::DiagnoseRequest>,
    ) -> Result<Response<wire::DiagnoseReply>, Status> {
        self.0.note("diagnose");
        let mut state = self.0.state();
        if let Some(no) = &state.blind {
            return Err(no.clone());
        }
        let mut d = diagnosis(state.verdict);
        d.guarded = state.guarded > 0;
        state.guarded = state.guarded.saturating_sub(1);
        let diagnosis = serde_json::to_string(&d).unwrap();
        Ok(Response::new(wire::DiagnoseReply { verdict: number(state.verdict), diagnosis }))
    }

    async fn plan(
        &self,
        _: Request<wire::PlanRequest>,
    ) -> Result<Response<wire::PlanReply>, Status> {
        self.0.note("plan");
        let mut state = self.0.state();
        if state.lost_plans > 0 {
            state.lost_plans -= 1;
            return Err(Status::unavailable("the answer was lost"));
        }
        let plan = match state.plans.len() {
            1 => state.plans[0].clone(),
            _ => state.plans.pop_front().unwrap(),
        };
        let diagnosis = serde_json::to_string(&diagnosis(state.verdict)).unwrap();
        Ok(Response::new(wire::PlanReply { verdict: number(state.verdict), diagnosis, ..plan }))
    }

    async fn heal(
        &self,
        r: Request<wire::HealRequest>,
    ) -> Result<Response<wire::HealReply>, Status> {
        let r = r.into_inner();
        self.0.note(format!("heal {} {}", r.request_id, r.consent));
        let mut state = self.0.state();
        if let Some(no) = state.refuses.take() {
            return Err(no);
        }
        let known = state.opened.iter().position(|(id, _)| *id == r.request_id);
        let at = match known {
            Some(at) => at,
            None => {
                let story = state.stories.pop_front().unwrap();
                state.opened.push((r.request_id, story));
                state.opened.len() - 1
            }
        };
        if state.lost > 0 {
            state.lost -= 1;
            return Err(Status::unavailable("the answer was lost"));
        }
        let incident = format!("i-{}", at + 1);
        Ok(Response::new(wire::HealReply { incident, repeated: known.is_some() }))
    }

    type WatchStream = Lines;

    async fn watch(&self, r: Request<wire::WatchRequest>) -> Result<Response<Lines>, Status> {
        let r = r.into_inner();
        self.0.note(format!("watch {} {}", r.incident, r.since));
        let mut state = self.0.state();
        let at = r.incident.strip_prefix("i-").and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        let Some((_, story)) = at.checked_sub(1).and_then(|at| state.opened.get_mut(at)) else {
            return Err(Status::not_found(format!("there is no incident {}", r.incident)));
        };
        let breaks = story.breaks_after.take();
        let (lines, hangs, heals) = (story.lines.clone(), story.hangs, story.heals);
        let numbered = lines
            .into_iter()
            .enumerate()
            .map(|(i, what)| Ok(wire::WatchReply { number: i as u64 + 1, what: Some(what) }));
        let mut told: Vec<_> = numbered.take(breaks.unwrap_or(usize::MAX)).collect();
        told.drain(..told.len().min(usize::try_from(r.since).unwrap()));
        if breaks.is_some() {
            told.push(Err(Status::unavailable("the agent is being restarted")));
        } else if !hangs {
            state.running.clear();
            if heals {
                state.verdict = Verdict::Healthy;
                state.plans = [story::plan(&[])].into();
            }
        }
        let told = tokio_stream::iter(told);
        Ok(Response::new(if hangs {
            Box::pin(told.chain(tokio_stream::pending()))
        } else {
            Box::pin(told)
        }))
    }

    async fn cancel(
        &self,
        r: Request<wire::CancelRequest>,
    ) -> Result<Response<wire::CancelReply>, Status> {
        let incident = r.into_inner().incident;
        self.0.note(format!("cancel {incident}"));
        for (_, story) in &mut self.0.state().opened {
            story.hangs = false;
        }
        Ok(Response::new(wire::CancelReply { incident }))
    }

    async fn confirm(
        &self,
        r: Request<wire::ConfirmRequest>,
    ) -> Result<Response<wire::ConfirmReply>, Status> {
        let run = r.into_inner().run;
        self.0.note(format!("confirm {run}"));
        match run.ends_with("-reset") {
            true => Ok(Response::new(wire::ConfirmReply {})),
            false => {
                Err(Status::failed_precondition(format!("run {run} asks for no confirmation")))
            }
        }
    }

    async fn drill(
        &self,
        _: Request<wire::DrillRequest>,
    ) -> Result<Response<wire::DrillReply>, Status> {
        self.0.note("drill");
        let refused = "drill calypso: it is Captured: the API is behind tailscale0";
        let told = self.0.state().drill.clone();
        told.map(Response::new).ok_or_else(|| Status::failed_precondition(refused))
    }

    async fn reboot(
        &self,
        r: Request<wire::RebootRequest>,
    ) -> Result<Response<wire::RebootReply>, Status> {
        let r = r.into_inner();
        self.0.note(format!("reboot for {} s", r.stability_s));
        let mut state = self.0.state();
        let story = state.stories.pop_front().unwrap();
        state.opened.push((r.request_id, story));
        let incident = format!("i-{}", state.opened.len());
        Ok(Response::new(wire::RebootReply { incident, repeated: false }))
    }

    async fn undo(
        &self,
        r: Request<wire::UndoRequest>,
    ) -> Result<Response<wire::UndoReply>, Status> {
        self.0.note(format!("undo {}", r.into_inner().run));
        let lines = vec!["policy rules (IPv4): put back".into()];
        Ok(Response::new(wire::UndoReply { ending: "rolled-back".into(), lines }))
    }

    async fn history(
        &self,
        _: Request<wire::HistoryRequest>,
    ) -> Result<Response<wire::HistoryReply>, Status> {
        let item = |at: usize| wire::HistoryItem {
            incident: format!("i-{}", at + 1),
            opened_wall_ms: 1_760_356_800_000,
            by: "operator alice".into(),
            ending: "recovered".into(),
            runs: vec!["r-1".into(), "r-2".into()],
            findings: vec![story::FINDING.into()],
        };
        let items = (0..self.0.state().opened.len()).rev().map(item).collect();
        Ok(Response::new(wire::HistoryReply { items }))
    }

    async fn baseline(
        &self,
        r: Request<wire::BaselineRequest>,
    ) -> Result<Response<wire::BaselineReply>, Status> {
        let verb = r.into_inner().verb();
        self.0.note(format!("baseline {verb:?}"));
        let baseline = serde_json::to_string(&Baseline::default()).unwrap();
        let differences = match verb {
            wire::baseline_request::Verb::Show => vec!["rule 5270 lookup 52 is new".into()],
            _ => vec![],
        };
        Ok(Response::new(wire::BaselineReply { baseline, differences }))
    }

    async fn deny(
        &self,
        r: Request<wire::DenyRequest>,
    ) -> Result<Response<wire::DenyReply>, Status> {
        let serials = r.into_inner().serials;
        self.0.note(format!("deny {}", serials.join(" ")));
        let mut state = self.0.state();
        state.denied.extend(serials);
        Ok(Response::new(wire::DenyReply { serials: state.denied.clone() }))
    }

    async fn request_certificate(
        &self,
        _: Request<wire::RequestCertificateRequest>,
    ) -> Result<Response<wire::RequestCertificateReply>, Status> {
        self.0.note("request a certificate");
        let pair = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&pair).unwrap();
        self.0.state().ready = Some(pair.serialize_pem());
        Ok(Response::new(wire::RequestCertificateReply { request: request.pem().unwrap() }))
    }

    async fn take_certificate(
        &self,
        r: Request<wire::TakeCertificateRequest>,
    ) -> Result<Response<wire::TakeCertificateReply>, Status> {
        self.0.note("take a certificate");
        let mut state = self.0.state();
        std::fs::write(state.papers.join("agent.crt"), r.into_inner().chain).unwrap();
        std::fs::write(state.papers.join("agent.key"), state.ready.take().unwrap()).unwrap();
        Ok(Response::new(wire::TakeCertificateReply { serial: "01".into() }))
    }

    async fn pods(
        &self,
        r: Request<wire::PodsRequest>,
    ) -> Result<Response<wire::PodsReply>, Status> {
        let mut alive = r.into_inner().uids;
        let state = self.0.state();
        alive.retain(|uid| state.alive.contains(uid));
        Ok(Response::new(wire::PodsReply { alive }))
    }

    async fn logs(
        &self,
        r: Request<wire::LogsRequest>,
    ) -> Result<Response<wire::LogsReply>, Status> {
        let r = r.into_inner();
        self.0.note(format!("logs {} {:?} {}", r.since_s, r.cursor, r.lines));
        Ok(Response::new(self.0.state().pages.pop_front().unwrap_or_default()))
    }
}
