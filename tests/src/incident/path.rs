//! The path from the node to the API server, watched every 100 ms by a TCP connection of its own, without any mark.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};

use crate::node::Node;
use crate::topology::API;

const EVERY: Duration = Duration::from_millis(100);
/// A connection through a healthy lab takes well under a millisecond.
const PATIENCE: Duration = Duration::from_millis(400);

#[derive(Debug)]
struct Shared {
    up: AtomicBool,
    /// Milliseconds after `begun` at which `up` last changed.
    changed: AtomicU64,
    stop: AtomicBool,
    begun: Instant,
}

/// A watch; it ends when this is dropped.
#[derive(Debug)]
pub struct Path(Arc<Shared>);

impl Path {
    /// Begins to watch; the path must be there.
    pub fn watch(node: &Node) -> anyhow::Result<Self> {
        let namespace = format!("/proc/{}/ns/net", node.leader());
        let file = std::fs::File::open(&namespace).with_context(|| format!("open {namespace}"))?;
        let api: SocketAddr = API.parse().context("read the API server's address")?;
        let shared = Arc::new(Shared {
            up: AtomicBool::new(true),
            changed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            begun: Instant::now(),
        });
        let mine = Arc::clone(&shared);
        let (entered, whether) = mpsc::channel();
        // A network namespace is the thread's own; the rest of the lab stays where it is.
        thread::spawn(move || {
            let done = setns(file, CloneFlags::CLONE_NEWNET);
            let inside = done.is_ok();
            entered.send(done).ok();
            while inside && !mine.stop.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let answered = TcpStream::connect_timeout(&api, PATIENCE).is_ok();
                if mine.up.swap(answered, Ordering::Relaxed) != answered {
                    let ms = asked.duration_since(mine.begun).as_millis();
                    mine.changed.store(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
                }
                thread::sleep(EVERY);
            }
        });
        whether.recv().context("begin to watch")?.with_context(|| format!("enter {namespace}"))?;
        thread::sleep(EVERY * 3);
        if !shared.up.load(Ordering::Relaxed) {
            bail!("the API server does not answer before the incident begins");
        }
        Ok(Self(shared))
    }

    /// Waits until the path is as asked for and has been for a second, and says since when it is.
    pub fn await_state(&self, up: bool, limit: Duration) -> anyhow::Result<Instant> {
        let until = Instant::now() + limit;
        loop {
            let since =
                self.0.begun + Duration::from_millis(self.0.changed.load(Ordering::Relaxed));
            if self.0.up.load(Ordering::Relaxed) == up && since.elapsed() > Duration::from_secs(1) {
                return Ok(since);
            }
            if Instant::now() > until {
                let word = if up { "back" } else { "cut" };
                bail!("the path to the API server was not {word} within {} s", limit.as_secs());
            }
            thread::sleep(EVERY);
        }
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}
