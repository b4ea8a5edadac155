//! An agent that was reached: the wire's questions with their limits, its answers in core's words.

use crate::error::CommandError;
use crate::obstacle::chain;
use crate::reach::Reached;
use crate::skew::Skew;
use crate::ssh::Tunnel;
use lifeline_core::diagnosis::{Diagnosis, Verdict};
use lifeline_proto::v1 as wire;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Response, Status, Streaming};

/// A look takes 0.4 to 2 s, and its probes some more when nothing answers.
const LOOK: Duration = Duration::from_secs(45);
/// Answers that need no look.
const QUICK: Duration = Duration::from_secs(10);
/// Undoing waits for processes.
const UNDO: Duration = Duration::from_secs(180);

/// Why an agent's answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It answered with an error, or the connection broke.
    #[error("ask {node} to {what}: {}", words(status))]
    Call {
        /// Node.
        node: String,
        /// What was asked.
        what: &'static str,
        /// Its answer.
        status: Box<Status>,
    },
    /// It did not answer.
    #[error("ask {node} to {what}: no answer within {} s", limit.as_secs())]
    Late {
        /// Node.
        node: String,
        /// What was asked.
        what: &'static str,
        /// How long we waited.
        limit: Duration,
    },
    /// It answered in a form we do not know.
    #[error("read {node}'s answer to \"{what}\"")]
    Form {
        /// Node.
        node: String,
        /// What was asked.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl AgentError {
    /// Did the connection break, rather than the agent say no?
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Call { status, .. } => is_lost(status),
            Self::Late { .. } => true,
            Self::Form { .. } => false,
        }
    }

    /// The code it answered with.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Call { status, .. } => Some(status.code()),
            Self::Late { .. } | Self::Form { .. } => None,
        }
    }
}

/// Did the connection break, rather than the agent say no? An agent that stops says "unavailable", too.
pub fn is_lost(status: &Status) -> bool {
    use std::error::Error;
    match status.code() {
        Code::Unavailable | Code::Cancelled => true,
        Code::Unknown | Code::Internal => {
            status.source().is_some()
                || status.message().contains("h2 protocol")
                || status.message().contains("http2 error")
        }
        _ => false,
    }
}

fn words(status: &Status) -> String {
    use std::error::Error;
    match status.source() {
        Some(source) if status.message().is_empty() || status.message() == "transport error" => {
            chain(source)
        }
        _ if status.message().is_empty() => format!("it says {:?} and no more", status.code()),
        _ => status.message().to_owned(),
    }
}

/// An agent.
#[derive(Clone, Debug)]
pub struct Agent {
    /// The node it speaks for.
    pub node: String,
    /// How it was reached.
    pub via: String,
    /// Its answer when it was reached.
    pub status: wire::StatusReply,
    /// How far its wall clock was from ours then.
    pub skew: Option<Skew>,
    client: wire::lifeline_client::LifelineClient<tonic::transport::Channel>,
    /// What carries the connection, when it is not the network itself.
    _tunnel: Option<Arc<Tunnel>>,
}

impl From<Reached> for Agent {
    fn from(r: Reached) -> Self {
        let node = r.status.node.clone();
        Self { node, via: r.via, status: r.status, skew: r.skew, client: r.client, _tunnel: None }
    }
}

/// The wire's verdict in core's words; a newer agent's unknown one is not guessed at.
pub fn verdict(number: i32) -> Verdict {
    match wire::Verdict::try_from(number) {
        Ok(wire::Verdict::Healthy) => Verdict::Healthy,
        Ok(wire::Verdict::Captured) => Verdict::Captured,
        Ok(wire::Verdict::Moved) => Verdict::Moved,
        Ok(wire::Verdict::Lost) => Verdict::Lost,
        Ok(wire::Verdict::Filtered) => Verdict::Filtered,
        Ok(wire::Verdict::KubeletStuck) => Verdict::KubeletStuck,
        Ok(wire::Verdict::Upstream) => Verdict::Upstream,
        Ok(wire::Verdict::Unknown | wire::Verdict::Unspecified) | Err(_) => Verdict::Unknown,
    }
}

impl Agent {
    /// One that was reached through something that must live as long as it is talked to.
    pub fn carried(reached: Reached, via: String, tunnel: Tunnel) -> Self {
        Self { via, _tunnel: Some(Arc::new(tunnel)), ..Self::from(reached) }
    }

    /// One that has said this, and is never asked more.
    #[cfg(test)]
    pub fn said(node: &str, status: wire::StatusReply) -> Self {
        let nowhere = tonic::transport::Endpoint::from_static("http://nowhere").connect_lazy();
        let client = wire::lifeline_client::LifelineClient::new(nowhere);
        Self {
            node: node.to_owned(),
            via: "nowhere".to_owned(),
            status,
            skew: None,
            client,
            _tunnel: None,
        }
    }

    /// Who it is and how its node was at its last look.
    pub async fn status(&self) -> Result<wire::StatusReply, AgentError> {
        let mut c = self.client.clone();
        self.ask("say how it is", QUICK, c.status(wire::StatusRequest {})).await
    }

    /// Looks afresh and judges.
    pub async fn diagnose(&self) -> Result<Diagnosis, AgentError> {
        let mut c = self.client.clone();
        let what = "look and judge";
        let reply = self.ask(what, LOOK, c.diagnose(wire::DiagnoseRequest {})).await?;
        self.read(what, &reply.diagnosis)
    }

    /// What would be done.
    pub async fn plan(&self) -> Result<wire::PlanReply, AgentError> {
        let mut c = self.client.clone();
        self.ask("plan", LOOK, c.plan(wire::PlanRequest {})).await
    }

