//! A Go that can build the parts: one that is there, the system's package, or what an old package fetches as a module.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Doing, LabError, Result};
use crate::progress::Progress;
use crate::{fetching, parts, run};

/// From here on Go fetches the release a module asks for by itself, as a module with a checksum.
const OLDEST: Release = (1, 21);
/// From here on it fetches a module by its version, and checks its sum.
const FETCHES: Release = (1, 16);
/// Where it lies when no shell has been told.
const NEAR: [&str; 3] = ["/usr/local/go/bin/go", "/usr/lib/go/bin/go", "/snap/bin/go"];
const DOWNLOAD: Duration = Duration::from_secs(300);

/// What is done for a Go.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Use(PathBuf),
    /// The system's package.
    Install,
    /// An old one fetches a new one.
    Fetch(PathBuf),
    Nothing,
}

type Release = (u32, u32);

/// A Go of [`OLDEST`] or newer; `wanted` is the release that is fetched when the system has but an older one.
pub fn ensure(wanted: &str, progress: &Progress, yes: bool) -> Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut seen = there(&path, &NEAR);
    let package = if seen.is_empty() { packaged() } else { None };
    let mut choice = choose(&seen, package);
    if choice == Choice::Install {
        parts::install(progress, &["golang-go"], yes)?;
        seen = there(&path, &NEAR);
        choice = choose(&seen, None);
    }
    match choice {
        Choice::Use(go) => Ok(go),
        Choice::Fetch(go) => {
            let old = told(&seen);
            progress.say(format!("{old}: {} fetches Go {wanted}", go.display()));
            fetching::patiently("fetching Go", progress, || fetch(&go, wanted))
        }
        Choice::Install | Choice::Nothing => Err(LabError::Missing {
            what: format!(
                "building Kubernetes needs Go {}.{} or newer: {}",
                OLDEST.0,
                OLDEST.1,
                told(&seen)
            ),
            hint: hint(wanted),
        }),
    }
}

/// One that is new enough; else the system's package, if it is of use and there is none; else one that fetches a newer one.
fn choose(seen: &[(PathBuf, Release)], package: Option<Release>) -> Choice {
    let at_least =
        |least: Release| seen.iter().find(|(_, r)| *r >= least).map(|(go, _)| go.clone());
    if let Some(go) = at_least(OLDEST) {
        return Choice::Use(go);
    }
    if seen.is_empty() && package.is_some_and(|p| p >= FETCHES) {
        return Choice::Install;
    }
    at_least(FETCHES).map_or(Choice::Nothing, Choice::Fetch)
}

fn told(seen: &[(PathBuf, Release)]) -> String {
    let all = seen.iter().map(|(go, (a, b))| format!("{} is {a}.{b}", go.display()));
    let all: Vec<String> = all.collect();
    if all.is_empty() { "there is none".to_owned() } else { all.join(", ") }
}

fn hint(wanted: &str) -> String {
    format!("install Go {wanted} or newer from https://go.dev/dl into /usr/local/go")
}

/// Each Go of this machine that says its release.
fn there(path: &str, near: &[&str]) -> Vec<(PathBuf, Release)> {
    let all = path.split(':').map(|d| Path::new(d).join("go"));
    let all = all.chain(near.iter().map(PathBuf::from)).filter(|p| p.is_file());
    all.filter_map(|go| release(&go).map(|r| (go, r))).collect()
}

/// Go's own releases are modules too, and their sums stand in the same public log: what a newer Go does by itself
/// (`cmd/go/internal/toolchain`), done with an older one.
fn fetch(go: &Path, wanted: &str) -> Result<PathBuf> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let module = format!("golang.org/toolchain@v0.0.1-go{wanted}.linux-{arch}");
    let mut command = Command::new(go);
    command.args(["mod", "download", "-json", &module]).current_dir(std::env::temp_dir());
    command.env("GOFLAGS", "-modcacherw");
    let said: serde_json::Value = run::run(&mut command, DOWNLOAD, None)?.success()?.json()?;
    let dir = PathBuf::from(said["Dir"].as_str().unwrap_or_default());
    // A module's archive knows no modes.
    for folder in ["bin".to_owned(), format!("pkg/tool/linux_{arch}")] {
        let folder = dir.join(folder);
        let doing = || format!("make the programs in {} executable", folder.display());
        // From 1.25 on most tools are built when they are first wanted.
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.doing(doing)?.path();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).doing(doing)?;
        }
    }
    let fetched = dir.join("bin/go");
    match release(&fetched) {
        Some(release) if release >= OLDEST => Ok(fetched),
        _ => Err(LabError::Missing {
            what: format!("{module} was fetched, but {} does not run", fetched.display()),
            hint: hint(wanted),
        }),
    }
}

fn release(go: &Path) -> Option<Release> {
    let mut command = Command::new(go);
    command.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local");
    parse(run::run(&mut command, run::LIMIT, None).ok()?.stdout.trim().strip_prefix("go")?)
}

/// The release that the system's package would bring.
fn packaged() -> Option<Release> {
    let out = run::host("apt-cache", &["policy", "golang-go"]).ok()?;
    let line = out.stdout.lines().find_map(|l| l.trim().strip_prefix("Candidate: "))?;
    parse(line.rsplit(':').next()?)
}

/// Major and minor of a version.
pub(super) fn parse(version: &str) -> Option<Release> {
    let digits = |s: &str| s.chars().take_while(char::is_ascii_digit).collect::<String>();
    let mut parts = version.split('.').map(|p| digits(p).parse::<u32>().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_from_gos_own_words_and_from_debians() {
        assert_eq!(parse("1.26.8"), Some((1, 26)));
        assert_eq!(parse("1.24rc1"), Some((1, 24)));
        assert_eq!(parse("1.19~1"), Some((1, 19)));
        assert_eq!(parse("(none)"), None);
    }

    #[test]
    fn an_old_go_is_found_by_its_own_word_and_a_broken_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let fake = |folder: &str, script: &str| {
            let dir = dir.path().join(folder);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("go"), format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(dir.join("go"), fs::Permissions::from_mode(0o755)).unwrap();
            dir.display().to_string()
        };
        let old = fake("old", "[ \"$GOTOOLCHAIN $1\" = 'local env' ] && echo go1.15.15");
        let broken = fake("broken", "exit 2");
        let seen = there(&format!("{broken}:{old}:/nowhere"), &["/nowhere/go"]);
        assert_eq!(seen, [(Path::new(&old).join("go"), (1, 15))]);
        assert_eq!(choose(&seen, None), Choice::Nothing);
        assert!(told(&seen).ends_with("old/go is 1.15"), "{}", told(&seen));
    }

    #[test]
    fn without_a_go_the_package_is_installed_only_when_it_is_of_use() {
        assert_eq!(choose(&[], Some((1, 19))), Choice::Install);
        assert_eq!(choose(&[], Some((1, 15))), Choice::Nothing);
        assert_eq!(choose(&[], None), Choice::Nothing);
        let go = |release| [(PathBuf::from("/usr/bin/go"), release)];
        assert_eq!(choose(&go((1, 19)), None), Choice::Fetch("/usr/bin/go".into()));
        assert_eq!(choose(&go((1, 21)), None), Choice::Use("/usr/bin/go".into()));
    }
}
