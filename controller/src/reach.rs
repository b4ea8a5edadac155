//! Reaching a node's agent: every address at once (a little staggered), and when none answers, each one's own reason.

use crate::identity::Identity;
use crate::obstacle::{Fate, Listening, Obstacle};
use crate::pki::subject::Subject;
use crate::skew::Skew;
use crate::tls;
use hyper_util::rt::TokioIo;
use lifeline_proto::v1::lifeline_client::LifelineClient;
use lifeline_proto::v1::{StatusReply, StatusRequest};
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// TCP must connect within this, and TLS must be done within as much again.
const CONNECT: Duration = Duration::from_secs(3);
/// The first question must be answered within this.
const FIRST: Duration = Duration::from_secs(5);
/// The next address is tried this much later, so that the first one wins when all are well.
const STAGGER: Duration = Duration::from_millis(150);

/// How a node's agent can be reached.
#[derive(Clone, Debug)]
pub enum Road {
    /// Over the network.
    Net {
        /// `address:port`, in order of preference.
        addresses: Vec<String>,
        /// Who we are.
        identity: Arc<Identity>,
        /// Whom we call.
        agent: Subject,
    },
    /// On this machine.
    Socket(PathBuf),
}

/// An agent that answered.
#[derive(Clone, Debug)]
pub struct Reached {
    /// To talk to it.
    pub client: LifelineClient<Channel>,
    /// Its first answer.
    pub status: StatusReply,
    /// The path that worked.
    pub via: String,
    /// How far its wall clock is from ours, if it says what it shows.
    pub skew: Option<Skew>,
}

/// One path that was tried in vain.
#[derive(Debug)]
pub struct Tried {
    /// `192.168.2.80:7443`, `/run/lifeline/agent.sock`.
    pub path: String,
    /// What was in the way.
    pub obstacle: Obstacle,
}

/// No path led to the agent.
#[derive(Debug, thiserror::Error)]
#[error("reach {node}: {}", list(tried))]
pub struct Unreached {
    /// The node.
    pub node: String,
    /// Every path, with its reason.
    pub tried: Vec<Tried>,
}

fn list(tried: &[Tried]) -> String {
    let lines = tried.iter().map(|t| format!("\n  {}  {}", t.path, t.obstacle));
    format!("no path led to its agent{}", lines.collect::<String>())
}

/// An agent that was not waited for any longer. What is in its way, if anything is, nobody knows.
#[derive(Debug, thiserror::Error)]
#[error("ask {node}: {} {} ms, and it was not waited for any longer",
    if *asked { "no answer yet after" } else { "its turn had not come after" }, limit.as_millis())]
pub struct NotWaitedFor {
    /// The node.
    pub node: String,
    /// Only so many are asked at a time; it was among them.
    pub asked: bool,
    /// How long it was waited for.
    pub limit: Duration,
}

/// Tries every path and takes the first that answers a question: a handshake alone proves nothing, because a TLS 1.3
/// server judges our certificate only after we think it is done.
pub async fn reach(node: &str, road: &Road) -> Result<Reached, Unreached> {
    let mut race: JoinSet<(usize, Result<Reached, Tried>)> = JoinSet::new();
    match road {
        Road::Socket(path) => {
            let (path, node) = (path.clone(), node.to_owned());
            race.spawn(async move { (0, unix(path, &node).await) });
        }
        Road::Net { addresses, identity, agent } => {
            for (i, address) in addresses.iter().enumerate() {
                let (address, agent) = (address.clone(), agent.clone());
                let identity = Arc::clone(identity);
                race.spawn(async move {
                    let steps = u32::try_from(i).unwrap_or(u32::MAX);
                    sleep(STAGGER.saturating_mul(steps)).await;
                    (i, net(address, &identity, &agent).await)
                });
            }
        }
    }
    let mut tried = Vec::new();
    while let Some(done) = race.join_next().await {
        match done {
            // Dropping the set ends the attempts that are still under way.
            Ok((_, Ok(reached))) => return Ok(reached),
            Ok((i, Err(t))) => tried.push((i, t)),
            Err(_) => {}
        }
    }
    tried.sort_by_key(|(i, _)| *i);
    Err(Unreached { node: node.to_owned(), tried: tried.into_iter().map(|(_, t)| t).collect() })
}

