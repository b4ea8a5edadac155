//! The order of a recovery: stop the culprit, nodes beside each other, the namespace, who stays dead, what was changed, proof,
//! record.
//!
//! Nothing here touches anything: a [`World`] does, and every leg is written down by itself. A run that was cut off goes through
//! the same order again, looks at everything afresh, and finds most of it done.

pub use super::ended::{NodeEnd, Told, Word};

use super::leg::{Halt, Leg, LegEnd, World, take};
use super::op::{Left, RunbookOp};
use super::opened::Opened;
use super::run::Shelf;
use super::spare::Spare;
use futures_util::future::join_all;
use std::time::Duration;
use tokio::sync::Mutex;

pub(super) const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// What a recovery needs to know beside single looks.
pub trait Desk: World {
    /// Why a node's agent cannot be started from here; `Ok` when it can.
    fn startable(&self, node: &str) -> Result<(), String>;
    /// Why a node's machine cannot be restarted from here; `Ok` when it can.
    fn restartable(&self, node: &str) -> Result<(), String>;
    /// Whether a node's machine is to be left alone, by a fresh look: the trouble is not its own, or the cluster hears it.
    fn spared(&self, node: &str) -> impl Future<Output = Spare> + Send;
    /// Why nothing that is done to a node would mend it, by its agent's fresh look.
    fn upstream(&self, node: &str) -> impl Future<Output = Option<String>> + Send;
    /// The operator says that the node's machine was wiped.
    fn wiped(&self, node: &str) -> bool;
    /// Why a node is not to be taken out of its cluster, by a fresh look.
    fn belongs(&self, node: &str) -> impl Future<Output = Option<String>> + Send;
    /// What is to be typed at the node's own console, word for word.
    fn console(&self, node: &str) -> String;
    /// What is recorded, in order: the report, the commit, comments.
    fn record(&self, opened: &Opened) -> Vec<RunbookOp>;
}

/// A recovery under way.
pub struct Conduct<'a, W, S> {
    pub(super) world: &'a W,
    pub(super) shelf: &'a S,
    opened: &'a Opened,
    /// Two nodes are never off at the same time by our doing.
    pub(super) one_off: Mutex<()>,
}

impl<'a, W: Desk, S: Shelf> Conduct<'a, W, S> {
    /// One that has not begun, or goes on.
    pub fn new(world: &'a W, shelf: &'a S, opened: &'a Opened) -> Self {
        Self { world, shelf, opened, one_off: Mutex::new(()) }
    }

    pub(super) async fn leg(&self, leg: &Leg) -> Result<LegEnd, Halt> {
        let who = (self.opened.id.as_str(), self.opened.by.as_str());
        // On the heap, as what it waits for is large, and lies below many other calls.
        let end = Box::pin(take(self.world, self.shelf, who, leg)).await?;
        let said = match &end {
            LegEnd::WasSo(words) if words.is_empty() => return Ok(end),
            LegEnd::WasSo(words) => format!("{}: nothing had to be done: {words}", leg.name),
            LegEnd::Unseen(why) => format!("{}: could not be looked at: {why}", leg.name),
            LegEnd::Unwell(why) | LegEnd::Held(why) | LegEnd::Stuck(why) => {
                format!("{}: {why}", leg.name)
            }
            LegEnd::Well | LegEnd::Declined => return Ok(end),
        };
        self.note(&leg.name, &said)?;
        Ok(end)
    }

    pub(super) fn note(&self, about: &str, text: &str) -> Result<(), Halt> {
        self.world.say(text);
        Ok(self.shelf.note(about, text)?)
    }

    /// All of it, in its order.
    pub async fn run(&self) -> Result<Told, Halt> {
        let mut begun = self.stop().await?;
        let nodes = self.nodes().await?;
        // The API server may have been out of reach until the nodes were back.
        if matches!(begun, Some(LegEnd::Unseen(_))) {
            begun = self.stop().await?;
        }
        let namespace = self.namespace(begun).await?;
        self.left(&nodes).await?;
        self.restore(&nodes).await?;
        let verify = Leg::new(8, "verify", vec![RunbookOp::ClusterVerified], minutes(5));
        let verified = self.leg(&verify).await?;
        self.give_back(&nodes).await?;
        let mut record = Vec::new();
        for op in self.world.record(self.opened) {
            let name = format!("record-{}", op.kind());
            let name = match &op {
                RunbookOp::Commented { issue, .. } => format!("{name}-{issue}"),
                RunbookOp::IssueLeft { issue, left: Left::NotPlanned, .. } => {
                    format!("{name}-{issue}-closed")
                }
                RunbookOp::IssueLeft { issue, .. } => format!("{name}-{issue}-label"),
                _ => name,
            };
            let end = self.leg(&Leg::new(9, name, vec![op.clone()], minutes(2))).await?;
            record.push((op, end));
        }
        Ok(Told { nodes, namespace, verified, record })
    }

