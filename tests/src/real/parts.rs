//! Programs of the real gear: built once from small Go modules beside this crate, kept in the cache like the root.
//!
//! The key of a build is a hash of what it is made from. The compiler is not a part of it: a newer Go makes the same
//! programs, and building Kubernetes again for it would cost ten minutes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::error::{Doing, LabError, Result};
use crate::progress::Progress;
use crate::{parts, root, run};

/// Raised when the way a part is built changes in a way its files do not show.
const FORMAT: u32 = 1;
/// Six times of what it takes on two cores: a machine that needs longer is not building.
const LIMIT: Duration = Duration::from_secs(3600);
/// From here on Go fetches the release a module asks for by itself, as a module with a checksum.
const OLDEST: (u32, u32) = (1, 21);

/// The lock's name, and the beginning of the folders'.
const KIND: &str = "part";

/// One Go module of `tests/parts`.
#[derive(Debug)]
struct Part {
    name: &'static str,
    /// Programs it gives.
    programs: &'static [&'static str],
    packages: &'static [&'static str],
    /// The module that gives the part its version, and the variables into which that is written.
    version_of: &'static str,
    stamps: &'static [&'static str],
    /// Features that are left out, as Tailscale names them.
    omitted: &'static str,
    /// Cold on two cores, as measured; with a warm compiler cache it is a tenth.
    usually: &'static str,
}

/// Features of Tailscale that touch neither routes nor rules nor the resolver: clouds, shares, consoles, updates. A third of its
/// packages goes with them.
const OMITTED: &str = "ace acme appconnectors aws bird capture clientupdate cloud completion conn25 desktop_sessions doctor \
    drive flashappliance identityfederation kube netlog oauthkey outboundproxy posture qrcodes \
    relayserver remoteconfig sdnotify serve ssh synology syspolicy systray taildrop tap tpm wakeonlan \
    webbrowser webclient";

const PARTS: [Part; 3] = [
    Part {
        name: "tailnet",
        programs: &["tailscaled", "tailscale", "control"],
        packages: &["tailscale.com/cmd/tailscaled", "tailscale.com/cmd/tailscale", "./control"],
        version_of: "tailscale.com",
        stamps: &["tailscale.com/version.shortStamp", "tailscale.com/version.longStamp"],
        omitted: OMITTED,
        usually: "3 to 4 min",
    },
    Part {
        name: "coredns",
        programs: &["coredns"],
        packages: &["."],
        version_of: "github.com/coredns/coredns",
        stamps: &[],
        omitted: "",
        usually: "2 to 3 min",
    },
    Part {
        name: "kube",
        programs: &["kube"],
        packages: &["."],
        version_of: "k8s.io/kubernetes",
        stamps: &[
            "k8s.io/component-base/version.gitVersion",
            "k8s.io/client-go/pkg/version.gitVersion",
        ],
        omitted: "",
        usually: "8 to 10 min",
    },
];

/// Where the built programs are.
#[derive(Debug, Clone)]
pub struct Programs(Vec<PathBuf>);

impl Part {
    fn tags(&self) -> String {
        let omit = |feature: &str| format!("ts_omit_{feature}");
        let all: Vec<String> = self.omitted.split_whitespace().map(omit).collect();
        format!("-tags={}", all.join(","))
    }
}

impl Programs {
    /// The file of a program.
    #[must_use]
    pub fn path(&self, program: &str) -> PathBuf {
        let found = self.0.iter().map(|dir| dir.join(program)).find(|p| p.is_file());
        found.unwrap_or_else(|| PathBuf::from(program))
    }
}

