//! The operator's way to a node's sshd, for what is done before there is an agent.

use std::fs;
use std::path::PathBuf;

use crate::agent;
use crate::disk::Layer;
use crate::error::{Doing, Result};
use crate::run;

/// Lets the operator's key in as root, and nobody by a password.
pub fn allow(layer: &Layer) -> Result<()> {
    layer.write("/etc/ssh/sshd_config.d/lab.conf", "PasswordAuthentication no\nUseDNS no\n")?;
    layer.write_secret("/root/.ssh/authorized_keys", key()?)
}

/// The operator's key, made once per lab.
fn key() -> Result<String> {
    let key = key_path();
    let public = key.with_extension("pub");
    if !public.is_file() {
        if let Some(dir) = key.parent() {
            fs::create_dir_all(dir).doing(|| format!("make {}", dir.display()))?;
        }
        let file = key.to_string_lossy();
        let args = ["-q", "-t", "ed25519", "-N", "", "-C", "operator of the lab", "-f", &file];
        run::host("ssh-keygen", &args)?.success()?;
    }
    fs::read_to_string(&public).doing(|| format!("read {}", public.display()))
}

/// Its private half.
#[must_use]
pub fn key_path() -> PathBuf {
    agent::operator_dir().join("id_ed25519")
}
