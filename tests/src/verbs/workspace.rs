//! Cargo's part: building the workspace, and its own tests.

#![allow(clippy::print_stderr, reason = "errors go to stderr")]

use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lifeline_lab::cargo::{self, MANIFEST};
use lifeline_lab::progress::Progress;

/// Most tests of the workspace wait for something most of the time, for a kernel's timer or for a retry that is due.
const THREADS: &str = "6";

/// The tests of the workspace, by cargo's own runner and with its own summary lines. What fails is tried once more, aloud: some of
/// these tests have the kernel's and systemd's own timing in them.
pub fn test(progress: &Progress) -> anyhow::Result<()> {
    progress.say("the workspace's own tests");
    judged(round(&[])?, progress)
}

/// What is to be done about a first round in which these targets failed.
fn judged(failed: Result<(), Vec<String>>, progress: &Progress) -> anyhow::Result<()> {
    let Err(targets) = failed else { return Ok(()) };
    let named = if targets.is_empty() { "all of them".to_owned() } else { targets.join(" ") };
    progress.say(format!("the workspace's own tests failed; once more: {named}"));
    match round(&targets)? {
        Ok(()) => Ok(()),
        Err(_) => bail!("the workspace's own tests failed twice"),
    }
}

/// Cargo's runner for these targets, or for all when none is named.
fn runner(targets: &[String]) -> Command {
    let mut cargo = cargo::command();
    cargo.args(["test", "--workspace", "--locked", "--no-fail-fast", "--manifest-path", MANIFEST]);
    cargo.args(targets);
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        cargo.env("RUST_TEST_THREADS", THREADS);
    }
    cargo
}

/// One round of these targets; which of them failed, as cargo's arguments.
fn round(targets: &[String]) -> anyhow::Result<Result<(), Vec<String>>> {
    let mut child = runner(targets).stderr(Stdio::piped()).spawn().context("run cargo test")?;
    let mut failed = Vec::new();
    for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let line = line.context("listen to cargo test")?;
        eprintln!("{line}");
        failed.extend(failed_target(&line));
    }
    let status = child.wait().context("wait for cargo test")?;
    Ok(if status.success() { Ok(()) } else { Err(together(failed)) })
}

/// A first round of all tests under way beside other work; what it says is shown in one piece when it has ended.
#[derive(Debug)]
pub struct Beside(JoinHandle<anyhow::Result<Result<(), Vec<String>>>>);

/// Begins it. Whatever has to be built for it has been built when this returns.
pub fn begin(progress: &Progress) -> anyhow::Result<Beside> {
    progress.say("building the workspace's own tests");
    let built = runner(&["--no-run".to_owned()]).status().context("run cargo test --no-run")?;
    if !built.success() {
        bail!("the workspace's own tests do not build ({built})");
    }
    progress.say("the workspace's own tests run meanwhile");
    let said = tempfile::tempfile().context("make a file for what the tests say")?;
    let also = || said.try_clone().context("share the file for what the tests say");
    let child = runner(&[]).stdin(Stdio::null()).stdout(also()?).stderr(also()?).spawn();
    let child = child.context("run cargo test")?;
    Ok(Beside(std::thread::spawn(move || told(child, said))))
}

/// Waits for its end, and shows what it said.
fn told(mut child: Child, mut said: std::fs::File) -> anyhow::Result<Result<(), Vec<String>>> {
    let status = child.wait().context("wait for cargo test")?;
    said.seek(SeekFrom::Start(0)).context("read what the tests said")?;
    let text = std::io::read_to_string(said).context("read what the tests said")?;
    eprint!("{text}");
    let failed = text.lines().filter_map(failed_target).collect();
    Ok(if status.success() { Ok(()) } else { Err(together(failed)) })
}

impl Beside {
    /// Waits for its end; what failed is tried once more.
    pub fn done(self, progress: &Progress) -> anyhow::Result<()> {
        let Ok(failed) = self.0.join() else { bail!("the workspace's own tests were lost") };
        judged(failed?, progress)
    }
}

/// Cargo's arguments for all of these; of several packages' libraries `--lib` names them all.
fn together(targets: Vec<Vec<String>>) -> Vec<String> {
    let mut all: Vec<Vec<String>> = Vec::new();
    for target in targets {
        if !all.contains(&target) {
            all.push(target);
        }
    }
    all.concat()
}

/// The target that a line of cargo's last words names, ``    `-p lifeline-lab --test faults` ``, without its package.
fn failed_target(line: &str) -> Option<Vec<String>> {
    let named = line.strip_prefix("    `-p ")?.strip_suffix('`')?;
    Some(named.split_whitespace().skip(1).map(str::to_owned).collect())
}

/// Builds the workspace, so that nothing the lab starts is stale: `cargo run` built only this program.
pub fn build(progress: &Progress) -> anyhow::Result<()> {
    build_as(!cfg!(debug_assertions), progress)
}

/// The same, for release or for debugging.
pub fn build_as(release: bool, progress: &Progress) -> anyhow::Result<()> {
    let mut cargo = cargo::command();
    cargo.args(["build", "--workspace", "--locked", "--manifest-path", MANIFEST]);
    if release {
        cargo.arg("--release");
    }
    let mut child =
        cargo.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("run cargo build")?;
    // Cargo repeats the warnings of every earlier build; here they only matter when there is an error among them.
    let mut said = Vec::new();
    let mut spoken = Instant::now();
    for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let line = line.context("listen to cargo build")?;
        if let Some(what) = line.trim_start().strip_prefix("Compiling ") {
            progress.pass(format!("building {what}"));
            if !progress.is_live() && spoken.elapsed() > Duration::from_secs(10) {
                progress.say(format!("building {what}"));
                spoken = Instant::now();
            }
        }
        said.push(line);
    }
    let status = child.wait().context("wait for cargo build")?;
    if !status.success() {
        eprintln!("{}", said.join("\n"));
        bail!("the workspace does not build ({status})");
    }
    progress.say("workspace built");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_says_has_failed_is_what_is_tried_again() {
        let of = |line| failed_target(line).map(|words| words.join(" "));
        assert_eq!(of("    `-p lifeline-lab --test faults`").as_deref(), Some("--test faults"));
        assert_eq!(of("    `-p lifeline-core --lib`").as_deref(), Some("--lib"));
        let lib = || vec!["--lib".to_owned()];
        assert_eq!(together(vec![lib(), lib()]), ["--lib"], "cargo takes it once");
        assert_eq!(of("error: 2 targets failed:"), None);
        assert_eq!(of("   Compiling lifeline-lab v0.1.0"), None);
    }
}