/// All parts, those that are missing built now.
pub fn ensure(progress: &Progress, yes: bool) -> Result<Programs> {
    let cache = root::cache()?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("parts");
    let mut dirs = Vec::new();
    let mut missing = Vec::new();
    for part in &PARTS {
        let dir = cache.join(format!("part-{}-{}", part.name, key(part, &sources)?));
        if !part.programs.iter().all(|p| dir.join(p).is_file()) {
            missing.push((part, dir.clone()));
        }
        dirs.push(dir);
    }
    if missing.is_empty() {
        return Ok(Programs(dirs));
    }
    fs::create_dir_all(&cache).doing(|| format!("make {}", cache.display()))?;
    let _lock = root::lock(&cache, KIND, progress)?;
    missing.retain(|(part, dir)| !part.programs.iter().all(|p| dir.join(p).is_file()));
    if !missing.is_empty() {
        let go = go(progress, yes)?;
        root::clear(&cache, KIND)?;
        for (part, dir) in &missing {
            build(part, &sources.join(part.name), dir, &go, progress)?;
        }
    }
    Ok(Programs(dirs))
}

/// A hash of everything in the part's folder and of how it is built.
fn key(part: &Part, sources: &Path) -> Result<String> {
    let mut digest = Sha256::new();
    digest.update(format!("{FORMAT} {} {part:?}", std::env::consts::ARCH));
    let mut files = Vec::new();
    gather(&sources.join(part.name), &mut files)?;
    files.sort();
    for file in files {
        let text = fs::read(&file).doing(|| format!("read {}", file.display()))?;
        let name = file.strip_prefix(sources).unwrap_or(&file).to_string_lossy().into_owned();
        digest.update(format!("\n{name} {}\n", text.len()));
        digest.update(text);
    }
    let short = digest.finalize().iter().take(4).fold(0_u32, |n, b| n << 8 | u32::from(*b));
    Ok(format!("{short:08x}"))
}

