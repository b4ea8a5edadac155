//! `lifeline-agent look`: sees this node once and says what it saw; it changes nothing and asks no daemon.

use anyhow::Context;
use lifeline_agent::config::Config;
use lifeline_agent::look::{Look, Places};
use lifeline_agent::netlink::Kernel;
use lifeline_agent::store::Store;
use lifeline_core::text;
use nix::sys::resource::{UsageWho, getrusage};
use std::path::Path;
use std::time::Instant;

/// Prints what is seen, or with `times` how long that many looks took and what they needed at most.
pub fn look(path: &Path, quick: bool, times: Option<u32>) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    let (store, _) = Store::open(&config.state);
    super::run::one_thread()?.block_on(async {
        let kernel = Kernel::open().context("open the kernel's routing")?;
        let critical = store.baseline().map(|b| b.expected.clone()).unwrap_or_default();
        let places = Places {
            node: config.node.clone(),
            api: config.api.clone(),
            policy: config.policy.clone(),
            critical,
            ..Places::default()
        };
        let look = Look::new(kernel, places);
        let once = || async { if quick { look.quick().await } else { look.full().await } };
        let Some(times) = times else {
            print!("{}", text::write(&once().await));
            return Ok(());
        };
        let mut took = Vec::new();
        for _ in 0..times {
            let begun = Instant::now();
            let seen = once().await;
            let gaps = seen.gaps.len();
            took.push(begun.elapsed().as_secs_f64() * 1_000.0);
            anyhow::ensure!(gaps == 0, "look at the node: not all was seen: {:?}", seen.gaps);
        }
        let most = |who| getrusage(who).map(|u| u.max_rss()).context("ask what was used");
        let (own, children) =
            (most(UsageWho::RUSAGE_SELF)?, most(UsageWho::RUSAGE_CHILDREN)?);
        println!(
            "{}",
            serde_json::json!({ "milliseconds": took, "max_rss_kib": own, "children_max_rss_kib": children })
        );
        Ok(())
    })
}
