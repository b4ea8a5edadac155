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

use super::go;
use crate::error::{Doing, LabError, Result};
use crate::progress::Progress;
use crate::{fetching, root, run};

/// Raised when the way a part is built changes in a way its files do not show.
const FORMAT: u32 = 1;
/// Six times of what it takes on two cores: a machine that needs longer is not building.
const LIMIT: Duration = Duration::from_secs(3600);

/// Whatever the machine's own settings are. Debian's Go is set to fetch no newer one by itself.
const ENVIRONMENT: [(&str, &str); 3] =
    [("CGO_ENABLED", "0"), ("GOFLAGS", ""), ("GOTOOLCHAIN", "auto")];

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

/// Kubernetes first: tests of the workspace wait for it alone.
const PARTS: [Part; 3] = [
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

/// The file of a program, if its part has been built on this machine.
pub fn built(program: &str) -> Result<Option<PathBuf>> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("parts");
    let Some(part) = PARTS.iter().find(|p| p.programs.contains(&program)) else { return Ok(None) };
    let file =
        root::cache()?.join(format!("part-{}-{}", part.name, key(part, &sources)?)).join(program);
    Ok(file.is_file().then_some(file))
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
        let go = go::ensure(&newest(&sources)?, progress, yes)?;
        root::clear(&cache, KIND)?;
        for (part, dir) in &missing {
            build(part, &sources.join(part.name), dir, &go, progress)?;
        }
    }
    Ok(Programs(dirs))
}

/// The file of one program, whoever builds it: who needs no other part does not wait for one.
pub fn ensure_one(program: &str, progress: &Progress, yes: bool) -> Result<PathBuf> {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(found) = built(program)? {
            return Ok(found);
        }
        if !root::is_locked(&root::cache()?, KIND)? {
            return Ok(ensure(progress, yes)?.path(program));
        }
        if Instant::now() > until {
            let doing = format!("wait until somebody else has built {program}");
            return Err(LabError::TimedOut { doing, after: LIMIT });
        }
        std::thread::sleep(Duration::from_millis(500));
    }
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
    let total =
        fetching::patiently("fetching its modules", progress, || packages(part, source, go))?;
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
    command.args(part.packages).current_dir(source).envs(ENVIRONMENT);
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
    command.envs(ENVIRONMENT);
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

/// The newest Go release that a part asks for.
fn newest(sources: &Path) -> Result<String> {
    let mut asked = Vec::new();
    for part in &PARTS {
        asked.push(version(&sources.join(part.name), "go")?);
    }
    let number = |v: &String| v.split('.').map(|n| n.parse().unwrap_or(0)).collect::<Vec<u32>>();
    Ok(asked.into_iter().max_by_key(number).unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_the_checkout_names_its_version_and_has_its_sums() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("parts");
        for part in &PARTS {
            let dir = sources.join(part.name);
            let version = version(&dir, part.version_of).unwrap();
            assert!(version.starts_with('v') && go::parse(&version[1..]).is_some(), "{version}");
            assert!(dir.join("go.sum").is_file(), "{}", part.name);
        }
    }

    #[test]
    fn a_changed_source_changes_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join("coredns/inner");
        fs::create_dir_all(&part).unwrap();
        fs::write(part.join("main.go"), "package main").unwrap();
        let coredns = PARTS.iter().find(|p| p.name == "coredns").unwrap();
        let first = key(coredns, dir.path()).unwrap();
        assert_eq!(first, key(coredns, dir.path()).unwrap());
        fs::write(part.join("main.go"), "package main // x").unwrap();
        assert_ne!(first, key(coredns, dir.path()).unwrap());
    }

    #[test]
    fn the_newest_release_any_part_asks_for_is_asked_for() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("parts");
        let newest = newest(&sources).unwrap();
        assert!(go::parse(&newest).is_some_and(|v| v >= (1, 26)), "{newest}");
    }
}
