//! Gives the nodes their agent and the laptop its operator, with the product's own commands.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disk::Layer;
use crate::error::{Doing, LabError, Result};
use crate::names;
use crate::pki::Authority;
use crate::progress::Progress;
use crate::run::{self, LIMIT};
use crate::topology::{self, API, Kind, Machine};

/// What the agent's messages mean, for `journalctl -x`.
const CATALOG: &str = include_str!("../../systemd/lifeline.catalog");

/// The operator's files on the laptop.
#[must_use]
pub fn operator_dir() -> PathBuf {
    names::state_dir().join("operator")
}

/// Puts certificates and configuration on the workers' disks and the laptop, and the agent's unit on the workers. Says no
/// when this checkout has no agent unit.
pub fn install(mode: &str, authority: &Authority, progress: &Progress) -> Result<bool> {
    let unit = unit()?;
    let ca = names::state_dir().join("pki");
    pki(&["init", "--cluster", "lab", "--dir", &ca.to_string_lossy()])?;
    let workers = || topology::nodes().filter(|m| m.kind == Kind::Worker);
    for machine in workers() {
        configure(machine, mode, &ca)?;
        if let Some(unit) = &unit {
            let layer = Layer::own(machine.name);
            layer.write("/etc/systemd/system/lifeline-agent.service", unit)?;
            layer.enable("lifeline-agent.service")?;
            layer.write("/usr/local/lib/systemd/catalog/lifeline.catalog", CATALOG)?;
        }
    }
    configure_operator(&ca, authority, workers())?;
    if unit.is_none() {
        progress.say("no systemd/lifeline-agent.service in this checkout: nodes have no agent");
    }
    Ok(unit.is_some())
}

/// The product's own unit file, from the checkout.
fn unit() -> Result<Option<Vec<u8>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/lifeline-agent.service");
    match fs::read(&path) {
        Ok(unit) => Ok(Some(unit)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing(|| format!("read {}", path.display())),
    }
}

fn configure(machine: &Machine, mode: &str, ca: &Path) -> Result<()> {
    let layer = Layer::own(machine.name);
    let address = machine.v4().to_string();
    let out = names::state_dir().join("pki-nodes").join(machine.name);
    let (ca, made) = (ca.to_string_lossy(), out.to_string_lossy());
    pki(&["agent", machine.name, "--address", &address, "--dir", &ca, "--out", &made])?;
    for file in ["agent.crt", "agent.key", "ca.crt"] {
        let path = out.join(file);
        let bytes = fs::read(&path).doing(|| format!("read {}", path.display()))?;
        layer.write_secret(&format!("/etc/lifeline/{file}"), bytes)?;
    }
    layer.write(
        "/etc/lifeline/agent.toml",
        format!(
            "cluster = \"lab\"\nlisten = \"{address}:7443\"\n\n[tls]\nca = \"/etc/lifeline/ca.crt\"\n\
             cert = \"/etc/lifeline/agent.crt\"\nkey = \"/etc/lifeline/agent.key\"\n\n[policy]\nmode = \"{mode}\"\n"
        ),
    )
}

fn configure_operator<'a>(
    ca: &Path,
    authority: &Authority,
    workers: impl Iterator<Item = &'a Machine>,
) -> Result<()> {
    let dir = operator_dir();
    let (ca, out) = (ca.to_string_lossy(), dir.to_string_lossy());
    pki(&["operator", "alice", "--role", "operator", "--dir", &ca, "--out", &out])?;
    let kubeconfig = dir.join("kubeconfig");
    secret(&kubeconfig, &kubeconfig_text(&dir, authority)?)?;
    let mut text = format!(
        "cluster = \"lab\"\nkubeconfig = \"{}\"\n\n[tls]\nca = \"{out}/ca.crt\"\ncert = \"{out}/operator.crt\"\n\
         key = \"{out}/operator.key\"\n",
        kubeconfig.display()
    );
    for machine in workers {
        text.push_str(&format!("\n[nodes.{}]\naddresses = [\"{}\"]\n", machine.name, machine.v4()));
    }
    secret(&dir.join("ctl.toml"), &text)
}

fn kubeconfig_text(dir: &Path, authority: &Authority) -> Result<String> {
    let pair = authority.admin()?;
    for (file, text) in [
        ("admin.crt", pair.certificate),
        ("admin.key", pair.key),
        ("server-ca.crt", authority.server_ca()),
    ] {
        secret(&dir.join(file), &text)?;
    }
    let dir = dir.display();
    Ok(format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\nclusters:\n- name: lab\n  cluster:\n    \
         server: https://{API}\n    certificate-authority: {dir}/server-ca.crt\nusers:\n- name: lab\n  user:\n    \
         client-certificate: {dir}/admin.crt\n    client-key: {dir}/admin.key\ncontexts:\n- name: lab\n  context:\n    \
         cluster: lab\n    user: lab\n"
    ))
}

fn secret(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).doing(|| format!("make {}", dir.display()))?;
    }
    fs::write(path, text).doing(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .doing(|| format!("set the mode of {}", path.display()))
}

fn pki(args: &[&str]) -> Result<()> {
    let ctl = Layer::common().path("/usr/local/bin/ctl");
    let mut command = Command::new(&ctl);
    let done = run::run(command.arg("pki").args(args), LIMIT, None)?.success();
    done.map(drop)
        .map_err(|cause| LabError::Refused(format!("make the lab's certificates: {cause}")))
}
