//! `ctl verify` on the real cluster: what it asks for by pods of its own, and what it does not believe.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ground::{NODE, told};
use super::{Case, Ground, Verdict};
use crate::agent;
use crate::real::cluster::{self, is_ready, kubectl};
use crate::real::incident::OTHER;
use crate::recover::desk::SERVICE;
use crate::run::{self, Output};

pub const REAL: &[Case] = &[
    Case {
        name: "real_verify_asks_for_a_service_by_its_name_from_each_node_with_curl_and_without",
        run: asked,
    },
    Case {
        name: "real_C8_a_node_that_says_ready_while_nothing_runs_is_not_verified_until_it_runs",
        run: lied,
    },
];

const CURL: &str = "docker.io/lab/curl:1";
/// A busybox whose wget crashes, as Debian's does.
const TOOLS: &str = "docker.io/lab/tools:1";
const PROBES: &str = "app.kubernetes.io/name=lifeline-probe";
/// Where the sample application is asked.
const APP: &str = "http://label-studio-ls-app.apps.svc.cluster.local:8080";
/// Of each URL: the image by which it is asked, what must be said, and a part of why.
const REACHES: [(&str, &str, &str, &str); 5] = [
    ("/health", CURL, "good", "reachable"),
    ("/", TOOLS, "good", "reachable"),
    ("/nothing", CURL, "bad", "unreachable: curl ended with code 22"),
    ("/none", TOOLS, "bad", " 404 "),
    ("/absent", "docker.io/lab/absent:1", "unknown", "is not on"),
];
/// A name that no Service has.
const NOBODY: &str = "http://nobody.apps.svc.cluster.local/";
const VERIFY: Duration = Duration::from_secs(90);
/// From no power to containers that run it is a quarter of a minute; where the kubelet was misled "Ready" has lied for 115 s.
const BACK: Duration = Duration::from_secs(180);
const REST: Duration = Duration::from_secs(120);

/// What `ctl verify` said.
struct Said {
    verified: bool,
    /// What, how, and why.
    checks: Vec<[String; 3]>,
}

impl Said {
    /// Asks; whatever it says it must say by its exit code, too.
    fn by(g: &Ground<'_>, config: Option<&PathBuf>) -> std::result::Result<Self, String> {
        let mut command = g.lab.ctl_command("laptop", &["verify", "-o", "json"]).map_err(told)?;
        if let Some(config) = config {
            command.env("LIFELINE_CONFIG", config);
        }
        let out = run::run(&mut command, VERIFY, None).map_err(told)?;
        let seen: Value = serde_json::from_str(&out.stdout)
            .map_err(|e| format!("ctl verify: {e}: {}{}", out.stdout, out.stderr))?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let checks = seen["checks"].as_array().into_iter().flatten();
        let checks = checks.map(|c| [text(&c["what"]), text(&c["said"]), text(&c["detail"])]);
        let said = Self { verified: seen["verified"] == true, checks: checks.collect() };
        let wanted = if said.verified { 0 } else { 3 };
        if out.code != Some(wanted) {
            return Err(format!("exit code {:?}, not {wanted}: {seen:#}", out.code));
        }
        Ok(said)
    }

    fn expect(&self, what: &str, word: &str, why: &str) -> Verdict {
        match self.checks.iter().find(|[is, ..]| is == what) {
            Some([_, said, detail]) if said == word && detail.contains(why) => Ok(()),
            Some([_, said, detail]) => {
                Err(format!("{what}: {word:?} ({why}) was to be said, {said:?} was: {detail}"))
            }
            None => Err(format!("{what} was not asked: {:?}", self.checks)),
        }
    }

    /// What is not good, for people.
    fn doubts(&self) -> Vec<String> {
        let doubts = self.checks.iter().filter(|[_, said, _]| said != "good");
        doubts.map(|[what, said, detail]| format!("{what}: {said}, {detail}")).collect()
    }
}

/// The operator's configuration, with these to be reached.
fn reaching(all: &[(String, &str)]) -> std::result::Result<PathBuf, String> {
    let full = agent::operator_dir().join("ctl.toml");
    let mut text = fs::read_to_string(&full).map_err(told)?;
    for (url, image) in all {
        text.push_str(&format!("\n[[verify.reach]]\nurl = \"{url}\"\nimage = \"{image}\"\n"));
    }
    let config = full.with_file_name("verify.toml");
    fs::write(&config, text).map_err(told)?;
    Ok(config)
}

