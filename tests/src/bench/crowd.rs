//! T14: time in which an operator is served while thousands of connections that say nothing, or nonsense, sit on the agent's port.
//! They come from the operator's own address, where nobody can tell them from him before the handshake; each that the agent closes
//! comes again after a while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Figure, Limit, Series, Wanted};
use crate::error::{Doing, Result};
use crate::lab::Lab;
use crate::progress::Progress;
use crate::trial::{Ground, NODE};
use crate::{names, space};

const CROWD: usize = 5_000;
/// What an operator may wait, milliseconds.
const MOST_MS: f64 = 1_000.0;
/// One that was closed comes again after this: five hundred a second.
const AGAIN: Duration = Duration::from_secs(10);
/// They come within this time, so that no listen queue is the bottleneck.
const COMING: Duration = Duration::from_secs(10);

/// T14, in a lab of its own.
pub fn measure(lab: &Lab, wanted: &Wanted, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    ensure!(files > CROWD as u64 + 500, "{files} open files are allowed, which is too few");
    let ground = Ground::new(lab, progress)?;
    ground.prepare().map_err(|why| anyhow!(why))?;
    progress.say("T14: an operator alone");
    let alone = served(&ground, wanted.runs)?;
    progress.say(format!("T14: {CROWD} connections come"));
    let crowd = Crowd::begin();
    let pressed = crowd.await_all().and_then(|()| {
        let before = crowd.came.load(Ordering::Relaxed);
        let begun = Instant::now();
        let took = served(&ground, wanted.runs)?;
        let came = crowd.came.load(Ordering::Relaxed) - before;
        Ok((took, came as f64 / begun.elapsed().as_secs_f64(), crowd.sitting()))
    });
    let ended = crowd.end();
    let (took, rate, sitting) = pressed?;
    ended?;
    let figure = Figure {
        id: "T14",
        what: format!(
            "`ctl status` of a node, from Enter to its end, while {CROWD} idle or garbled connections from the operator's own address sit on the port"
        ),
        target: "≤ 1 s",
        met: None,
        ours: Series::new("with them", "ms", took),
        baseline: Some(Series::new("without", "ms", alone)),
        note: format!(
            "a third says nothing, a third what no TLS client says, a third the beginning of a greeting; {sitting} were held open at the end, and {rate:.0} a second came again"
        ),
    };
    Ok(vec![figure.within(&[Limit(0.5, MOST_MS), Limit(0.99, MOST_MS)])])
}

/// How long each question takes, milliseconds; every one has to be answered.
fn served(ground: &Ground<'_>, times: u32) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::new();
    for _ in 0..times {
        let begun = Instant::now();
        let out = ground.ctl(&["status", NODE]).map_err(|why| anyhow!(why))?;
        took.push(begun.elapsed().as_secs_f64() * 1_000.0);
        ensure!(out.ok(), "the operator is not served: {}{}", out.stdout, out.stderr);
        thread::sleep(Duration::from_millis(250));
    }
    Ok(took)
}

/// The connections.
struct Crowd {
    over: Arc<AtomicBool>,
    /// How often one was let in by the kernel.
    came: Arc<AtomicUsize>,
    /// How many are open at this end.
    open: Arc<AtomicUsize>,
    thread: JoinHandle<Result<()>>,
}

impl Crowd {
    fn begin() -> Self {
        let (over, came) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let open = Arc::<AtomicUsize>::default();
        let (mine, counts) = (Arc::clone(&over), (Arc::clone(&came), Arc::clone(&open)));
        let thread = thread::spawn(move || {
            space::within(&names::namespace("laptop"), move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.doing(|| "start the crowd's runtime".to_owned())?;
                runtime.block_on(async {
                    for nth in 0..CROWD {
                        let (came, open) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
                        tokio::spawn(press(nth, came, open));
                    }
                    while !mine.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                });
                Ok(())
            })
        });
        Self { over, came, open, thread }
    }

    /// Waits until each has come once.
    fn await_all(&self) -> anyhow::Result<()> {
        let until = Instant::now() + COMING * 6;
        while self.came.load(Ordering::Relaxed) < CROWD {
            if Instant::now() > until {
                bail!("only {} of {CROWD} connections came", self.came.load(Ordering::Relaxed));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn sitting(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn end(self) -> anyhow::Result<()> {
        self.over.store(true, Ordering::Relaxed);
        let done = self.thread.join().map_err(|_| anyhow!("the crowd panicked"))?;
        done.context("hold the crowd")
    }
}

/// One of them, for ever.
async fn press(nth: usize, came: Arc<AtomicUsize>, open: Arc<AtomicUsize>) {
    let door = SocketAddr::from(([192, 168, 2, 80], 7443));
    tokio::time::sleep(COMING.mul_f64(nth as f64 / CROWD as f64)).await;
    loop {
        if let Ok(mut stream) = TcpStream::connect(door).await {
            came.fetch_add(1, Ordering::Relaxed);
            open.fetch_add(1, Ordering::Relaxed);
            // A write to who has hung up fails, and that is as good.
            let _written = match nth % 3 {
                0 => Ok(()),
                1 => stream.write_all(&[0xa5; 300]).await,
                _ => stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).await,
            };
            // Until the agent hangs up; what it says meanwhile is heard and forgotten.
            let mut heard = [0; 256];
            while stream.read(&mut heard).await.is_ok_and(|n| n > 0) {}
            // It stays at this end as long as the agent's kernel lets it.
            tokio::time::sleep(AGAIN).await;
            open.fetch_sub(1, Ordering::Relaxed);
        } else {
            tokio::time::sleep(AGAIN).await;
        }
    }
}
