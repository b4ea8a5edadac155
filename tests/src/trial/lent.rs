//! An agent that does not run, or is not there at all, met over a real sshd: started, or lent and taken away again.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::ground::{NODE, plain_config, told};
use super::{Case, Ground, Verdict};
use crate::recover::desk;
use crate::run::{self, Output};
use crate::topology;

pub const CASES: &[Case] = &[
    Case {
        name: "ssh_an_agent_that_does_not_run_is_started_over_a_real_sshd_and_heals",
        run: started,
    },
    Case {
        name: "ssh_a_node_without_an_agent_is_lent_one_that_heals_it_and_leaves_nothing_behind",
        run: lent,
    },
];

/// A start, a heal, and a stop; a debug build is carried over a line of the lab.
const LIMIT: Duration = Duration::from_secs(180);
/// Away, as on a node where nobody has installed it: its state stays, as it does when a program is lost.
const AWAY: &str = "systemctl stop lifeline-agent; cd /root; mv /usr/local/bin/lifeline-agent kept-program; \
                    mv /etc/systemd/system/lifeline-agent.service kept-unit; systemctl daemon-reload; \
                    /root/kept-program cleanup >/dev/null";
const BACK: &str = "cd /root; mv kept-program /usr/local/bin/lifeline-agent; \
                    mv kept-unit /etc/systemd/system/lifeline-agent.service; systemctl daemon-reload; \
                    systemctl start lifeline-agent";

/// `ctl heal` on a laptop whose configuration names the node's sshd.
fn heal(g: &Ground<'_>) -> std::result::Result<(Output, Value), String> {
    g.sh("systemctl start ssh")?;
    desk::wrap_ssh().map_err(told)?;
    let machine = topology::machine(NODE).ok_or("there is no such machine")?;
    let head = format!("[nodes.{NODE}]\n");
    let text = fs::read_to_string(plain_config()).map_err(told)?;
    let config = plain_config().with_file_name("ssh.toml");
    let text = text.replace(&head, &format!("{head}ssh = \"root@{}\"\n", machine.v4()));
    fs::write(&config, text).map_err(told)?;
    let args = ["heal", NODE, "--yes", "--stability", "3s", "-o", "json"];
    let mut command = g.lab.ctl_command("laptop", &args).map_err(told)?;
    let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value);
    let path = path.unwrap_or_default().to_string_lossy().into_owned();
    command.env("PATH", format!("{}:{path}", desk::dir().join("bin").display()));
    let state = desk::dir().join("home/.local/state");
    command.env("LIFELINE_CONFIG", config).env("XDG_STATE_HOME", state);
    let out = run::run(&mut command, LIMIT, None).map_err(told)?;
    let seen = serde_json::from_str(&out.stdout)
        .map_err(|e| format!("{e}: {}{}", out.stdout, out.stderr))?;
    Ok((out, seen))
}

fn ends(out: &Output, seen: &Value, said: &str) -> Verdict {
    if out.ok() && seen["other_means"]["said"] == said {
        return Ok(());
    }
    Err(format!("{said:?} was expected: {:?} {seen:#}\n{}", out.code, out.stderr))
}

fn started(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    g.make("R15-bridge")?;
    g.sh("systemctl stop lifeline-agent")?;
    let (out, seen) = heal(g)?;
    ends(&out, &seen, "well again, by its agent, started over SSH")?;
    g.settled(Duration::from_secs(30))?;
    g.expect_same(&before)
}

fn lent(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    g.make("R15-bridge")?;
    g.sh(AWAY)?;
    let tried = heal(g);
    let left = g.sh(
        "ls -d /usr/local/bin/lifeline-agent* /run/lifeline-once* 2>/dev/null; pgrep -a lifeline; \
         systemctl list-units --all --plain --no-legend 'lifeline*' | grep -v not-found; \
         { ip rule; ip -6 rule; ip route show table all; } | grep 'proto 213'; true",
    )?;
    g.sh(BACK)?;
    let (out, seen) = tried?;
    ends(&out, &seen, "well again, by an agent lent to it over SSH")?;
    if !left.trim().is_empty() {
        return Err(format!("left behind:\n{left}"));
    }
    g.settled(Duration::from_secs(30))?;
    g.expect_same(&before)
}
