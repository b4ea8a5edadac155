//! What the verbs of `ctl vps` start from: the configuration, the provider, and whoever else can see the node.

use crate::cli::Global;
use crate::cluster::Cluster;
use crate::config::{Config, Role};
use crate::error::CommandError;
use crate::member::Member;
use crate::obstacle::chain;
use crate::out::Out;
use crate::provider::Api;
use crate::provider::pick::pick;
use crate::provider::shape::Machine;
use crate::secret;
use crate::session::Session;

/// Where the work is done from.
#[derive(Debug)]
pub struct Desk {
    /// Where words go.
    pub out: Out,
    /// The configuration.
    pub config: Config,
    /// The provider.
    pub api: Api,
    /// The way to agents, if there is one.
    pub session: Option<Session>,
    /// The API server, if it is configured.
    pub cluster: Option<Cluster>,
}

/// A node's machine, certainly.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its number.
    pub id: u64,
    /// All about it.
    pub machine: Machine,
}

impl Desk {
    /// Reads configuration and token; dials nobody but, perhaps, `op`.
    pub async fn open(global: &Global, out: Out) -> Result<Self, CommandError> {
        let config = Config::load(global.config.as_deref())?;
        let provider = config.provider()?;
        let token = secret::resolve(&provider.token).await?;
        let api = Api::new(provider, token)?;
        Ok(Self { out, config, api, session: None, cluster: None })
    }

    /// Prepares to ask agents and the API server, too. Neither is needed to look at machines.
    pub async fn with_eyes(mut self, global: &Global) -> Result<Self, CommandError> {
        // What is wrong with our own certificate is said, and hinders nobody: the API server may know as much.
        match self.config.tls().is_ok().then(|| Session::open(global, self.out)) {
            Some(Ok(session)) => self.session = Some(session),
            Some(Err(error)) => self.out.say(format!("The agents are not asked: {error}")),
            None => {}
        }
        if let Some(path) = &self.config.kubeconfig {
            match Cluster::open(path, self.config.context.as_deref()).await {
                Ok(cluster) => self.cluster = Some(cluster),
                Err(e) => self.out.say(format!("The API server is not asked: {}", chain(&e))),
            }
        }
        Ok(self)
    }

    /// The node's machine.
    pub async fn find(&self, node: &str) -> Result<Found, CommandError> {
        let wanted = self.config.vps(node)?;
        let machines = self.api.machines().await?;
        let (id, machine) = pick(node, wanted, &machines)?;
        Ok(Found { id, machine: machine.clone() })
    }

    /// Everybody in the cluster, as far as the API server can be asked.
    pub async fn members(&self) -> Option<Vec<Member>> {
        match self.cluster.as_ref()?.nodes().await {
            Ok(nodes) => Some(nodes.into_iter().map(Member::from).collect()),
            Err(e) => {
                self.out.say(format!("The API server could not be asked: {}", chain(&e)));
                None
            }
        }
    }

    /// Refuses a machine that carries the control plane, and one of which that is not known.
    pub fn worker_only(
        &self,
        node: &str,
        found: &Found,
        members: Option<&[Member]>,
    ) -> Result<(), CommandError> {
        let refused = |why: String| {
            CommandError::usage(format!("touch {node}'s machine: {why}"))
                .hinted("an API server is restarted by hand, by somebody who looks at it")
        };
        let role = self.config.role(node);
        if role == Some(Role::ControlPlane) {
            return Err(refused(
                "the configuration says that it carries the control plane".to_owned(),
            ));
        }
        let Some(members) = members else {
            return match role {
                Some(_) => Ok(()),
                None => Err(CommandError::usage(format!(
                    "touch {node}'s machine: it is not known whether it carries the control plane: the API server cannot be asked"
                ))
                .hinted(format!("if it certainly does not, say so:\n\n  [nodes.{node}]\n  role = \"worker\""))),
            };
        };
        let ours = found.machine.addresses();
        let shares = |m: &Member| m.addresses.iter().any(|a| ours.iter().any(|o| *a == *o));
        match members.iter().find(|m| m.control_plane && (m.name == node || shares(m))) {
            Some(m) if m.name == node => {
                Err(refused("the API server says that it carries the control plane".to_owned()))
            }
            Some(m) => Err(refused(format!(
                "its address is that of {}, which carries the control plane",
                m.name
            ))),
            None => Ok(()),
        }
    }
}
