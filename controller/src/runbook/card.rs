//! Every sentence of the manual runbook, what is done instead, and why: shown by `--explain`, kept in the README, and the source
//! of each step's reason in plans and journals.

use super::op::RunbookOp;
use std::fmt::Write;

/// A phase of a recovery.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// Its number.
    pub number: u8,
    /// Its name.
    pub title: &'static str,
    /// When it is taken.
    pub when: &'static str,
    /// About how long it takes, seconds.
    pub estimate_s: u32,
    /// What is asked.
    pub asks: &'static str,
}

/// All phases, in order.
pub const PHASES: [Phase; 10] = [
    Phase { number: 0, title: "look", when: "in any case", estimate_s: 5, asks: "nothing" },
    Phase {
        number: 1,
        title: "agree",
        when: "in any case",
        estimate_s: 0,
        asks: "the whole plan, once",
    },
    Phase {
        number: 2,
        title: "stop the culprit, begin the namespace's clean-up",
        when: "a namespace is named",
        estimate_s: 10,
        asks: "the namespace's name, typed",
    },
    Phase {
        number: 3,
        title: "bring nodes back, beside each other; restarts one at a time",
        when: "a node is not well",
        estimate_s: 40,
        asks: "a restart by the node's name, typed",
    },
    Phase {
        number: 4,
        title: "verify each node",
        when: "after each resort",
        estimate_s: 25,
        asks: "nothing",
    },
    Phase {
        number: 5,
        title: "finish the namespace, prove it gone",
        when: "a namespace is named",
        estimate_s: 40,
        asks: "nothing more",
    },
    Phase {
        number: 6,
        title: "who stays dead: cordon, drain, delete",
        when: "no resort helped",
        estimate_s: 60,
        asks: "each by itself, the deletion typed",
    },
    Phase {
        number: 7,
        title: "give back labels, taints, scheduling",
        when: "a node was brought back",
        estimate_s: 2,
        asks: "nothing",
    },
    Phase {
        number: 8,
        title: "verify the cluster",
        when: "in any case",
        estimate_s: 15,
        asks: "nothing",
    },
    Phase {
        number: 9,
        title: "report, commit, push, comment, close",
        when: "[record] or --report says where",
        estimate_s: 5,
        asks: "each by itself",
    },
];

/// A sentence of the manual runbook.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// Where it stands.
    pub step: &'static str,
    /// What it says.
    pub seed: &'static str,
    /// The phase that does it.
    pub phase: u8,
    /// What is done instead.
    pub here: &'static str,
    /// What differs, and why.
    pub why: &'static str,
    /// By hand, in the runbook's own estimate, seconds; 0 where it gives none.
    pub by_hand_s: u32,
}

const fn card(
    step: &'static str,
    seed: &'static str,
    phase: u8,
    here: &'static str,
    why: &'static str,
    by_hand_s: u32,
) -> Card {
    Card { step, seed, phase, here, why, by_hand_s }
}

