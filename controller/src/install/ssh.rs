//! The system's `ssh`, to a host whose key we have pinned ourselves; nobody else's `known_hosts` is believed or changed.

use crate::ask;
use crate::error::CommandError;
use crate::files::{self, Present};
use crate::out::Out;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// ssh's own exit code, for what went wrong before the command ran.
const OWN: i32 = 255;
const SCAN: Duration = Duration::from_secs(15);
/// Connecting has its own limit beside that of what runs there.
const CONNECT_S: u32 = 10;

/// Why a machine was not reached, or what it said no to.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// A program of the laptop's is missing.
    #[error("run {program}")]
    Program {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It did not end.
    #[error("{doing} on {target}: no end within {} s", limit.as_secs())]
    Late {
        /// What was done.
        doing: String,
        /// Where.
        target: String,
        /// How long we waited.
        limit: Duration,
    },
    /// ssh did not get there.
    #[error("reach {target} by ssh: {said}")]
    Unreached {
        /// Where.
        target: String,
        /// What ssh said.
        said: String,
    },
    /// The command there failed.
    #[error("{doing} on {target}: {said} (exit code {code})")]
    Failed {
        /// What was done.
        doing: String,
        /// Where.
        target: String,
        /// Its exit code.
        code: i32,
        /// What it said.
        said: String,
    },
    /// Its key is another one.
    #[error("reach {target} by ssh: its host key is {found}, not {wanted}")]
    OtherKey {
        /// Where.
        target: String,
        /// What it shows.
        found: String,
        /// What was wanted.
        wanted: String,
    },
}

impl From<SshError> for CommandError {
    fn from(error: SshError) -> Self {
        let hint = match &error {
            SshError::Program { .. } => "install OpenSSH's client",
            SshError::Unreached { .. } => {
                "try the same by hand: ssh USER@HOST true; a key without a passphrase, or one that ssh-agent holds, is needed"
            }
            SshError::OtherKey { .. } => {
                "nothing was done; if the machine was made anew, take its old line out of known_hosts beside ctl.toml"
            }
            SshError::Late { .. } | SshError::Failed { .. } => {
                return Self::failed(error);
            }
        };
        Self::failed(error).hinted(hint)
    }
}

/// A machine that ssh reaches.
#[derive(Clone, Debug)]
pub struct Ssh {
    /// `root@192.168.2.80`.
    pub target: String,
    /// Its sshd's port.
    pub port: u16,
    /// The name under which its host key is pinned.
    pub node: String,
    /// Where host keys are pinned.
    pub known: PathBuf,
    /// A private key, if not one of ssh's own choice.
    pub identity: Option<PathBuf>,
}

impl Ssh {
    fn user(&self) -> Option<&str> {
        self.target.rsplit_once('@').map(|(user, _)| user)
    }

    /// The host alone.
    pub fn host(&self) -> &str {
        self.target.rsplit_once('@').map_or(&*self.target, |(_, host)| host)
    }

    /// Pins the host's key: one that is pinned stays, one that was named must be shown, any other is asked about.
    pub async fn pin(&self, out: Out, named: Option<&str>) -> Result<bool, CommandError> {
        let pinned = self.pinned().await?;
        if !pinned.is_empty() {
            return match named {
                Some(wanted) if !pinned.iter().any(|p| p == wanted) => {
                    Err(self.other(&pinned.join(", "), wanted).into())
                }
                _ => Ok(true),
            };
        }
        let keys = self.scan().await?;
        let shown = || keys.iter().map(|(_, f)| f.clone()).collect::<Vec<_>>().join(", ");
        let (line, fingerprint) = match named {
            Some(wanted) => keys
                .iter()
                .find(|(_, f)| f == wanted)
                .ok_or_else(|| self.other(&shown(), wanted))?,
            None => {
                let best =
                    keys.iter().find(|(l, _)| l.contains("ssh-ed25519")).or_else(|| keys.first());
                let Some(best) = best else {
                    return Err(SshError::Unreached {
                        target: self.target.clone(),
                        said: "no host key was shown".into(),
                    }
                    .into());
                };
                if !out.interactive {
                    return Err(CommandError::usage(format!("pin the host key of {}: there is no terminal to ask on", self.target))
                        .hinted(format!("compare it on the node's console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then: --host-key {}", best.1)));
                }
                out.say(format!("{} shows the host key {}.", self.target, best.1));
                out.say("On its console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub");
                if !ask::confirm(out, false, "Is it that one?").await? {
                    return Ok(false);
                }
                best
            }
        };
        let mut text = match self.known.symlink_metadata() {
            Ok(_) => files::read(&self.known)?,
            Err(_) => String::new(),
        };
        text.push_str(&format!("{} {line}\n", self.node));
        if let Some(dir) = self.known.parent() {
            files::create_dir(dir)?;
        }
        files::write(&self.known, &text, 0o600, Present::Replace)?;
        out.say(format!("Pinned {fingerprint} as {} in {}.", self.node, self.known.display()));
        Ok(true)
    }

    fn other(&self, found: &str, wanted: &str) -> SshError {
        SshError::OtherKey {
            target: self.target.clone(),
            found: found.into(),
            wanted: wanted.into(),
        }
    }

