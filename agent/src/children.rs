//! The one place that runs another program: by absolute path, with an empty environment, capped output and a deadline
//! after which it is killed *and reaped*. Never a shell, never a program of a container.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Where programs are looked for. The last one is k3s's own copy of the iptables tools, for hosts without any.
const DIRS: [&str; 7] = [
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/var/lib/rancher/k3s/data/current/bin/aux",
];
/// How long a killed child may take to be gone; only one in uninterruptible sleep takes longer.
const REAP: Duration = Duration::from_secs(5);
/// How much of stderr is kept.
const STDERR_CAP: usize = 16 * 1024;

/// Why a program did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It is in none of the fixed places.
    #[error("find {tool}: not installed")]
    NotInstalled {
        /// Its name.
        tool: String,
    },
    /// It could not be started, fed or read.
    #[error("run {line}")]
    Io {
        /// The command line.
        line: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It was not done in time, was killed and is gone.
    #[error("run {line}: not done within {limit:?}, killed{}", tail(stderr))]
    Late {
        /// The command line.
        line: String,
        /// How long it had.
        limit: Duration,
        /// What it said until then.
        stderr: String,
    },
    /// It was killed and is still there: uninterruptible sleep.
    #[error("run {line}: still there {REAP:?} after SIGKILL")]
    Unkillable {
        /// The command line.
        line: String,
    },
    /// It printed more than was allowed, was killed and is gone. Never cut short: half a ruleset is no ruleset.
    #[error("run {line}: it printed more than {cap} bytes")]
    TooMuch {
        /// The command line.
        line: String,
        /// How much it might print.
        cap: usize,
    },
    /// It says it failed.
    #[error("run {line}: {status}{}", tail(stderr))]
    Failed {
        /// The command line.
        line: String,
        /// Its exit status.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
}

impl ChildError {
    /// May the same call succeed later?
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::NotInstalled { .. } | Self::TooMuch { .. })
    }
}

fn tail(stderr: &str) -> String {
    let text = stderr.trim();
    if text.is_empty() { String::new() } else { format!(": {}", text.replace('\n', "; ")) }
}

/// What a finished program left.
#[derive(Clone, Debug)]
pub struct Ran {
    line: String,
    /// Exit status.
    pub status: ExitStatus,
    /// Its whole standard output.
    pub stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub stderr: String,
}

impl Ran {
    /// Itself when the program says it succeeded.
    ///
    /// # Errors
    /// With its exit status and what it said.
    pub fn checked(self) -> Result<Self, ChildError> {
        if self.status.success() {
            return Ok(self);
        }
        Err(ChildError::Failed { line: self.line, status: self.status, stderr: self.stderr })
    }

    /// Standard output as text; bytes that are none are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The same of what is megabytes long, without a copy.
    pub fn into_text(self) -> String {
        String::from_utf8(self.stdout)
            .unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned())
    }
}

/// A program about to be run.
#[derive(Clone, Debug)]
pub struct Call {
    tool: String,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    stdin: Option<Vec<u8>>,
    limit: Duration,
    cap: usize,
}

/// Where a program is.
///
/// # Errors
/// When it is in none of the fixed places.
pub fn find(tool: &str) -> Result<PathBuf, ChildError> {
    let bare = !tool.is_empty() && !tool.contains('/');
    DIRS.iter()
        .map(|dir| Path::new(dir).join(tool))
        .find(|path| bare && path.is_file())
        .ok_or_else(|| ChildError::NotInstalled { tool: tool.to_owned() })
}

