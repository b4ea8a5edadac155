//! How a node is reached by ssh before it has an agent, and what the real API server says of the October DaemonSet: an audit that
//! lists it, and an admission policy that refuses it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ground::{NODE, told};
use super::{Case, Ground, Verdict};
use crate::disk::Layer;
use crate::real::{cluster, culprit};
use crate::run::{self, Output};
use crate::{names, ssh, topology};

pub const CASES: &[Case] =
    &[Case { name: "another_host_key_than_the_one_named_is_refused", run: other_key }];

pub const REAL: &[Case] = &[
    Case {
        name: "real_an_audit_lists_the_october_daemonset_as_critical_once_it_is_applied",
        run: audited,
    },
    Case {
        name: "real_the_printed_policy_refuses_the_october_daemonset_and_admits_benign_ones",
        run: policy,
    },
];

/// A debug build is carried over a line of the lab; a program that does not come up has its time, too.
pub(super) const LIMIT: Duration = Duration::from_secs(300);

pub(super) struct Way {
    pub(super) ssh: String,
    key: String,
    host_key: String,
}

impl Way {
    pub(super) fn of(g: &Ground<'_>) -> std::result::Result<Self, String> {
        let said =
            g.sh("systemctl start ssh && ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")?;
        let found = said.split_whitespace().find(|w| w.starts_with("SHA256:"));
        let machine = topology::machine(NODE).ok_or("there is no such machine")?;
        Ok(Self {
            ssh: format!("root@{}", machine.v4()),
            key: ssh::key_path().display().to_string(),
            host_key: found.ok_or_else(|| format!("no fingerprint in {said}"))?.to_owned(),
        })
    }

    /// The options by which a verb goes there.
    pub(super) fn options(&self) -> [&str; 6] {
        ["--ssh", &self.ssh, "--identity", &self.key, "--host-key", &self.host_key]
    }

    /// A verb that goes by ssh, on a laptop whose known_hosts is this case's own.
    pub(super) fn ctl(
        &self,
        g: &Ground<'_>,
        verb: &str,
        more: &[&str],
    ) -> std::result::Result<Output, String> {
        let all = [&[verb, NODE][..], &self.options(), &["--yes", "-o", "json"], more].concat();
        let mut command = g.lab.ctl_command("laptop", &all).map_err(told)?;
        run::run(command.env("LIFELINE_CONFIG", super::ground::plain_config()), LIMIT, None)
            .map_err(told)
    }

    pub(super) fn install(
        &self,
        g: &Ground<'_>,
        binary: &str,
        more: &[&str],
    ) -> std::result::Result<Output, String> {
        let pki = names::state_dir().join("pki").display().to_string();
        self.ctl(
            g,
            "install",
            &[&["--binary", binary, "--pki", &pki, "--mode", "guard"], more].concat(),
        )
    }
}

pub(super) fn ends(out: &Output, code: i32, ending: &str) -> std::result::Result<Value, String> {
    let seen: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
    if out.code == Some(code) && (ending.is_empty() || seen["ending"] == ending) {
        return Ok(seen);
    }
    Err(format!(
        "exit {code} {ending:?} was expected: {:?}\n{}{}",
        out.code, out.stdout, out.stderr
    ))
}

pub(super) fn program() -> String {
    Layer::common().path("/usr/local/bin/lifeline-agent").display().to_string()
}

pub(super) fn forget_host_keys() {
    fs::remove_file(super::ground::plain_config().with_file_name("known_hosts")).ok();
}

fn other_key(g: &Ground<'_>) -> Verdict {
    let mut way = Way::of(g)?;
    forget_host_keys();
    let right = std::mem::replace(&mut way.host_key, format!("SHA256:{}", "A".repeat(43)));
    let out = way.install(g, &program(), &[])?;
    ends(&out, 1, "")?;
    if !out.stderr.contains(&format!("its host key is {right}")) && !out.stderr.contains(&right) {
        return Err(format!("the key it shows is not named: {}", out.stderr));
    }
    Ok(())
}

/// Anything whose name is ours, anywhere on the node's disk or in its kernel; the lab's own folders are on other mounts.
pub(super) fn traces(g: &Ground<'_>) -> Verdict {
    let found = g.sh(
        "find / -xdev -iname '*lifeline*' -not -path '/proc/*' -not -path '/var/log/*' 2>/dev/null; find /run -iname '*lifeline*' 2>/dev/null; \
         { ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; } | grep 'proto 213'; pgrep -a lifeline; \
         systemctl list-units --all --plain --no-legend 'lifeline*' | grep -v not-found; true",
    )?;
    if found.trim().is_empty() { Ok(()) } else { Err(format!("left behind:\n{found}")) }
}

