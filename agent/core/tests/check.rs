//! The second opinion: what no plan may contain, whoever made it. And what the list of faults promises of itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot read its own case must fail")]

use lifeline_core::baseline::{self, Baseline};
use lifeline_core::check::check;
use lifeline_core::faults::ALL;
use lifeline_core::judge::judge;
use lifeline_core::net::Family;
use lifeline_core::observation::{
    Action, Backend, Dialect, NfRule, Observation, Resolv, Route, Rule, TABLE_MAIN,
};
use lifeline_core::op::{NodeOp, ProcessId};
use lifeline_core::plan::{Consent, FORMAT, NodePlan, OnUnhealthy, Rung, Step};
use lifeline_core::planner::{forecast, plan};
use lifeline_core::policy::Policy;
use lifeline_core::text;

const HEALTHY: &str = include_str!("golden/healthy/observation.txt");
const R1: &str = include_str!("golden/r1-exit-node/observation.txt");
const R3: &str = include_str!("golden/r3-remnants/observation.txt");

fn learned() -> Baseline {
    let seen = text::read(HEALTHY).unwrap();
    let diag = judge(&seen, &baseline::derive(&seen), &Policy::default());
    baseline::learn(&seen, &diag, None).unwrap()
}

fn golden(file: &str) -> Vec<std::path::PathBuf> {
    let cases = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).unwrap();
    cases.map(|c| c.unwrap().path()).filter(|c| c.is_dir()).map(|c| c.join(file)).collect()
}

fn of(rung: Rung, ops: Vec<NodeOp>) -> NodePlan {
    let steps = (0..).zip(ops).map(|(id, op)| Step {
        id,
        op,
        finding: "x".to_string(),
        because: String::new(),
        on_unhealthy: OnUnhealthy::Hold,
        optional: false,
    });
    NodePlan {
        format: FORMAT,
        incident: "run".to_string(),
        rung,
        findings: vec!["x".to_string()],
        policy: String::new(),
        steps: steps.collect(),
        deadline_ms: 1_000,
    }
}

fn objections(seen: &str, rung: Rung, ops: Vec<NodeOp>) -> Vec<String> {
    let seen = text::read(seen).unwrap();
    check(&of(rung, ops), &seen, &learned()).iter().map(ToString::to_string).collect()
}

/// An objection with these words in it.
#[track_caller]
fn refused(seen: &str, rung: Rung, op: NodeOp, words: &str) {
    let said = objections(seen, rung, vec![op]);
    assert!(said.iter().any(|s| s.contains(words)), "{words:?} is not in {said:?}");
}

fn process(seen: &str, name: &str) -> ProcessId {
    let seen = text::read(seen).unwrap();
    let p = seen.processes.iter().find(|p| p.comm == name).unwrap();
    ProcessId {
        pid: p.pid,
        start: p.start,
        exe: p.exe.clone(),
        inode: p.inode.clone(),
        cgroup: p.cgroup.clone(),
    }
}

fn stopped(process: ProcessId) -> NodeOp {
    NodeOp::Stopped { process, grace_ms: 3_000 }
}

fn rules_gone(absent: Vec<Rule>) -> NodeOp {
    NodeOp::Rules { family: Family::V4, absent, present: Vec::new() }
}

fn routes(absent: Vec<Route>, present: Vec<Route>) -> NodeOp {
    NodeOp::Routes { family: Family::V4, table: TABLE_MAIN, absent, present }
}

fn with(seen: &str, lines: &str) -> String {
    format!("{seen}{lines}")
}

