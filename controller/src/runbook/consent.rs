//! What an operator has agreed to before anything is asked, and what is left for the console.

use super::op::RunbookOp;
use crate::consent::UpTo;
use std::time::Duration;

/// What was agreed to beforehand.
#[derive(Clone, Debug, Default)]
pub struct Consent {
    /// The plan, and whatever can be undone.
    pub yes: bool,
    /// Names of what cannot.
    pub confirmed: Vec<String>,
    /// Nodes whose machines were wiped, by the operator's word.
    pub wiped: Vec<String>,
    /// How long a healed node must stay well.
    pub stability: Duration,
    /// How long to follow an agent at most.
    pub limit: Duration,
    /// It is a heal: plans are asked for as usual, and a node is not taken out of its cluster on a general yes.
    pub heal: bool,
    /// The lowest rung an agent may climb, that one alone.
    pub from: Option<UpTo>,
    /// The highest.
    pub up_to: Option<UpTo>,
}

impl Consent {
    /// What is agreed to without a question.
    pub fn covers(&self, op: &RunbookOp) -> bool {
        match self.named(op) {
            Some(name) => self.confirmed.contains(&name),
            None => self.yes,
        }
    }

    /// How to agree to it where nobody can be asked.
    pub fn lacks(&self, op: &RunbookOp) -> String {
        match self.named(op) {
            Some(name) => format!("agree to it beforehand: --confirm {name:?}"),
            None => "there is no terminal to ask on, and --yes was not given".to_owned(),
        }
    }

    fn named(&self, op: &RunbookOp) -> Option<String> {
        match op {
            RunbookOp::LeftCordoned { node } if self.heal => Some(format!("cordon {node}")),
            // Who is evicted does not come back to where he was.
            RunbookOp::Drained { node } => Some(format!("drain {node}")),
            _ => None,
        }
    }
}

/// What is typed at the node's own console when nothing else is left. The node has the agent and need not have `ctl`.
pub fn console(node: &str) -> String {
    let root = "ctl --socket /run/lifeline/agent.sock";
    format!(
        "{node} has to be seen to at its own console, as root:\n  \
         systemctl status lifeline-agent k3s-agent; journalctl -u lifeline-agent -u k3s-agent -n 50\n  \
         sed -i 's/^mode *=.*/mode = \"heal\"/' /etc/lifeline/agent.toml && lifeline-agent check-config\n  \
         systemctl restart lifeline-agent     # in mode heal it repairs by itself, within seconds\n  \
         journalctl -f -u lifeline-agent      # and says what it does, or why it does nothing\n\
         where ctl is there, too:\n  \
         {root} diagnose {node}\n  {root} heal {node}\n  \
         {root} heal {node} --rung reset      # the flush, undone unless confirmed\n\
         and if all that is in vain:\n  systemctl reboot"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_general_yes_evicts_from_no_node_and_cordons_none_in_a_heal() {
        let drain = RunbookOp::Drained { node: "styx".to_owned() };
        let cordon = RunbookOp::LeftCordoned { node: "styx".to_owned() };
        let start = RunbookOp::AgentLent { node: "styx".to_owned() };
        let recovery = Consent { yes: true, ..Consent::default() };
        assert!(recovery.covers(&cordon) && recovery.covers(&start));
        assert!(!recovery.covers(&drain), "{drain} is for good");
        let heal = Consent { heal: true, ..recovery };
        assert!(!heal.covers(&cordon) && heal.covers(&start));
        assert_eq!(heal.lacks(&cordon), "agree to it beforehand: --confirm \"cordon styx\"");
        let named = Consent { confirmed: vec!["cordon styx".to_owned()], yes: false, ..heal };
        assert!(named.covers(&cordon) && !named.covers(&start));
    }
}