    /// One node alone: by every means there is, in the same order; and a report of that, where one is wanted.
    pub async fn one(&self) -> Result<Vec<(String, NodeEnd)>, Halt> {
        let nodes = self.nodes().await?;
        self.left(&nodes).await?;
        self.restore(&nodes).await?;
        self.give_back(&nodes).await?;
        let report = |op: &RunbookOp| matches!(op, RunbookOp::ReportWritten { .. });
        for op in self.world.record(self.opened).into_iter().filter(report) {
            self.leg(&Leg::new(9, format!("record-{}", op.kind()), vec![op], minutes(2))).await?;
        }
        Ok(nodes)
    }

    /// The culprit must not come back while nodes are healed; the clean-up is begun, and not waited for.
    async fn stop(&self) -> Result<Option<LegEnd>, Halt> {
        let Some(namespace) = self.opened.namespace.clone() else { return Ok(None) };
        let stop = vec![RunbookOp::CulpritStopped { namespace: namespace.clone() }];
        match self.leg(&Leg::new(2, "stop", stop, minutes(5))).await? {
            LegEnd::Unseen(why) => return Ok(Some(LegEnd::Unseen(why))),
            LegEnd::Stuck(why) => return Ok(Some(LegEnd::Stuck(why))),
            // What of it could not be stopped is said; its namespace's end is the stronger means.
            _ => {}
        }
        let begin = vec![RunbookOp::CleanupBegun { namespace }];
        Ok(Some(self.leg(&Leg::new(2, "begin", begin, minutes(5))).await?))
    }

    async fn nodes(&self) -> Result<Vec<(String, NodeEnd)>, Halt> {
        let each = self.opened.nodes.iter().map(|was| async move {
            let wiped = self.world.wiped(&was.name);
            let end = match was.is_well() && !wiped {
                true => NodeEnd::WasWell,
                false => Box::pin(self.node(was)).await?,
            };
            Ok::<_, Halt>((was.name.clone(), end))
        });
        join_all(each).await.into_iter().collect()
    }

    /// What was lent is taken back from nodes that are well. One that is not may live by its guard.
    async fn give_back(&self, nodes: &[(String, NodeEnd)]) -> Result<(), Halt> {
        let runs = self.shelf.runs()?;
        for (node, end) in nodes {
            let lent = format!("03-lend-{node}.");
            if !runs.iter().any(|n| n.starts_with(&lent)) {
                continue;
            }
            let back = RunbookOp::AgentReturned { node: node.clone() };
            if !end.is_well() {
                if !matches!(self.world.look(&back).await, Ok(seen) if seen.so) {
                    self.note(node, &format!("{node} may keep the agent that was lent to it, and live by its guard; to take it away: ctl uninstall {node}"))?;
                }
                continue;
            }
            let back = vec![back];
            self.leg(&Leg::new(8, format!("return-{node}"), back, minutes(5))).await?;
        }
        Ok(())
    }

    async fn namespace(&self, begun: Option<LegEnd>) -> Result<Option<LegEnd>, Halt> {
        let Some(namespace) = self.opened.namespace.clone() else { return Ok(None) };
        // What was not begun does not end by being waited for.
        let Some(LegEnd::Well | LegEnd::WasSo(_)) = begun else { return Ok(begun) };
        let gone = vec![RunbookOp::NamespaceGone { namespace }];
        Ok(Some(self.leg(&Leg::new(5, "namespace", gone, minutes(10))).await?))
    }