/// `kubectl apply` without keeping it: admission is asked all the same.
fn asked(manifest: &str) -> std::result::Result<Output, String> {
    let mut command = cluster::kubectl_command(&[
        "apply",
        "--dry-run=server",
        "--request-timeout=15s",
        "-f",
        "-",
    ]);
    run::run(&mut command, Duration::from_secs(30), Some(manifest.as_bytes())).map_err(told)
}

/// On no node: what it would do there is other cases' business, and an audit goes by how a workload is described.
fn audited(g: &Ground<'_>) -> Verdict {
    let october = culprit::Variant::default().example();
    let nowhere = october.replace("nodeSelector: {}", "nodeSelector: {lifeline.test/none: here}");
    if nowhere == october {
        return Err("the DaemonSet's nodes could not be named".to_owned());
    }
    cluster::apply(&nowhere).map_err(told)?;
    let seen = listed(g);
    culprit::purge().map_err(told)?;
    seen
}

fn listed(g: &Ground<'_>) -> Verdict {
    let out = g.lab.ctl(&["audit", "-o", "json"]).map_err(told)?;
    let seen = ends(&out, 3, "")?;
    let ours = |w: &&Value| w["namespace"] == culprit::SPACE && w["kind"] == "DaemonSet";
    let found = seen["workloads"].as_array().and_then(|all| all.iter().find(ours));
    match found {
        Some(w) if w["grade"] == "critical" && w["name"] == "tailscale-worker" => Ok(()),
        Some(w) => Err(format!("it is listed as {w}")),
        None => Err(format!("it is not listed: {seen:#}")),
    }
}

fn policy(g: &Ground<'_>) -> Verdict {
    let printed = g.lab.ctl(&["audit", "--policy"]).map_err(told)?;
    cluster::kubectl(&["create", "namespace", culprit::SPACE]).map_err(told)?;
    cluster::apply(&printed.stdout).map_err(told)?;
    let seen = judged();
    for what in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        cluster::kubectl(&["delete", what, "lifeline-host-network", "--ignore-not-found"])
            .map_err(told)?;
    }
    culprit::purge().map_err(told)?;
    seen
}

fn judged() -> Verdict {
    let october = culprit::Variant::default().example();
    let until = Instant::now() + Duration::from_secs(30);
    // A policy is in force some seconds after it was applied.
    let refused = loop {
        let out = asked(&october)?;
        if !out.ok() || Instant::now() > until {
            break out;
        }
        thread::sleep(Duration::from_millis(500));
    };
    let why = "shares its node's network (hostNetwork) and is told to take routes";
    if refused.ok()
        || !refused.stderr.contains(why)
        || !refused.stderr.contains("lifeline-host-network")
    {
        return Err(format!(
            "the DaemonSet of October was not refused as it should be: {}{}",
            refused.stdout, refused.stderr
        ));
    }
    let peers = culprit::Variant { peers_only: true, ..Default::default() }.example();
    let refused = asked(&peers)?;
    if refused.ok() || !refused.stderr.contains("may change it") {
        return Err(format!(
            "privileged in its node's network, without flags: {}{}",
            refused.stdout, refused.stderr
        ));
    }
    let own = culprit::Variant { own_network: true, ..Default::default() }.example();
    let benign = [
        ("a VPN in a network of its own", own),
        ("kube-proxy's like", peers.replace(culprit::SPACE, "kube-system")),
        (
            "an exporter in its node's network",
            peers.replace(
                "securityContext: {privileged: true}",
                "securityContext: {allowPrivilegeEscalation: false}",
            ),
        ),
    ];
    for (what, manifest) in benign {
        let out = asked(&manifest)?;
        if !out.ok() {
            return Err(format!("{what} was refused: {}", out.stderr));
        }
    }
    let checked = cluster::kubectl(&[
        "get",
        "validatingadmissionpolicy",
        "lifeline-host-network",
        "-o",
        "jsonpath={.status.typeChecking}",
    ])
    .map_err(told)?;
    if checked.stdout.contains("warning") {
        return Err(format!("the API server has doubts about the expressions: {}", checked.stdout));
    }
    Ok(())
}
