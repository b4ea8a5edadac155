//! What a container lacks that a kubelet needs, given on the node itself at each boot by `lab furnish --real`.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::{cgroup, flannel};
use crate::error::{Doing, Result};

/// Settings of the machine's kernel that a kubelet wants and would write. They are not the container's to change: it is
/// shown them as they should be.
const SHOWN: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Prepares the node we run on.
pub fn lay() -> Result<()> {
    share_mounts()?;
    for controller in cgroup::controllers() {
        // nspawn mounts them read-only; the cgroup that is seen as their top is this node's own.
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID;
        let flags = flags | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(None::<&str>, &controller, None::<&str>, flags, None::<&str>)
            .doing(|| format!("make {} writable", controller.display()))?;
    }
    for (key, value) in SHOWN {
        show(key, value)?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").doing(|| "set ip_forward".to_owned())?;
    flannel::ensure()
}

/// A kubelet's mounts must reach its pods.
fn share_mounts() -> Result<()> {
    let flags = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .doing(|| "share the node's mounts".to_owned())
}

fn show(key: &str, value: &str) -> Result<()> {
    let over = Path::new("/proc/sys").join(key);
    if !over.exists() {
        return Ok(());
    }
    let file = Path::new("/run/lab-sysctl").join(key.replace('/', "."));
    fs::create_dir_all("/run/lab-sysctl").doing(|| "make /run/lab-sysctl".to_owned())?;
    fs::write(&file, format!("{value}\n")).doing(|| format!("write {}", file.display()))?;
    mount(Some(&file), &over, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .doing(|| format!("show {key} as {value}"))
}