fn asked(g: &Ground<'_>) -> Verdict {
    cluster::await_rest(REST, g.progress).map_err(told)?;
    let url = |path: &str| format!("{APP}{path}");
    let mut all: Vec<(String, &str)> =
        REACHES.iter().map(|(path, image, ..)| (url(path), *image)).collect();
    all.push((NOBODY.to_owned(), TOOLS));
    let said = Said::by(g, Some(&reaching(&all)?))?;
    for node in [NODE, OTHER] {
        for (path, _, word, why) in REACHES {
            said.expect(&format!("{} from {node}", url(path)), word, why)?;
        }
        said.expect(&format!("{NOBODY} from {node}"), "bad", "no address of nobody")?;
    }
    if said.verified {
        return Err("what is bad and what is unknown were verified".to_owned());
    }
    let good = [(SERVICE.to_owned(), CURL), (url("/"), TOOLS)];
    let said = Said::by(g, Some(&reaching(&good)?))?;
    if !said.verified {
        return Err(format!("not verified: {}", said.doubts().join("; ")));
    }
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let left = kubectl(&["get", "pods", "-A", "-l", PROBES, "-o", "name"]);
        let left = left.and_then(Output::success).map_err(told)?.stdout;
        if left.trim().is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("pods that asked are left: {left}"));
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// How styx is by other tools: `kubectl`'s word, and what runs there by its own process table.
#[derive(Debug)]
struct Truth {
    /// Ready, untainted, and each of its pods is Running and Ready.
    said_well: bool,
    /// Sandboxes and containers that run; `None` when nobody could look.
    runs: Option<usize>,
}

fn read(args: &[&str]) -> std::result::Result<Value, String> {
    let out = kubectl(args).and_then(Output::success).map_err(told)?;
    out.json().map_err(told)
}

fn pods_of_other() -> std::result::Result<Vec<Value>, String> {
    let there = format!("--field-selector=spec.nodeName={OTHER}");
    let seen = read(&["get", "pods", "-A", &there, "-o", "json"])?;
    Ok(seen["items"].as_array().cloned().unwrap_or_default())
}

impl Truth {
    fn look(g: &Ground<'_>) -> std::result::Result<Self, String> {
        let node = read(&["get", "node", OTHER, "-o", "json"])?;
        let pods = pods_of_other()?;
        let tainted = node["spec"]["taints"].as_array().is_some_and(|t| !t.is_empty());
        let runs = |pod: &Value| pod["status"]["phase"] == "Running" && is_ready(pod);
        let said_well = is_ready(&node) && !tainted && !pods.is_empty() && pods.iter().all(runs);
        Ok(Self { said_well, runs: shims(g) })
    }

    /// Everything is said to be well, and nothing runs.
    fn lies(&self) -> bool {
        self.said_well && self.runs == Some(0)
    }
}

/// Each sandbox with all its containers has one.
fn shims(g: &Ground<'_>) -> Option<usize> {
    // Without power nothing runs.
    let Ok(node) = g.lab.node(OTHER) else { return Some(0) };
    let count = ["pgrep", "-f", "-c", "^[^ ]*containerd-shim-runc-v2 -namespace"];
    let out = node.exec_within(&count, Duration::from_secs(3)).ok()?;
    out.stdout.trim().parse().ok()
}

/// Each container that runs by the API server's word runs by containerd's.
fn run_indeed(g: &Ground<'_>) -> Verdict {
    const CTR: &str = "ctr -a /run/k3s/containerd/containerd.sock -n k8s.io tasks ls";
    let tasks = g.lab.node(OTHER).and_then(|n| n.sh(CTR)).and_then(Output::success);
    let tasks = tasks.map_err(told)?.stdout;
    let running: BTreeSet<&str> = tasks
        .lines()
        .filter(|l| l.split_whitespace().nth(2) == Some("RUNNING"))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    let pods = pods_of_other()?;
    let all = pods.iter().flat_map(|p| p["status"]["containerStatuses"].as_array()).flatten();
    let ids: Vec<&str> = all.filter_map(|c| c["containerID"].as_str()).collect();
    let dead: Vec<&&str> = ids
        .iter()
        .filter(|id| !id.strip_prefix("containerd://").is_some_and(|id| running.contains(id)))
        .collect();
    if ids.is_empty() || !dead.is_empty() {
        return Err(format!("verified, and of {ids:?} these do not run: {dead:?}\n{tasks}"));
    }
    Ok(())
}

