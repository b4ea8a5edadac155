//! The nodes' disks: the Debian root below, a layer that all nodes share, and on top what each node writes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount as mount_fs};

use crate::error::{Doing, LabError, Result};
use crate::pki::Authority;
use crate::state::Gear;
use crate::topology::{API, Kind, Machine};
use crate::{names, real};

/// Programs of the workspace that go to every node.
pub const PROGRAMS: [&str; 3] = ["lab", "lifeline-agent", "ctl"];

/// Units that are of no use in a container, are slow there, or show the host's kernel.
const MASKED: [&str; 20] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "kmod-static-nodes.service",
    "nftables.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-hwdb-update.service",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-pcrphase.service",
    "systemd-update-utmp.service",
];

/// A folder that becomes a part of a node's disk.
#[derive(Debug, Clone)]
pub struct Layer(PathBuf);

impl Layer {
    /// What all nodes share.
    #[must_use]
    pub fn common() -> Self {
        Self(names::disks_dir().join("common"))
    }

    /// What one node has written, or finds written for it.
    #[must_use]
    pub fn own(name: &str) -> Self {
        Self(names::disks_dir().join(name).join("upper"))
    }

    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) -> Result<()> {
        self.put(path, text.as_ref(), 0o644)
    }

    pub fn write_secret(&self, path: &str, text: impl AsRef<[u8]>) -> Result<()> {
        self.put(path, text.as_ref(), 0o600)
    }

    fn put(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let full = self.folder_of(path)?;
        fs::write(&full, bytes).doing(|| format!("write {}", full.display()))?;
        fs::set_permissions(&full, fs::Permissions::from_mode(mode))
            .doing(|| format!("set the mode of {}", full.display()))
    }

    pub fn link(&self, path: &str, to: &str) -> Result<()> {
        let full = self.folder_of(path)?;
        symlink(to, &full).doing(|| format!("link {}", full.display()))
    }

    /// Has systemd start `unit` at boot, as `systemctl enable` would.
    pub fn enable(&self, unit: &str) -> Result<()> {
        let wanted = format!("/etc/systemd/system/multi-user.target.wants/{unit}");
        self.link(&wanted, &format!("/etc/systemd/system/{unit}"))
    }

    pub(crate) fn folder_of(&self, path: &str) -> Result<PathBuf> {
        let full = self.path(path);
        if let Some(dir) = full.parent() {
            fs::create_dir_all(dir).doing(|| format!("make {}", dir.display()))?;
        }
        Ok(full)
    }
}

/// Mounts a node's disk (in the caller's own mount namespace) and says where.
pub fn mount(name: &str, root: &Path) -> Result<PathBuf> {
    let dir = names::disks_dir().join(name);
    for part in ["upper", "work", "root"] {
        fs::create_dir_all(dir.join(part)).doing(|| format!("make {}/{part}", dir.display()))?;
    }
    let at = dir.join("root");
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        Layer::common().0.display(),
        root.display(),
        dir.join("upper").display(),
        dir.join("work").display()
    );
    mount_fs(Some("overlay"), &at, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .doing(|| format!("mount the disk of {name} ({options})"))?;
    Ok(at)
}

/// Writes the layer that all nodes share.
pub fn write_common(binaries: &Path, gear: Gear) -> Result<()> {
    let layer = Layer::common();
    for program in PROGRAMS {
        let from = binaries.join(program);
        let to = layer.folder_of(&format!("/usr/local/bin/{program}"))?;
        fs::copy(&from, &to).doing(|| format!("copy {}", from.display()))?;
    }
    // The stand-ins are known by the name of their executable, as the originals are. Copies, because an executable is
    // also told from others by its inode.
    for name in ["/usr/local/bin/k3s", "/opt/tailscale/tailscaled"] {
        let (lab, to) = (layer.path("/usr/local/bin/lab"), layer.folder_of(name)?);
        fs::copy(&lab, &to).doing(|| format!("copy {} to {}", lab.display(), to.display()))?;
    }
    for unit in MASKED {
        layer.link(&format!("/etc/systemd/system/{unit}"), "/dev/null")?;
    }
    if gear == Gear::Quick {
        layer.write(
            "/etc/systemd/system/lab-furniture.service",
            include_str!("units/furniture.service"),
        )?;
        layer.write("/etc/systemd/system/pod1.service", include_str!("units/pod1.service"))?;
        layer.enable("pod1.service")?;
    }
    layer.write("/etc/systemd/journald.conf.d/lab.conf", include_str!("units/journald.conf"))?;
    layer.enable("lab-furniture.service")?;
    let journal = layer.path("/var/log/journal");
    fs::create_dir_all(&journal).doing(|| format!("make {}", journal.display()))?;
    layer.write("/etc/resolv.conf", "nameserver 192.168.2.1\nsearch lab.example\n")
}