    /// The last resort, each step of it asked by itself: nothing new goes there, what is there moves, the node is forgotten.
    async fn left(&self, nodes: &[(String, NodeEnd)]) -> Result<(), Halt> {
        for (node, _) in nodes.iter().filter(|(_, end)| *end == NodeEnd::Wiped) {
            self.forgotten(node).await?;
        }
        for (node, _) in nodes.iter().filter(|(_, end)| matches!(end, NodeEnd::Dead(_))) {
            if let Some(why) = self.world.belongs(node).await {
                self.note(node, &format!("{node} stays in its cluster: {why}"))?;
                continue;
            }
            let of = |op: fn(String) -> RunbookOp| vec![op(node.clone())];
            let cordon = of(|node| RunbookOp::LeftCordoned { node });
            let end = self.leg(&Leg::new(6, format!("cordon-{node}"), cordon, minutes(1))).await?;
            if !matches!(end, LegEnd::Well | LegEnd::WasSo(_)) {
                continue;
            }
            let drain = of(|node| RunbookOp::Drained { node });
            let end = self.leg(&Leg::new(6, format!("drain-{node}"), drain, minutes(10))).await?;
            let object =
                self.opened.nodes.iter().find(|n| n.name == *node).and_then(|n| n.object.as_ref());
            let drained = matches!(end, LegEnd::Well | LegEnd::WasSo(_));
            // Only a provider can say that a machine is off, and not merely silent.
            if let Some(object) = object.filter(|_| self.world.restartable(node).is_ok()) {
                let off = RunbookOp::OutOfService { node: node.clone(), uid: object.uid.clone() };
                let name = format!("out-of-service-{node}");
                self.leg(&Leg::new(6, name, vec![off], minutes(2))).await?;
            }
            if let Some(object) = object.filter(|o| drained && !o.control_plane) {
                let uid = object.uid.clone();
                let delete = vec![RunbookOp::NodeDeleted { node: node.clone(), uid, wiped: false }];
                self.leg(&Leg::new(6, format!("delete-{node}"), delete, minutes(2))).await?;
            }
        }
        Ok(())
    }

    /// A machine that was wiped comes with another password than k3s keeps, and is refused until the node and that are deleted. Nothing of
    /// it runs, so there is nothing to be moved first; a kubelet that is heard, and a control plane, are refused by who deletes.
    async fn forgotten(&self, node: &str) -> Result<(), Halt> {
        let object =
            self.opened.nodes.iter().find(|n| n.name == *node).and_then(|n| n.object.as_ref());
        let Some(object) = object else {
            let secret = format!("{}.node-password.k3s", node.to_ascii_lowercase());
            let how = format!("kubectl delete secret {secret} -n kube-system");
            return self.note(
                node,
                &format!("the cluster knew no {node}; if it refuses the machine's password: {how}"),
            );
        };
        let (name, uid) = (node.to_owned(), object.uid.clone());
        let delete = vec![RunbookOp::NodeDeleted { node: name, uid, wiped: true }];
        let end = self.leg(&Leg::new(6, format!("forget-{node}"), delete, minutes(4))).await?;
        if matches!(end, LegEnd::Well | LegEnd::WasSo(_)) {
            self.note(node, &format!("{node} is forgotten: let its machine join under that name, ctl install {node}, and what it was is given back by: ctl recover --resume"))?;
        }
        Ok(())
    }

    /// What the recovery changed on the way is put back as it was.
    async fn restore(&self, nodes: &[(String, NodeEnd)]) -> Result<(), Halt> {
        for was in &self.opened.nodes {
            let touched =
                nodes.iter().any(|(n, end)| *n == was.name && matches!(end, NodeEnd::Healed(_)));
            let Some(object) = was.object.as_ref().filter(|_| touched) else { continue };
            // Somebody else's cordon is theirs.
            let runs = self.shelf.runs()?;
            let began = |what: &str| {
                let stem = format!("06-{what}-{}.", was.name);
                runs.iter().any(|n| n.starts_with(&stem))
            };
            let ours = began("cordon");
            let back = RunbookOp::NodeRestored {
                node: was.name.clone(),
                labels: object.labels.clone(),
                taints: object.taints.clone(),
                uncordon: ours && !object.cordoned,
                in_service: began("out-of-service"),
            };
            let name = format!("restore-{}", was.name);
            self.leg(&Leg::new(7, name, vec![back], minutes(2))).await?;
        }
        Ok(())
    }
}