/// A look of `ctl verify` during which the API server said well and nothing ran, before it and after it.
struct Lie {
    after: Duration,
    doubts: Vec<String>,
}

impl Lie {
    /// Everything else is called good: nodes, pods, the routing.
    fn is_told_by_the_agent_alone(&self) -> bool {
        let of_agent = format!("what is said of {OTHER}: bad");
        !self.doubts.is_empty() && self.doubts.iter().all(|d| d.starts_with(&of_agent))
    }
}

/// A kubelet that comes late, as on a slow disk. Its machine and its agent are there long before it can say anything else than what the
/// API server has from the boot before.
const LATE: &str = "mkdir -p /etc/systemd/system/k3s-agent.service.d && \
                    printf '[Service]\\nExecStartPre=/bin/sleep 15\\n' > /etc/systemd/system/k3s-agent.service.d/lab-late.conf && sync";
const PROMPT: &str = "rm -r /etc/systemd/system/k3s-agent.service.d && systemctl daemon-reload";

fn lied(g: &Ground<'_>) -> Verdict {
    let styx = |script: &str| {
        let out = g.lab.node(OTHER).and_then(|n| n.sh(script)).and_then(Output::success);
        out.map(drop).map_err(told)
    };
    styx(LATE)?;
    let seen = cut(g);
    styx(PROMPT)?;
    cluster::await_rest(REST, g.progress).map_err(told)?;
    seen
}

fn cut(g: &Ground<'_>) -> Verdict {
    cluster::await_rest(REST, g.progress).map_err(told)?;
    let calm = Said::by(g, None)?;
    if !calm.verified {
        return Err(format!("before: not verified: {}", calm.doubts().join("; ")));
    }
    let before = Truth::look(g)?;
    if !before.said_well || before.runs.is_none_or(|n| n == 0) {
        return Err(format!("before: {before:?}"));
    }
    let (lab, progress, begun) = (g.lab, g.progress, Instant::now());
    let (watched, cycled) = thread::scope(|scope| {
        // As the provider's restart does it.
        let cycle = scope.spawn(|| lab.power_cycle(OTHER, progress).map(drop));
        let off = Instant::now() + Duration::from_secs(5);
        while shims(g) != Some(0) && Instant::now() < off {
            thread::sleep(Duration::from_millis(20));
        }
        let watched = watch(g, begun);
        (watched, cycle.join())
    });
    cycled.map_err(|_| "the power cycle broke off".to_owned())?.map_err(told)?;
    let lies = watched?;
    for lie in &lies {
        let after = lie.after.as_secs_f64();
        g.progress.say(format!("    a lie {after:.1} s after the cut: {}", lie.doubts.join("; ")));
    }
    // Whoever does not reach the agent is easily on his guard.
    let at_hand = lies.iter().filter(|l| l.is_told_by_the_agent_alone()).count();
    g.progress.say(format!(
        "    {} looks fell into the lie; in {at_hand} of them nothing but {OTHER}'s agent gave it away",
        lies.len()
    ));
    if at_hand == 0 {
        return Err(format!(
            "{} looks fell into the lie, and none of them was told by the agent alone",
            lies.len()
        ));
    }
    Ok(())
}

/// Looks on until it is verified. Nothing may be verified in the middle of a lie, and what is verified runs.
fn watch(g: &Ground<'_>, begun: Instant) -> std::result::Result<Vec<Lie>, String> {
    let mut lies = Vec::new();
    loop {
        let before = Truth::look(g)?;
        let said = Said::by(g, None)?;
        let after = Truth::look(g)?;
        if before.lies() && after.lies() {
            if said.verified {
                let when = begun.elapsed().as_secs_f64();
                return Err(format!(
                    "verified {when:.1} s after the cut, and nothing runs: {after:?}"
                ));
            }
            lies.push(Lie { after: begun.elapsed(), doubts: said.doubts() });
        }
        if said.verified {
            run_indeed(g)?;
            let when = begun.elapsed().as_secs_f64();
            g.progress.say(format!("    verified {when:.1} s after the cut; its containers run"));
            return Ok(lies);
        }
        if begun.elapsed() > BACK {
            return Err(format!(
                "not verified {BACK:?} after the cut: {}",
                said.doubts().join("; ")
            ));
        }
    }
}