/// Writes what makes a disk this node's: its identity, and the files k3s keeps on such a node.
pub fn write_own(machine: &Machine, authority: &Authority, gear: Gear) -> Result<()> {
    let layer = Layer::own(machine.name);
    let name = machine.name;
    layer.write("/etc/hostname", format!("{name}\n"))?;
    layer.write("/etc/machine-id", format!("{}\n", machine_id(name)))?;
    layer.write(
        "/etc/hosts",
        format!("127.0.0.1 localhost\n::1 localhost\n{} {name}\n", machine.v4()),
    )?;
    layer.write("/srv/pod1/index.html", format!("{name}\n"))?;
    match machine.kind {
        Kind::Server if gear == Gear::Real => real::disk::write_server(&layer, machine, authority),
        Kind::Server => write_server(&layer, authority),
        Kind::Worker => {
            write_worker(&layer, machine, authority)?;
            if gear == Gear::Real {
                real::disk::write_worker(&layer, machine, authority)?;
            }
            Ok(())
        }
        Kind::Bystander => Err(LabError::Refused(format!("{name} has no disk"))),
    }
}

fn write_server(layer: &Layer, authority: &Authority) -> Result<()> {
    let tls = "/var/lib/rancher/k3s/server/tls";
    layer.write(&format!("{tls}/server-ca.crt"), authority.server_ca())?;
    layer.write(&format!("{tls}/client-ca.crt"), authority.client_ca())?;
    let pair = authority.api_server()?;
    layer.write(&format!("{tls}/serving-kube-apiserver.crt"), pair.certificate)?;
    layer.write_secret(&format!("{tls}/serving-kube-apiserver.key"), pair.key)?;
    layer.write(
        "/etc/systemd/system/kube-apiserver-standin.service",
        include_str!("units/kube-apiserver-standin.service"),
    )?;
    layer.enable("kube-apiserver-standin.service")
}

fn write_worker(layer: &Layer, machine: &Machine, authority: &Authority) -> Result<()> {
    let agent = "/var/lib/rancher/k3s/agent";
    let pair = authority.kubelet(machine.name)?;
    layer.write(&format!("{agent}/server-ca.crt"), authority.server_ca())?;
    layer.write(&format!("{agent}/client-ca.crt"), authority.client_ca())?;
    layer.write(&format!("{agent}/client-kubelet.crt"), pair.certificate)?;
    layer.write_secret(&format!("{agent}/client-kubelet.key"), pair.key)?;
    layer.write(
        &format!("{agent}/etc/k3s-agent-load-balancer.json"),
        format!("{{\"ServerURL\":\"https://{API}\",\"ServerAddresses\":[\"{API}\"]}}"),
    )?;
    layer.write(
        "/etc/rancher/k3s/config.yaml",
        format!("server: https://{API}\nnode-name: {}\nnode-ip: {}\n", machine.name, machine.v4()),
    )?;
    // Where k3s's own installer puts it, which is why `systemctl mask` refuses it.
    layer
        .write("/etc/systemd/system/k3s-agent.service", include_str!("units/k3s-agent.service"))?;
    layer.enable("k3s-agent.service")
}

/// Stable across power cycles, as a machine id is.
fn machine_id(name: &str) -> String {
    use sha2::{Digest, Sha256};
    use std::fmt::Write;
    let digest = Sha256::digest(format!("lifeline-lab {name}"));
    digest.iter().take(16).fold(String::new(), |mut id, byte| {
        write!(id, "{byte:02x}").ok();
        id
    })
}