    /// Fingerprints pinned for this node.
    async fn pinned(&self) -> Result<Vec<String>, SshError> {
        if self.known.symlink_metadata().is_err() {
            return Ok(Vec::new());
        }
        let known = self.known.display().to_string();
        let (_, text, _) = tool("ssh-keygen", &["-l", "-F", &self.node, "-f", &known], "").await?;
        Ok(text
            .lines()
            .flat_map(str::split_whitespace)
            .filter(|w| w.starts_with("SHA256:"))
            .map(Into::into)
            .collect())
    }

    /// What the host shows: each key without its name, and its fingerprint.
    async fn scan(&self) -> Result<Vec<(String, String)>, SshError> {
        let port = self.port.to_string();
        let (_, text, said) =
            tool("ssh-keyscan", &["-T", "8", "-p", &port, self.host()], "").await?;
        let mut keys = Vec::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let Some((_, key)) = line.split_once(' ') else { continue };
            let (_, told, _) = tool("ssh-keygen", &["-l", "-f", "-"], &format!("{line}\n")).await?;
            if let Some(fingerprint) = told.split_whitespace().find(|w| w.starts_with("SHA256:")) {
                keys.push((key.to_owned(), fingerprint.to_owned()));
            }
        }
        if keys.is_empty() {
            let said = if said.trim().is_empty() {
                "no sshd answers there".into()
            } else {
                said.trim().replace('\n', " ")
            };
            return Err(SshError::Unreached { target: self.target.clone(), said });
        }
        Ok(keys)
    }

    /// Runs a script as root, with this on its stdin, and gives its stdout.
    pub async fn run(
        &self,
        doing: &str,
        script: &str,
        stdin: &[u8],
        limit: Duration,
    ) -> Result<String, SshError> {
        let mut c = Command::new("ssh");
        let known = format!("UserKnownHostsFile=\"{}\"", self.known.display());
        let (alias, connect) =
            (format!("HostKeyAlias={}", self.node), format!("ConnectTimeout={CONNECT_S}"));
        for option in [
            &*known,
            &alias,
            &connect,
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            "UpdateHostKeys=no",
            "CheckHostIP=no",
            "BatchMode=yes",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=4",
            "LogLevel=ERROR",
        ] {
            c.args(["-o", option]);
        }
        if let Some(identity) = &self.identity {
            c.arg("-i").arg(identity).args(["-o", "IdentitiesOnly=yes"]);
        }
        // Somebody else than root must be allowed to become it without being asked: there is no terminal there.
        let sudo = if matches!(self.user(), Some("root")) {
            ""
        } else {
            "[ \"$(id -u)\" = 0 ] || s='sudo -n'; "
        };
        let line = format!("s=; {sudo}exec $s sh -c {}", quoted(script));
        c.args(["-p", &self.port.to_string(), "--", &self.target, &line]);
        let (code, stdout, stderr) = piped(c, "ssh", stdin, limit).await?.ok_or_else(|| {
            SshError::Late { doing: doing.to_owned(), target: self.target.clone(), limit }
        })?;
        let said = || {
            let text = if stderr.trim().is_empty() { &stdout } else { &stderr };
            let tail: Vec<_> = text.trim().lines().rev().take(6).collect();
            tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
        };
        match code {
            0 => Ok(stdout),
            OWN => Err(SshError::Unreached { target: self.target.clone(), said: said() }),
            code => Err(SshError::Failed {
                doing: doing.to_owned(),
                target: self.target.clone(),
                code,
                said: said(),
            }),
        }
    }
}

/// For a shell: nothing in it has a meaning.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

async fn tool(
    program: &'static str,
    args: &[&str],
    stdin: &str,
) -> Result<(i32, String, String), SshError> {
    let mut c = Command::new(program);
    c.args(args);
    piped(c, program, stdin.as_bytes(), SCAN).await?.ok_or_else(|| SshError::Late {
        doing: program.to_owned(),
        target: "this machine".into(),
        limit: SCAN,
    })
}

/// Runs a program with this on its stdin; `None` when it did not end in time, and is killed.
async fn piped(
    mut c: Command,
    program: &'static str,
    stdin: &[u8],
    limit: Duration,
) -> Result<Option<(i32, String, String)>, SshError> {
    let wrong = |source| SshError::Program { program, source };
    c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = c.spawn().map_err(wrong)?;
    let mut pipe = child.stdin.take();
    let feed = async move {
        if let Some(pipe) = &mut pipe {
            // One that has ended does not read to the end; its exit code tells more than a broken pipe.
            drop(pipe.write_all(stdin).await);
        }
        drop(pipe);
    };
    match timeout(limit, async { tokio::join!(feed, child.wait_with_output()).1 }).await {
        Ok(Ok(out)) => Ok(Some((
            out.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&out.stdout).into_owned(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        ))),
        Ok(Err(source)) => Err(wrong(source)),
        Err(_) => Ok(None),
    }
}

/// Where host keys are pinned: beside the configuration.
pub fn known_hosts(config: &Path) -> PathBuf {
    config.with_file_name("known_hosts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_reaches_the_other_shell_as_it_is() {
        let script = "echo 'a b' \"$HOME\" `id`\n# it's";
        let out = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", quoted(script))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), script);
    }
}
