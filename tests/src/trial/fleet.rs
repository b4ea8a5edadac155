//! From a bare node with sshd to a protected one and back, and an admission policy that the real API server takes.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ground::{NODE, told};
use super::{Case, Ground, Verdict};
use crate::disk::Layer;
use crate::real::{cluster, culprit};
use crate::run::{self, Output};
use crate::{names, ssh, topology};

/// The last ones of their gear: what they leave is an agent that `ctl install` has put there, not the lab.
pub const CASES: &[Case] = &[
    Case { name: "another_host_key_than_the_one_named_is_refused", run: other_key },
    Case {
        name: "a_bare_node_is_installed_upgraded_rolled_back_and_left_as_it_was",
        run: from_bare_to_bare,
    },
];

pub const REAL: &[Case] = &[
    Case {
        name: "real_the_printed_policy_refuses_the_october_daemonset_and_admits_benign_ones",
        run: policy,
    },
    // The last: it leaves an agent that `ctl` has put there.
    Case {
        name: "real_a_bare_node_is_installed_upgraded_rolled_back_and_left_as_it_was",
        run: from_bare_to_bare,
    },
];

/// A certificate that was revoked elsewhere, as `ctl pki show` prints its number.
const REVOKED: &str = "0b:ad:ca:fe";

/// A debug build is carried over a line of the lab; a program that does not come up has its time, too.
const LIMIT: Duration = Duration::from_secs(300);

pub(super) struct Way {
    ssh: String,
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

    /// A verb that goes by ssh, on a laptop whose known_hosts is this case's own.
    pub(super) fn ctl(
        &self,
        g: &Ground<'_>,
        verb: &str,
        more: &[&str],
    ) -> std::result::Result<Output, String> {
        let ways = ["--ssh", &self.ssh, "--identity", &self.key, "--host-key", &self.host_key];
        let all = [&[verb, NODE][..], &ways, &["--yes", "-o", "json"], more].concat();
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

/// The same program with one path in it changed: it says its version, and cannot read its boot id.
fn broken() -> std::result::Result<PathBuf, String> {
    let mut bytes = fs::read(program()).map_err(told)?;
    let path = b"/proc/sys/kernel/random/boot_id";
    let at: Vec<usize> = (0..bytes.len().saturating_sub(path.len()))
        .filter(|i| bytes[*i..].starts_with(path))
        .collect();
    if at.is_empty() {
        return Err("the program reads no boot id".into());
    }
    for i in at {
        bytes[i + path.len() - 1] = b'X';
    }
    let out = names::state_dir().join("broken-agent");
    fs::write(&out, bytes).map_err(told)?;
    Ok(out)
}

fn from_bare_to_bare(g: &Ground<'_>) -> Verdict {
    let way = Way::of(g)?;
    forget_host_keys();
    let mode = g.sh("grep '^mode = ' /etc/lifeline/agent.toml")?;
    ends(&way.ctl(g, "uninstall", &["--discard"])?, 0, "")?;
    traces(g)?;
    let bare = g.snapshot()?;
    let revoked = g.ctl(&["pki", "revoke", REVOKED, "--node", "styx", "--yes"])?;
    ends(&revoked, 0, "")?;

    let seen = ends(&way.install(g, &program(), &[])?, 0, "installed")?;
    if seen["verdict"] != "Healthy" {
        return Err(format!("it is not well: {seen}"));
    }
    let there =
        g.sh("stat -c '%a %U' /etc/lifeline/agent.key; systemctl is-enabled lifeline-agent")?;
    if there != "600 root\nenabled\n" {
        return Err(format!("key or unit are not as they should be: {there}"));
    }
    g.sh("grep -qi 0badcafe /etc/lifeline/denied-serials || grep -qi 0b:ad:ca:fe /etc/lifeline/denied-serials")
        .map_err(|why| format!("what styx refuses it does not refuse: {why}"))?;
    ends(&way.install(g, &program(), &[])?, 1, "")?;

    let pid = g.sh("systemctl show -p MainPID --value lifeline-agent")?;
    ends(&way.install(g, &program(), &["--upgrade"])?, 0, "upgraded")?;
    if pid == g.sh("systemctl show -p MainPID --value lifeline-agent")? {
        return Err("an upgrade did not start the new program".into());
    }

    let sum = g.sh("sha256sum /usr/local/bin/lifeline-agent")?;
    let bad = broken()?.display().to_string();
    ends(&way.install(g, &bad, &["--upgrade"])?, 3, "rolled-back")?;
    if sum != g.sh("sha256sum /usr/local/bin/lifeline-agent")? {
        return Err("the old program is not back".into());
    }
    g.settled(Duration::from_secs(30))?;

    ends(&way.ctl(g, "uninstall", &[])?, 0, "")?;
    traces(g)?;
    g.expect_same(&bare)?;
    // What comes after this needs an agent, in the mode that it had.
    ends(&way.install(g, &program(), &[])?, 0, "installed")?;
    let mode = mode.trim();
    g.sh(&format!(
        "sed -i 's/^mode = .*/{mode}/' /etc/lifeline/agent.toml && systemctl restart lifeline-agent"
    ))?;
    g.settled(Duration::from_secs(40))
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

fn policy(g: &Ground<'_>) -> Verdict {
    let printed = g.lab.ctl(&["audit", "--policy"]).map_err(told)?;
    cluster::kubectl(&["create", "namespace", culprit::SPACE]).map_err(told)?;
    cluster::apply(&printed.stdout).map_err(told)?;
    let seen = judged();
    for what in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        cluster::kubectl(&["delete", what, "lifeline-host-network", "--ignore-not-found"])
            .map_err(told)?;
    }
    cluster::kubectl(&["delete", "namespace", culprit::SPACE, "--timeout=25s"]).map_err(told)?;
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
