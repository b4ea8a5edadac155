//! `lifeline-agent resume RUN`: undoes a run that nobody confirmed, when the daemon is dead or hangs. A timer that was armed
//! before the run calls it; by hand it does no harm.

use crate::commands::run::{one_thread, paths_of, speak};
use anyhow::{Context, bail};
use lifeline_agent::act::Hands;
use lifeline_agent::clock::Clock;
use lifeline_agent::config::Config;
use lifeline_agent::netlink::Kernel;
use lifeline_agent::runs::outside::{Done, undo};
use std::path::Path;

/// Undoes the run, or says why not.
pub fn resume(path: &Path, run: &str) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    speak();
    let fit = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if run.is_empty() || run.starts_with('.') || !run.bytes().all(fit) {
        bail!("resume run {run:?}: that is no name of a run");
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    one_thread()?.block_on(async {
        let clock = Clock::read().context("read the boot id")?;
        let kernel = Kernel::open().context("open the kernel's routing")?;
        let hands = Hands::new(kernel, paths_of(path, &config), run);
        let done = undo(&config.state.join("journal"), run, hands, &clock).await;
        match done.with_context(|| format!("undo run {run}"))? {
            Done::Nothing(why) => println!("nothing is to be done: {why}"),
            Done::Undone(lifeline_core::engine::Ending::RolledBack) => {
                println!("run {run} has been undone");
            }
            Done::Undone(ending) => bail!("undo run {run}: it ended {ending:?}"),
        }
        Ok(())
    })
}
