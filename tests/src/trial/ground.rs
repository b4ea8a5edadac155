//! What a case stands on: the lab's calypso in good health, the operator's command, and the witness.

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agent;
use crate::error::{Doing, Result};
use crate::faults::{self, Fault, Site};
use crate::lab::Lab;
use crate::node::Node;
use crate::progress::Progress;
use crate::real;
use crate::run::{self, Output};
use crate::state::Gear;
use crate::witness::{self, Difference, Kind, Snapshot};

use super::Verdict;

/// The node the cases are tried on.
pub const NODE: &str = "calypso";
/// A node that was left alone is healthy and has learnt its baseline after a look or two (one look each 5 s).
const SETTLE_LIMIT: Duration = Duration::from_secs(40);

/// A tailscaled that writes nft's own rules leaves an empty chain of type filter in `mangle OUTPUT`, where iptables-nft has one of type
/// route, and cannot write any more. A heal takes it away; after a case that was about something else it is no ground for the next.
const ROOM: &str = "for f in ip ip6; do ! nft list chain $f mangle OUTPUT 2>/dev/null | grep -q 'type filter' \
                    || nft delete chain $f mangle OUTPUT || true; done";

/// A kubelet that has just started looks at its pods every ten seconds.
const REST_LIMIT: Duration = Duration::from_secs(90);

/// A heal with its stability watch takes a few seconds; this only bounds what hangs.
const CTL_LIMIT: Duration = Duration::from_secs(120);
/// What an agent says of a node that is well and not quite as it was learnt.
const LEFT: &str = "something was left behind";

#[derive(Debug)]
pub struct Ground<'a> {
    pub lab: &'a Lab,
    pub progress: &'a Progress,
    /// What has been made and not yet taken back.
    made: Cell<Option<Fault>>,
}

impl<'a> Ground<'a> {
    pub fn new(lab: &'a Lab, progress: &'a Progress) -> Result<Self> {
        lab.node(NODE)?;
        let full = agent::operator_dir().join("ctl.toml");
        let text = fs::read_to_string(&full).doing(|| format!("read {}", full.display()))?;
        let plain: String = text
            .lines()
            .filter(|l| !l.starts_with("kubeconfig"))
            .map(|l| format!("{l}\n"))
            .collect();
        fs::write(plain_config(), plain)
            .doing(|| "write the operator's plain configuration".to_owned())?;
        Ok(Self { lab, progress, made: Cell::new(None) })
    }

    pub fn node(&self) -> std::result::Result<Node, String> {
        self.lab.node(NODE).map_err(told)
    }

    /// Runs a command on the node and gives its standard output; it must succeed.
    pub fn sh(&self, script: &str) -> std::result::Result<String, String> {
        let out = self.node()?.sh(script).and_then(Output::success).map_err(told)?;
        Ok(out.stdout)
    }

    /// The same, for what takes its time on a busy machine.
    pub fn sh_patiently(&self, script: &str) -> Verdict {
        let out = self.node()?.exec_within(&["sh", "-c", script], CTL_LIMIT);
        out.and_then(Output::success).map(drop).map_err(told)
    }

    /// Brings the node back to health between cases: cheaply if it can be, by a power cycle otherwise.
    pub fn prepare(&self) -> Verdict {
        self.leave();
        self.sh(ROOM)?;
        if self.settled(Duration::from_secs(12)).is_ok() {
            let said = self.ctl_json(&["status", NODE, "-o", "json"])?.to_string();
            // What the lab has put right since is no difference for the next heal to take back.
            return if said.contains(LEFT) { self.learn_anew() } else { Ok(()) };
        }
        self.progress.say("the node is not as it should be before the next case: power cycle");
        self.lab.power_cycle(NODE, self.progress).map_err(told)?;
        self.settled(SETTLE_LIMIT)?;
        self.at_rest()
    }

    /// The node as it boots, whatever the cases before have left in its kernel, and its baseline learnt anew.
    pub fn afresh(&self) -> Verdict {
        self.leave();
        self.lab.power_cycle(NODE, self.progress).map_err(told)?;
        self.settled(SETTLE_LIMIT).ok();
        self.learn_anew()?;
        self.settled(SETTLE_LIMIT)?;
        self.at_rest()
    }

