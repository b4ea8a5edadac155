//! What every verb that speaks to agents starts from: the configuration, who we are, and the way to each node.

use crate::agent::Agent;
use crate::cli::Global;
use crate::config::Config;
use crate::error::{CommandError, Kind};
use crate::found::{self, Found};
use crate::identity::Identity;
use crate::obstacle::Obstacle;
use crate::out::Out;
use crate::pki::card::Card;
use crate::pki::subject::{Role, Subject};
use crate::reach::{self, NotWaitedFor, Road, Tried};
use crate::ssh;
use crate::tls;
use futures_util::future::{Either, select};
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use rustls::pki_types::ServerName;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// So many agents are spoken to at a time.
pub const AT_ONCE: usize = 64;
/// The network has this long before SSH is tried beside it: an agent that is well has answered by then, and nobody logs in in vain.
const HEAD_START: Duration = Duration::from_secs(1);
/// One connection and its handshake.
const SHAKE: Duration = Duration::from_secs(5);

/// Nodes, in the order they were asked for, with what their agents answered.
pub type Asked = Vec<(String, Result<Agent, CommandError>)>;

/// Configuration and identity.
#[derive(Debug)]
pub struct Session {
    /// Where words go.
    pub out: Out,
    /// The configuration; over the unix socket it may be missing.
    pub config: Option<Config>,
    identity: Option<Arc<Identity>>,
    socket: Option<PathBuf>,
    found: Found,
}

impl Session {
    /// Reads and checks what is on this machine; dials nobody.
    pub fn open(global: &Global, out: Out) -> Result<Self, CommandError> {
        if let Some(socket) = &global.socket {
            // On the node there is usually no configuration, and nothing in one is needed.
            let config = Config::load_if_there(global.config.as_deref())?;
            return Ok(Self {
                out,
                config,
                identity: None,
                socket: Some(socket.clone()),
                found: Found::default(),
            });
        }
        let config = Config::load(global.config.as_deref())?;
        let identity = Identity::load(config.tls()?, &config.cluster)?;
        let identity = Some(Arc::new(identity));
        Ok(Self { out, config: Some(config), identity, socket: None, found: Found::default() })
    }

    /// Who acts, for journals: `operator alice`.
    pub fn who(&self) -> String {
        match &self.identity {
            Some(me) => format!("{} {}", me.subject.role.word(), me.subject.name),
            None => "root of this machine".to_owned(),
        }
    }

    /// Refuses early what an agent would refuse anyway: a viewer does not get as far as a question.
    pub fn may_act(&self, what: &str) -> Result<(), CommandError> {
        match &self.identity {
            Some(me) if me.subject.role != Role::Operator => Err(CommandError::failed(format!(
                "{what}: {} {} may look and not act",
                me.subject.role.word(),
                me.subject.name
            ))
            .hinted("use an operator's certificate: ctl pki operator NAME --role operator …")),
            _ => Ok(()),
        }
    }

    /// The nodes that were named, or all: those of the configuration, and the cluster's workers that it does not name.
    pub async fn nodes(&self, named: &[String]) -> Result<Vec<String>, CommandError> {
        if self.socket.is_some() {
            return Ok(if named.is_empty() { vec![String::new()] } else { named.to_vec() });
        }
        let Some(config) = &self.config else { return Ok(named.to_vec()) };
        for name in named {
            self.addresses(config, name).await?;
        }
        if !named.is_empty() {
            return Ok(named.to_vec());
        }
        let mut all = self.configured();
        if let Ok(found) = self.found.nodes(config).await {
            all.extend(found.keys().filter(|n| config.addresses(n).is_err()).cloned());
        }
        all.sort();
        if all.is_empty() {
            return Err(self.nobody(self.found.trouble()));
        }
        Ok(all)
    }

    /// What the configuration names; over the unix socket the one node that is there. Asks nobody.
    pub fn configured(&self) -> Vec<String> {
        match (&self.socket, &self.config) {
            (Some(_), _) => vec![String::new()],
            (None, Some(config)) => config.nodes().map(Into::into).collect(),
            (None, None) => Vec::new(),
        }
    }

    /// No node is known: neither named, nor found in the cluster.
    pub fn nobody(&self, unlisted: Option<&str>) -> CommandError {
        let path = self.config.as_ref().map_or_else(String::new, |c| c.path.display().to_string());
        let error = CommandError::usage(format!("no node is configured in {path}"))
            .hinted("add one:\n\n  [nodes.calypso]\n  addresses = [\"192.168.2.80\"]");
        match unlisted {
            Some(why) => error.hinted(format!("the cluster's own list could not be had: {why}")),
            None => error.hinted("or a kubeconfig, whose workers are found by themselves"),
        }
    }

    /// Why there may be more nodes than were given; said by who shows all of them.
    pub fn unlisted(&self) -> Option<CommandError> {
        let why = self.found.trouble()?;
        Some(
            CommandError::failed(format!("find the nodes that ctl.toml does not name: {why}"))
                .hinted("what is shown is what ctl.toml names"),
        )
    }

