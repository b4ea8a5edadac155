//! The tailnet beyond the gateway: coordination, DERP and STUN on one machine, and on the same machine the exit node, a real
//! tailscaled.
//!
//! The exit node forwards nothing: as in the incident, what is sent to it never reaches the cluster. It runs in namespaces of
//! its own and is shown a resolv.conf of its own, so that it has no way to the machine's.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::disk::Layer;
use crate::error::{Doing, LabError, Result};
use crate::names;
use crate::progress::Progress;
use crate::run::{self, Output};
use crate::space::Space;
use crate::topology::{self, HOME, Kind, Machine};

/// The machine with the middle of the tailnet and its exit node.
pub static EXIT: Machine =
    Machine { name: "exit", net: &HOME, host: 30, kind: Kind::Bystander, pods: 0 };

/// What a peer advertises in the incident's second form: services, the node's own LAN, the other worker's pods.
pub const OVERLAP: &str = "10.43.0.0/16,192.168.2.0/24,10.42.2.0/24";

/// What the tailnet hands out as its resolver; nobody answers there.
const RESOLVER: &str = "198.51.100.53";
const LIMIT: Duration = Duration::from_secs(30);

/// Where nodes log in.
#[must_use]
pub fn login_server() -> String {
    format!("http://{}:8080", EXIT.v4())
}

fn dir() -> PathBuf {
    names::state_dir().join("tailnet")
}

/// A log file of the exit machine.
#[must_use]
pub fn log(part: &str) -> PathBuf {
    dir().join(format!("{part}.log"))
}

/// Raises machine, middle and exit node.
pub fn raise(progress: &Progress) -> Result<()> {
    topology::wire(&EXIT)?;
    let state = dir().join("state");
    fs::create_dir_all(&state).doing(|| format!("make {}", state.display()))?;
    let resolv = dir().join("resolv.conf");
    fs::write(&resolv, "nameserver 198.51.100.1\n")
        .doing(|| format!("write {}", resolv.display()))?;
    let address = EXIT.v4().to_string();
    // A resolver of its own is taken by those alone that accept the tailnet's DNS.
    let control = [program("control"), "-ip".to_owned(), address, "-dns".to_owned()];
    start("control", &[&control[..], &[RESOLVER.to_owned()]].concat())?;
    let daemon = format!(
        "mount --bind {} /etc/resolv.conf; [ ! -d /run/dbus ] || mount -t tmpfs none /run/dbus; \
         exec {} --state={}/state --statedir={} --socket={} --tun=tailscale0 --no-logs-no-support",
        resolv.display(),
        program("tailscaled"),
        state.display(),
        state.display(),
        socket()
    );
    let own = ["unshare", "--mount", "--propagation", "private", "sh", "-e", "-c", &daemon];
    start("tailscaled", &own.map(str::to_owned))?;
    let login = format!("--login-server={}", login_server());
    let up = ["up", &login, "--advertise-exit-node", "--accept-dns=false", "--hostname=exit"];
    let begun = Instant::now();
    loop {
        let out = tailscale(&up)?;
        if out.ok() {
            break;
        }
        if begun.elapsed() > LIMIT {
            return out.success().map(drop);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    progress.say(format!(
        "tailnet: {} is coordination server and exit node {}",
        EXIT.v4(),
        exit()?
    ));
    Ok(())
}

/// The exit node's address in the tailnet.
pub fn exit() -> Result<String> {
    let said = tailscale(&["ip", "-4"])?.success()?.stdout;
    Ok(said.trim().to_owned())
}

/// Has the exit node advertise routes (besides being one), or none.
pub fn advertise(routes: &str) -> Result<()> {
    tailscale(&["set", &format!("--advertise-routes={routes}"), "--advertise-exit-node"])?
        .success()
        .map(drop)
}

/// `tailscale` for the exit node.
pub fn tailscale(args: &[&str]) -> Result<Output> {
    let mut argv = vec![program("tailscale"), format!("--socket={}", socket())];
    argv.extend(args.iter().map(|a| (*a).to_owned()));
    Space { name: EXIT.name.to_owned() }.exec_within(&argv, LIMIT)
}

fn socket() -> String {
    dir().join("tailscaled.sock").display().to_string()
}

fn program(name: &str) -> String {
    Layer::common().path(&format!("/opt/tailnet/{name}")).display().to_string()
}

/// Starts a program on the machine; it is found again by its network namespace.
fn start(part: &str, argv: &[String]) -> Result<()> {
    let path = log(part);
    let file = File::create(&path).doing(|| format!("make {}", path.display()))?;
    let again = file.try_clone().doing(|| format!("open {}", path.display()))?;
    let inner = Space { name: EXIT.name.to_owned() }.command(argv);
    let mut command = Command::new("setsid");
    command.arg("--fork").arg(inner.get_program()).args(inner.get_args());
    command.stdin(Stdio::null()).stdout(file).stderr(again);
    let status = command.status().doing(|| format!("start {part}"))?;
    if status.success() {
        return Ok(());
    }
    let said = run::host("tail", &["-n", "3", &path.to_string_lossy()])?.stdout;
    Err(LabError::Tool { doing: format!("start {part}"), status: status.to_string(), said })
}
