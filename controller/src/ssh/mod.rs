//! SSH as a way to an agent's unix socket, for when its own port cannot be reached: the operator's `ssh`, keys and `known_hosts`.
//!
//! `ssh` carries the socket here, and the agent sees root, as it would on the node itself. All that is ever run on the node is its
//! agent's start, `true`, and what lends it an agent ([`lend`]) and takes that away again.

pub mod lend;

use crate::secret::redact_tokens;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// The agent's socket on its node.
const THERE: &str = "/run/lifeline/agent.sock";
/// Until the socket is here.
const OPEN: Duration = Duration::from_secs(10);
/// One short command on a node.
const COMMAND: Duration = Duration::from_secs(30);
/// Never asks, never shares the operator's other sessions, notices a dead path by itself.
const OPTIONS: [&str; 7] = [
    "BatchMode=yes",
    "ConnectTimeout=5",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "ControlMaster=no",
    "ControlPath=none",
    "ExitOnForwardFailure=yes",
];

/// Why SSH does not lead there.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// It could not be started.
    #[error("run ssh: {0}")]
    Start(io::Error),
    /// There is no place for its socket.
    #[error("make a place for ssh's socket in {}: {source}", dir.display())]
    Place {
        /// Where.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It ended by itself.
    #[error("{0}")]
    Said(String),
    /// It took too long.
    #[error("not connected after {} s", .0.as_secs())]
    Late(Duration),
}

/// A socket of a node, here for as long as this lives.
#[derive(Debug)]
pub struct Tunnel {
    /// The socket.
    pub socket: PathBuf,
    /// That of an agent that was lent to the node, if one was.
    pub lent: PathBuf,
    _place: Place,
    _ssh: Child,
}

/// A directory of our own, for as long as this lives: also when what was to lie in it is not waited for any longer.
#[derive(Debug)]
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        // It is in the place for passing things, which the system clears away as well.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn ssh() -> Command {
    let mut ssh = Command::new("ssh");
    for option in OPTIONS {
        ssh.args(["-o", option]);
    }
    ssh.args(["-T"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    ssh.kill_on_drop(true);
    ssh.env("LC_ALL", "C");
    ssh
}

async fn words(child: &mut Child) -> String {
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // A child of ssh's may hold the pipe open; what came by then is enough.
        drop(timeout(Duration::from_secs(1), stderr.read_to_string(&mut said)).await);
    }
    let lines: Vec<_> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    match lines.last() {
        Some(last) => redact_tokens(last),
        None => "it ended without a word".to_owned(),
    }
}

/// Brings a node's agent socket here.
pub async fn tunnel(target: &str) -> Result<Tunnel, SshError> {
    let place = place()?;
    let (socket, lent) = (place.0.join("agent.sock"), place.0.join("lent.sock"));
    let mut command = ssh();
    command.arg("-N");
    // In this order: `ssh` makes one after the other, and the last is waited for.
    for (here, there) in [(&lent, lend::THERE), (&socket, THERE)] {
        command.arg("-L").arg(format!("{}:{there}", here.display()));
    }
    command.args(["--", target]);
    let mut child = command.spawn().map_err(SshError::Start)?;
    let deadline = Instant::now() + OPEN;
    loop {
        if socket.exists() {
            return Ok(Tunnel { socket, lent, _place: place, _ssh: child });
        }
        let failed = match child.try_wait() {
            Ok(Some(_)) => Some(SshError::Said(words(&mut child).await)),
            Ok(None) if Instant::now() > deadline => Some(SshError::Late(OPEN)),
            Ok(None) => None,
            Err(e) => Some(SshError::Start(e)),
        };
        if let Some(error) = failed {
            return Err(error);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Starts the agent's unit on its node.
pub async fn start_agent(target: &str) -> Result<(), SshError> {
    run(target, "systemctl start lifeline-agent.service").await
}

/// Does SSH lead there at all?
pub async fn leads(target: &str) -> Result<(), SshError> {
    run(target, "true").await
}

async fn run(target: &str, line: &str) -> Result<(), SshError> {
    let mut command = ssh();
    command.args(["--", target, line]);
    let mut child = command.spawn().map_err(SshError::Start)?;
    match timeout(COMMAND, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(_)) => Err(SshError::Said(words(&mut child).await)),
        Ok(Err(e)) => Err(SshError::Start(e)),
        Err(_) => Err(SshError::Late(COMMAND)),
    }
}

/// Runs a line there with this on its stdin, and gives what it said.
async fn bring(
    target: &str,
    line: &str,
    stdin: &[u8],
    limit: Duration,
) -> Result<String, SshError> {
    let mut command = ssh();
    command.args(["--", target, line]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(SshError::Start)?;
    let (pipe, mut stdout) = (child.stdin.take(), child.stdout.take());
    let mut said = String::new();
    let work = async {
        let feed = async {
            if let Some(mut pipe) = pipe {
                // One that has ended does not read to the end; its exit code tells more than a broken pipe.
                drop(pipe.write_all(stdin).await);
            }
        };
        let hear = async {
            if let Some(stdout) = &mut stdout {
                drop(stdout.read_to_string(&mut said).await);
            }
        };
        tokio::join!(feed, hear, child.wait()).2
    };
    match timeout(limit, work).await {
        Ok(Ok(status)) if status.success() => Ok(said),
        Ok(Ok(_)) => Err(SshError::Said(words(&mut child).await)),
        Ok(Err(e)) => Err(SshError::Start(e)),
        Err(_) => Err(SshError::Late(limit)),
    }
}

/// A directory nobody else can look into; a unix socket's path must be short.
fn place() -> Result<Place, SshError> {
    let base = std::env::temp_dir();
    for n in 0..100_u32 {
        let dir: PathBuf = Path::new(&base).join(format!("lifeline-{}-{n}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(Place(dir)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(SshError::Place { dir, source }),
        }
    }
    let source = io::Error::from(io::ErrorKind::AlreadyExists);
    Err(SshError::Place { dir: base, source })
}
