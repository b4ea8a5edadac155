//! `lifeline-agent request-certificate`: the node's key is made where it is used. Names are not asked for: who signs decides them.

use anyhow::Context;
use lifeline_agent::papers;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Writes a new key for root alone, and prints the request that its certificate is made from.
pub fn request(path: &Path) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("make {}", dir.display()))?;
    }
    print!("{}", papers::make(path)?);
    Ok(())
}
