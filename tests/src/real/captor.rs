//! When an exit node's route comes to a node, as the kernel tells everybody who listens.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::error::{Doing, Result};
use crate::space::Space;

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Captor {
    monitor: Child,
    seen: Arc<Mutex<Vec<Instant>>>,
}

impl Captor {
    /// Begins to listen on a node.
    pub fn watch(node: &str) -> Result<Self> {
        let mut command =
            Space { name: node.to_owned() }.command(&["ip", "-4", "monitor", "route"]);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut monitor = command.spawn().doing(|| format!("listen to the routes of {node}"))?;
        let seen = Arc::<Mutex<Vec<Instant>>>::default();
        let (lines, times) = (monitor.stdout.take(), Arc::clone(&seen));
        thread::spawn(move || {
            let lines = lines.map(BufReader::new).into_iter().flat_map(BufRead::lines);
            for _ in lines.map_while(std::result::Result::ok).filter(|l| is_capture(l)) {
                times.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            }
        });
        Ok(Self { monitor, seen })
    }

    /// Each time it came.
    #[must_use]
    pub fn times(&self) -> Vec<Instant> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Captor {
    fn drop(&mut self) {
        // Already gone is what was wanted.
        self.monitor.kill().ok();
        self.monitor.wait().ok();
    }
}

/// A route that goes is told with `Deleted` before it.
fn is_capture(line: &str) -> bool {
    line.starts_with("default dev tailscale0 ") && line.contains("table 52")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_comes_is_counted_and_one_that_goes_is_not() {
        assert!(is_capture("default dev tailscale0 table 52 "));
        assert!(!is_capture("Deleted default dev tailscale0 table 52 "));
        assert!(!is_capture("100.64.0.1 dev tailscale0 table 52 "));
        assert!(!is_capture("default via 192.168.2.1 dev eth0 "));
    }
}
