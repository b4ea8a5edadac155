//! The calls. Each asks who calls, takes the value it needs from that, and hands on; nothing is decided here.
//!
//! Longer than most files: one call of the wire after the other.

use crate::aside::aside;
use crate::log;
use crate::look::pods;
use crate::papers::Papers;
use crate::roles::{self, Caller, Operator, Refused, Viewer};
use crate::runs::book::Asked;
use crate::runs::story::Story;
use crate::runs::{Node, Request as Wanted, Runs};
use crate::serve::conn::Peer;
use crate::serve::views;
use crate::sight::Sight;
use crate::store::{Store, disk};
use crate::tls::Trust;
use arc_swap::ArcSwapOption;
use futures_util::Stream;
use lifeline_core::baseline;
use lifeline_core::diagnosis::{Diagnosis, Verdict};
use lifeline_core::drill;
use lifeline_core::plan::Consent;
use lifeline_core::policy::Policy;
use lifeline_proto::v1 as wire;
use lifeline_proto::v1::lifeline_server::Lifeline;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// Everything the calls lean on.
#[derive(Debug)]
pub struct Service<N> {
    /// Recoveries.
    pub runs: Runs<N>,
    /// Looks.
    pub sight: Arc<Sight<N>>,
    /// Memory.
    pub store: Arc<Store>,
    /// The machine.
    pub node: Arc<N>,
    /// What is allowed.
    pub policy: Arc<Policy>,
    /// Whom we believe; none while the certificates cannot be used.
    pub trust: Arc<ArcSwapOption<Trust>>,
    /// Where that comes from, and how it is changed.
    pub papers: Arc<Papers>,
    /// Who we are.
    pub about: Arc<About>,
}

/// Who the agent is.
#[derive(Clone, Debug)]
pub struct About {
    /// Node.
    pub node: String,
    /// Cluster.
    pub cluster: String,
    /// Boot id.
    pub boot: String,
}

impl<N> Clone for Service<N> {
    fn clone(&self) -> Self {
        Self {
            runs: self.runs.clone(),
            sight: self.sight.clone(),
            store: self.store.clone(),
            node: self.node.clone(),
            policy: self.policy.clone(),
            trust: self.trust.clone(),
            papers: self.papers.clone(),
            about: self.about.clone(),
        }
    }
}

impl<N: Node> Service<N> {
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let peer = request.extensions().get::<Peer>().ok_or(Refused::NoCertificate)?;
        let asked = peer.caller(self.trust.load().as_deref());
        if let Err(why) = &asked {
            tracing::info!("{peer:?} was refused: {why}");
        }
        Ok(asked?)
    }

    fn operator<T>(&self, request: &Request<T>) -> Result<Operator, Status> {
        Ok(self.caller(request)?.operator()?)
    }

    fn viewer<T>(&self, request: &Request<T>) -> Result<Viewer, Status> {
        Ok(self.caller(request)?.viewer())
    }

    /// Is who called still welcome? A stream outlives the moment in which that was asked first.
    fn stays<T>(&self, request: &Request<T>) -> Result<Stays, Status> {
        let peer = request.extensions().get::<Peer>().ok_or(Refused::NoCertificate)?.clone();
        let trust = self.trust.clone();
        Ok(Box::new(move || match peer.caller(trust.load().as_deref()) {
            Ok(_) => Ok(()),
            Err(why) => {
                tracing::info!("{peer:?} is no longer served: {why}");
                Err(why.into())
            }
        }))
    }

    /// What was judged, and what is wrong with the agent itself.
    fn summary(&self, judged: &str) -> String {
        let disk = self.store.trouble().map(|why| disk::said(&why));
        let deaf = "only the local socket is served, for want of certificates".to_owned();
        let deaf = self.trust.load().is_none().then_some(deaf);
        let troubles = disk.into_iter().chain(deaf).chain(self.runs.held_back());
        troubles.fold(judged.to_owned(), |text, why| format!("{text}; the agent itself: {why}"))
    }

    fn baseline_word(&self) -> String {
        match self.store.baseline() {
            Some(b) => format!("{}, generation {}", views::word(b.provenance), b.generation),
            None => "none yet".to_string(),
        }
    }
}

/// Asked again while a stream goes on.
type Stays = Box<dyn Fn() -> Result<(), Status> + Send>;

/// How often that is asked while nothing is told.
const ASKED: Duration = Duration::from_secs(1);

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(what: T) -> Answer<T> {
    Ok(Response::new(what))
}