    /// Of the cluster's nodes, the workers that the configuration does not name.
    pub fn unnamed(&self, objects: &[Node]) -> found::Nodes {
        let Some(config) = self.config.as_ref().filter(|_| self.socket.is_none()) else {
            return found::Nodes::new();
        };
        let mut workers = found::workers(objects);
        workers.retain(|name, _| config.addresses(name).is_err());
        workers
    }

    /// Where a node's agent is, by the configuration or else by the cluster.
    async fn addresses(&self, config: &Config, node: &str) -> Result<Vec<String>, CommandError> {
        let unknown = match config.addresses(node) {
            Ok(addresses) => return Ok(addresses.to_vec()),
            Err(unknown) => CommandError::from(unknown),
        };
        match self.found.nodes(config).await {
            Ok(found) if found.is_empty() => Err(unknown),
            Ok(found) => found.get(node).cloned().ok_or_else(|| {
                let all: Vec<_> = found.keys().map(String::as_str).collect();
                unknown.hinted(format!("the cluster's workers: {}", all.join(", ")))
            }),
            Err(why) => Err(unknown.hinted(format!("the cluster could not be asked: {why}"))),
        }
    }

    /// Reaches each of these nodes' agents, many at a time and never all at once: a fleet must not cost a laptop its sockets.
    pub async fn each(&self, nodes: &[String]) -> Asked {
        self.each_within(nodes, None).await
    }

    /// The same, waiting for so long in all: who has not answered by then is said to be not waited for.
    pub async fn each_within(&self, nodes: &[String], limit: Option<Duration>) -> Asked {
        let asked = nodes.iter().map(|node| self.agent(node));
        within(nodes, asked, limit).await
    }

    /// The same for nodes whose addresses only the cluster knows.
    pub async fn each_at(&self, nodes: found::Nodes, limit: Option<Duration>) -> Asked {
        let (names, addresses): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
        let asked = names.iter().zip(addresses).map(|(node, addresses)| async move {
            let road = self.road_at(node, addresses)?;
            self.agent_by(node, &road).await
        });
        within(&names, asked, limit).await
    }

    async fn road(&self, node: &str) -> Result<Road, CommandError> {
        if let Some(path) = &self.socket {
            return Ok(Road::Socket(path.clone()));
        }
        let addresses = match &self.config {
            Some(config) => self.addresses(config, node).await?,
            None => Vec::new(),
        };
        self.road_at(node, addresses)
    }

    fn road_at(&self, node: &str, addresses: Vec<String>) -> Result<Road, CommandError> {
        let (Some(config), Some(identity)) = (&self.config, &self.identity) else {
            return Err(CommandError::usage(format!("no way to {node} is configured")));
        };
        let agent = Subject::new(&config.cluster, Role::Agent, node)?;
        Ok(Road::Net { addresses, identity: Arc::clone(identity), agent })
    }

    /// Reaches a node's agent.
    pub async fn agent(&self, node: &str) -> Result<Agent, CommandError> {
        let road = self.road(node).await?;
        self.agent_by(node, &road).await
    }

    async fn agent_by(&self, node: &str, road: &Road) -> Result<Agent, CommandError> {
        let mut agent = self.by_any_way(node, road).await?;
        // Over the network its certificate vouches for the name; on the socket nobody need have typed one.
        if !node.is_empty() {
            node.clone_into(&mut agent.node);
        }
        if let Some(config) = &self.config
            && !agent.status.cluster.is_empty()
            && agent.status.cluster != config.cluster
        {
            return Err(CommandError::failed(format!(
                "reach {node}: its agent belongs to cluster {}, and the configuration is for {}",
                agent.status.cluster, config.cluster
            )));
        }
        Ok(agent)
    }
}

impl Session {
    /// Over the network, and over SSH where that is configured: at once when the network refuses, beside it when it keeps silent. A
    /// captured node swallows what is sent to it, and its operator should not wait for both limits one after the other.
    async fn by_any_way(&self, node: &str, road: &Road) -> Result<Agent, CommandError> {
        let config = self.config.as_ref().filter(|_| self.socket.is_none());
        let mut net = std::pin::pin!(reach::reach(node, road));
        let Some(target) = config.and_then(|c| c.ssh(node)) else { return Ok(net.await?.into()) };
        let by_ssh = std::pin::pin!(by_ssh(node, target));
        let (unreached, tried) = match timeout(HEAD_START, net.as_mut()).await {
            Ok(Ok(reached)) => return Ok(reached.into()),
            Ok(Err(unreached)) => (unreached, by_ssh.await),
            Err(_) => match select(net, by_ssh).await {
                Either::Left((Ok(reached), _)) => return Ok(reached.into()),
                Either::Left((Err(unreached), by_ssh)) => (unreached, by_ssh.await),
                Either::Right((Ok(agent), _)) => return Ok(agent),
                Either::Right((Err(tried), net)) => match net.await {
                    Ok(reached) => return Ok(reached.into()),
                    Err(unreached) => (unreached, Err(tried)),
                },
            },
        };
        tried.map_err(|mut tried| {
            let mut unreached = unreached;
            unreached.tried.append(&mut tried);
            unreached.into()
        })
    }