/// All of them, in the runbook's order.
pub const CARDS: &[Card] = &[
    card(
        "Step 1",
        "`kubectl delete pod --all --force` in the namespace",
        2,
        "what starts the pods is stopped first; pods of live nodes get their grace, those of silent nodes are forced, each with its uid",
        "a DaemonSet starts deleted pods again within 3 s; a forced deletion on a live node leaves the process running; \"gone from the API\" is unproven until an agent confirms it",
        60,
    ),
    card(
        "Step 1",
        "`kubectl delete namespace --force --grace-period=0`",
        2,
        "the deletion is begun after the controllers are gone, and not waited for while nodes are down",
        "`--force` does nothing to a namespace; its clean-up cannot end before its pods can, and the nodes need not wait for it",
        30,
    ),
    card(
        "Step 1",
        "`jq '.spec.finalizers = []'` and `replace --raw …/finalize`",
        5,
        "every kind is listed again until nothing is left; `finalize` only when all could be listed, nothing is there, and it is asked",
        "it orphans what is still in the namespace: whoever creates the name again gets the culprit back",
        30,
    ),
    card(
        "Step 2",
        "`op read` into a shell variable, `curl -H \"Authorization: …\"`",
        3,
        "the reference is read when it is needed, and stays in memory",
        "an argument of curl's is seen by everybody on the machine",
        20,
    ),
    card(
        "Step 2",
        "`GET https://api.hostinger.com/vps/v1/virtual-machines`, \"extract VM ID\"",
        3,
        "the documented API; the machine must have the node's host name and address and must not carry the control plane",
        "that address never existed; a wrong number restarts somebody else's machine",
        40,
    ),
    card(
        "Step 2",
        "`POST …/reboot`, `sleep 180`, `kubectl get nodes`",
        3,
        "the agent is asked first; if it cannot be reached, `restart`, written down before it is sent, then waited for until another boot is seen",
        "a reboot is the dearest of all repairs; \"done\" and Ready both lie, a boot id does not; a time-out is looked up and never sent again",
        240,
    ),
    card(
        "Step 2",
        "option A: soft restart by SSH",
        3,
        "SSH carries the way to the agent's socket",
        "the agent knows what to mend; a restart by itself mends nothing that comes back",
        0,
    ),
    card(
        "Step 2",
        "option B: recreate the VPS",
        3,
        "by hand: `ctl vps recreate NODE`, then `ctl recover --resume --machine-wiped NODE`",
        "it wipes the machine's disk; no recovery does that on the way",
        1_200,
    ),
    card(
        "Step 3A",
        "`sleep 30`, `ssh root@192.168.2.80 hostname`",
        3,
        "the agent is asked over its own path, at once and beside other nodes",
        "the namespace's end does not open the path; the agent's guard keeps it open",
        40,
    ),
    card(
        "Step 3A",
        "`systemctl stop k3s-agent`, at the end `start` and `status`",
        3,
        "the kubelet is restarted only if it is still stuck after the repair",
        "most captures end without it; a stop that loses its connection leaves the node without a kubelet",
        30,
    ),
    card(
        "Step 3A",
        "`pkill tailscaled`, `rm -rf /var/lib/tailscale-worker`",
        3,
        "the daemon that captures is named by pid, start time and inode; its directories go to quarantine",
        "`pkill` ends every process of the name, a harmless one in a pod as well; what is deleted cannot be looked at",
        10,
    ),
    card(
        "Step 3A",
        "`iptables -F`, `-t nat -F`, `-t mangle -F`, `-X`",
        3,
        "only the culprit's rules and chains, in every backend where they are; the flush is rung 5, asked for and undone unless confirmed",
        "it takes away kube-proxy's and the CNI's rules, too, and with policy DROP it locks everybody out; it leaves the rules of the other backend",
        20,
    ),
    card(
        "Step 3A",
        "`ip route flush cache`",
        3,
        "policy rules, routes and dead sockets are what is removed",
        "the cache was removed from the kernel's IPv4 in 3.6; the capture is in rules 5210 to 5270 and table 52, which nothing in the runbook removes",
        10,
    ),
    card(
        "Step 3B",
        "console: the same commands, or `sudo reboot`",
        3,
        "the exact lines for that node are printed when everything else was in vain",
        "on the console one types what is certain, and no more",
        900,
    ),
    card(
        "Step 3C",
        "`kubectl cordon`, `drain --force`, `delete node`",
        6,
        "each asked by itself, by the eviction API and with budgets seen; the node's labels and taints are in the journal",
        "a node that is deleted under a live kubelet stays away until its agent restarts, and comes back without them",
        120,
    ),
    card(
        "Step 4",
        "`kubectl get nodes`: Ready",
        4,
        "two lease renewals seen after the act, Ready said after it, the agent's own boot id, no taint, pods ready",
        "Ready stands for up to 115 s after a power cycle in which nothing runs",
        30,
    ),
    card(
        "Step 4",
        "`kubectl get pods -A` without Running and Succeeded: 0",
        8,
        "pods that are not ready, that crash, that hang in Terminating, each named; what was so before is said to be",
        "a pod that is Running and not ready passes the runbook's filter",
        30,
    ),
    card(
        "Step 4",
        "critical services by label; `logs --tail=5` \"should show webhook registration\"",
        8,
        "the configured selectors must match ready pods, the configured words must be in the log since the recovery began",
        "five lines from before the incident prove nothing",
        60,
    ),
    card(
        "Step 5",
        "`git add` of three files, `git commit`",
        9,
        "the report is written from the journals; existing, un-ignored files alone are committed, the index is not touched, a trailer names the run",
        "two of the three files may not exist, and what the operator had staged is not part of it",
        120,
    ),
    card("Step 5", "`git push origin main`", 9, "asked by itself", "others read it", 20),
    card(
        "Post 1",
        "`kubectl get all -A | grep tailscale`, `get clusterrole`",
        8,
        "every kind that can be listed, namespaced or not, objects of namespaces that are gone, and each agent's look at its node",
        "`get all` leaves out Secrets, ConfigMaps, ServiceAccounts, which are what comes back",
        30,
    ),
    card(
        "Post 2",
        "`ip route show | grep -v …` on each node",
        8,
        "each agent says where traffic to every critical destination leaves",
        "the capture is not in table main: on a captured node this prints nothing wrong",
        60,
    ),
    card(
        "Post 3",
        "`kubectl run nettest --image=curlimages/curl`",
        8,
        "the agents' probe of the Service address first; then a pod on that node, of an image that is there, which answers by its termination message",
        "`:latest` is pulled over the network that is in doubt, and its logs need the port that is in doubt",
        60,
    ),
    card(
        "Post 4",
        "close #110 as blocked, update #99, comment on #95",
        9,
        "comments with a hidden mark, so that none is written twice; \"blocked\" is a label or \"not planned\"; each asked",
        "GitHub knows no \"blocked\"; a commit message that says \"closes\" would close as completed",
        180,
    ),
    card(
        "Risks",
        "namespace won't delete; reboot fails; network stays corrupted; agent won't start",
        3,
        "each is a finding or a resort of its own, with its reason in the report",
        "what is tried next is decided by a fresh look, not beforehand",
        0,
    ),
    card(
        "Rollback",
        "keep running with tethys only",
        6,
        "nodes that stay dead are left cordoned; exit code 3, `ctl recover --resume` goes on",
        "nothing that works is taken apart on the way",
        0,
    ),
];