    /// Heals, as far as the consent reaches.
    pub async fn heal(&self, request: wire::HealRequest) -> Result<wire::HealReply, AgentError> {
        let mut c = self.client.clone();
        self.ask("heal", LOOK, c.heal(request)).await
    }

    /// Follows an incident.
    pub async fn watch(
        &self,
        incident: &str,
        since: u64,
    ) -> Result<Streaming<wire::WatchReply>, AgentError> {
        let mut c = self.client.clone();
        let request = wire::WatchRequest { incident: incident.to_owned(), since };
        self.ask("tell of an incident", QUICK, c.watch(request)).await
    }

    /// Stops the running incident.
    pub async fn cancel(&self, incident: &str) -> Result<wire::CancelReply, AgentError> {
        let mut c = self.client.clone();
        let request = wire::CancelRequest { incident: incident.to_owned() };
        self.ask("cancel", QUICK, c.cancel(request)).await
    }

    /// Confirms a run that would otherwise be undone.
    pub async fn confirm(&self, run: &str) -> Result<wire::ConfirmReply, AgentError> {
        let mut c = self.client.clone();
        let request = wire::ConfirmRequest { run: run.to_owned() };
        self.ask("confirm a run", LOOK, c.confirm(request)).await
    }

    /// Reboots its node.
    pub async fn reboot(
        &self,
        request_id: &str,
        stability_s: u32,
    ) -> Result<wire::RebootReply, AgentError> {
        let mut c = self.client.clone();
        let request = wire::RebootRequest { request_id: request_id.to_owned(), stability_s };
        self.ask("reboot", LOOK, c.reboot(request)).await
    }

    /// Undoes a run.
    pub async fn undo(&self, run: &str, request_id: &str) -> Result<wire::UndoReply, AgentError> {
        let mut c = self.client.clone();
        let request = wire::UndoRequest { run: run.to_owned(), request_id: request_id.to_owned() };
        self.ask("undo a run", UNDO, c.undo(request)).await
    }

    /// Past incidents, newest first.
    pub async fn history(&self, limit: u32) -> Result<Vec<wire::HistoryItem>, AgentError> {
        let mut c = self.client.clone();
        let reply =
            self.ask("tell its history", QUICK, c.history(wire::HistoryRequest { limit })).await?;
        Ok(reply.items)
    }

    /// Shows or changes the baseline.
    pub async fn baseline(
        &self,
        verb: wire::baseline_request::Verb,
    ) -> Result<wire::BaselineReply, AgentError> {
        let mut c = self.client.clone();
        let request = wire::BaselineRequest { verb: verb.into() };
        self.ask("show its baseline", LOOK, c.baseline(request)).await
    }

    /// Has certificates refused from now on; gives all that are.
    pub async fn deny(&self, serials: Vec<String>) -> Result<Vec<String>, AgentError> {
        let mut c = self.client.clone();
        let request = wire::DenyRequest { serials };
        Ok(self.ask("deny certificates", LOOK, c.deny(request)).await?.serials)
    }

    /// Has a key made, and gives the request for its certificate.
    pub async fn request_certificate(&self) -> Result<String, AgentError> {
        let mut c = self.client.clone();
        let request = wire::RequestCertificateRequest {};
        Ok(self.ask("make a key", LOOK, c.request_certificate(request)).await?.request)
    }

    /// Brings the certificate that was asked for; gives the serial number it shows from now on.
    pub async fn take_certificate(&self, chain: String) -> Result<String, AgentError> {
        let mut c = self.client.clone();
        let request = wire::TakeCertificateRequest { chain };
        Ok(self.ask("take a certificate", LOOK, c.take_certificate(request)).await?.serial)
    }

    /// What it told its node's journal.
    /// Which of these pods still have processes there.
    pub async fn pods(&self, uids: Vec<String>) -> Result<Vec<String>, AgentError> {
        let mut c = self.client.clone();
        let reply = self.ask("look for pods' processes", LOOK, c.pods(wire::PodsRequest { uids }));
        Ok(reply.await?.alive)
    }

    pub async fn logs(&self, request: wire::LogsRequest) -> Result<wire::LogsReply, AgentError> {
        let mut c = self.client.clone();
        self.ask("tell its log", LOOK, c.logs(request)).await
    }

    /// Captures an address that nobody uses, and says what became of it.
    pub async fn drill(&self) -> Result<wire::DrillReply, AgentError> {
        let mut c = self.client.clone();
        self.ask("drill", LOOK, c.drill(wire::DrillRequest {})).await
    }

    /// The incident that was named, or the one under way, or the newest.
    pub async fn incident(&self, named: &str) -> Result<String, CommandError> {
        if !named.is_empty() {
            return Ok(named.to_owned());
        }
        let under_way = self.status().await?.incident;
        if !under_way.is_empty() {
            return Ok(under_way);
        }
        let newest = self.history(1).await?.into_iter().next();
        newest.map(|i| i.incident).ok_or_else(|| {
            CommandError::failed(format!("find an incident of {}: it has had none", self.node))
        })
    }

    /// Reads JSON of core's.
    pub fn read<T: serde::de::DeserializeOwned>(
        &self,
        what: &'static str,
        json: &str,
    ) -> Result<T, AgentError> {
        serde_json::from_str(json).map_err(|source| AgentError::Form {
            node: self.node.clone(),
            what,
            source,
        })
    }

    async fn ask<T>(
        &self,
        what: &'static str,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, AgentError> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => {
                Err(AgentError::Call { node: self.node.clone(), what, status: Box::new(status) })
            }
            Err(_) => Err(AgentError::Late { node: self.node.clone(), what, limit }),
        }
    }
}
