//! Runs a child process with a bound on its time and gives back all it said.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Doing, LabError, Result};

/// What most commands on a node get.
pub const LIMIT: Duration = Duration::from_secs(30);

/// What a finished child said. A child that ran out of time has no `code`.
#[derive(Debug, Clone)]
pub struct Output {
    pub doing: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub timed_out: bool,
    pub took: Duration,
}

impl Output {
    #[must_use]
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Turns a failure into an error that carries the last lines the child wrote.
    pub fn success(self) -> Result<Self> {
        if self.ok() {
            return Ok(self);
        }
        if self.timed_out {
            return Err(LabError::TimedOut { doing: self.doing, after: self.took });
        }
        let status = self.code.map_or_else(|| "a signal".to_owned(), |c| format!("code {c}"));
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        Err(LabError::Tool { status, said: tail(said, 6), doing: self.doing })
    }

    /// Reads stdout as JSON; fails when the command failed.
    pub fn json<T: serde::de::DeserializeOwned>(self) -> Result<T> {
        let done = self.success()?;
        serde_json::from_str(&done.stdout)
            .map_err(|source| LabError::Format { what: done.doing, source })
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim().lines().collect();
    all[all.len().saturating_sub(lines)..].join(" | ")
}

/// Runs `program` with `args` on the host.
pub fn host<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<Output> {
    run(Command::new(program).args(args), LIMIT, None)
}

/// Runs `command`, kills it at `limit`, and never waits for a grandchild that keeps the pipes open.
pub fn run(command: &mut Command, limit: Duration, input: Option<&[u8]>) -> Result<Output> {
    let doing = shown(command);
    let begun = Instant::now();
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| format!("run {doing}"))?;
    let (done, finished) = mpsc::channel();
    let stdout = gather(child.stdout.take(), done.clone());
    let stderr = gather(child.stderr.take(), done);
    if let (Some(bytes), Some(mut pipe)) = (input, child.stdin.take()) {
        let bytes = bytes.to_vec();
        // In a thread: a child that reads nothing must not block us past the limit.
        thread::spawn(move || pipe.write_all(&bytes));
    }
    let status = wait(&mut child, limit).doing(|| format!("wait for {doing}"))?;
    // Grandchildren may hold the pipes; what the child itself wrote is there by now.
    for _ in 0..2 {
        if finished.recv_timeout(Duration::from_millis(500)).is_err() {
            break;
        }
    }
    Ok(Output {
        doing,
        code: status.and_then(|s| s.code()),
        stdout: text(&stdout),
        stderr: text(&stderr),
        timed_out: status.is_none(),
        took: begun.elapsed(),
    })
}

/// Waits for `child`; `None` means it was killed at the limit (and reaped).
pub fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn gather<R: Read + Send + 'static>(
    pipe: Option<R>,
    done: mpsc::Sender<()>,
) -> Arc<Mutex<Vec<u8>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&heard);
    thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut chunk = [0; 8192];
        while let Ok(n) = pipe.read(&mut chunk) {
            if n == 0 {
                break;
            }
            if let Ok(mut all) = into.lock() {
                all.extend_from_slice(&chunk[..n]);
            }
        }
        // Nobody listens any more when the reader gave up waiting.
        done.send(()).ok();
    });
    heard
}

fn text(heard: &Arc<Mutex<Vec<u8>>>) -> String {
    heard.lock().map(|all| String::from_utf8_lossy(&all).into_owned()).unwrap_or_default()
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_does_not_end_is_killed_at_its_limit() {
        let out = run(Command::new("sleep").arg("60"), Duration::from_millis(200), None).unwrap();
        assert!(out.timed_out && out.took < Duration::from_secs(5));
        assert!(matches!(out.success(), Err(LabError::TimedOut { .. })));
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipe_open_is_not_waited_for() {
        let mut sh = Command::new("sh");
        sh.args(["-c", "echo said; sleep 20 &"]);
        let out = run(&mut sh, Duration::from_secs(10), None).unwrap();
        assert!(out.ok() && out.took < Duration::from_secs(5));
        assert_eq!(out.stdout, "said\n");
    }

    #[test]
    fn a_failure_carries_what_the_child_said_last() {
        let out = host("sh", &["-c", "echo no such thing >&2; exit 3"]).unwrap();
        let error = out.success().unwrap_err().to_string();
        assert!(error.contains("code 3") && error.contains("no such thing"), "{error}");
    }

    #[test]
    fn input_reaches_the_child() {
        let out = run(&mut Command::new("cat"), LIMIT, Some(b"abc")).unwrap();
        assert_eq!(out.stdout, "abc");
    }
}