/// Why a step is taken, in a sentence.
pub fn because(op: &RunbookOp) -> &'static str {
    match op {
        RunbookOp::CulpritStopped { .. } => "what starts the culprit again undoes every repair",
        RunbookOp::CleanupBegun { .. } => "it takes its time, and no node need wait for it",
        RunbookOp::NamespaceGone { .. } => "what is left of it can come back",
        RunbookOp::NodeHealed { .. } => "its agent mends the least that is needed",
        RunbookOp::AgentStarted { .. } => "its agent knows what to mend, and does not run",
        RunbookOp::AgentLent { .. } => {
            "its own does not come up; one that is lent mends as much, by the node's own journals"
        }
        RunbookOp::AgentReturned { .. } => "it was lent for this alone",
        RunbookOp::MachineRestarted { .. } => "its agent could not bring it back",
        RunbookOp::LeftCordoned { .. } => {
            "nothing new is to be scheduled onto a node that is not well"
        }
        RunbookOp::Uncordoned { .. } => "it was not cordoned before",
        RunbookOp::Drained { .. } => "its pods can run elsewhere",
        RunbookOp::OutOfService { .. } => {
            "what runs nowhere keeps its volumes from running elsewhere"
        }
        RunbookOp::NodeDeleted { .. } => "it does not come back",
        RunbookOp::NodeRestored { .. } => "it is to be as it was before",
        RunbookOp::ClusterVerified => "what was done is to be proven",
        RunbookOp::ReportWritten { .. } => "what happened is to be known",
        RunbookOp::Committed { .. } | RunbookOp::Pushed { .. } => {
            "it belongs with the cluster's other papers"
        }
        RunbookOp::Commented { .. } | RunbookOp::IssueLeft { .. } => "who waits for it is to know",
    }
}

/// The table for people, in Markdown: README and `--explain` show the same.
pub fn markdown() -> String {
    let mut text = "| step | by hand | `ctl recover` | why it differs | by hand takes |\n|---|---|---|---|---|\n".to_owned();
    for c in CARDS {
        let phase = PHASES.iter().find(|p| p.number == c.phase).map_or("", |p| p.title);
        let title = phase.split([',', ';', ':']).next().unwrap_or(phase);
        let took = match c.by_hand_s {
            0 => "-".to_owned(),
            s => crate::words::span_ms(u64::from(s) * 1_000),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | phase {} ({title}): {} | {} | {took} |",
            c.step,
            c.seed.replace('|', "\\|"),
            c.phase,
            c.here,
            c.why
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_of_a_card_is_a_phase_there_is_and_phases_count_up() {
        for (at, phase) in (0_u8..).zip(PHASES) {
            assert_eq!(phase.number, at);
        }
        for c in CARDS {
            assert!(usize::from(c.phase) < PHASES.len(), "{c:?}");
            assert!(!c.here.is_empty() && !c.why.is_empty(), "{c:?}");
        }
    }
}
