//! What the machine must have before a lab can stand on it: looked for, explained, and installed when allowed.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::{Doing, LabError, Result};
use crate::progress::Progress;
use crate::run;

/// A package, the program that shows it is there, and what the lab needs it for.
#[derive(Debug)]
struct Part {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const PARTS: [Part; 11] = [
    Part {
        program: "ip",
        package: "iproute2",
        why: "makes the network namespaces and the wires between them",
    },
    Part { program: "nsenter", package: "util-linux", why: "enters the namespaces" },
    Part { program: "systemd-nspawn", package: "systemd-container", why: "boots the nodes" },
    Part {
        program: "debootstrap",
        package: "debootstrap",
        why: "builds the Debian root they boot from",
    },
    Part {
        program: "iptables-nft-save",
        package: "iptables",
        why: "loads the kernel's netfilter, which containers share",
    },
    Part { program: "mkfs.ext4", package: "e2fsprogs", why: "makes a disk that freezes" },
    Part { program: "losetup", package: "mount", why: "makes a disk of a file" },
    Part { program: "nft", package: "nftables", why: "shows native rules to the tests" },
    Part { program: "ssh", package: "openssh-client", why: "reaches nodes as an operator does" },
    Part { program: "ping", package: "iputils-ping", why: "looks at nodes from the laptop" },
    Part {
        program: "conntrack",
        package: "conntrack",
        why: "shows tracked connections to the tests",
    },
];

#[must_use]
pub fn is_there(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    path.split(':').chain(system).any(|dir| Path::new(dir).join(program).is_file())
}

/// Sees to it that all parts are there. Nothing is installed without a yes: `--yes`, `CI=true`, or an answer.
pub fn ensure(progress: &Progress, yes: bool) -> Result<()> {
    let missing: Vec<&Part> = PARTS.iter().filter(|p| !is_there(p.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    progress.say("the lab needs packages that are not installed:");
    for part in &missing {
        progress.say(format!("  {:<18} {}", part.package, part.why));
    }
    let names: Vec<&str> = missing.iter().map(|p| p.package).collect();
    install(progress, &names, yes)?;
    match missing.iter().find(|p| !is_there(p.program)) {
        None => Ok(()),
        Some(part) => Err(LabError::Missing {
            what: format!(
                "{} was installed, but there is no program {}",
                part.package, part.program
            ),
            hint: "install a package that has it".to_owned(),
        }),
    }
}

/// Installs packages of the system, if that is allowed.
pub(crate) fn install(progress: &Progress, names: &[&str], yes: bool) -> Result<()> {
    let by_hand = format!("apt-get install --no-install-recommends {}", names.join(" "));
    if !is_there("apt-get") {
        return Err(LabError::Missing {
            what: format!(
                "this system has no apt-get; the lab cannot install: {}",
                names.join(", ")
            ),
            hint:
                "install them with the system's own tool (names are Debian's), then run this again"
                    .to_owned(),
        });
    }
    if !(yes || progress.ask(&format!("install them now ({by_hand})?"))) {
        let what = "packages are missing and were not allowed to be installed".to_owned();
        return Err(LabError::Missing { what, hint: format!("--yes, or: {by_hand}") });
    }
    apt(progress, &["update"])?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(names);
    apt(progress, &install)
}

fn apt(progress: &Progress, args: &[&str]) -> Result<()> {
    progress.say(format!("apt-get {}", args.join(" ")));
    let mut command = Command::new("apt-get");
    command.args(["-q", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"]).args(args);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    // apt writes to our stderr itself, not into a pipe of ours: killed with us, it would leave dpkg half configured.
    let doing = || format!("run apt-get {}", args.join(" "));
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().doing(doing)?;
    let mut child = command.stdout(stderr).spawn().doing(doing)?;
    let limit = Duration::from_secs(900);
    match run::wait(&mut child, limit).doing(doing)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(LabError::Tool {
            doing: doing(),
            status: status.to_string(),
            said: "see above".to_owned(),
        }),
        None => Err(LabError::TimedOut { doing: doing(), after: limit }),
    }
}

/// Refuses early and clearly what would fail late and strangely.
pub fn check_machine() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::Missing {
            what: "the lab makes namespaces and boots containers: it must run as root".to_owned(),
            hint: "sudo --preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME cargo lab ...".to_owned(),
        });
    }
    let tun = "/dev/net/tun";
    if !Path::new(tun).exists() {
        return Err(LabError::Missing {
            what: format!("there is no {tun}: an exit node's device could not be made"),
            hint: "modprobe tun".to_owned(),
        });
    }
    let text = std::fs::read_to_string("/proc/filesystems")
        .doing(|| "read /proc/filesystems".to_owned())?;
    if !text.contains("\toverlay") {
        // Not fatal by itself: the kernel loads the module at the first mount when it has one.
        run::host("modprobe", &["overlay"]).ok();
    }
    Ok(())
}
