//! Putting the agent on a node over SSH, upgrading it there, and taking it away without a trace.
//!
//! What is put there: the program, its unit, its message texts, and in `/etc/lifeline` its configuration, its certificate, its
//! authority's and its key. An upgrade replaces the first three ([`upgrade`]); the rest is the node's own.

pub mod binary;
pub mod facts;
pub mod ssh;
pub mod upgrade;

use facts::Facts;
use ssh::{Ssh, SshError};
use std::time::Duration;

const UNIT: &str = include_str!("../../../systemd/lifeline-agent.service");
const CATALOG: &str = include_str!("../../../systemd/lifeline.catalog");
const SURVEY: &str = include_str!("survey.sh");
const UNINSTALL: &str = include_str!("uninstall.sh");

/// Where the program lies on a node.
pub const PROGRAM: &str = "/usr/local/bin/lifeline-agent";
const UNIT_FILE: &str = "/etc/systemd/system/lifeline-agent.service";
const CATALOG_FILE: &str = "/usr/local/lib/systemd/catalog/lifeline.catalog";

const QUICK: Duration = Duration::from_secs(40);
/// Twenty megabytes over a slow line.
const CARRY: Duration = Duration::from_secs(300);
/// Two restarts with their own limits, and what systemd reads before each.
const RESTARTS: Duration = Duration::from_secs(300);

/// Looks at a machine; changes nothing.
pub async fn survey(ssh: &Ssh) -> Result<Facts, SshError> {
    ssh.run("look around", SURVEY, &[], QUICK).await.map(|text| Facts::read(&text))
}

/// Puts the program beside the one in use, whole, and has it say its version there.
pub async fn carry(ssh: &Ssh, bytes: &[u8]) -> Result<String, SshError> {
    let script = format!(
        "set -e; umask 022; trap 'rm -f {PROGRAM}.new' EXIT; mkdir -p /usr/local/bin; cat > {PROGRAM}.new; \
         [ $(wc -c < {PROGRAM}.new) -eq {} ] || {{ echo 'it did not arrive whole' >&2; exit 1; }}; \
         chmod 755 {PROGRAM}.new; {PROGRAM}.new --version; trap - EXIT",
        bytes.len()
    );
    let said = ssh.run("carry the program", &script, bytes, CARRY).await?;
    match said.trim().strip_prefix("lifeline-agent ") {
        Some(version) => Ok(version.to_owned()),
        None => {
            ssh.run("take the program away", &format!("rm -f {PROGRAM}.new"), &[], QUICK).await?;
            Err(SshError::Failed {
                doing: "ask the program for its version".into(),
                target: ssh.target.clone(),
                code: 0,
                said: format!(
                    "it is no lifeline-agent: {}",
                    said.lines().next().unwrap_or_default()
                ),
            })
        }
    }
}

/// Has the node make its own key, and gives the request for its certificate.
pub async fn request(ssh: &Ssh) -> Result<String, SshError> {
    let script = format!("{PROGRAM}.new request-certificate --key /etc/lifeline/agent.key.new");
    ssh.run("make a key", &script, &[], QUICK).await
}

/// Text files of an installation.
#[derive(Debug)]
pub struct Papers<'a> {
    /// The node's certificate.
    pub cert: &'a str,
    /// Its authority's.
    pub ca: &'a str,
    /// Its configuration.
    pub config: &'a str,
}

/// Writes everything, has the program read it back, and starts it.
pub async fn place(ssh: &Ssh, papers: &Papers<'_>) -> Result<(), SshError> {
    let file = |path: &str, mode: &str, text: &str| {
        format!(
            "printf %s {} > {path}.new; chmod {mode} {path}.new; mv -f {path}.new {path}\n",
            ssh::quoted(text)
        )
    };
    let script = format!(
        "set -e; umask 077; mkdir -p /etc/lifeline /usr/local/lib/systemd/catalog; chmod 755 /usr/local/lib/systemd /usr/local/lib/systemd/catalog\n\
         {}{}{}{}{}mv -f /etc/lifeline/agent.key.new /etc/lifeline/agent.key\n\
         mv -f {PROGRAM}.new {PROGRAM}\n{PROGRAM} check-config >/dev/null\n\
         systemctl daemon-reload; journalctl --update-catalog 2>/dev/null || true\n\
         systemctl enable --quiet lifeline-agent.service\ntimeout 100 systemctl restart lifeline-agent.service",
        file("/etc/lifeline/ca.crt", "644", papers.ca),
        file("/etc/lifeline/agent.crt", "644", papers.cert),
        file("/etc/lifeline/agent.toml", "600", papers.config),
        file(UNIT_FILE, "644", UNIT),
        file(CATALOG_FILE, "644", CATALOG),
    );
    // Root's shell reads it from stdin: as an argument it would stand in the node's list of processes.
    ssh.run("install", "sh -s", script.as_bytes(), RESTARTS).await.map(drop)
}

/// Takes everything away; what is left, if anything is.
pub async fn remove(ssh: &Ssh) -> Result<Vec<String>, SshError> {
    let left = ssh.run("uninstall", "sh -s", UNINSTALL.as_bytes(), RESTARTS).await?;
    Ok(left.lines().map(Into::into).collect())
}
