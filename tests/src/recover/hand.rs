//! The whole recovery plan by hand: its five steps and what it asks for afterwards, typed by a script that never hesitates.
//!
//! As it stands there, but for what cannot be: the kubeconfig's place, the provider's address and path (the plan's never
//! existed), an image that is to be had here, and the sleeps: whoever types looks each second instead of waiting three minutes.

use std::thread;
use std::time::{Duration, Instant};

use super::desk::{self, Desk, PAPERS, REFERENCES, STYX};
use super::marks::{Mark, Marks};
use crate::incident::NODE;
use crate::lab::Lab;
use crate::progress::Progress;
use crate::real::cluster::{is_ready, kubectl};
use crate::real::incident::{OTHER, STEP_ONE, ssh};
use crate::standin::byhand;
use crate::topology;

/// Somebody at a keyboard gives up after this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Somebody who waits for a machine has more.
const BOOT: Duration = Duration::from_secs(240);

struct Hand<'a> {
    lab: &'a Lab,
    desk: &'a Desk,
    progress: &'a Progress,
    typed: usize,
}

impl Hand<'_> {
    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        self.typed += 1;
        let out = self.desk.type_line(self.lab, line, PATIENCE)?;
        let end = if out.timed_out { "^C" } else { "" };
        let took = out.took.as_secs_f64();
        self.progress.say(format!("    laptop$ {line}  ({took:.1} s{end})"));
        for said in out.stdout.lines().chain(out.stderr.lines()).take(6) {
            self.progress.say(format!("        {}", said.chars().take(160).collect::<String>()));
        }
        Ok(())
    }

    fn ready(&self, node: &str) -> anyhow::Result<()> {
        let until = Instant::now() + BOOT;
        loop {
            let out = kubectl(&["get", "node", node, "-o", "json"])?;
            if out.ok() && is_ready(&out.json()?) {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < until,
                "{node} is not Ready after {} s",
                BOOT.as_secs()
            );
            thread::sleep(Duration::from_secs(1));
        }
    }
}

/// Types everything, and says how many commands it took.
pub fn type_all(
    lab: &Lab,
    desk: &Desk,
    marks: &Marks,
    progress: &Progress,
) -> anyhow::Result<usize> {
    let mut hand = Hand { lab, desk, progress, typed: 0 };
    for line in STEP_ONE {
        hand.line(line)?;
    }
    styx(&mut hand)?;
    marks.now(Mark::StyxReady);
    calypso(&mut hand)?;
    for line in VERIFY {
        hand.line(line)?;
    }
    marks.now(Mark::Verified);
    let tree = desk::work_tree();
    let add = PAPERS.map(|p| format!("git -C {} add {p}", tree.display()));
    for line in &add {
        hand.line(line)?;
    }
    let at = tree.display();
    hand.line(&format!("git -C {at} commit -m 'docs: incident recovery plan and future networking architecture' -m 'Related: #110 (Phase 2 blocked), #99, #95'"))?;
    hand.line(&format!("git -C {at} push origin main"))?;
    for line in AFTERWARDS {
        hand.line(line)?;
    }
    issues(&mut hand)?;
    marks.take_issues(desk);
    marks.now(Mark::End);
    Ok(hand.typed)
}

/// Step 2.
fn styx(hand: &mut Hand<'_>) -> anyhow::Result<()> {
    let api = format!("https://{}/api/vps/v1/virtual-machines", hand.desk.provider_at);
    let ca = desk::dir().join("outside-ca.crt");
    let (ca, reference) = (ca.display(), REFERENCES[0]);
    let curl = format!(
        "STYX_TOKEN=$(op read '{reference}'); curl -s --cacert {ca} -H \"Authorization: Bearer $STYX_TOKEN\""
    );
    hand.line(&format!("{curl} -X GET {api} | jq -c '.[] | [.id, .hostname, .state]'"))?;
    hand.line(&format!("{curl} -X POST {api}/{STYX}/restart"))?;
    // The answer comes before the machine is off, and a node that is off stays what it was for a while.
    let until = Instant::now() + BOOT;
    while hand.desk.cycles().is_empty() {
        anyhow::ensure!(Instant::now() < until, "the provider has not restarted {OTHER}");
        thread::sleep(Duration::from_millis(500));
    }
    hand.ready(OTHER)?;
    hand.line("kubectl get nodes")
}

/// Step 3: option A, and where it does not get through, option B.
fn calypso(hand: &mut Hand<'_>) -> anyhow::Result<()> {
    let address = topology::machine(NODE).map(|m| m.v4().to_string()).unwrap_or_default();
    let through = ssh(hand.lab, "lan", &address, "hostname")?;
    hand.typed += 1;
    let word = if through { "gets through" } else { "does not: somebody walks to the console" };
    hand.progress.say(format!("    ssh root@{address} {word}"));
    let lines = byhand::type_all(&hand.lab.node(NODE)?, |typed| {
        let end = if typed.given_up { "^C" } else { "" };
        let took = typed.took.as_secs_f64();
        hand.progress.say(format!("    {NODE}# {}  ({took:.1} s{end})", typed.line));
    })?;
    hand.typed += lines.len();
    hand.ready(NODE)?;
    hand.line("kubectl get nodes")
}

/// Step 4.
const VERIFY: [&str; 5] = [
    "kubectl get nodes",
    "kubectl get pods -A --field-selector=status.phase!=Running,status.phase!=Succeeded",
    "kubectl -n apps get pods -l app=project-bootstrapper",
    "kubectl -n apps get pods -l app.kubernetes.io/name=ls-app",
    "kubectl -n apps logs deployment/project-bootstrapper --tail=5",
];

/// "Post-Recovery Actions", 1 to 3.
const AFTERWARDS: [&str; 5] = [
    "kubectl get all -A | grep tailscale",
    "kubectl get clusterrole,clusterrolebinding | grep tailscale",
    "ssh root@192.168.2.80 \"ip route show | grep -v '10.42\\|10.43\\|192.168'\"",
    "ssh root@203.0.113.20 \"ip route show | grep -v '10.42\\|10.43\\|192.168'\"",
    "kubectl -n apps run nettest --rm -i --image=docker.io/lab/tools:1 --image-pull-policy=IfNotPresent --restart=Never -- \
     sh -c \"printf 'GET /health HTTP/1.0\\r\\n\\r\\n' | nc -w 5 \\$LABEL_STUDIO_LS_APP_SERVICE_HOST 8080\"",
];

/// "Post-Recovery Actions", 4.
fn issues(hand: &mut Hand<'_>) -> anyhow::Result<()> {
    let root = format!("https://{}/repos/{}/issues", hand.desk.github_at, desk::REPOSITORY);
    let ca = desk::dir().join("outside-ca.crt");
    let curl = format!(
        "TOKEN=$(op read '{}'); curl -s --cacert {} -o /dev/null -w '%{{http_code}}\\n' -H \"Authorization: Bearer $TOKEN\"",
        REFERENCES[1],
        ca.display()
    );
    for (number, text) in [
        (110, "Blocked."),
        (99, "DaemonSet approach abandoned."),
        (95, "Pod-based egress gateway instead."),
    ] {
        hand.line(&format!(
            "{curl} -X POST {root}/{number}/comments -d '{{\"body\": \"{text}\"}}'"
        ))?;
    }
    let closed = "{\"state\": \"closed\", \"state_reason\": \"not_planned\"}";
    hand.line(&format!("{curl} -X PATCH {root}/110 -d '{closed}'"))
}