impl Call {
    /// A call of a program by its bare name, with 5 s and 1 MiB.
    pub fn new(tool: &str) -> Self {
        Self {
            tool: tool.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: None,
            limit: Duration::from_secs(5),
            cap: 1 << 20,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to its otherwise empty environment.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Gives it something to read.
    #[must_use]
    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(text.into());
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How many bytes it may print.
    #[must_use]
    pub fn cap(mut self, cap: usize) -> Self {
        self.cap = cap;
        self
    }

    fn line(&self) -> String {
        let mut line = self.tool.clone();
        for arg in &self.args {
            line.push(' ');
            line.push_str(&arg.to_string_lossy());
        }
        line
    }

    /// Runs it to its end, whatever its exit status; see [`Ran::checked`].
    ///
    /// # Errors
    /// When it cannot be started, takes too long or prints too much. The child has been reaped by then, but for
    /// [`ChildError::Unkillable`].
    pub async fn run(self) -> Result<Ran, ChildError> {
        let path = find(&self.tool)?;
        let line = self.line();
        let io = |source| ChildError::Io { line: line.clone(), source };
        let mut command = Command::new(path);
        command
            .args(&self.args)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", DIRS.join(":"))
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .current_dir("/")
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its own group, so that what it starts itself (iptables: modprobe) is killed with it.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(io)?;
        let group = child.id();
        let mut stderr = Vec::new();
        let done = timeout(self.limit, attend(&mut child, &self, &mut stderr)).await;
        let said = String::from_utf8_lossy(&stderr).into_owned();
        match done {
            Ok(Ok((Some(stdout), status))) => Ok(Ran { line, status, stdout, stderr: said }),
            Ok(Ok((None, _))) => {
                kill(child, group, &line).await?;
                Err(ChildError::TooMuch { line, cap: self.cap })
            }
            Ok(Err(source)) => {
                kill(child, group, &line).await?;
                Err(ChildError::Io { line, source })
            }
            Err(_) => {
                kill(child, group, &line).await?;
                Err(ChildError::Late { line, limit: self.limit, stderr: said })
            }
        }
    }
}

/// Feeds and reads a child until it has ended; no output when there was too much of it, and then it still runs.
async fn attend(
    child: &mut Child,
    call: &Call,
    stderr: &mut Vec<u8>,
) -> std::io::Result<(Option<Vec<u8>>, ExitStatus)> {
    let stdin = child.stdin.take();
    let feed = async {
        if let (Some(mut pipe), Some(text)) = (stdin, &call.stdin) {
            // A child that stops reading says why on stderr; EPIPE adds nothing.
            let _ignored = pipe.write_all(text).await;
            let _ignored = pipe.shutdown().await;
        }
        Ok(())
    };
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let read = tokio::try_join!(feed, whole(out, call.cap), beginning(err, stderr));
    let ((), stdout, ()) = match read {
        Ok(read) => read,
        Err(e) if e.kind() == std::io::ErrorKind::FileTooLarge => {
            return Ok((None, ExitStatus::default()));
        }
        Err(e) => return Err(e),
    };
    Ok((Some(stdout), child.wait().await?))
}

async fn whole<R: AsyncRead + Unpin>(pipe: Option<R>, cap: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let most = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
        pipe.take(most).read_to_end(&mut bytes).await?;
    }
    if bytes.len() > cap {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Keeps the beginning and reads the rest away, so that a talkative child does not block.
async fn beginning<R: AsyncRead + Unpin>(
    pipe: Option<R>,
    kept: &mut Vec<u8>,
) -> std::io::Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut chunk = [0u8; 4096];
    loop {
        let n = pipe.read(&mut chunk).await?;
        if n == 0 {
            return Ok(());
        }
        let room = STDERR_CAP.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&chunk[..room]);
    }
}

/// SIGKILL to the whole group, and wait: a change that a forgotten child makes later lands on top of our undo (K12).
async fn kill(mut child: Child, group: Option<u32>, line: &str) -> Result<(), ChildError> {
    if let Some(group) = group.and_then(|g| i32::try_from(g).ok()) {
        let _gone = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _gone = child.start_kill();
    match timeout(REAP, child.wait()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(source)) => Err(ChildError::Io { line: line.to_owned(), source }),
        Err(_) => Err(ChildError::Unkillable { line: line.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn a_child_reads_its_stdin_and_has_no_environment() {
        let ran = Call::new("cat").stdin("one\ntwo\n").run().await.unwrap().checked().unwrap();
        assert_eq!(ran.text(), "one\ntwo\n");
        let env = Call::new("env").run().await.unwrap().checked().unwrap().text();
        let names: Vec<&str> = env.lines().filter_map(|l| l.split('=').next()).collect();
        assert!(names.iter().all(|n| matches!(*n, "LC_ALL" | "PATH")), "{env}");
    }

    #[tokio::test]
    async fn a_child_that_fails_is_told_with_its_status_and_its_words() {
        let e = Call::new("cat").args(["/no/such/file"]).run().await.unwrap().checked();
        let text = e.unwrap_err().to_string();
        assert!(text.contains("run cat /no/such/file: exit status: 1: "), "{text}");
        assert!(text.contains("No such file"), "{text}");
    }

    #[tokio::test]
    async fn a_child_past_its_deadline_is_gone_when_the_call_returns() {
        let before = Instant::now();
        // The shell's child is in the same group and must go too.
        let call = Call::new("sh").args(["-c", "echo waiting >&2; sleep 41.7; echo late"]);
        let e = call.limit(Duration::from_millis(300)).run().await.unwrap_err();
        assert!(before.elapsed() < Duration::from_secs(4));
        assert!(matches!(&e, ChildError::Late { .. }), "{e}");
        assert!(e.to_string().ends_with("killed: waiting"), "{e}");
        let there = || {
            std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains("sleep\u{0}41.7")
            })
        };
        // Killed it is; on a busy machine the kernel takes its time to take it away.
        while there() {
            assert!(before.elapsed() < Duration::from_secs(10), "still there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn too_much_output_is_an_error_and_never_half_an_answer() {
        let e = Call::new("yes").cap(10_000).run().await.unwrap_err();
        assert!(matches!(e, ChildError::TooMuch { .. }), "{e}");
        assert!(!e.is_retryable());
    }

    #[tokio::test]
    async fn a_path_or_an_unknown_name_is_not_run() {
        for tool in ["/bin/cat", "../bin/cat", "", "no-such-tool-at-all"] {
            let e = Call::new(tool).run().await.unwrap_err();
            assert!(matches!(e, ChildError::NotInstalled { .. }), "{tool}: {e}");
        }
    }
}