    /// Waits until two looks some seconds apart show the same: where pods are real their sandboxes, and kube-proxy's rules for them, come
    /// for a while after a node has booted or a pod has been started anew.
    pub fn at_rest(&self) -> Verdict {
        if self.lab.state.gear != Gear::Real {
            return Ok(());
        }
        let until = Instant::now() + REST_LIMIT;
        let mut before = self.snapshot()?;
        loop {
            thread::sleep(Duration::from_secs(4));
            let now = self.snapshot()?;
            let mut left = witness::diff(&before, &now);
            left.retain(|d| !is_ours(d) && !real::faults::is_kept(d));
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("the node does not come to rest:\n{}", lines(&left)));
            }
            before = now;
        }
    }

    /// Waits until the agent says: healthy, no guard, no incident under way, baseline learnt.
    pub fn settled(&self, limit: Duration) -> Verdict {
        let until = Instant::now() + limit;
        loop {
            let seen = self.ctl_json(&["status", NODE, "-o", "json"]);
            let at =
                |v: &Value, key: &str| find(v, key).map(ToString::to_string).unwrap_or_default();
            let why = match &seen {
                Ok(v) => {
                    let well = at(v, "verdict") == "\"Healthy\""
                        && at(v, "guarded") == "false"
                        && matches!(at(v, "incident").as_str(), "\"\"" | "null" | "")
                        && at(v, "baseline").to_lowercase().contains("learn");
                    if well {
                        return Ok(());
                    }
                    v.to_string()
                }
                Err(why) => why.clone(),
            };
            if Instant::now() > until {
                return Err(format!("the node is not settled after {} s: {why}", limit.as_secs()));
            }
            thread::sleep(Duration::from_millis(300));
        }
    }

    /// A fault of the catalogue; on the real cluster the real daemon makes those that are its own.
    fn fault(&self, id: &str) -> std::result::Result<Fault, String> {
        let real = (self.lab.state.gear == Gear::Real).then(|| real::faults::find(id)).flatten();
        real.map_or_else(|| faults::find(id).map_err(told), Ok)
    }

    /// Makes a fault on the node; the next case begins by taking it back.
    pub fn make(&self, id: &str) -> Verdict {
        let fault = self.fault(id)?;
        let site = Site::of(self.lab, NODE).map_err(told)?;
        self.made.set(Some(fault));
        (fault.strike)(&site).map_err(|e| format!("make {id}: {e}"))
    }

    /// Prepares what a fault needs to be so before it is made, and has the agent learn it.
    pub fn lay(&self, id: &str) -> Verdict {
        let fault = self.fault(id)?;
        let Some(ground) = fault.ground else { return Ok(()) };
        self.made.set(Some(fault));
        let site = Site::of(self.lab, NODE).map_err(told)?;
        ground(&site).map_err(|e| format!("prepare {id}: {e}"))?;
        self.learn_anew()
    }

    /// Has the agent forget its baseline and learn the node as it stands, if it is well: its own looks may be half a
    /// minute apart.
    fn learn_anew(&self) -> Verdict {
        let reset = self.ctl(&["baseline", "reset", NODE, "--yes"])?;
        if !reset.ok() {
            return Err(format!("ctl baseline reset: {}{}", reset.stdout, reset.stderr));
        }
        self.settled(SETTLE_LIMIT).or(Ok(()))
    }

    pub fn ctl(&self, args: &[&str]) -> std::result::Result<Output, String> {
        self.ctl_from("laptop", args)
    }

    /// Without a kubeconfig: the API server's proof takes two lease renewals, which is 20 s a case; those cases that are
    /// about it use the lab's own `ctl`.
    fn ctl_from(&self, space: &str, args: &[&str]) -> std::result::Result<Output, String> {
        let mut command = self.lab.ctl_command(space, args).map_err(told)?;
        run::run(command.env("LIFELINE_CONFIG", plain_config()), CTL_LIMIT, None).map_err(told)
    }

    /// Runs `ctl` and reads its standard output as JSON, whatever its exit code.
    pub fn ctl_json(&self, args: &[&str]) -> std::result::Result<Value, String> {
        self.json_from("laptop", args)
    }

    pub fn json_from(&self, space: &str, args: &[&str]) -> std::result::Result<Value, String> {
        let out = self.ctl_from(space, args)?;
        serde_json::from_str(&out.stdout)
            .map_err(|e| format!("ctl {}: {e}: {}{}", args.join(" "), out.stdout, out.stderr))
    }

    /// `ctl heal` with a short stability watch, without questions.
    pub fn heal(&self) -> std::result::Result<Output, String> {
        self.ctl(&["heal", NODE, "--yes", "--stability", "3s"])
    }

    /// Heals, and has the API server prove it; it must end well.
    pub fn heal_with_proof(&self) -> Verdict {
        let args = ["heal", NODE, "--yes", "--stability", "3s"];
        let out = self.lab.ctl(&args).map_err(told)?;
        if out.ok() && format!("{}{}", out.stdout, out.stderr).contains("lease renewals") {
            return Ok(());
        }
        Err(format!("ctl heal ended with {:?}\n{}{}", out.code, out.stdout, out.stderr))
    }

    /// Heals; it must end well.
    pub fn heal_well(&self) -> Verdict {
        let out = self.heal()?;
        if out.ok() {
            return Ok(());
        }
        Err(format!("ctl heal ended with {:?}\n{}{}", out.code, out.stdout, out.stderr))
    }

    pub fn verdict(&self) -> std::result::Result<String, String> {
        let seen = self.ctl_json(&["diagnose", NODE, "-o", "json"])?;
        match find(&seen, "verdict").and_then(Value::as_str) {
            Some(v) => Ok(v.to_owned()),
            None => Err(format!("no verdict in {seen}")),
        }
    }

    pub fn expect_verdict(&self, wanted: &str) -> Verdict {
        let seen = self.verdict()?;
        if seen.eq_ignore_ascii_case(wanted) || seen.replace('-', "").eq_ignore_ascii_case(wanted) {
            return Ok(());
        }
        let diagnosis = self.ctl_json(&["diagnose", NODE, "-o", "json"])?;
        Err(format!("verdict {wanted} was expected, {seen} was said:\n{diagnosis:#}"))
    }

    /// What other tools than ours see of the node.
    pub fn snapshot(&self) -> std::result::Result<Snapshot, String> {
        witness::look(&self.node()?).map_err(|e| format!("{e:#}"))
    }

    /// Nothing differs from before; a short while is given to what settles by itself (a kernel's own timers).
    pub fn expect_same(&self, before: &Snapshot) -> Verdict {
        self.expect_same_but(before, |_| false)
    }

    /// The same, but for what is left on purpose.
    pub fn expect_same_but(
        &self,
        before: &Snapshot,
        on_purpose: impl Fn(&Difference) -> bool,
    ) -> Verdict {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let mut left = witness::diff(before, &self.snapshot()?);
            // Our own path may stand at another preference than before; that no guard is left is asked by itself.
            left.retain(|d| !on_purpose(d) && !is_ours(d) && !real::faults::is_kept(d));
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("the node differs from before:\n{}", lines(&left)));
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// No rule or route of Lifeline's guard stands; the lifeline path may.
    pub fn expect_no_guard(&self) -> Verdict {
        let rules = self.sh("ip -j -4 rule; ip -j -6 rule")?;
        let guard = rules
            .lines()
            .filter_map(|l| serde_json::from_str::<Vec<Value>>(l).ok())
            .flatten()
            .find(|r| r["protocol"] == "213" && r.get("dst").is_some());
        match guard {
            None => Ok(()),
            Some(rule) => Err(format!("a guard is left: {rule}")),
        }
    }

    /// What helps to understand a failure.
    pub fn evidence(&self) -> String {
        let mut out = String::from("    evidence:");
        let script = "journalctl -u lifeline-agent -n 40 --no-pager -o cat; ip rule; ip route show table 52; systemctl is-active k3s-agent lifeline-agent";
        let seen = self
            .node()
            .and_then(|n| n.sh(script).map_err(told))
            .map_or_else(|e| e, |o| o.stdout + &o.stderr);
        for line in seen.lines() {
            write!(out, "\n      {line}").ok();
        }
        out
    }

    /// Leaves the node as a case would find it.
    pub fn leave(&self) {
        let Some(fault) = self.made.take() else { return };
        let restored = Site::of(self.lab, NODE).and_then(|site| (fault.restore)(&site));
        if fault.ground.is_some() {
            // What was learnt of the ground has to be unlearnt; whether it was, `prepare` asks.
            self.learn_anew().ok();
        }
        if let Err(error) = restored {
            self.progress.say(format!("take {} back: {error}", fault.id));
        }
    }
}

/// The operator's configuration without a kubeconfig.
pub fn plain_config() -> PathBuf {
    agent::operator_dir().join("plain.toml")
}

/// The first value of that key anywhere in a document.
pub fn find<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Object(map) => map.get(key).or_else(|| map.values().find_map(|v| find(v, key))),
        Value::Array(all) => all.iter().find_map(|v| find(v, key)),
        _ => None,
    }
}

/// Our own path: its preference and what it mirrors follow the node.
pub fn is_ours(d: &Difference) -> bool {
    matches!(d.kind, Kind::Rules | Kind::Routes) && d.to_string().contains("proto 213")
}

/// What is neither as it was before the fault nor as it was with it.
pub fn strange(healthy: &Snapshot, sick: &Snapshot, now: &Snapshot) -> Vec<Difference> {
    let from_sick = witness::diff(sick, now);
    let mut strange = witness::diff(healthy, now);
    strange.retain(|d| from_sick.contains(d));
    strange
}

pub fn lines(all: &[Difference]) -> String {
    all.iter().map(|d| format!("  {d}")).collect::<Vec<_>>().join("\n")
}

pub fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
