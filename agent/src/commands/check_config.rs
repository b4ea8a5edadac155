//! `lifeline-agent check-config`: reads what the daemon would read.

use anyhow::Context;
use lifeline_agent::config::Config;
use lifeline_agent::tls::Trust;
use std::path::Path;

/// Says what the daemon would do with this configuration, or why it would not start.
pub fn check(path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    Trust::load(&config.tls, &config.cluster)
        .context("callers from elsewhere would not be served")?;
    let or = |what: Option<String>, other: &str| what.unwrap_or_else(|| other.to_string());
    println!("{} is in order", path.display());
    println!("  cluster {}, node {}", config.cluster, or(config.node, "as k3s calls it"));
    println!(
        "  listens on {}",
        or(config.listen.map(|l| l.to_string()), "the node's address, port 7443")
    );
    println!("  mode {:?}, keeps its state in {}", config.policy.mode, config.state.display());
    Ok(())
}
