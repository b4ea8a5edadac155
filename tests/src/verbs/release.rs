//! `cargo lab release`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail, ensure};
use lifeline_lab::parts;
use lifeline_lab::progress::Progress;
use sha2::{Digest, Sha256};

/// A kind of machine that a release is for.
struct Machine {
    target: &'static str,
    arch: &'static str,
    /// The C compiler for it on another kind of machine, and the package it comes in.
    cross: [&'static str; 2],
}

const MACHINES: [Machine; 2] = [
    Machine {
        target: "x86_64-unknown-linux-musl",
        arch: "x86_64",
        cross: ["x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu"],
    },
    Machine {
        target: "aarch64-unknown-linux-musl",
        arch: "aarch64",
        cross: ["aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"],
    },
];
/// Package and program. Each is built alone: built together with the lab, both would get the features that the lab needs.
const PROGRAMS: [(&str, &str); 2] = [("lifeline-agent", "lifeline-agent"), ("lifeline-ctl", "ctl")];
const SUMS: &str = "SHA256SUMS";

/// Arguments of `release`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For these machines alone [default: each that can be built for here]
    #[arg(long = "target", value_name = "TARGET", value_parser = MACHINES.map(|m| m.target))]
    targets: Vec<String>,
}

/// Static programs, the agent's Debian package, and their checksums, below `target/dist`.
pub fn run(args: &Args, progress: &Progress) -> anyhow::Result<ExitCode> {
    let workspace = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .canonicalize()
        .context("find the workspace")?;
    let mut made = 0;
    for machine in &MACHINES {
        let named = args.targets.iter().any(|t| t == machine.target);
        if !named && !args.targets.is_empty() {
            continue;
        }
        match lacks(machine)? {
            None => {}
            Some(hint) if named => {
                bail!("build for {}: something is missing; try: {hint}", machine.target)
            }
            Some(hint) => {
                progress.say(format!("skipped {}; for it: {hint}", machine.target));
                continue;
            }
        }
        release(machine, &workspace, progress)?;
        made += 1;
    }
    ensure!(made > 0, "there is no kind of machine that can be built for here");
    Ok(ExitCode::SUCCESS)
}

/// What would have to be installed first.
fn lacks(machine: &Machine) -> anyhow::Result<Option<String>> {
    let said = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()))
        .args(["--print", "target-libdir", "--target", machine.target])
        .output()
        .context("ask rustc where its libraries are")?;
    let libraries = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
    if !said.status.success() || !libraries.is_dir() {
        return Ok(Some(format!("rustup target add {}", machine.target)));
    }
    let there = parts::is_there(compiler(machine));
    Ok((!there).then(|| format!("apt-get install {}", machine.cross[1])))
}

fn compiler(machine: &Machine) -> &'static str {
    if machine.arch == std::env::consts::ARCH { "gcc" } else { machine.cross[0] }
}

fn release(machine: &Machine, workspace: &Path, progress: &Progress) -> anyhow::Result<()> {
    let target = machine.target;
    let dist = workspace.join("target/dist").join(target);
    if dist.exists() {
        fs::remove_dir_all(&dist).with_context(|| format!("remove {}", dist.display()))?;
    }
    fs::create_dir_all(&dist).with_context(|| format!("make {}", dist.display()))?;
    for (package, program) in PROGRAMS {
        progress.say(format!(
            "building {program} for {target}: some minutes when it is the first time"
        ));
        let mut cargo = cargo(machine, workspace)?;
        cargo.args(["build", "--release", "--locked", "--target", target, "-p", package]);
        called(&mut cargo)?;
        let built = workspace.join("target").join(target).join("release").join(program);
        fs::copy(&built, dist.join(program))
            .with_context(|| format!("copy {}", built.display()))?;
    }
    let mut deb = cargo(machine, workspace)?;
    if deb.args(["deb", "--version"]).output().is_ok_and(|out| out.status.success()) {
        let mut deb = cargo(machine, workspace)?;
        deb.args(["deb", "-p", PROGRAMS[0].0, "--no-build", "--no-strip", "--target", target]);
        called(deb.arg("--output").arg(&dist))?;
    } else {
        progress.say("skipped the Debian package; for it: cargo install cargo-deb --locked");
    }
    let list = sums(&dist)?;
    progress.say(format!("in {}:\n{list}", dist.display()));
    Ok(())
}

/// Cargo, told what builds for that machine, and not to write this machine's folders into what it builds.
fn cargo(machine: &Machine, workspace: &Path) -> anyhow::Result<Command> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let home = home.context("find cargo's folder: neither CARGO_HOME nor HOME is set")?;
    let (home, here) = (home.display(), workspace.display());
    let under = machine.target.replace('-', "_");
    let upper = under.to_uppercase();
    let mut cargo = lifeline_lab::cargo::command();
    cargo
        .current_dir(workspace)
        .env(format!("CC_{under}"), compiler(machine))
        .env(format!("CFLAGS_{under}"), format!("-ffile-prefix-map={home}=/cargo"))
        .env(format!("CARGO_TARGET_{upper}_LINKER"), compiler(machine))
        .env(
            format!("CARGO_TARGET_{upper}_RUSTFLAGS"),
            format!("--remap-path-prefix={home}=/cargo --remap-path-prefix={here}=/lifeline"),
        );
    Ok(cargo)
}

fn called(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).status().context("run cargo")?;
    ensure!(status.success(), "cargo did not succeed ({status})");
    Ok(())
}

/// Writes the checksums of what lies in a folder, as `sha256sum -c` reads them.
fn sums(dist: &Path) -> anyhow::Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(dist)
        .and_then(|entries| entries.map(|e| Ok(e?.path())).collect())
        .with_context(|| format!("read {}", dist.display()))?;
    files.retain(|f| f.file_name().is_some_and(|n| n != SUMS));
    files.sort();
    let mut list = String::new();
    for file in files {
        let bytes = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let sum: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        writeln!(list, "{sum}  {name}")?;
    }
    fs::write(dist.join(SUMS), &list).with_context(|| format!("write {SUMS}"))?;
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tool_that_everybody_has_agrees_with_the_checksums() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("lifeline-agent"), "one").unwrap();
        fs::write(dir.path().join("ctl"), "two").unwrap();
        let list = sums(dir.path()).unwrap();
        assert_eq!(sums(dir.path()).unwrap(), list, "the list is none of what it lists");
        let check = || {
            let mut tool = Command::new("sha256sum");
            tool.args(["--check", "--strict", "--quiet", SUMS]).current_dir(dir.path());
            tool.output().unwrap().status.success()
        };
        assert!(check() && list.lines().count() == 2);
        fs::write(dir.path().join("ctl"), "three").unwrap();
        assert!(!check());
    }
}
