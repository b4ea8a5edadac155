//! From a bare node with sshd to a protected one, through an upgrade and one that is taken back, to a bare one again: by the lab's
//! own operator, and by somebody who has nothing but an empty home and the README.

use std::fs;
use std::path::{Path, PathBuf};

use super::fleet::{LIMIT, Way, ends, forget_host_keys, program, traces};
use super::ground::{NODE, told};
use super::{Case, Ground, Verdict};
use crate::names;
use crate::run::{self, Output};
use crate::space::Space;
use std::thread;
use std::time::{Duration, Instant};

/// The last ones of their gear: what they leave is an agent that `ctl install` has put there, not the lab.
pub const CASES: &[Case] = &[Case {
    name: "a_bare_node_is_installed_upgraded_rolled_back_and_left_as_it_was",
    run: by_the_labs_operator,
}];

pub const REAL: &[Case] = &[Case {
    name: "real_a_bare_node_is_installed_by_the_readme_upgraded_rolled_back_and_left_as_it_was",
    run: by_the_readme,
}];

/// A certificate that was revoked elsewhere, as `ctl pki show` prints its number.
const REVOKED: &str = "0b:ad:ca:fe";
const PID: &str = "systemctl show -p MainPID --value lifeline-agent";
const UNIT: &str = "/etc/systemd/system/lifeline-agent.service";
const CATALOG: &str = "/usr/local/lib/systemd/catalog/lifeline.catalog";

type Ctl<'a> = &'a dyn Fn(&[&str]) -> std::result::Result<Output, String>;

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

fn expect(what: &str, seen: &str, wanted: &str) -> Verdict {
    if seen == wanted {
        return Ok(());
    }
    Err(format!("{what}: {wanted:?} was expected, seen was {seen:?}"))
}

fn by_the_labs_operator(g: &Ground<'_>) -> Verdict {
    let way = Way::of(g)?;
    let install = |more: &[&str]| way.install(g, &program(), more);
    let there_and_back = || -> Verdict {
        let revoked = g.ctl(&["pki", "revoke", REVOKED, "--node", "styx", "--yes"])?;
        ends(&revoked, 0, "")?;
        well(&ends(&install(&[])?, 0, "installed")?)?;
        g.sh("grep -qi 0badcafe /etc/lifeline/denied-serials || grep -qi 0b:ad:ca:fe /etc/lifeline/denied-serials")
            .map_err(|why| format!("what styx refuses it does not refuse: {why}"))?;
        placed(g)?;
        ends(&install(&[])?, 1, "")?;
        let bad = broken()?.display().to_string();
        let well_again = || g.settled(Duration::from_secs(30));
        renewed(g, &|more| install(more), &|more| way.install(g, &bad, more), well_again)?;
        ends(&way.ctl(g, "uninstall", &[])?, 0, "").map(drop)
    };
    between(g, &way, there_and_back)
}

/// Exactly what the README says, in an empty home: authority, certificate, configuration and host key lie where they lie by default.
fn by_the_readme(g: &Ground<'_>) -> Verdict {
    let way = Way::of(g)?;
    let home = names::state_dir().join("empty-home");
    if home.exists() {
        fs::remove_dir_all(&home).map_err(told)?;
    }
    fs::create_dir_all(&home).map_err(told)?;
    let typed = |line: &str, more: &[&str]| typed(&home, line, more);
    let options = [&way.options()[2..], &["--yes", "-o", "json"]].concat();
    let ssh = ["--ssh", &way.ssh];
    let there_and_back = || -> Verdict {
        let [init, operator, install] = commands(NODE)?;
        for line in [&init, &operator] {
            ends(&typed(line, &[])?, 0, "")?;
        }
        if home.join(".config/lifeline/ctl.toml").exists() {
            return Err("ctl.toml is there before there is a node to put into it".to_owned());
        }
        well(&ends(&typed(&install, &options)?, 0, "installed")?)?;
        for file in ["ctl.toml", "known_hosts", "operator.crt", "operator.key", "ca.crt", "pki"] {
            if !home.join(".config/lifeline").join(file).exists() {
                return Err(format!("there is no {file} beside ctl.toml"));
            }
        }
        placed(g)?;
        ends(&typed(&format!("ctl diagnose {NODE}"), &[])?, 0, "")?;
        let upgrade = |more: &[&str]| typed(&install, &[&options[..], more].concat());
        let bad = broken()?.display().to_string();
        // The lab's operator is nobody to this agent.
        let well_again = || {
            let until = Instant::now() + Duration::from_secs(30);
            loop {
                match ends(&typed(&format!("ctl diagnose {NODE}"), &["-o", "json"])?, 0, "") {
                    Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(500)),
                    done => return done.map(drop),
                }
            }
        };
        let broken = |more: &[&str]| upgrade(&[&["--binary", &bad][..], more].concat());
        renewed(g, &upgrade, &broken, well_again)?;
        let away = [&ssh[..], &options].concat();
        ends(&typed(&format!("ctl uninstall {NODE}"), &away)?, 0, "").map(drop)
    };
    let done = between(g, &way, there_and_back);
    fs::remove_dir_all(&home).map_err(told)?;
    done
}

