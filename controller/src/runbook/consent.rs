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
            RunbookOp::Drained { node } if self.heal => Some(format!("drain {node}")),
            _ => None,
        }
    }
}

/// What is typed at the node's own console when nothing else is left.
pub fn console(node: &str) -> String {
    let root = "ctl --socket /run/lifeline/agent.sock";
    format!(
        "{node} has to be seen to at its own console, as root:\n  {root} diagnose {node}\n  {root} heal {node}\n  \
         systemctl status lifeline-agent k3s-agent; journalctl -u k3s-agent -n 50\n  \
         {root} heal {node} --rung reset     # the flush, undone unless confirmed\n  systemctl reboot                    # and if all that is in vain"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_general_yes_takes_no_node_out_of_its_cluster_in_a_heal_and_does_in_a_recovery() {
        let cordon = RunbookOp::LeftCordoned { node: "styx".to_owned() };
        let start = RunbookOp::AgentLent { node: "styx".to_owned() };
        let recovery = Consent { yes: true, ..Consent::default() };
        assert!(recovery.covers(&cordon) && recovery.covers(&start));
        let heal = Consent { heal: true, ..recovery };
        assert!(!heal.covers(&cordon) && heal.covers(&start));
        assert_eq!(heal.lacks(&cordon), "agree to it beforehand: --confirm \"cordon styx\"");
        let named = Consent { confirmed: vec!["cordon styx".to_owned()], yes: false, ..heal };
        assert!(named.covers(&cordon) && !named.covers(&start));
    }
}
