//! `lifeline-agent cleanup`: the guard and the lifeline path are taken away; nothing else is ours.

use crate::commands::run::{hold_state, one_thread};
use anyhow::{Context, bail};
use lifeline_agent::config::Config;
use lifeline_agent::guard::{Guard, Order};
use lifeline_agent::netlink::Kernel;
use lifeline_core::guard::Stand;
use std::path::Path;
use std::time::Duration;

/// Takes away what is ours in the kernel.
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
    })
}
