//! Cargo's part: building the workspace, and its own tests.

#![allow(clippy::print_stderr, reason = "errors go to stderr")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lifeline_lab::progress::Progress;

/// The tests of the workspace, by cargo's own runner and with its own summary lines. A round that fails is tried once
/// more, aloud: some of these tests have the kernel's and systemd's own timing in them.
pub fn test(progress: &Progress) -> anyhow::Result<()> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let round = || {
        let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
        cargo.args([
            "test",
            "--workspace",
            "--locked",
            "--no-fail-fast",
            "--manifest-path",
            manifest,
        ]);
        cargo.status().context("run cargo test")
    };
    progress.say("the workspace's own tests");
    if round()?.success() {
        return Ok(());
    }
    progress.say("the workspace's own tests failed; once more");
    let status = round()?;
    if !status.success() {
        bail!("the workspace's own tests failed twice ({status})");
    }
    Ok(())
}

/// Builds the workspace, so that nothing the lab starts is stale: `cargo run` built only this program.
pub fn build(progress: &Progress) -> anyhow::Result<()> {
    build_as(!cfg!(debug_assertions), progress)
}

/// The same, for release or for debugging.
pub fn build_as(release: bool, progress: &Progress) -> anyhow::Result<()> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo.args(["build", "--workspace", "--locked", "--manifest-path", manifest]);
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
