//! What every verb that speaks to agents starts from: the configuration, who we are, and the way to each node.

use crate::agent::Agent;
use crate::cli::Global;
use crate::config::Config;
use crate::error::CommandError;
use crate::identity::Identity;
use crate::out::Out;
use crate::pki::subject::{Role, Subject};
use crate::reach::{self, Road};
use std::path::PathBuf;
use std::sync::Arc;

/// Configuration and identity.
#[derive(Debug)]
pub struct Session {
    /// Where words go.
    pub out: Out,
    /// The configuration; over the unix socket it may be missing.
    pub config: Option<Config>,
    identity: Option<Arc<Identity>>,
    socket: Option<PathBuf>,
}

impl Session {
    /// Reads and checks what is on this machine; dials nobody.
    pub fn open(global: &Global, out: Out) -> Result<Self, CommandError> {
        if let Some(socket) = &global.socket {
            // On the node there is usually no configuration, and nothing in one is needed.
            let config = Config::load_if_there(global.config.as_deref())?;
            return Ok(Self { out, config, identity: None, socket: Some(socket.clone()) });
        }
        let config = Config::load(global.config.as_deref())?;
        let identity = Identity::load(config.tls()?, &config.cluster)?;
        Ok(Self { out, config: Some(config), identity: Some(Arc::new(identity)), socket: None })
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

    /// The nodes that were named, or all.
    pub fn nodes(&self, named: &[String]) -> Result<Vec<String>, CommandError> {
        if self.socket.is_some() {
            return Ok(if named.is_empty() { vec![String::new()] } else { named.to_vec() });
        }
        let Some(config) = &self.config else { return Ok(named.to_vec()) };
        for name in named {
            config.addresses(name)?;
        }
        if !named.is_empty() {
            return Ok(named.to_vec());
        }
        let all: Vec<String> = config.nodes().map(Into::into).collect();
        if all.is_empty() {
            return Err(CommandError::usage(format!(
                "no node is configured in {}",
                config.path.display()
            ))
            .hinted("add one:\n\n  [nodes.calypso]\n  addresses = [\"192.168.2.80\"]"));
        }
        Ok(all)
    }

    fn road(&self, node: &str) -> Result<Road, CommandError> {
        if let Some(path) = &self.socket {
            return Ok(Road::Socket(path.clone()));
        }
        let (Some(config), Some(identity)) = (&self.config, &self.identity) else {
            return Err(CommandError::usage(format!("no way to {node} is configured")));
        };
        Ok(Road::Net {
            addresses: config.addresses(node)?.to_vec(),
            identity: Arc::clone(identity),
            agent: Subject::new(&config.cluster, Role::Agent, node)?,
        })
    }

    /// Reaches a node's agent.
    pub async fn agent(&self, node: &str) -> Result<Agent, CommandError> {
        let road = self.road(node)?;
        let mut agent = Agent::from(reach::reach(node, &road).await?);
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