/// Takes the lab's agent away, has the node as bare afterwards as before, and gives it the lab's agent again.
fn between(g: &Ground<'_>, way: &Way, work: impl Fn() -> Verdict) -> Verdict {
    forget_host_keys();
    let mode = g.sh("grep '^mode = ' /etc/lifeline/agent.toml")?;
    ends(&way.ctl(g, "uninstall", &["--discard"])?, 0, "")?;
    traces(g)?;
    let bare = g.snapshot()?;
    let done = work().and_then(|()| traces(g)).and_then(|()| g.expect_same(&bare));
    if done.is_err() {
        // What failed half-way may have left an agent that the lab's operator is nobody to.
        way.ctl(g, "uninstall", &["--discard"])?;
    }
    // What comes after this needs an agent, in the mode that it had.
    ends(&way.install(g, &program(), &[])?, 0, "installed")?;
    let mode = mode.trim();
    g.sh(&format!(
        "sed -i 's/^mode = .*/{mode}/' /etc/lifeline/agent.toml && systemctl restart lifeline-agent"
    ))?;
    let settled = g.settled(Duration::from_secs(40));
    done.and(settled)
}

fn well(seen: &serde_json::Value) -> Verdict {
    if seen["verdict"] == "Healthy" {
        return Ok(());
    }
    Err(format!("it is not well: {seen}"))
}

fn placed(g: &Ground<'_>) -> Verdict {
    let there =
        g.sh("stat -c '%a %U' /etc/lifeline/agent.key; systemctl is-enabled lifeline-agent")?;
    expect("key and unit", &there, "600 root\nenabled\n")
}

/// A good program comes with its unit and message texts; a bad one takes back what it brought.
fn renewed(
    g: &Ground<'_>,
    good: Ctl<'_>,
    bad: Ctl<'_>,
    well_again: impl Fn() -> Verdict,
) -> Verdict {
    let sums = format!("sha256sum /usr/local/bin/lifeline-agent {UNIT} {CATALOG}");
    let shipped = g.sh(&sums)?;
    let pid = g.sh(PID)?;
    aged(g)?;
    ends(&good(&["--upgrade"])?, 0, "upgraded")?;
    if pid == g.sh(PID)? {
        return Err("an upgrade did not start the new program".into());
    }
    expect("what an upgrade brings", &g.sh(&sums)?, &shipped)?;
    expect("the hardening that runs", &g.sh(CLOCK)?, "yes\nno\n")?;
    expect("what an upgrade leaves", &g.sh(LEFT)?, "")?;

    aged(g)?;
    let old = g.sh(&sums)?;
    ends(&bad(&["--upgrade"])?, 3, "rolled-back")?;
    expect("what a rollback brings back", &g.sh(&sums)?, &old)?;
    expect("the hardening that runs again", &g.sh(CLOCK)?, "no\nno\n")?;
    expect("what a rollback leaves", &g.sh(LEFT)?, "")?;
    well_again()
}

/// One of the unit's settings as systemd goes by it, and whether it has something to read again.
const CLOCK: &str = "systemctl show -p ProtectClock --value lifeline-agent; systemctl show -p NeedDaemonReload --value lifeline-agent";
const LEFT: &str = "ls /usr/local/bin/lifeline-agent.* /etc/systemd/system/lifeline-agent.service.* \
                    /usr/local/lib/systemd/catalog/lifeline.catalog.* 2>/dev/null | grep -v '\\.d$'; true";

/// Unit and message texts as an older release might have had them.
fn aged(g: &Ground<'_>) -> Verdict {
    g.sh(&format!(
        "sed -i '/^ProtectClock=/d' {UNIT}; echo '# of an older release' > {CATALOG}; systemctl daemon-reload"
    ))?;
    expect("the older unit", &g.sh(CLOCK)?, "no\nno\n")
}

/// The three commands of the README's section, for this node.
fn commands(node: &str) -> std::result::Result<[String; 3], String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(&path).map_err(told)?;
    found(&text, node).ok_or_else(|| format!("{} has no such three commands", path.display()))
}

fn found(text: &str, node: &str) -> Option<[String; 3]> {
    let (_, section) = text.split_once("\n## Install on a worker\n")?;
    let line = |begin: &str| {
        let line = section.lines().find(|l| l.starts_with(begin))?;
        // What is said beside a command is not typed.
        Some(line.split(" #").next().unwrap_or(line).trim().to_owned())
    };
    let init = line("ctl pki init ")?;
    let operator = line("ctl pki operator ")?;
    let install = line(&format!("ctl install {node} "))?;
    Some([init, operator, install])
}

/// Types a command on the laptop, where nothing but this home says who one is.
fn typed(home: &Path, line: &str, more: &[&str]) -> std::result::Result<Output, String> {
    let script = format!("{line} \"$@\"");
    let argv = [&["sh", "-c", &script, "sh"][..], more].concat();
    let mut command = Space { name: "laptop".to_owned() }.command(&argv);
    command.env("HOME", home);
    for name in ["LIFELINE_CONFIG", "KUBECONFIG", "XDG_STATE_HOME", "XDG_CONFIG_HOME"] {
        command.env_remove(name);
    }
    run::run(&mut command, LIMIT, None).map_err(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_three_commands_that_are_typed() {
        let [init, operator, install] = commands(NODE).unwrap();
        assert!(init.ends_with("--dir ~/.config/lifeline/pki"), "{init}");
        assert!(operator.ends_with("--out ~/.config/lifeline"), "{operator}");
        assert!(install.starts_with("ctl install calypso --ssh root@") && !install.contains('#'));
        assert_eq!(found("no such section", NODE), None);
    }
}
