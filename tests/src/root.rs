//! The Debian root that nodes boot from: built once by debootstrap, kept in a cache outside the checkout.
//!
//! It is of the host's own release, so that programs built here find their libc there.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::error::{Doing, LabError, Result};
use crate::progress::Progress;
use crate::state::Gear;
use crate::{fetching, run};

/// Raised when the way the root is made changes in a way the package list does not show.
const FORMAT: u32 = 1;
const LIMIT: Duration = Duration::from_secs(900);
/// Another lab may be building it, or Kubernetes.
const LOCK_LIMIT: Duration = Duration::from_secs(3600);
/// Roots and parts have a lock each: nobody who wants a root waits for Kubernetes.
const KIND: &str = "root";

/// What a node of the real gear has besides.
const REAL_PACKAGES: [&str; 6] =
    ["containerd", "runc", "containernetworking-plugins", "socat", "ipset", "openssh-server"];

const PACKAGES: [&str; 17] = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "iproute2",
    "iptables",
    "nftables",
    "procps",
    "iputils-ping",
    "netcat-openbsd",
    "curl",
    "ca-certificates",
    "kmod",
    "conntrack",
    "ethtool",
    "busybox-static",
    "jq",
    "util-linux",
];

/// What is built, and from where.
#[derive(Debug)]
struct Recipe {
    id: String,
    codename: String,
    mirror: String,
    packages: Vec<&'static str>,
}

/// The root, built if it is not there yet.
pub fn ensure(gear: Gear, progress: &Progress) -> Result<PathBuf> {
    let recipe = Recipe::of_host(gear)?;
    let cache = cache()?;
    let root = cache.join(format!("root-{}", recipe.key()));
    if root.join("usr/lib/systemd/systemd").is_file() {
        return Ok(root);
    }
    fs::create_dir_all(&cache).doing(|| format!("make {}", cache.display()))?;
    let _lock = lock(&cache, KIND, progress)?;
    if root.join("usr/lib/systemd/systemd").is_file() {
        return Ok(root);
    }
    progress.say(format!(
        "building the nodes' Debian root ({}, about {} MB, once; usually {} s) from {}",
        recipe.codename,
        if gear == Gear::Real { 580 } else { 280 },
        if gear == Gear::Real { "80 to 100" } else { "40 to 60" },
        recipe.mirror
    ));
    let building = cache.join(format!("building-root-{}", recipe.key()));
    fetching::patiently("debootstrap", progress, || {
        // What a try has left half done is no beginning for the next.
        clear(&cache, KIND)?;
        build(&recipe, &building, progress)
    })?;
    fs::rename(&building, &root).doing(|| format!("move the root to {}", root.display()))?;
    progress.say(format!("the root is kept in {}", root.display()));
    Ok(root)
}

/// Folder for what is dear to build; `XDG_CACHE_HOME` decides as everywhere.
pub fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".cache")))
        .ok_or_else(|| LabError::Missing {
            what: "find a cache folder: neither XDG_CACHE_HOME nor HOME is set".to_owned(),
            hint: "set one of them".to_owned(),
        })?;
    Ok(base.join("lifeline"))
}

/// Waits until nobody else builds something of that kind here: it would be the same.
pub(crate) fn lock(cache: &Path, kind: &str, progress: &Progress) -> Result<File> {
    let path = cache.join(format!("lock-{kind}"));
    let doing = || format!("lock {}", path.display());
    let file = File::create(&path).doing(doing)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error).doing(doing),
            Err(TryLockError::WouldBlock) if begun.elapsed() > LOCK_LIMIT => {
                return Err(LabError::TimedOut { doing: doing(), after: LOCK_LIMIT });
            }
            Err(TryLockError::WouldBlock) => {
                progress.pass(format!("{kind}: another lab is building it"));
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

/// Whether somebody builds something of that kind here just now.
pub(crate) fn is_locked(cache: &Path, kind: &str) -> Result<bool> {
    let path = cache.join(format!("lock-{kind}"));
    let doing = || format!("lock {}", path.display());
    match File::open(&path) {
        Ok(file) => match file.try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error).doing(doing),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).doing(doing),
    }
}