#[tonic::async_trait]
impl<N: Node> Lifeline for Service<N> {
    async fn status(&self, request: Request<wire::StatusRequest>) -> Answer<wire::StatusReply> {
        self.viewer(&request)?;
        let latest = self.sight.latest().borrow().clone();
        let mut reply = wire::StatusReply {
            version: crate::VERSION.to_string(),
            node: self.about.node.clone(),
            cluster: self.about.cluster.clone(),
            mode: self.policy.mode.word().to_string(),
            verdict: wire::Verdict::Unknown.into(),
            summary: "the first look has not ended yet".to_string(),
            guarded: false,
            incident: self.runs.under_way().unwrap_or_default(),
            boot_id: self.about.boot.clone(),
            age_ms: 0,
            baseline: self.baseline_word(),
            denied_serials: self.trust.load().as_ref().map(|t| t.denied()).unwrap_or_default(),
            now_ms: crate::clock::wall_ms(),
        };
        if let Some(glance) = latest {
            let d = &glance.diagnosis;
            reply.verdict = views::verdict(d.verdict).into();
            reply.summary.clone_from(&d.summary);
            reply.guarded = d.guarded;
            reply.age_ms = u64::try_from(glance.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        }
        reply.summary = self.summary(&reply.summary);
        answer(reply)
    }

    async fn diagnose(
        &self,
        request: Request<wire::DiagnoseRequest>,
    ) -> Answer<wire::DiagnoseReply> {
        let who = self.viewer(&request)?;
        let mut judged = Diagnosis::clone(&*self.sight.fresh().await.diagnosis);
        judged.summary = self.summary(&judged.summary);
        answer(wire::DiagnoseReply {
            verdict: views::verdict(judged.verdict).into(),
            diagnosis: views::diagnosis(&judged, &who),
        })
    }

    async fn plan(&self, request: Request<wire::PlanRequest>) -> Answer<wire::PlanReply> {
        let who = self.viewer(&request)?;
        let glance = self.sight.fresh().await;
        let (node, policy, asked) = (self.node.clone(), self.policy.clone(), glance.clone());
        let plans =
            aside(move || node.forecast(&asked.seen, &asked.base, &policy, &asked.diagnosis)).await;
        let mut rungs = Vec::new();
        let astray = matches!(glance.diagnosis.verdict, Verdict::Captured | Verdict::Lost);
        if !plans.is_empty() || glance.diagnosis.guarded || astray {
            rungs.push(views::guard(&glance.diagnosis));
        }
        rungs.extend(plans.iter().map(|p| views::rung(p, &who)));
        answer(wire::PlanReply {
            verdict: views::verdict(glance.diagnosis.verdict).into(),
            summary: glance.diagnosis.summary.clone(),
            rungs,
            consent: views::json(&views::consent(&plans)),
            diagnosis: views::diagnosis(&glance.diagnosis, &who),
            last: views::last(&glance, &self.policy, &who),
        })
    }

    async fn heal(&self, request: Request<wire::HealRequest>) -> Answer<wire::HealReply> {
        let who = self.operator(&request)?;
        let r = request.into_inner();
        let consent: Consent = serde_json::from_str(&r.consent)
            .map_err(|why| Status::invalid_argument(format!("consent of the request: {why}")))?;
        let stability_ms = u64::from(r.stability_s) * 1_000;
        let asked = Asked::Heal { consent, digest: r.digest, stability_ms };
        let (incident, repeated) = self.runs.heal(&who, Wanted { id: r.request_id, asked }).await?;
        answer(wire::HealReply { incident, repeated })
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchReply, Status>> + Send>>;

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Answer<Self::WatchStream> {
        let who = self.viewer(&request)?;
        let stays = self.stays(&request)?;
        let r = request.into_inner();
        let story = self.runs.story(&r.incident).await?;
        answer(Box::pin(follow(story, r.since, who, stays)))
    }

    async fn cancel(&self, request: Request<wire::CancelRequest>) -> Answer<wire::CancelReply> {
        let who = self.operator(&request)?;
        let incident = self.runs.cancel(&who, &request.get_ref().incident)?;
        answer(wire::CancelReply { incident })
    }

    async fn confirm(&self, request: Request<wire::ConfirmRequest>) -> Answer<wire::ConfirmReply> {
        let who = self.operator(&request)?;
        self.runs.confirm(&who, &request.get_ref().run).await?;
        answer(wire::ConfirmReply {})
    }

    async fn reboot(&self, request: Request<wire::RebootRequest>) -> Answer<wire::RebootReply> {
        let who = self.operator(&request)?;
        let r = request.into_inner();
        let asked = Asked::Reboot { stability_ms: u64::from(r.stability_s) * 1_000 };
        let (incident, repeated) = self.runs.heal(&who, Wanted { id: r.request_id, asked }).await?;
        answer(wire::RebootReply { incident, repeated })
    }

    async fn undo(&self, request: Request<wire::UndoRequest>) -> Answer<wire::UndoReply> {
        let who = self.operator(&request)?;
        let r = request.into_inner();
        let done = self.runs.undo(&who, &r.run, r.request_id).await?;
        answer(wire::UndoReply { ending: done.ending, lines: done.lines })
    }

    async fn history(&self, request: Request<wire::HistoryRequest>) -> Answer<wire::HistoryReply> {
        self.viewer(&request)?;
        let limit = match request.get_ref().limit {
            0 => 20,
            n => n.min(1_000) as usize,
        };
        let items = self.runs.history(limit).into_iter().map(views::history).collect();
        answer(wire::HistoryReply { items })
    }

    async fn baseline(
        &self,
        request: Request<wire::BaselineRequest>,
    ) -> Answer<wire::BaselineReply> {
        let verb = request.get_ref().verb();
        let changes = !matches!(verb, wire::baseline_request::Verb::Show);
        if changes {
            let who = self.operator(&request)?;
            if let Some(incident) = self.runs.under_way() {
                return Err(crate::runs::Refused::Busy { incident }.into());
            }
            tracing::info!("{} asks to change the baseline: {}", who.name(), verb.as_str_name());
        } else {
            self.viewer(&request)?;
        }
        let glance = self.sight.fresh().await;
        let base = match verb {
            wire::baseline_request::Verb::Show => glance.base.clone(),
            wire::baseline_request::Verb::Accept => {
                let accepted =
                    baseline::accept(&glance.seen, &glance.diagnosis, Some(&glance.base)).map_err(
                        |why| {
                            Status::failed_precondition(format!("accept the node as it is: {why}"))
                        },
                    )?;
                self.sight.keep(accepted).await
            }
            wire::baseline_request::Verb::Reset => {
                self.sight.keep(self.node.derive(&glance.seen)).await
            }
        };
        answer(wire::BaselineReply {
            baseline: views::json(&*base),
            differences: baseline::differences(&base, &glance.seen),
        })
    }

    async fn deny(&self, request: Request<wire::DenyRequest>) -> Answer<wire::DenyReply> {
        let who = self.operator(&request)?;
        let own = match request.extensions().get::<Peer>() {
            Some(Peer::Remote { chain, .. }) => {
                chain.first().map(|own| roles::serial_of(own)).transpose()?
            }
            Some(Peer::Local { .. }) | None => None,
        };
        let serials = self.papers.deny(&who, own, request.into_inner().serials).await?;
        answer(wire::DenyReply { serials })
    }

    async fn request_certificate(
        &self,
        request: Request<wire::RequestCertificateRequest>,
    ) -> Answer<wire::RequestCertificateReply> {
        let who = self.operator(&request)?;
        answer(wire::RequestCertificateReply { request: self.papers.request(&who).await? })
    }

    async fn take_certificate(
        &self,
        request: Request<wire::TakeCertificateRequest>,
    ) -> Answer<wire::TakeCertificateReply> {
        let who = self.operator(&request)?;
        let serial = self.papers.take(&who, request.into_inner().chain).await?;
        answer(wire::TakeCertificateReply { serial })
    }

    async fn drill(&self, request: Request<wire::DrillRequest>) -> Answer<wire::DrillReply> {
        let who = self.operator(&request)?;
        let not_now =
            |why| Status::failed_precondition(format!("drill {}: {why}", self.about.node));
        let glance = self.sight.fresh().await;
        let incident = self.runs.under_way();
        if let Some(why) = drill::refusal(&glance.diagnosis, incident.as_deref()) {
            return Err(not_now(why));
        }
        tracing::info!("{} asks for a drill", who.name());
        let (node, base) = (self.node.clone(), glance.base.clone());
        // In a task of its own: a caller who hangs up half-way leaves nothing half-done.
        let trial = tokio::spawn(async move { node.drill(base).await }).await;
        let trial = trial.map_err(|_| Status::internal("the drill has broken down"))?;
        let steps = drill::steps(&trial.map_err(not_now)?);
        for s in &steps {
            tracing::info!("drill, {}: {}: {}", s.name, s.outcome.word(), s.seen);
        }
        answer(views::drill(&steps, self.policy.mode))
    }

    async fn pods(&self, request: Request<wire::PodsRequest>) -> Answer<wire::PodsReply> {
        self.viewer(&request)?;
        let wire::PodsRequest { uids } = request.into_inner();
        if uids.len() > pods::MOST {
            return Err(Status::invalid_argument(format!(
                "{} pods were asked for, at most {} at once",
                uids.len(),
                pods::MOST
            )));
        }
        let alive = pods::on_this_node(uids).await.map_err(Status::internal)?;
        answer(wire::PodsReply { alive })
    }

    async fn logs(&self, request: Request<wire::LogsRequest>) -> Answer<wire::LogsReply> {
        self.operator(&request)?;
        let wire::LogsRequest { since_s, cursor, lines } = request.into_inner();
        let page = log::read(since_s, &cursor, lines).await?;
        answer(views::logs(page))
    }
}

/// Everything after the first `since`, then each new thing, until the end.
fn follow(
    story: Arc<Story>,
    since: u64,
    who: Viewer,
    stays: Stays,
) -> impl Stream<Item = Result<wire::WatchReply, Status>> + Send {
    let (tell, told) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        let (mut seen, mut grew) = (since, story.grew());
        loop {
            // Marked as seen before it is read: what is added meanwhile wakes us again.
            grew.borrow_and_update();
            let news = story.since(seen);
            if let Err(no) = stays() {
                // Whether it is still heard is the caller's business.
                drop(tell.send(Err(no)).await);
                return;
            }
            for item in &news {
                seen = item.number;
                if tell.send(Ok(views::item(item, &who))).await.is_err() {
                    return;
                }
            }
            if story.ended().is_some() {
                return;
            }
            tokio::select! {
                changed = grew.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(ASKED) => {}
                () = tell.closed() => return,
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(told)
}
