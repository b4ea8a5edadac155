//! Asks the `op` program for a secret: bounded, never on our terminal's input, its words shown without what looks secret.
//!
//! The reference is the only thing in its arguments; the secret comes through a pipe that nobody else can read.

use super::{HIDDEN, redact_tokens};
use std::io;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Unlocking may wait for a finger on a sensor.
pub const LIMIT: Duration = Duration::from_secs(60);
/// The longest secret, and the most that is listened to.
const MOST: u64 = 64 << 10;

/// Why `op` brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// It is not installed.
    #[error("the program op is not there")]
    Missing,
    /// It cannot be run.
    #[error("run op")]
    Run(#[source] io::Error),
    /// It took too long.
    #[error("op did not answer within {} s", LIMIT.as_secs())]
    Late,
    /// It said no.
    #[error("op says: {0}")]
    Refused(String),
}

impl OpError {
    /// What to try, from what it said: its exit code is 1 whatever the reason.
    pub fn hint(&self) -> &'static str {
        let Self::Refused(said) = self else {
            return match self {
                Self::Missing => "install the 1Password CLI, or use env:NAME or file:PATH",
                Self::Late => "unlock 1Password first: op signin",
                Self::Run(_) | Self::Refused(_) => "try it by hand: op read REFERENCE",
            };
        };
        let said = said.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|w| said.contains(w));
        if has(&[
            "not signed in",
            "not currently signed in",
            "sign in",
            "signin",
            "locked",
            "authorization",
            "session expired",
            "session token",
        ]) {
            "unlock it first: op signin, or set OP_SERVICE_ACCOUNT_TOKEN"
        } else if has(&[
            "isn't a vault",
            "isn't an item",
            "isn't a field",
            "does not have a field",
            "not found",
            "could not find",
            "no item",
        ]) {
            "look at what there is: op item get ITEM --vault VAULT --format json"
        } else if has(&["invalid secret reference", "invalid character"]) {
            "use ids in place of names: op item get ITEM --vault VAULT --format json"
        } else if has(&["more than one", "multiple"]) {
            "use the item's id: op item list --vault VAULT"
        } else if has(&["rate limit", "too many requests"]) {
            "wait, or use env:NAME meanwhile"
        } else {
            "try it by hand: op read REFERENCE"
        }
    }
}

/// Reads one secret.
pub async fn read(reference: &str) -> Result<Zeroizing<String>, OpError> {
    ask("op", reference, LIMIT).await
}

async fn ask(
    program: &str,
    reference: &str,
    limit: Duration,
) -> Result<Zeroizing<String>, OpError> {
    let mut op = Command::new(program);
    op.args(["read", "--no-newline", reference]).kill_on_drop(true);
    // With it op prints what it sends and receives.
    op.env_remove("OP_DEBUG");
    op.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = op.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => OpError::Missing,
        _ => OpError::Run(e),
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (out, err) = tokio::try_join!(drain(stdout), drain(stderr))?;
        Ok::<_, io::Error>((child.wait().await?, out, err))
    };
    let Ok(done) = timeout(limit, work).await else {
        // Killed by being dropped; the runtime reaps it.
        return Err(OpError::Late);
    };
    let (status, out, err) = done.map_err(OpError::Run)?;
    let text =
        |bytes: &Zeroizing<Vec<u8>>| Zeroizing::new(String::from_utf8_lossy(bytes).into_owned());
    let secret = text(&out);
    if status.success() {
        return Ok(secret);
    }
    let mut said = redact_tokens(text(&err).trim());
    // What it had begun to print may be in its complaint as well.
    if secret.trim().len() > 3 {
        said = said.replace(secret.trim(), HIDDEN);
    }
    let said: String = said.chars().filter(|c| !c.is_control() || *c == '\n').take(400).collect();
    let said = said.lines().last().unwrap_or_default().to_owned();
    Err(OpError::Refused(if said.is_empty() { format!("nothing ({status})") } else { said }))
}

async fn drain(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    if let Some(pipe) = pipe {
        pipe.take(MOST).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    async fn run(script: &str) -> Result<Zeroizing<String>, OpError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("op");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = path.display().to_string();
        // A file that was just written may still be open in a child of another test: "text file busy".
        for _ in 0..50 {
            match ask(&program, "op://v/i/f", Duration::from_secs(2)).await {
                Err(OpError::Run(e)) if e.kind() == io::ErrorKind::ExecutableFileBusy => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                done => return done,
            }
        }
        panic!("the script stays busy");
    }

    #[tokio::test]
    async fn what_it_prints_is_the_secret_and_the_reference_its_only_argument() {
        let secret = run("printf '%s|%s' \"$*\" \"$(cat | wc -c)\"").await.unwrap();
        assert_eq!(secret.trim(), "read --no-newline op://v/i/f|0", "and nothing is on its input");
    }

    #[tokio::test]
    async fn an_op_that_hangs_is_given_up() {
        let begun = std::time::Instant::now();
        assert!(matches!(run("sleep 60").await, Err(OpError::Late)));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn its_last_words_are_shown_without_what_looks_secret() {
        let script = "echo hunter2-long; echo '[ERROR] 2025/10/13 it was hunter2-long with ops_eyJhbGciOiJIUzI1' >&2; exit 1";
        let error = run(script).await.unwrap_err();
        assert_eq!(error.to_string(), "op says: [ERROR] 2025/10/13 it was [secret] with [secret]");
        let locked = run("echo 'account is not signed in' >&2; exit 1").await.unwrap_err();
        assert!(locked.hint().contains("op signin"), "{locked}");
        assert!(matches!(ask("/nowhere/op", "x", LIMIT).await, Err(OpError::Missing)));
    }
}
