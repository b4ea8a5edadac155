//! A probe of the API server every ten milliseconds from a node's network namespace, as unmarked as the kubelet's own
//! traffic, each over a connection of its own.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;

use crate::node::Node;
use crate::topology::API;

/// Between two probes.
pub const EVERY: Duration = Duration::from_millis(10);
/// A connection through a healthy lab takes well under a millisecond. Shorter than the kernel's first retransmission (1 s), so
/// that a probe whose SYN was lost counts as lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// Lost probes closer than this are told as one loss.
const TOGETHER: Duration = Duration::from_secs(1);

/// One probe.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub at: Instant,
    pub answered: bool,
    /// Why it was lost: the error's number, or none when nobody answered in time.
    pub errno: Option<i32>,
}

/// Probes until it is told to stop.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    sent: Arc<Mutex<Vec<Sent>>>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// Begins.
    pub fn begin(node: &Node) -> anyhow::Result<Self> {
        let namespace = format!("/proc/{}/ns/net", node.leader());
        let file = File::open(&namespace).with_context(|| format!("open {namespace}"))?;
        let api: SocketAddr = API.parse().context("read the API server's address")?;
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Sent>>>::default());
        let (mine, results) = (Arc::clone(&stop), Arc::clone(&sent));
        let (entered, whether) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = setns(file, CloneFlags::CLONE_NEWNET)
                .map_err(std::io::Error::from)
                .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
            match runtime {
                Ok(runtime) => {
                    entered.send(Ok(())).ok();
                    runtime.block_on(send(api, &mine, &results));
                }
                Err(why) => {
                    entered.send(Err(why)).ok();
                }
            }
        });
        whether.recv().context("begin to probe")?.with_context(|| format!("enter {namespace}"))?;
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    /// All answers so far of probes that can have one, in the order in which they were sent.
    #[must_use]
    pub fn so_far(&self) -> Vec<Sent> {
        let mut all = self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_by_key(|s| s.at);
        all
    }

    /// Ends it and waits for the last answers.
    #[must_use]
    pub fn end(mut self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        self.so_far()
    }

    /// Waits until probes have been answered for this long without a break.
    pub fn await_steady(&self, steady: Duration, limit: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            let all = self.so_far();
            let lost = all.iter().rev().find(|s| !s.answered).map(|s| s.at);
            let good = all.iter().find(|s| s.answered && lost.is_none_or(|l| s.at > l));
            if good.is_some_and(|g| g.at.elapsed() > steady + PATIENCE) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("the API server did not answer for {steady:?} on end within {limit:?}")
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn send(api: SocketAddr, stop: &AtomicBool, results: &Arc<Mutex<Vec<Sent>>>) {
    let mut beat = tokio::time::interval(EVERY);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !stop.load(Ordering::Relaxed) {
        beat.tick().await;
        let results = Arc::clone(results);
        tokio::spawn(async move {
            let at = Instant::now();
            let call = tokio::time::timeout(PATIENCE, TcpStream::connect(api)).await;
            let answered = matches!(call, Ok(Ok(_)));
            let errno = call.ok().and_then(Result::err).and_then(|e| e.raw_os_error());
            results.lock().unwrap_or_else(PoisonError::into_inner).push(Sent {
                at,
                answered,
                errno,
            });
        });
    }
    tokio::time::sleep(PATIENCE + EVERY).await;
}

/// From the first lost probe to the first that was answered after the last lost one; nothing when none was lost.
#[must_use]
pub fn outage(sent: &[Sent]) -> Option<Duration> {
    let first = sent.iter().find(|s| !s.answered)?.at;
    let last = sent.iter().rev().find(|s| !s.answered)?.at;
    let back = sent.iter().find(|s| s.answered && s.at > last)?.at;
    Some(back - first)
}

/// The lost ones in words, those that follow each other within [`TOGETHER`] on one line, by the seconds since the beginning.
#[must_use]
pub fn losses(sent: &[Sent], begun: Instant) -> Vec<String> {
    let mut groups: Vec<Vec<&Sent>> = Vec::new();
    for s in sent.iter().filter(|s| !s.answered) {
        match groups.last_mut() {
            Some(group) if group.last().is_some_and(|l| s.at - l.at < TOGETHER) => group.push(s),
            _ => groups.push(vec![s]),
        }
    }
    let words = |group: &Vec<&Sent>| {
        let since = |s: &Sent| s.at.saturating_duration_since(begun).as_secs_f64();
        let (first, last) = (since(group[0]), since(group[group.len() - 1]));
        let why: BTreeSet<String> = group.iter().map(|s| why(s)).collect();
        let why = why.into_iter().collect::<Vec<_>>().join("; ");
        format!("{} lost from {first:.3} s to {last:.3} s: {why}", group.len())
    };
    groups.iter().map(words).collect()
}

fn why(lost: &Sent) -> String {
    let silence = || format!("no answer within {PATIENCE:?}");
    lost.errno.map_or_else(silence, |n| std::io::Error::from_raw_os_error(n).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probes(answers: &[bool]) -> Vec<Sent> {
        let begun = Instant::now();
        let at = |n: usize| begun + EVERY * u32::try_from(n).unwrap_or(0);
        let sent = |(n, a): (usize, &bool)| Sent { at: at(n), answered: *a, errno: None };
        answers.iter().enumerate().map(sent).collect()
    }

    #[test]
    fn an_outage_is_from_the_first_lost_to_the_first_good_after_the_last_lost() {
        let sent = probes(&[true, false, true, false, false, true, true]);
        assert_eq!(outage(&sent), Some(EVERY * 4));
        assert_eq!(outage(&probes(&[true, true])), None);
        assert_eq!(outage(&probes(&[true, false])), None);
    }

    #[test]
    fn losses_that_follow_each_other_are_one_line_that_says_when_and_why() {
        let mut sent = probes(&[true, false, false, true]);
        let begun = sent[0].at;
        sent.push(Sent { at: begun + TOGETHER * 2, answered: false, errno: Some(101) });
        assert_eq!(
            losses(&sent, begun),
            [
                "2 lost from 0.010 s to 0.020 s: no answer within 500ms",
                "1 lost from 2.000 s to 2.000 s: Network is unreachable (os error 101)",
            ]
        );
    }
}