    /// The certificate a node's agent shows; `None` over the unix socket, where it shows none.
    pub async fn certificate(&self, node: &str) -> Result<Option<Card>, CommandError> {
        match self.shown(node).await {
            (_, Some(why)) => Err(why),
            (card, None) => Ok(card),
        }
    }

    /// The certificate a node's agent shows, and why it is not believed if it is not: one that has expired says when.
    pub async fn shown(&self, node: &str) -> (Option<Card>, Option<CommandError>) {
        let road = match self.road(node).await {
            Ok(road) => road,
            Err(why) => return (None, Some(why)),
        };
        let Road::Net { addresses, identity, agent } = road else { return (None, None) };
        let mut last = (None, None);
        for address in &addresses {
            let seen = tls::Shown::default();
            let why = match shake(address, &identity, &agent, &seen).await {
                Ok(()) => None,
                Err(why) => Some(CommandError::failed(format!(
                    "look at the certificate of {node} at {address}: {why}"
                ))),
            };
            match seen.get().map(|der| Card::from_der(der)) {
                Some(Ok(card)) => return (Some(card), why),
                Some(Err(odd)) => last = (None, Some(CommandError::failed(odd))),
                None => last = (None, why),
            }
        }
        let none =
            || CommandError::failed(format!("look at the certificate of {node}: no address"));
        (last.0, Some(last.1.unwrap_or_else(none)))
    }
}

/// An agent's own socket, carried here by SSH; or what was tried.
async fn by_ssh(node: &str, target: &str) -> Result<Agent, Vec<Tried>> {
    let path = format!("ssh {target}");
    let tunnel = match ssh::tunnel(target).await {
        Ok(tunnel) => tunnel,
        Err(error) => return Err(vec![Tried { path, obstacle: Obstacle::Ssh(error) }]),
    };
    let mut other = match reach::reach(node, &Road::Socket(tunnel.socket.clone())).await {
        Ok(reached) => return Ok(Agent::carried(reached, path, tunnel)),
        Err(other) => other,
    };
    // One that was lent for a recovery answers at a socket of its own; mostly there is none, which is no news.
    if let Ok(reached) = reach::reach(node, &Road::Socket(tunnel.lent.clone())).await {
        return Ok(Agent::carried(reached, format!("{path}, a lent agent"), tunnel));
    }
    other.tried.iter_mut().for_each(|t| t.path.clone_from(&path));
    Err(other.tried)
}

/// Asks many at a time. A slow one takes nobody's turn: who has answered makes room for the next.
async fn within<T, F>(
    nodes: &[String],
    asked: impl Iterator<Item = F>,
    limit: Option<Duration>,
) -> Vec<(String, Result<T, CommandError>)>
where
    F: Future<Output = Result<T, CommandError>>,
{
    let begun: Vec<AtomicBool> = nodes.iter().map(|_| AtomicBool::new(false)).collect();
    let numbered = asked.zip(&begun).enumerate().map(|(at, (answer, begun))| async move {
        begun.store(true, Ordering::Relaxed);
        (at, answer.await)
    });
    let mut answers = stream::iter(numbered).buffer_unordered(AT_ONCE);
    let mut all: Vec<Option<Result<T, CommandError>>> = nodes.iter().map(|_| None).collect();
    let gather = async {
        while let Some((at, answer)) = answers.next().await {
            if let Some(place) = all.get_mut(at) {
                *place = Some(answer);
            }
        }
    };
    match limit {
        // Who is late loses nothing but the wait: what had come by then is there.
        Some(limit) => drop(timeout(limit, gather).await),
        None => gather.await,
    }
    let late = |node: &String, begun: &AtomicBool| {
        let (node, asked) = (node.clone(), begun.load(Ordering::Relaxed));
        let limit = limit.unwrap_or_default();
        CommandError::new(Kind::TimedOut, NotWaitedFor { node, asked, limit })
            .hinted("wait longer: --wait 10s")
    };
    let told = nodes.iter().zip(&begun).zip(all);
    told.map(|((n, begun), a)| (n.clone(), a.unwrap_or_else(|| Err(late(n, begun))))).collect()
}

async fn shake(
    address: &str,
    identity: &Identity,
    agent: &Subject,
    seen: &tls::Shown,
) -> Result<(), String> {
    let config = tls::watching(identity, agent, Arc::clone(seen)).map_err(|e| e.to_string())?;
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(agent.name.clone()).map_err(|e| e.to_string())?;
    let shake = async { connector.connect(name, TcpStream::connect(address).await?).await };
    match timeout(SHAKE, shake).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(why)) => Err(why.to_string()),
        Err(_) => Err("it does not answer".to_owned()),
    }
}

/// Names a request so that sending it twice does it once.
pub fn request_id() -> Result<String, CommandError> {
    let mut bytes = [0; 16];
    let provider = rustls::crypto::ring::default_provider();
    provider
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| CommandError::failed("draw a random number for the request"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