/// Removes what builds that were cut off have left, unless somebody builds just now.
pub fn clear_unfinished() -> Result<()> {
    let cache = cache()?;
    for kind in [KIND, "part"] {
        if let Ok(file) = File::open(cache.join(format!("lock-{kind}")))
            && file.try_lock().is_ok()
        {
            clear(&cache, kind)?;
        }
    }
    Ok(())
}

/// A folder in building is nothing yet; the next build starts anew. For the holder of that kind's lock.
pub(crate) fn clear(cache: &Path, kind: &str) -> Result<()> {
    let Ok(entries) = fs::read_dir(cache) else { return Ok(()) };
    let unfinished = format!("building-{kind}-");
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&unfinished) {
            let path = entry.path();
            fs::remove_dir_all(&path).doing(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

impl Recipe {
    fn of_host(gear: Gear) -> Result<Self> {
        let text =
            fs::read_to_string("/etc/os-release").doing(|| "read /etc/os-release".to_owned())?;
        let field = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
            line.map(|v| v.trim_matches('"').to_owned())
        };
        let (Some(id), Some(codename)) = (field("ID"), field("VERSION_CODENAME")) else {
            return Err(LabError::Missing {
                what: "build a root of this system's own release: /etc/os-release names no VERSION_CODENAME"
                    .to_owned(),
                hint: "run the lab on Debian or Ubuntu".to_owned(),
            });
        };
        let mirror = mirror(&sources()?, &codename).ok_or_else(|| LabError::Missing {
            what: format!(
                "find a mirror for {codename} in /etc/apt/sources.list and sources.list.d"
            ),
            hint: format!("add a `deb` line for {codename} main"),
        })?;
        let mut packages = PACKAGES.to_vec();
        match gear {
            Gear::Quick => packages.push("openssh-server"),
            Gear::Real => packages.extend(REAL_PACKAGES),
        }
        Ok(Self { id, codename, mirror, packages })
    }

    fn key(&self) -> String {
        let text = format!(
            "{FORMAT} {} {} {}",
            self.codename,
            std::env::consts::ARCH,
            self.packages.join(" ")
        );
        let digest = Sha256::digest(text);
        let short = digest.iter().take(4).fold(0_u32, |n, b| n << 8 | u32::from(*b));
        format!("{}-{short:08x}", self.codename)
    }

    fn components(&self) -> &'static str {
        if self.id == "ubuntu" { "main,universe" } else { "main" }
    }
}

fn sources() -> Result<Vec<String>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|e| e.path()));
    }
    files.sort();
    let mut texts = Vec::new();
    for file in files.iter().filter(|f| f.is_file()) {
        texts.push(fs::read_to_string(file).doing(|| format!("read {}", file.display()))?);
    }
    Ok(texts)
}

/// The first mirror that has `codename` itself, in apt's one-line or its deb822 form.
fn mirror(texts: &[String], codename: &str) -> Option<String> {
    let usable = |uri: &str| {
        uri.starts_with("http://") || uri.starts_with("https://") || uri.starts_with("file:")
    };
    for text in texts {
        for line in text.lines() {
            if line.split_whitespace().next() != Some("deb") {
                continue;
            }
            let rest: Vec<&str> = line.split_whitespace().skip(1).collect();
            let Some(at) = rest.iter().position(|w| usable(w)) else { continue };
            if rest.get(at + 1) == Some(&codename) {
                return Some(rest[at].to_owned());
            }
        }
        for stanza in text.split("\n\n") {
            let field =
                |name: &str| stanza.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            let suites = field("Suites").unwrap_or_default();
            if suites.split_whitespace().any(|s| s == codename) {
                let uri = field("URIs").unwrap_or_default().split_whitespace().find(|u| usable(u));
                if let Some(uri) = uri {
                    return Some(uri.to_owned());
                }
            }
        }
    }
    None
}