fn gather(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let doing = || format!("read {}", dir.display());
    for entry in fs::read_dir(dir).doing(doing)? {
        let path = entry.doing(doing)?.path();
        if path.is_dir() {
            gather(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}

fn build(part: &Part, source: &Path, dir: &Path, go: &Path, progress: &Progress) -> Result<()> {
    let begun = Instant::now();
    let version = version(source, part.version_of)?;
    progress.say(format!(
        "building {} {version} with {} (once; usually {} on two cores, a tenth of that with a warm compiler cache)",
        part.name,
        go.display(),
        part.usually
    ));
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let building = dir.with_file_name(format!("building-{name}"));
    fs::create_dir_all(&building).doing(|| format!("make {}", building.display()))?;
    let total = packages(part, source, go)?;
    let stamps: String = part.stamps.iter().map(|s| format!(" -X {s}={version}")).collect();
    // Tied to our life: when the lab is killed, the compiler does not go on alone.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]);
    command.arg("--mount-proc").arg(go).args(["build", "-v", "-trimpath", "-buildvcs=false"]);
    command
        .arg(part.tags())
        .arg(format!("-ldflags=-s -w{stamps}"))
        .arg("-o")
        .arg(format!("{}/", building.display()));
    command.args(part.packages).current_dir(source).env("CGO_ENABLED", "0").env("GOFLAGS", "");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| format!("run {}", go.display()))?;
    let told = follow(child.stderr.take(), part.name, total, progress);
    let status = run::wait(&mut child, LIMIT).doing(|| "wait for go build".to_owned())?;
    if !status.is_some_and(|s| s.success()) {
        let status = status.map_or_else(|| "no end in an hour".to_owned(), |s| s.to_string());
        let doing = format!("go build {}", part.name);
        return Err(LabError::Tool { doing, status, said: told.join(" | ") });
    }
    fs::rename(&building, dir).doing(|| format!("move a part to {}", dir.display()))?;
    let seconds = begun.elapsed().as_secs();
    progress.say(format!("{} built in {seconds} s, kept in {}", part.name, dir.display()));
    Ok(())
}

/// How many packages there are at most; the first look also fetches the modules.
fn packages(part: &Part, source: &Path, go: &Path) -> Result<usize> {
    let mut command = Command::new(go);
    command.args(["list", "-deps"]).arg(part.tags()).args(part.packages).current_dir(source);
    command.env("CGO_ENABLED", "0").env("GOFLAGS", "");
    let listed = run::run(&mut command, Duration::from_secs(900), None)?.success()?;
    Ok(listed.stdout.lines().count())
}

/// `-v` names each package that is compiled; those the compiler cache has are not named.
fn follow(
    stderr: Option<std::process::ChildStderr>,
    name: &str,
    total: usize,
    progress: &Progress,
) -> Vec<String> {
    let mut spoken = Instant::now();
    let mut last = Vec::new();
    let lines = stderr.map(BufReader::new).into_iter().flat_map(BufRead::lines);
    for (done, line) in lines.map_while(|l| l.ok()).enumerate() {
        progress.pass(format!("{name}: {done} of at most {total} packages: {line}"));
        if !progress.is_live() && spoken.elapsed() > Duration::from_secs(15) {
            progress.say(format!("  {name}: {done} of at most {total} packages"));
            spoken = Instant::now();
        }
        last.push(line);
        if last.len() > 8 {
            last.remove(0);
        }
    }
    last
}

/// The version that go.mod asks for; it stands nowhere else.
pub fn version(source: &Path, module: &str) -> Result<String> {
    let path = source.join("go.mod");
    let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
    let found = text.lines().find_map(|line| {
        let words: Vec<&str> = line.trim_start_matches("require ").split_whitespace().collect();
        (words.first() == Some(&module)).then(|| words.get(1).map(|w| (*w).to_owned()))?
    });
    found.ok_or_else(|| LabError::Refused(format!("{} asks for no {module}", path.display())))
}

/// A Go that can build the parts: one that is there, or the system's package.
fn go(progress: &Progress, yes: bool) -> Result<PathBuf> {
    let near = ["/usr/local/go/bin/go", "/usr/lib/go/bin/go", "/snap/bin/go"].map(PathBuf::from);
    let path = std::env::var("PATH").unwrap_or_default();
    let all = || path.split(':').map(|d| Path::new(d).join("go")).chain(near.iter().cloned());
    let mut seen = Vec::new();
    for go in all().filter(|p| p.is_file()) {
        match release(&go) {
            Some(found) if found >= OLDEST => return Ok(go),
            Some((major, minor)) => seen.push(format!("{} is {major}.{minor}", go.display())),
            None => seen.push(format!("{} does not say its version", go.display())),
        }
    }
    let wanted = format!("{}.{}", OLDEST.0, OLDEST.1);
    let hint = format!("install Go {wanted} or newer from https://go.dev/dl into /usr/local/go");
    let there = if seen.is_empty() { "there is none".to_owned() } else { seen.join(", ") };
    let what = format!("building Kubernetes needs Go {wanted} or newer: {there}");
    if packaged().is_some_and(|p| p >= OLDEST) {
        parts::install(progress, &["golang-go"], yes)?;
        if let Some(go) = all().find(|g| release(g).is_some_and(|r| r >= OLDEST)) {
            return Ok(go);
        }
    }
    Err(LabError::Missing { what, hint })
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

fn parse(version: &str) -> Option<(u32, u32)> {
    let digits = |s: &str| s.chars().take_while(char::is_ascii_digit).collect::<String>();
    let mut parts = version.split('.').map(|p| digits(p).parse::<u32>().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_the_checkout_names_its_version_and_has_its_sums() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("parts");
        for part in &PARTS {
            let dir = sources.join(part.name);
            let version = version(&dir, part.version_of).unwrap();
            assert!(version.starts_with('v') && parse(&version[1..]).is_some(), "{version}");
            assert!(dir.join("go.sum").is_file(), "{}", part.name);
        }
    }

    #[test]
    fn a_changed_source_changes_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join("coredns/inner");
        fs::create_dir_all(&part).unwrap();
        fs::write(part.join("main.go"), "package main").unwrap();
        let first = key(&PARTS[1], dir.path()).unwrap();
        assert_eq!(first, key(&PARTS[1], dir.path()).unwrap());
        fs::write(part.join("main.go"), "package main // x").unwrap();
        assert_ne!(first, key(&PARTS[1], dir.path()).unwrap());
    }

    #[test]
    fn releases_are_read_from_gos_own_words_and_from_debians() {
        assert_eq!(parse("1.26.8"), Some((1, 26)));
        assert_eq!(parse("1.24rc1"), Some((1, 24)));
        assert_eq!(parse("1.19~1"), Some((1, 19)));
        assert_eq!(parse("(none)"), None);
    }
}