async fn unix(path: PathBuf, node: &str) -> Result<Reached, Tried> {
    let name = path.display().to_string();
    let fail = |obstacle| Tried { path: name.clone(), obstacle };
    let stream = match timeout(CONNECT, UnixStream::connect(&path)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return Err(fail(Obstacle::Connect(e))),
        Err(_) => return Err(fail(Obstacle::Silent { stage: "connect", limit: CONNECT })),
    };
    let fate = Arc::new(Fate::default());
    let channel =
        channel(stream, &fate).await.map_err(|e| fail(Obstacle::from_transport(&e, &fate)))?;
    let reached = first(channel, &fate, name.clone()).await.map_err(fail)?;
    // Over the network the certificate has the name; here only the agent itself can say who it is.
    if !node.is_empty() && reached.status.node != node {
        return Err(fail(Obstacle::OtherNode { found: reached.status.node }));
    }
    Ok(reached)
}

async fn net(address: String, identity: &Identity, agent: &Subject) -> Result<Reached, Tried> {
    let fail = |obstacle| Tried { path: address.clone(), obstacle };
    let addrs: Vec<SocketAddr> = match timeout(CONNECT, tokio::net::lookup_host(&address)).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(e)) => return Err(fail(Obstacle::Resolve(e))),
        Err(_) => return Err(fail(Obstacle::Silent { stage: "look its name up", limit: CONNECT })),
    };
    let mut last = Obstacle::Resolve(io::Error::other("the name has no address"));
    for addr in addrs {
        match attempt(addr, identity, agent, &address).await {
            Ok(reached) => return Ok(reached),
            Err(obstacle) => last = obstacle,
        }
    }
    Err(fail(last))
}

async fn attempt(
    addr: SocketAddr,
    identity: &Identity,
    agent: &Subject,
    via: &str,
) -> Result<Reached, Obstacle> {
    let tcp = match timeout(CONNECT, TcpStream::connect(addr)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(e)) => return Err(Obstacle::Connect(e)),
        Err(_) => return Err(Obstacle::Silent { stage: "connect", limit: CONNECT }),
    };
    tcp.set_nodelay(true).map_err(Obstacle::Connect)?;
    let config = tls::client(identity, agent).map_err(Obstacle::Tls)?;
    let name = ServerName::try_from(agent.name.clone())
        .map_err(|e| Obstacle::Tls(rustls::Error::General(e.to_string())))?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = match timeout(CONNECT, connector.connect(name, tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return Err(Obstacle::from_handshake(&e)),
        Err(_) => return Err(Obstacle::Silent { stage: "shake hands", limit: CONNECT }),
    };
    let fate = Arc::new(Fate::default());
    let channel = channel(stream, &fate).await.map_err(|e| Obstacle::from_transport(&e, &fate))?;
    first(channel, &fate, via.to_owned()).await
}

/// A gRPC channel over a connection that is already there. It never dials again by itself: reaching is done here, in the
/// open, with every reason named.
async fn channel<S>(stream: S, fate: &Arc<Fate>) -> Result<Channel, tonic::transport::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let mut once = Some(TokioIo::new(Listening::new(stream, Arc::clone(fate))));
    // The name in the URI is only HTTP's; TLS has checked the real one.
    Endpoint::from_static("http://lifeline")
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .connect_with_connector(tower::service_fn(move |_| {
            let stream = once.take();
            async move { stream.ok_or_else(|| io::Error::other("the connection was lost")) }
        }))
        .await
}

async fn first(channel: Channel, fate: &Arc<Fate>, via: String) -> Result<Reached, Obstacle> {
    let mut client = LifelineClient::new(channel).max_decoding_message_size(16 << 20);
    let asked = Instant::now();
    match timeout(FIRST, client.status(StatusRequest {})).await {
        Ok(Ok(reply)) => {
            let status = reply.into_inner();
            let skew = Skew::of(status.now_ms, SystemTime::now(), asked.elapsed());
            Ok(Reached { client, status, via, skew })
        }
        Ok(Err(status)) => Err(Obstacle::from_status(status, fate)),
        Err(_) => Err(Obstacle::Silent { stage: "answer its first question", limit: FIRST }),
    }
}
