//! `lifeline-agent cleanup`: the guard and the lifeline path are taken away, and the file of metrics; nothing else is ours.

use crate::commands::run::{hold_state, one_thread};
use anyhow::{Context, bail};
use lifeline_agent::config::Config;
use lifeline_agent::guard::{Guard, Order};
use lifeline_agent::metrics::textfile;
use lifeline_agent::netlink::Kernel;
use lifeline_core::fib::PROTOCOL;
use lifeline_core::guard::Stand;
use lifeline_core::net::Family;
use std::path::Path;
use std::time::Duration;

/// Says whether the node needs what would be taken away; changes nothing, and does not mind a running agent.
pub fn check() -> anyhow::Result<()> {
    one_thread()?.block_on(async {
        let kernel = Kernel::open().context("open the kernel's routing")?;
        for family in [Family::V4, Family::V6] {
            let rules = kernel.rules(family).await.context("read what stands of ours")?;
            // The lifeline path is for marked packets; only a guard names whom it leads to.
            let guard = rules.iter().find(|(r, _)| r.protocol == PROTOCOL && r.to.is_some());
            if let Some((rule, _)) = guard {
                bail!(
                    "take our rules away: the guard stands (rule {}), and without it this node may lose its path to the API server; \
                     heal it first (ctl heal), or take them away by hand: systemctl stop lifeline-agent && lifeline-agent cleanup",
                    rule.pref
                );
            }
        }
        println!("no guard stands");
        Ok(())
    })
}

/// Takes away what is ours.
pub fn cleanup(path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    let _alone =
        hold_state(&config).context("stop the agent first: systemctl stop lifeline-agent")?;
    one_thread()?.block_on(async {
        let kernel = Kernel::open().context("open the kernel's routing")?;
        let order = Order {
            stand: Stand::Nothing,
            base: None,
            moved: false,
            forgiven: 0,
            marks: Vec::new(),
            drill: None,
        };
        let guard =
            Guard::start(kernel, config.policy, order).context("reach the kernel's routing")?;
        let state = guard.settled(Duration::from_secs(10)).await;
        if let Some(why) = state.trouble {
            bail!("take our rules away: {why}");
        }
        if state.done == 0 {
            bail!("take our rules away: the kernel did not answer in time");
        }
        println!("no rule and no route of Lifeline's is left");
        Ok(())
    })?;
    // Whoever reads it would be told for ever how the node was in the agent's last minute.
    if let Some(file) = &config.metrics.textfile {
        textfile::forget(file).with_context(|| format!("remove {}", file.display()))?;
        println!("no metrics are left in {}", file.display());
    }
    Ok(())
}
