//! `lifeline-agent request-certificate`: the node's key is made where it is used. Names are not asked for: who signs decides them.

use anyhow::Context;
use rcgen::{CertificateParams, KeyPair};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Writes a new key for root alone, and prints the request that its certificate is made from.
pub fn request(path: &Path) -> anyhow::Result<()> {
    let pair = KeyPair::generate().context("make a key")?;
    let request = CertificateParams::default()
        .serialize_request(&pair)
        .and_then(|r| r.pem())
        .context("write a certificate request")?;
    if let Some(dir) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("make {}", dir.display()))?;
    }
    // Of an attempt that was cut off; nothing uses it.
    drop(std::fs::remove_file(path));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("make {}", path.display()))?;
    file.write_all(pair.serialize_pem().as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("write {}", path.display()))?;
    print!("{request}");
    Ok(())
}
