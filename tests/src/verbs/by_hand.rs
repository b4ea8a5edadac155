//! `cargo lab by-hand`.

use lifeline_lab::lab::Lab;
use lifeline_lab::progress::Progress;
use lifeline_lab::standin::byhand;

/// Types the runbook's commands at a node's console.
pub fn run(node: &str, progress: &Progress) -> anyhow::Result<()> {
    byhand::type_all(&Lab::open()?.node(node)?, |typed| {
        let end = if typed.given_up { "^C".to_owned() } else { format!("{:?}", typed.code) };
        progress.say(format!("{:5.1}s {end:<8} # {}", typed.took.as_secs_f64(), typed.line));
    })?;
    Ok(())
}
