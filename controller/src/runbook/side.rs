//! The cluster's part of a recovery: what the API server shows of each step, and what is done through it.

use super::op::{RunbookOp, Seen, Taint};
use crate::cluster::drain::Allow;
use crate::cluster::hearing::Hearing;
use crate::cluster::journal::Journal;
use crate::cluster::namespace::{self, Ending, Limits, Permit};
use crate::cluster::node::{self, Lack, NodeFact};
use crate::cluster::pin::Pin;
use crate::cluster::pods::PodFact;
use crate::cluster::{Cluster, ClusterError, Failure as Trouble, ask, culprit, delete, drain};
use crate::cluster::{inventory, kinds, orphans};
use crate::obstacle::chain;
use crate::out::Out;
use crate::words::count;
use k8s_openapi::api::core::v1::{Namespace, Node};
use lifeline_core::engine::Failure;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A drain that a budget holds up for longer is gone on with later.
const DRAIN: Duration = Duration::from_secs(180);
/// Until the pods of a deleted node are gone.
const DELETE: Duration = Duration::from_secs(90);

/// The API server, certainly the right one.
#[derive(Debug)]
pub struct Side<'a> {
    /// It.
    pub cluster: &'a Cluster,
    /// Which it is.
    pub pin: Pin,
    /// As it is configured.
    pub name: &'a str,
    /// Where words go.
    pub out: Out,
    /// Whoever puts things back has been suspended.
    pub owner_suspended: bool,
    /// What may be done to a namespace that does not go.
    pub permit: Permit,
    /// Pods that are gone from the API while nobody knows whether their processes ended.
    pub unproven: Mutex<Vec<PodFact>>,
}