/// Runs debootstrap in namespaces of its own, tied to our life: when the lab is killed, nothing of it goes on, and its
/// mounts go with it.
fn build(recipe: &Recipe, into: &Path, progress: &Progress) -> Result<()> {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command.args(["debootstrap", "--variant=minbase"]);
    command.arg(format!("--include={}", recipe.packages.join(",")));
    command.arg(format!("--components={}", recipe.components()));
    command.arg(&recipe.codename).arg(into).arg(&recipe.mirror);
    if let Some(proxy) = apt_proxy() {
        command.env("http_proxy", proxy);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| "run debootstrap".to_owned())?;
    let stderr = child.stderr.take();
    let said = std::thread::spawn(move || {
        let mut tail = Vec::new();
        for line in
            stderr.map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(|l| l.ok())
        {
            tail.push(line);
        }
        tail
    });
    let told = follow(child.stdout.take(), progress);
    let status = run::wait(&mut child, LIMIT).doing(|| "wait for debootstrap".to_owned())?;
    if status.is_some_and(|s| s.success()) {
        return tidy(into);
    }
    let mut lines = told;
    lines.extend(said.join().unwrap_or_default());
    let last = lines[lines.len().saturating_sub(4)..].join(" | ");
    let status = status.map_or_else(|| "no end in 15 min".to_owned(), |s| s.to_string());
    Err(LabError::Tool { doing: format!("debootstrap {}", recipe.codename), status, said: last })
}

fn follow(stdout: Option<std::process::ChildStdout>, progress: &Progress) -> Vec<String> {
    let begun = Instant::now();
    let mut spoken = begun;
    let mut last = Vec::new();
    for line in
        stdout.map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(|l| l.ok())
    {
        let text = line.trim_start_matches("I: ").to_owned();
        progress.pass(format!("root: {text}"));
        if !progress.is_live() && spoken.elapsed() > Duration::from_secs(10) {
            progress.say(format!("  root: {text}"));
            spoken = Instant::now();
        }
        last.push(text);
        if last.len() > 8 {
            last.remove(0);
        }
    }
    last
}

fn apt_proxy() -> Option<String> {
    let out = run::host("apt-config", &["shell", "P", "Acquire::http::Proxy"]).ok()?;
    let value = out.stdout.trim().strip_prefix("P=")?.trim_matches('\'').to_owned();
    (!value.is_empty() && value != "DIRECT").then_some(value)
}

/// Takes away what only apt needs, and the identity that each node must get for itself.
fn tidy(root: &Path) -> Result<()> {
    for dir in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        let path = root.join(dir);
        fs::remove_dir_all(&path).doing(|| format!("remove {}", path.display()))?;
        fs::create_dir_all(&path).doing(|| format!("make {}", path.display()))?;
    }
    for file in ["etc/machine-id", "etc/hostname", "etc/resolv.conf"] {
        match fs::remove_file(root.join(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).doing(|| format!("remove {file} of the root"));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_of_a_one_line_source_is_found_with_and_without_options() {
        let plain = "# c\ndeb http://a.example/debian bookworm main\n".to_owned();
        assert_eq!(mirror(&[plain], "bookworm").unwrap(), "http://a.example/debian");
        let options =
            "deb [arch=amd64 signed-by=/k.gpg] https://b.example/debian bookworm main".to_owned();
        assert_eq!(mirror(&[options], "bookworm").unwrap(), "https://b.example/debian");
    }

    #[test]
    fn the_mirror_of_a_deb822_source_is_found() {
        let text = "Types: deb\nURIs: http://s.example/x\nSuites: bookworm-security\n\n\
                    Types: deb\n# was http://old\nURIs: http://a.example/debian\nSuites: bookworm bookworm-updates\n";
        assert_eq!(mirror(&[text.to_owned()], "bookworm").unwrap(), "http://a.example/debian");
    }

    #[test]
    fn a_source_of_another_suite_or_of_a_disc_is_no_mirror() {
        let text =
            "deb cdrom:[x]/ bookworm main\ndeb http://a.example/debian bookworm-updates main\n";
        assert_eq!(mirror(&[text.to_owned()], "bookworm"), None);
    }
}
