//! One node of a recovery: its agent, SSH, its provider; cheapest first, and the next only where a fresh look says that the last did
//! not help.

use super::conduct::{Conduct, Desk, minutes};
use super::ended::NodeEnd;
use super::leg::{Halt, Leg, LegEnd, cut_off, took_place};
use super::op::RunbookOp;
use super::opened::NodeWas;
use super::run::Shelf;
use super::spare::Spare;
use lifeline_core::diagnosis::Health;

impl<W: Desk, S: Shelf> Conduct<'_, W, S> {
    /// Cheapest resort first, and the next one only where a fresh look says that the last did not help.
    pub(super) async fn node(&self, was: &NodeWas) -> Result<NodeEnd, Halt> {
        let node = &was.name;
        let heal = vec![RunbookOp::NodeHealed { node: node.clone() }];
        let heal = Leg::new(3, format!("heal-{node}"), heal, minutes(20));
        let restart = vec![RunbookOp::MachineRestarted { node: node.clone() }];
        let restart = Leg::new(3, format!("restart-{node}"), restart, minutes(20));
        let mut tried = Vec::new();
        if self.world.wiped(node) {
            // A restart gives nothing back of what is gone. Who answers there was not wiped, or has joined anew.
            if self.world.look(&RunbookOp::NodeHealed { node: node.clone() }).await.is_err() {
                return Ok(NodeEnd::Wiped);
            }
            self.note(
                node,
                &format!("{node}'s agent answers: its machine is not taken to be wiped"),
            )?;
        }
        if was.says_upstream()
            && !self.begun(&[&heal, &restart])?
            && let Some(why) = self.world.upstream(node).await
        {
            return self.spare(node, why, tried);
        }
        // A restart that was cut off is looked after first: what the agent says before it is of the boot that ends.
        if cut_off(self.shelf, &restart)?.is_none() {
            let end = self.leg(&heal).await?;
            let unseen = matches!(end, LegEnd::Unseen(_));
            if let Some(end) = self.weigh(end, &heal, "its agent", &mut tried).await? {
                return Ok(end);
            }
            if let Some(end) = self.started(&heal, unseen, node, &mut tried).await? {
                return Ok(end);
            }
        }
        // From here on it is about the whole machine: what is wrong must be wrong there.
        if cut_off(self.shelf, &restart)?.is_none() {
            match self.world.spared(node).await {
                Spare::Yes(why) => return self.spare(node, why, tried),
                Spare::Told(why) => {
                    self.note(node, &format!("{node}: {why}; what a restart ends may be well"))?;
                    tried.push(why);
                }
                Spare::No => {}
            }
        }
        match self.world.restartable(node) {
            Err(why) => tried.push(format!("its provider: {why}")),
            Ok(()) => {
                let _alone = self.one_off.lock().await;
                // Another restart would end every pod again, and what the first did not mend it will not either.
                if took_place(self.shelf, &restart)? {
                    let why = "its machine was restarted in this recovery already";
                    tried.push(format!("its provider: {why}"));
                } else if let Some(end) = self.resort(&restart, "its provider", &mut tried).await? {
                    return Ok(end);
                }
                // In its new boot the agent may answer, and see what is wrong.
                if let Some(end) =
                    self.resort(&heal, "its agent, after the restart", &mut tried).await?
                {
                    return Ok(end);
                }
            }
        }
        self.note(node, &self.world.console(node))?;
        Ok(NodeEnd::Dead(tried))
    }

    fn spare(&self, node: &str, why: String, mut tried: Vec<String>) -> Result<NodeEnd, Halt> {
        self.note(node, &format!("{node} is left as it is: {why}"))?;
        tried.push(why);
        Ok(NodeEnd::Spared(tried))
    }

    /// One of them was cut off, and has to be brought to its end first.
    fn begun(&self, legs: &[&Leg]) -> Result<bool, Halt> {
        for leg in legs {
            if cut_off(self.shelf, leg)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An agent that does not run is started where SSH leads to its node, and then asked.
    async fn started(
        &self,
        heal: &Leg,
        unseen: bool,
        node: &str,
        tried: &mut Vec<String>,
    ) -> Result<Option<NodeEnd>, Halt> {
        if let Err(why) = self.world.startable(node) {
            tried.push(format!("SSH: {why}"));
            return Ok(None);
        }
        let start = vec![RunbookOp::AgentStarted { node: node.to_owned() }];
        match self.leg(&Leg::new(3, format!("start-{node}"), start, minutes(2))).await? {
            LegEnd::Well => self.resort(heal, "its agent, started over SSH", tried).await,
            // It came back meanwhile, and was not asked yet.
            LegEnd::WasSo(_) if unseen => {
                self.resort(heal, "its agent, which answers again", tried).await
            }
            // It runs, and was asked already.
            LegEnd::WasSo(_) | LegEnd::Declined => Ok(None),
            // Where SSH leads nowhere nothing can be brought either.
            LegEnd::Unseen(why) => {
                tried.push(format!("SSH: {why}"));
                Ok(None)
            }
            LegEnd::Unwell(why) | LegEnd::Held(why) | LegEnd::Stuck(why) => {
                tried.push(format!("SSH: {why}"));
                self.lent(heal, node, tried).await
            }
        }
    }

    /// A node whose own agent does not come up is lent one, which is asked as its own would be.
    async fn lent(
        &self,
        heal: &Leg,
        node: &str,
        tried: &mut Vec<String>,
    ) -> Result<Option<NodeEnd>, Halt> {
        let lend = vec![RunbookOp::AgentLent { node: node.to_owned() }];
        match self.leg(&Leg::new(3, format!("lend-{node}"), lend, minutes(8))).await? {
            LegEnd::Well => self.resort(heal, "an agent lent to it over SSH", tried).await,
            LegEnd::WasSo(_) => self.resort(heal, "its agent, which answers again", tried).await,
            LegEnd::Declined => {
                tried.push("a lent agent: not agreed to".to_owned());
                Ok(None)
            }
            LegEnd::Unseen(why) | LegEnd::Unwell(why) | LegEnd::Held(why) | LegEnd::Stuck(why) => {
                tried.push(format!("a lent agent: {why}"));
                Ok(None)
            }
        }
    }

    /// `None` when it did not help, and the next resort is to be tried.
    async fn resort(
        &self,
        leg: &Leg,
        what: &'static str,
        tried: &mut Vec<String>,
    ) -> Result<Option<NodeEnd>, Halt> {
        let end = self.leg(leg).await?;
        self.weigh(end, leg, what, tried).await
    }

    /// What a leg's end means for its node; `None` as above.
    async fn weigh(
        &self,
        end: LegEnd,
        leg: &Leg,
        what: &'static str,
        tried: &mut Vec<String>,
    ) -> Result<Option<NodeEnd>, Halt> {
        Ok(match end {
            LegEnd::Well => Some(NodeEnd::Healed(what)),
            // The agent's own look is not the API server's.
            LegEnd::WasSo(_) => {
                let judged = self.world.judge(leg).await;
                match judged.health {
                    Health::Well => Some(NodeEnd::Healed(what)),
                    _ => {
                        tried.push(format!("{what}: {}", judged.summary));
                        None
                    }
                }
            }
            LegEnd::Declined => {
                tried.push(format!("{what}: not agreed to"));
                None
            }
            LegEnd::Unseen(why) | LegEnd::Unwell(why) => {
                tried.push(format!("{what}: {why}"));
                None
            }
            LegEnd::Held(why) => Some(NodeEnd::Held(why)),
            LegEnd::Stuck(why) => Some(NodeEnd::Stuck(why)),
        })
    }
}