fn failed(error: &(dyn std::error::Error + 'static), retryable: bool) -> Failure {
    Failure { why: chain(error), retryable }
}

impl From<Trouble> for Failed {
    fn from(error: Trouble) -> Self {
        Self(failed(&error, matches!(error, Trouble::Cluster(_))))
    }
}

impl From<ClusterError> for Failed {
    fn from(error: ClusterError) -> Self {
        Self(failed(&error, true))
    }
}

impl From<crate::cluster::journal::JournalError> for Failed {
    fn from(error: crate::cluster::journal::JournalError) -> Self {
        Self(failed(&error, false))
    }
}

/// What an act of the cluster's side ends with when it does not work.
#[derive(Debug)]
pub struct Failed(pub Failure);

impl Failed {
    fn of(why: impl Into<String>) -> Self {
        Self(Failure { why: why.into(), retryable: true })
    }
}

impl Side<'_> {
    fn say(&self) -> impl FnMut(String) + Send + use<> {
        let out = self.out;
        move |line| out.say(line)
    }

    fn journal(&self, subject: &str, what: &str) -> Result<Journal, Failed> {
        Ok(Journal::open(self.name, subject, &self.pin, what)?)
    }

    async fn space(&self, name: &str) -> Result<Option<Namespace>, ClusterError> {
        ask(format!("namespace {name}"), self.cluster.wide::<Namespace>().get_opt(name)).await
    }

    async fn object(&self, name: &str) -> Result<Option<NodeFact>, ClusterError> {
        let nodes = self.cluster.wide::<Node>();
        Ok(ask(format!("node {name}"), nodes.get_opt(name)).await?.map(Into::into))
    }

    /// Workloads of the namespace that can change their nodes' own network, and run.
    async fn running(&self, namespace: &str) -> Result<Vec<culprit::Suspect>, ClusterError> {
        let mut all = culprit::look(self.cluster).await?;
        all.retain(|s| s.object.namespace.as_deref() == Some(namespace) && !s.pods.is_empty());
        Ok(all)
    }

    /// Looks at what a step is about.
    pub async fn look(&self, op: &RunbookOp) -> Result<Seen, String> {
        self.seen(op).await.map_err(|e| chain(&e))
    }

    async fn seen(&self, op: &RunbookOp) -> Result<Seen, Trouble> {
        Ok(match op {
            RunbookOp::CulpritStopped { namespace } => {
                namespace::unprotected(namespace)?;
                let running = self.running(namespace).await?;
                let words: Vec<String> = running.iter().map(|s| s.words()).collect();
                let said = match words.is_empty() {
                    true => format!("nothing in {namespace} reaches its nodes' network"),
                    false => words.join(", "),
                };
                Seen::is(words.is_empty(), said)
            }
            RunbookOp::CleanupBegun { namespace } => {
                namespace::unprotected(namespace)?;
                match self.space(namespace).await? {
                    None => Seen::is(true, format!("namespace {namespace} is not there")),
                    Some(space) => {
                        let going = space.metadata.deletion_timestamp.is_some();
                        let words = if going { "is to be gone" } else { "is Active" };
                        Seen::is(going, format!("namespace {namespace} {words}"))
                            .known_by(space.metadata.uid.unwrap_or_default())
                    }
                }
            }
            RunbookOp::NamespaceGone { namespace } => {
                namespace::unprotected(namespace)?;
                let kinds = kinds::look(self.cluster).await?;
                let (space, left) = tokio::join!(
                    self.space(namespace),
                    inventory::look(self.cluster, &kinds, Some(namespace))
                );
                let (there, left, unknown) =
                    (space?.is_some(), left.objects.len(), left.unknown.len());
                let words = match (there, left, unknown) {
                    (false, 0, 0) => {
                        format!("namespace {namespace} is gone, and all that was in it")
                    }
                    (false, 0, n) => {
                        format!(
                            "namespace {namespace} is gone; {} could not be listed",
                            count(n, "kind")
                        )
                    }
                    (_, n, _) => format!("namespace {namespace}: {} left", count(n, "object")),
                };
                Seen::is(!there && left == 0, words)
            }
            RunbookOp::LeftCordoned { node } | RunbookOp::Uncordoned { node } => {
                let fact = node::look(self.cluster, node).await?;
                let wanted = matches!(op, RunbookOp::LeftCordoned { .. });
                let words = if fact.cordoned { "is cordoned" } else { "is not cordoned" };
                Seen::is(fact.cordoned == wanted, format!("{node} {words}"))
            }
            RunbookOp::Drained { node } => {
                let plan =
                    drain::look(self.cluster, node, Allow { scratch: true, bare: false }).await?;
                let words = format!("{node}: {} to move", count(plan.evict.len(), "pod"));
                Seen::is(plan.evict.is_empty() && plan.node.cordoned, words)
            }
            RunbookOp::OutOfService { node, uid } => match self.object(node).await? {
                Some(fact) if fact.uid == *uid => {
                    let off = fact.out_of_service();
                    let words = if off { "is out of service" } else { "is in service" };
                    Seen::is(off, format!("{node} {words}, and its machine is off"))
                }
                _ => Seen::is(true, format!("{node} is no member any more")),
            },
            RunbookOp::NodeDeleted { node, uid, wiped } => match self.object(node).await? {
                Some(fact) if fact.uid == *uid => Seen::is(false, format!("{node} is a member")),
                Some(_) => Seen::is(true, format!("{node} is gone; another one has its name")),
                None if *wiped && delete::password(self.cluster, node).await.is_some() => {
                    Seen::is(false, format!("{node} is no member, and its password is kept"))
                }
                None => Seen::is(true, format!("{node} is no member any more")),
            },
            RunbookOp::NodeRestored { node, labels, taints, uncordon, in_service } => {
                let fact = node::look(self.cluster, node).await?;
                let lack = Lack::between(&was(node, labels, taints), &fact);
                let off = *in_service && fact.out_of_service();
                let back = lack.is_empty() && !(*uncordon && fact.cordoned) && !off;
                Seen::is(
                    back,
                    format!("{node}: {}", if back { "as it was" } else { "not yet as it was" }),
                )
            }
            other => Seen::is(false, format!("{other} is none of the cluster's")),
        })
    }

    /// Does it.
    pub async fn act(&self, op: &RunbookOp) -> Result<(), Failure> {
        self.done(op).await.map_err(|f| f.0)
    }

    async fn done(&self, op: &RunbookOp) -> Result<(), Failed> {
        let mut say = self.say();
        match op {
            RunbookOp::CulpritStopped { namespace } => self.stop(namespace).await,
            RunbookOp::CleanupBegun { namespace } => {
                let seen = namespace::look(self.cluster, namespace).await?;
                let returning = seen.owners.iter().find(|o| o.is_told_first());
                if let Some(owner) = returning.filter(|_| !self.owner_suspended) {
                    return Err(Failed::of(format!(
                        "{} {}: {}; then --owner-suspended",
                        owner.words(),
                        owner.does(),
                        owner.suspend()
                    )));
                }
                let mut journal =
                    self.journal(&format!("namespace-{namespace}"), "begin the clean-up")?;
                let unproven =
                    namespace::begin(self.cluster, &seen, &mut journal, &mut say).await?;
                self.doubt(unproven);
                Ok(())
            }
            RunbookOp::NamespaceGone { namespace } => self.finish(namespace).await,
            RunbookOp::LeftCordoned { node } | RunbookOp::Uncordoned { node } => {
                let wanted = matches!(op, RunbookOp::LeftCordoned { .. });
                let fact = node::look(self.cluster, node).await?;
                let mut journal = self.journal(&format!("node-{node}"), &op.to_string())?;
                node::cordon(self.cluster, &fact, wanted, &mut journal, &mut say).await?;
                Ok(journal.close(op.kind())?)
            }
            RunbookOp::Drained { node } => {
                let plan =
                    drain::look(self.cluster, node, Allow { scratch: true, bare: false }).await?;
                let mut journal = self.journal(&format!("node-{node}"), &op.to_string())?;
                let done = drain::act(self.cluster, &plan, DRAIN, &mut journal, &mut say).await?;
                journal.close("drained")?;
                let stuck: Vec<String> = done
                    .refused
                    .iter()
                    .chain(&done.failed)
                    .map(|(p, w)| format!("{p}: {w}"))
                    .collect();
                match stuck.is_empty() {
                    true => Ok(()),
                    false => Err(Failed::of(stuck.join("; "))),
                }
            }
            RunbookOp::OutOfService { node, uid } => {
                let fact = node::look(self.cluster, node).await?;
                if fact.uid != *uid {
                    let why = format!("{node} is another node than the one that was seen");
                    return Err(Failed::of(why));
                }
                let mut journal = self.journal(&format!("node-{node}"), &op.to_string())?;
                node::service(self.cluster, &fact, true, &mut journal, &mut say).await?;
                Ok(journal.close("out-of-service")?)
            }
            RunbookOp::NodeDeleted { node, uid, wiped } => {
                let (plan, _) = delete::again(self.cluster, self.name, node).await?;
                if plan.node.uid != *uid {
                    return Err(Failed::of(format!(
                        "{node} is another node than the one that was seen"
                    )));
                }
                let mut journal = self.journal(&format!("node-{node}"), &op.to_string())?;
                let how = (*wiped, DELETE);
                delete::act(self.cluster, &plan, how, &mut journal, &mut say).await?;
                Ok(journal.close("deleted")?)
            }
            RunbookOp::NodeRestored { node, labels, taints, uncordon, in_service } => {
                let mut journal = self.journal(&format!("node-{node}"), &op.to_string())?;
                let was = was(node, labels, taints);
                node::restore(self.cluster, &was, &mut journal, &mut say).await?;
                if *in_service {
                    let fact = node::look(self.cluster, node).await?;
                    node::service(self.cluster, &fact, false, &mut journal, &mut say).await?;
                }
                if *uncordon {
                    let fact = node::look(self.cluster, node).await?;
                    node::cordon(self.cluster, &fact, false, &mut journal, &mut say).await?;
                }
                Ok(journal.close("restored")?)
            }
            other => Err(Failed::of(format!("{other} is none of the cluster's"))),
        }
    }

    async fn stop(&self, namespace: &str) -> Result<(), Failed> {
        let mut left = Vec::new();
        for suspect in self.running(namespace).await? {
            let subject = format!("culprit-{namespace}-{}", suspect.object.name);
            let mut journal = self.journal(&subject, &format!("stop {}", suspect.words()))?;
            let done = culprit::stop(self.cluster, &suspect, &mut journal, &mut self.say()).await?;
            journal.close(format!("{} left", count(done.left.len(), "pod")))?;
            left.extend(done.left.iter().map(|p| p.words()));
        }
        match left.is_empty() {
            true => Ok(()),
            false => Err(Failed::of(format!("still there: {}", left.join(", ")))),
        }
    }

    async fn finish(&self, namespace: &str) -> Result<(), Failed> {
        let mut say = self.say();
        let seen = namespace::look(self.cluster, namespace).await?;
        let mut journal = self.journal(&format!("namespace-{namespace}"), "finish the clean-up")?;
        let limits = Limits::default();
        let (cluster, permit) = (self.cluster, self.permit);
        let done =
            namespace::finish(cluster, &seen, permit, &limits, &mut journal, &mut say).await?;
        self.doubt(done.unproven.clone());
        let left: Vec<String> = done.left.iter().map(|o| o.words()).collect();
        let why = match done.ending {
            Ending::Gone => {
                let proof = namespace::prove(cluster, namespace, &limits, &mut say).await?;
                journal.close("gone")?;
                return match proof.proven {
                    true => Ok(()),
                    false => Err(Failed::of("something came back")),
                };
            }
            Ending::Finalizers => {
                format!("only finalizers hold {}: --confirm \"strip {namespace}\"", left.join(", "))
            }
            Ending::Service => {
                let named: Vec<String> = done.services.iter().map(|s| s.words()).collect();
                format!("an API service does not answer: {}", named.join(", "))
            }
            Ending::Empty => {
                format!("it is empty and does not go: --confirm \"finalize {namespace}\"")
            }
            Ending::Late => format!("the time is over, and there is left {}", left.join(", ")),
        };
        Err(Failed::of(why))
    }

    /// Pods that were taken out of the API by force; they are nobody's doubt any more.
    pub fn doubted(&self) -> Vec<PodFact> {
        std::mem::take(&mut *self.unproven.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the processes of these ended is not known.
    pub fn doubt(&self, pods: Vec<PodFact>) {
        self.unproven.lock().unwrap_or_else(PoisonError::into_inner).extend(pods);
    }

    /// Objects of namespaces that no longer exist; what could not be listed is said.
    pub async fn remnants(&self) -> Result<Vec<String>, String> {
        let found = orphans::look(self.cluster).await.map_err(|e| chain(&e))?;
        let spaces = found.spaces.iter().map(|(space, objects)| {
            format!("{} left in namespace {space}, which is gone", count(objects.len(), "object"))
        });
        Ok(spaces.collect())
    }
}

/// A node as it is to be again, as far as that was written down.
fn was(node: &str, labels: &BTreeMap<String, String>, taints: &[Taint]) -> NodeFact {
    let taint = |t: &Taint| k8s_openapi::api::core::v1::Taint {
        key: t.key.clone(),
        value: Some(t.value.clone()).filter(|v| !v.is_empty()),
        effect: t.effect.clone(),
        ..Default::default()
    };
    NodeFact {
        name: node.to_owned(),
        uid: String::new(),
        boot: None,
        ready: false,
        hearing: Hearing::Heard,
        cordoned: false,
        control_plane: false,
        labels: labels.clone(),
        taints: taints.iter().map(taint).collect(),
        pod_cidrs: Vec::new(),
    }
}
