//! A Go that can build the parts: one that is there, the system's package, or what an old package fetches as a module.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Doing, LabError, Result};
use crate::progress::Progress;
use crate::{parts, run};

/// From here on Go fetches the release a module asks for by itself, as a module with a checksum.
const OLDEST: (u32, u32) = (1, 21);
/// From here on it fetches a module by its version, and checks its sum.
const FETCHES: (u32, u32) = (1, 16);
const DOWNLOAD: Duration = Duration::from_secs(300);

/// A Go of [`OLDEST`] or newer; `wanted` is the release that is fetched when the system has but an older one.
pub fn ensure(wanted: &str, progress: &Progress, yes: bool) -> Result<PathBuf> {
    let mut seen = there();
    if let Some((go, _)) = seen.iter().find(|(_, r)| *r >= OLDEST) {
        return Ok(go.clone());
    }
    if seen.is_empty() && packaged().is_some_and(|p| p >= FETCHES) {
        parts::install(progress, &["golang-go"], yes)?;
        seen = there();
    }
    if let Some((go, _)) = seen.iter().find(|(_, r)| *r >= OLDEST) {
        return Ok(go.clone());
    }
    if let Some((go, release)) = seen.iter().find(|(_, r)| *r >= FETCHES) {
        let (major, minor) = release;
        progress.say(format!("{} is {major}.{minor}: it fetches Go {wanted}", go.display()));
        return fetch(go, wanted);
    }
    let told: Vec<String> =
        seen.iter().map(|(go, (a, b))| format!("{} is {a}.{b}", go.display())).collect();
    let there = if told.is_empty() { "there is none".to_owned() } else { told.join(", ") };
    Err(LabError::Missing {
        what: format!("building Kubernetes needs Go {}.{} or newer: {there}", OLDEST.0, OLDEST.1),
        hint: format!("install Go {wanted} or newer from https://go.dev/dl into /usr/local/go"),
    })
}

/// Each Go of this machine that says its release.
fn there() -> Vec<(PathBuf, (u32, u32))> {
    let near = ["/usr/local/go/bin/go", "/usr/lib/go/bin/go", "/snap/bin/go"].map(PathBuf::from);
    let path = std::env::var("PATH").unwrap_or_default();
    let all = path.split(':').map(|d| Path::new(d).join("go")).chain(near);
    all.filter(|p| p.is_file()).filter_map(|go| release(&go).map(|r| (go, r))).collect()
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
            hint: format!("install Go {wanted} or newer from https://go.dev/dl into /usr/local/go"),
        }),
    }
}

fn release(go: &Path) -> Option<(u32, u32)> {
    let mut command = Command::new(go);
    command.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local");
    parse(run::run(&mut command, run::LIMIT, None).ok()?.stdout.trim().strip_prefix("go")?)
}

/// The release that the system's package would bring.
fn packaged() -> Option<(u32, u32)> {
    let out = run::host("apt-cache", &["policy", "golang-go"]).ok()?;
    let line = out.stdout.lines().find_map(|l| l.trim().strip_prefix("Candidate: "))?;
    parse(line.rsplit(':').next()?)
}

/// Major and minor of a version.
pub(super) fn parse(version: &str) -> Option<(u32, u32)> {
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
}
