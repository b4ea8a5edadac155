//! An agent lent to a node for one recovery, where its own is not there or does not come up: a unit of its own that systemd forgets
//! when it stops, over the node's own state directory, whose lock keeps two agents from working on one node's journals.
//!
//! The node's own program is taken if it runs; only else is ours brought there. Its socket is the only door that is meant for it.

use super::{SshError, bring};
use crate::install::binary::Binary;
use crate::install::ssh::quoted;
use std::time::Duration;

/// Its socket: the other one's directory comes and goes with a unit that may be failing over and over.
pub const THERE: &str = "/run/lifeline-once/agent.sock";
const SCRIPT: &str = include_str!("lend.sh");
const BACK: &str = include_str!("back.sh");
/// Two starts, of up to 90 s each.
const START: Duration = Duration::from_secs(220);
/// Some megabytes over a slow line.
const CARRY: Duration = Duration::from_secs(240);
/// A stop waits for the present step.
const STOP: Duration = Duration::from_secs(200);
const QUICK: Duration = Duration::from_secs(30);
/// Where ours lies as long as it is lent.
const PROGRAM: &str = "/usr/local/bin/lifeline-agent.once";

/// Why no agent could be lent.
#[derive(Debug, thiserror::Error)]
pub enum LendError {
    /// SSH did not get there, or what was run there failed.
    #[error("{doing}: {source}")]
    Ssh {
        /// What was done.
        doing: &'static str,
        /// Why it failed.
        source: SshError,
    },
    /// There is none to be brought.
    #[error("bring an agent's program: {0}")]
    Binary(String),
    /// It is for another kind of machine.
    #[error("bring {path}: it is for {ours}, and the node is {theirs}")]
    Arch {
        /// Ours.
        path: String,
        /// Ours is for.
        ours: &'static str,
        /// The node's.
        theirs: String,
    },
}

fn at(doing: &'static str) -> impl Fn(SshError) -> LendError {
    move |source| LendError::Ssh { doing, source }
}

/// Lends one, and returns when it is ready; tells in words which program it is.
pub async fn lend(target: &str, cluster: &str, node: &str) -> Result<String, LendError> {
    let look = "uname -m; timeout 10 /usr/local/bin/lifeline-agent --version 2>/dev/null || true";
    let told = bring(target, look, &[], QUICK).await.map_err(at("look for its program"))?;
    let mut told = told.lines().map(str::trim);
    let theirs = told.next().unwrap_or_default().to_owned();
    let own = told.next().filter(|v| v.starts_with("lifeline-agent ")).map(str::to_owned);
    let said = match own {
        Some(version) => format!("its own {version}"),
        None => {
            let ours =
                Binary::load(None).map_err(|e| LendError::Binary(crate::obstacle::chain(&e)))?;
            let path = ours.path.display().to_string();
            if ours.arch != theirs {
                return Err(LendError::Arch { path, ours: ours.arch, theirs });
            }
            carry(target, &ours.bytes).await?;
            path
        }
    };
    let script = format!("cluster={}; node={}\n{SCRIPT}", quoted(cluster), quoted(node));
    bring(target, "sh -s", script.as_bytes(), START).await.map_err(at("start a lent agent"))?;
    Ok(said)
}

async fn carry(target: &str, bytes: &[u8]) -> Result<(), LendError> {
    let line = format!(
        "set -e; umask 022; trap 'rm -f {PROGRAM}.new' EXIT; mkdir -p /usr/local/bin; cat > {PROGRAM}.new; \
         [ $(wc -c < {PROGRAM}.new) -eq {} ] || {{ echo 'it did not arrive whole' >&2; exit 1; }}; \
         chmod 755 {PROGRAM}.new; mv -f {PROGRAM}.new {PROGRAM}",
        bytes.len()
    );
    bring(target, &line, bytes, CARRY).await.map_err(at("bring the agent's program")).map(drop)
}

/// Is anything of a lent agent there?
pub async fn is_lent(target: &str) -> Result<bool, SshError> {
    let line = format!(
        "if systemctl is-active --quiet lifeline-once.service || [ -e {PROGRAM} ] || [ -e /run/lifeline-once.toml ]; then echo lent; fi"
    );
    Ok(bring(target, &line, &[], QUICK).await?.contains("lent"))
}

/// Takes it away with all it made; the journals stay, because undoing goes by them.
pub async fn take_back(target: &str) -> Result<(), LendError> {
    bring(target, "sh -s", BACK.as_bytes(), STOP).await.map_err(at("take it away")).map(drop)
}
