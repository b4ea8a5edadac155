//! Stops a pod's sandbox over the container runtime's own interface (CRI), for the kubelet to make it anew.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use lifeline_core::engine::Failure;
use lifeline_core::op::Seen;
use lifeline_proto::cri::runtime_service_client::RuntimeServiceClient;
use lifeline_proto::cri::{PodSandboxState, PodSandboxStatusRequest, StopPodSandboxRequest};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{chain, lasting, passing};

/// For a question.
const CALL: Duration = Duration::from_secs(3);
/// A sandbox's containers get their grace period from the kubelet, not from here; unwiring it takes a second or two.
const STOP: Duration = Duration::from_secs(20);

/// Where k3s' containerd listens, and one that stands by itself.
#[must_use]
pub fn sockets() -> Vec<PathBuf> {
    ["/run/k3s/containerd/containerd.sock", "/run/containerd/containerd.sock"]
        .map(Into::into)
        .into()
}

/// A runtime that was started anew with k3s-agent is there again after some seconds, and a moment later it knows its sandboxes.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(250);

async fn client(sockets: &[PathBuf]) -> Result<RuntimeServiceClient<Channel>, Failure> {
    let Some(path) = sockets.iter().find(|p| p.exists()) else {
        let tried: Vec<_> = sockets.iter().map(|p| p.display().to_string()).collect();
        let why = format!("reach the container runtime: no socket at {}", tried.join(" or "));
        return Err(passing(why));
    };
    let what = format!("reach the container runtime at {}", path.display());
    let channel = timeout(CALL, connect(path)).await;
    let channel = channel.map_err(|_| passing(format!("{what}: no answer within {CALL:?}")))?;
    channel.map(RuntimeServiceClient::new).map_err(|e| passing(format!("{what}: {}", chain(&e))))
}

async fn connect(path: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // A name is asked for and not used: the connector goes to the socket.
    Endpoint::from_static("http://containerd").connect_with_connector(connector).await
}

fn failed(what: &str, status: &Status) -> Failure {
    let why = format!("{what}: {:?}: {}", status.code(), status.message());
    match status.code() {
        Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied => lasting(why),
        _ => passing(why),
    }
}

/// Until it is done, fails for good, or patience ends.
async fn patiently<T, F: Future<Output = Result<T, Failure>>>(
    mut once: impl FnMut() -> F,
) -> Result<T, Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        match once().await {
            Err(failure) if failure.retryable && Instant::now() < until => sleep(PAUSE).await,
            done => return done,
        }
    }
}

/// Whether the sandbox runs.
///
/// # Errors
/// When the runtime does not say.
pub async fn look(sockets: &[PathBuf], id: &str) -> Result<Seen, String> {
    patiently(|| async { is_ready(&mut client(sockets).await?, id).await })
        .await
        .map(|ready| Seen::Sandbox { ready })
        .map_err(|failure| failure.why)
}

async fn is_ready(client: &mut RuntimeServiceClient<Channel>, id: &str) -> Result<bool, Failure> {
    let what = format!("ask for sandbox {id}");
    let asked = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned() };
    match timeout(CALL, client.pod_sandbox_status(asked)).await {
        Ok(Ok(answer)) => match answer.into_inner().status {
            Some(status) => Ok(status.state() == PodSandboxState::SandboxReady),
            None => Err(lasting(format!("{what}: an answer without a status"))),
        },
        Ok(Err(status)) if status.code() == Code::NotFound => Ok(false),
        Ok(Err(status)) => Err(failed(&what, &status)),
        Err(_) => Err(passing(format!("{what}: no answer within {CALL:?}"))),
    }
}

/// Stops it; one that is stopped or gone is no error.
///
/// # Errors
/// When the runtime refuses or does not answer in time.
pub async fn stop(sockets: &[PathBuf], id: &str) -> Result<(), Failure> {
    patiently(|| async { stop_once(&mut client(sockets).await?, id).await }).await
}

async fn stop_once(client: &mut RuntimeServiceClient<Channel>, id: &str) -> Result<(), Failure> {
    let what = format!("stop sandbox {id}");
    let wanted = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    match timeout(STOP, client.stop_pod_sandbox(wanted)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) if status.code() == Code::NotFound => Ok(()),
        Ok(Err(status)) => Err(failed(&what, &status)),
        Err(_) => Err(passing(format!("{what}: no answer within {STOP:?}"))),
    }
}