#[test]
fn what_we_plan_ourselves_is_never_objected_to() {
    let policy = Policy::default();
    let base = learned();
    let mut plans = 0;
    for path in golden("observation.txt") {
        let seen: Observation = text::read(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let diag = judge(&seen, &base, &policy);
        for rung in Rung::ENGINE {
            if let Some(plan) = plan(&seen, &base, &policy, &diag, rung, "run", 1) {
                plans += 1;
                assert_eq!(check(&plan, &seen, &base), [], "{}", path.display());
            }
        }
    }
    assert!(plans > 20, "only {plans} plans");
}

#[test]
fn the_kernels_rules_and_the_baselines_stay() {
    let seen = text::read(HEALTHY).unwrap();
    for rule in &seen.rules {
        let family = rule.family;
        let op = NodeOp::Rules { family, absent: vec![rule.clone()], present: Vec::new() };
        refused(HEALTHY, Rung::Clean, op, "is the kernel's own");
    }
    // Moved or remade, a way to main is a way to main.
    let moved = Rule { protocol: 3, ..Rule::bare(Family::V4, 40_000, Action::Lookup(TABLE_MAIN)) };
    let there = with(HEALTHY, &format!("{}\n", text::rule_line(&moved)));
    refused(&there, Rung::Clean, rules_gone(vec![moved]), "is the kernel's own");
    let exotic = Rule { exotic: true, ..Rule::bare(Family::V4, 5270, Action::Lookup(52)) };
    refused(R1, Rung::Clean, rules_gone(vec![exotic]), "cannot be named");
    let unseen = Rule::bare(Family::V4, 5271, Action::Lookup(52));
    refused(R1, Rung::Clean, rules_gone(vec![unseen]), "was not seen");
    let ours = "rule 5100 to 203.0.113.10 fwmark 0x0/0x1000 lookup main proto 213\n";
    let rule = text::read(ours).unwrap().rules.remove(0);
    refused(&with(R1, ours), Rung::Clean, rules_gone(vec![rule]), "the guard's affair");
    let made_up = Rule::bare(Family::V4, 7, Action::Lookup(52));
    let op = NodeOp::Rules { family: Family::V4, absent: Vec::new(), present: vec![made_up] };
    refused(R1, Rung::Clean, op, "the healthy node has no");
}

#[test]
fn main_is_never_emptied_and_healthy_routes_stay() {
    let base = learned();
    let default = base.default_route(Family::V4).unwrap().clone();
    refused(
        HEALTHY,
        Rung::Clean,
        routes(vec![default.clone()], Vec::new()),
        "the healthy node has",
    );
    let seen = text::read(HEALTHY).unwrap();
    let all: Vec<Route> = seen.routes.iter().filter(|r| r.table == TABLE_MAIN).cloned().collect();
    refused(HEALTHY, Rung::Clean, routes(all, Vec::new()), "nothing would be left of main");
    // Without a device the kernel puts a route where a captor likes (field guide K16).
    let mut bare = default;
    bare.hops[0].dev = None;
    refused(R1, Rung::Clean, routes(Vec::new(), vec![bare]), "names no device");
    let local =
        NodeOp::Routes { family: Family::V4, table: 255, absent: Vec::new(), present: Vec::new() };
    refused(R1, Rung::Clean, local, "is not for plans");
}

#[test]
fn what_carries_the_node_is_never_stopped() {
    assert_eq!(objections(R1, Rung::Quiet, vec![stopped(process(R1, "tailscaled"))]), [""; 0]);
    refused(R1, Rung::Quiet, stopped(process(R1, "k3s-agent")), "is never stopped");
    refused(R1, Rung::Quiet, stopped(process(R1, "containerd")), "is never stopped");
    for name in ["sshd", "systemd-journald", "kubelet", "containerd-shim-runc-v2", "lifeline-agent"]
    {
        let line = format!(
            "process 77 {name} start 5 exe /usr/bin/{name} inode 1:1 netns host cgroup /\n"
        );
        let seen = with(R1, &line);
        refused(&seen, Rung::Quiet, stopped(process(&seen, name)), "is never stopped");
    }
    let line = "process 1 init start 1 exe /sbin/tailscaled inode 1:1 netns host cgroup /\n";
    let seen = with(R1, line);
    refused(&seen, Rung::Quiet, stopped(process(&seen, "init")), "is not what it is said to be");
    let other = process(R1, "tailscaled");
    let pod = R1.replace("netns host cgroup /kubepods", "netns other cgroup /kubepods");
    refused(&pod, Rung::Quiet, stopped(other.clone()), "does not live in the node's own network");
    // The pid was given to another meanwhile.
    refused(R1, Rung::Quiet, stopped(ProcessId { start: 7, ..other.clone() }), "was not seen");
    refused(
        R1,
        Rung::Quiet,
        stopped(ProcessId { inode: "9:9".to_string(), ..other.clone() }),
        "is not what",
    );
    refused(R1, Rung::Clean, stopped(other.clone()), "belongs to quiet");
    let op = NodeOp::Stopped { process: other, grace_ms: 99 };
    refused(R1, Rung::Quiet, op, "100 to 30 000");
}

#[test]
fn nobody_is_stopped_while_nothing_goes_astray() {
    let benign = include_str!("golden/r16-benign/observation.txt");
    refused(benign, Rung::Quiet, stopped(process(benign, "tailscaled")), "nothing is proven");
}

#[test]
fn other_peoples_chains_and_devices_stay() {
    let netfilter = |rules: Vec<(&str, &str)>, chains: Vec<&str>| NodeOp::Netfilter {
        backend: Backend::Nft,
        family: Family::V4,
        table: "filter".to_string(),
        dialect: Dialect::Iptables,
        absent: rules
            .into_iter()
            .map(|(c, s)| NfRule { chain: c.to_string(), spec: s.to_string(), handle: None })
            .collect(),
        absent_chains: chains.into_iter().map(str::to_string).collect(),
        present_chains: Vec::new(),
        present: Vec::new(),
    };
    let clean = |op, words: &str| refused(R3, Rung::Clean, op, words);
    for chain in
        ["KUBE-SERVICES", "CNI-HOSTPORT-DNAT", "FLANNEL-FWD", "cali-INPUT", "DOCKER-USER", "INPUT"]
    {
        clean(netfilter(vec![], vec![chain]), "is not ours to delete");
    }
    clean(netfilter(vec![("INPUT", "-j KUBE-FIREWALL")], vec![]), "is not ours to delete");
    clean(
        netfilter(vec![("FORWARD", "counter jump FLANNEL-FWD")], vec![]),
        "is not ours to delete",
    );
    clean(
        netfilter(vec![("CNI-HOSTPORT-DNAT", "-p tcp -j ACCEPT")], vec![]),
        "is not ours to delete",
    );
    clean(netfilter(vec![("INPUT", "")], vec![]), "names nothing");
    let link = |name: &str, kind: &str| NodeOp::LinkGone {
        name: name.to_string(),
        kind: kind.to_string(),
    };
    clean(link("eth0", "veth"), "the healthy node has eth0");
    clean(link("flannel.1", "vxlan"), "the healthy node has flannel.1");
    clean(link("docker0", "bridge"), "only left-over tuns");
    refused(R1, Rung::Clean, link("tailscale0", "tun"), "a process holds tailscale0");
}

#[test]
fn files_settings_and_connections_of_others_stay() {
    let moved = |path: &str| NodeOp::Quarantined { path: path.to_string() };
    let seen = with(R1, "path /var/lib/rancher/k3s\npath /var/lib\npath /var/lib/../etc/x\n");
    for path in
        ["/var/lib/rancher/k3s", "/var/lib/nobody-saw-it", "/var/lib", "/", "/var/lib/../etc/x"]
    {
        let said = objections(&seen, Rung::Quiet, vec![moved(path)]);
        let is_about = |s: &String| s.contains("is not a culprit's directory");
        assert!(said.iter().any(is_about), "{path}: {said:?}");
    }
    let sysctl =
        |key: &str, value: &str| NodeOp::Sysctl { key: key.to_string(), value: value.to_string() };
    refused(R3, Rung::Clean, sysctl("net.ipv4.ip_forward", "0"), "is never lowered");
    refused(R3, Rung::Clean, sysctl("net.ipv4.conf.all.src_valid_mark", "7"), "is not 7");
    let wanted = Resolv { text: "nameserver 9.9.9.9\n".to_string(), link: None, backup: None };
    refused(R3, Rung::Clean, NodeOp::ResolvConf { wanted }, "not the healthy node's");
    let own = "192.168.2.80".parse().unwrap();
    let flows = NodeOp::FlowsGone { sources: vec![own], dead_to: Vec::new() };
    refused(R1, Rung::Quiet, flows, "the healthy node's own address");
    let unit = |u: &str| NodeOp::Restarted { unit: u.to_string() };
    refused(R3, Rung::Reconnect, unit("ssh.service"), "is not a unit");
    refused(R3, Rung::Clean, unit("k3s-agent.service"), "belongs to reconnect");
}

#[test]
fn an_object_has_one_step() {
    let step = stopped(process(R1, "tailscaled"));
    let said = objections(R1, Rung::Quiet, vec![step.clone(), step]);
    assert_eq!(said, ["step 1: process 4711 has a step already"]);
}

#[test]
fn every_fault_says_what_it_is_and_has_a_case() {
    let mut told = String::new();
    for path in golden("expected.txt") {
        told += &std::fs::read_to_string(path).unwrap();
    }
    for (at, fault) in ALL.iter().enumerate() {
        let id = fault.id;
        assert!(id.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{id}");
        assert!(ALL.iter().skip(at + 1).all(|f| f.id != id), "{id} is there twice");
        assert!(!fault.rows.is_empty() && !fault.needs.is_empty(), "{id}");
        assert!(
            fault.title.len() < 70 && fault.why.len() > 150 && fault.why.ends_with('.'),
            "{id}"
        );
        assert!(fault.becomes.iter().all(|b| ALL.iter().any(|f| f.id == *b)), "{id}");
        assert!(told.contains(&format!("finding {id}")), "no golden case finds {id}");
    }
}

/// What the operator agrees to before the first rung covers what the later rungs turn out to need.
#[test]
fn one_consent_covers_a_whole_recovery() {
    let (policy, base) = (Policy::default(), learned());
    let look = |case: &str| {
        let path = golden("observation.txt")
            .into_iter()
            .find(|p| p.ends_with(format!("{case}/observation.txt")));
        let seen = text::read(&std::fs::read_to_string(path.unwrap()).unwrap()).unwrap();
        let diag = judge(&seen, &base, &policy);
        (seen, diag)
    };
    for case in
        ["r1-exit-node", "r1-installed", "r2-exit-node-lan-allowed", "r4-fights-back", "r1-guarded"]
    {
        let (seen, diag) = look(case);
        let plans = forecast(&seen, &base, &policy, &diag);
        let rungs: Vec<u32> = plans.iter().map(|p| p.rung.number()).collect();
        assert_eq!(rungs, [2, 3, 4], "{case}");
        let consent = Consent {
            findings: plans.iter().flat_map(|p| p.findings.clone()).collect(),
            rung: 4,
            kinds: plans
                .iter()
                .flat_map(|p| p.steps.iter().map(|s| s.op.kind().to_string()))
                .collect(),
            ..Consent::default()
        };
        // As it stands when the daemon was killed: rules, chains, marks, resolver, sysctl; and the kubelet hangs.
        for (after, rung, attempt) in [
            ("r3-remnants", Rung::Clean, 0),
            ("k4-dead-connections", Rung::Reconnect, 0),
            ("k4-dead-connections", Rung::Reconnect, 1),
        ] {
            let (seen, diag) = look(after);
            let plan = plan(&seen, &base, &policy, &diag, rung, "run", attempt).unwrap();
            let mut lacks = consent.lacks(&plan);
            // Only who took the resolver over has it restored.
            if case != "r1-installed" {
                lacks.retain(|l| l != "step of kind resolv-conf");
            }
            assert!(lacks.is_empty(), "{case}, then {after}: {lacks:?}");
        }
    }
    let (seen, diag) = look("healthy");
    assert!(forecast(&seen, &base, &policy, &diag).is_empty());
    let (seen, diag) = look("r11-deleted");
    let rungs: Vec<u32> =
        forecast(&seen, &base, &policy, &diag).iter().map(|p| p.rung.number()).collect();
    assert_eq!(rungs, [3, 4]);
    let (seen, diag) = look("u1-api-down");
    assert!(forecast(&seen, &base, &policy, &diag).is_empty());
}
