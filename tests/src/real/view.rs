//! What the cluster sees of a node: its lease, its Ready, its pods, and whether its ways in and out work.
//!
//! Leases, nodes and pods come from watches of the API server, as its controllers have them; the ways from a client beyond the
//! gateway (hostPort) and from a pod of the node that asks for a name and for a Service once a second.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use super::cluster::{is_ready, kubectl_command};
use crate::names;
use crate::node::Node;
use crate::progress::Progress;
use crate::topology::GATEWAY;

/// Set by the manifest of the sample application.
const HOST_PORT: u16 = 8088;
const EVERY: Duration = Duration::from_secs(1);
/// A pod that has said nothing for so long waits for an answer that does not come.
const SILENCE: Duration = Duration::from_secs(9);
const LEASE: Duration = Duration::from_secs(10);
/// The last thing the pod on this node has said.
const LOOKOUT: &str = "cat /var/log/pods/apps_lookout-*/lookout/*.log | sort | tail -n 1";

/// A way whose state is told when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    HostPort,
    ServiceVip,
    Dns,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::HostPort, Self::ServiceVip, Self::Dns];

    #[must_use]
    pub fn told(self) -> &'static str {
        match self {
            Self::HostPort => "hostPort from beyond the gateway",
            Self::ServiceVip => "Service VIP from a pod",
            Self::Dns => "DNS from a pod",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Renewed,
    Ready(bool),
    Pod(String, bool),
    Gone(String),
    Way(Way, bool),
}

/// What is known of the node, in the order it became known.
#[derive(Debug)]
pub struct View {
    node: String,
    seen: Mutex<Vec<(Instant, What)>>,
    stop: AtomicBool,
}

impl View {
    #[must_use]
    pub fn of(node: &str) -> Self {
        Self { node: node.to_owned(), seen: Mutex::default(), stop: AtomicBool::new(false) }
    }

    /// Watches while `work` is done, telling what it sees.
    pub fn during<T>(
        &self,
        node: &Node,
        progress: &Progress,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.watched(progress, || {
            thread::scope(|scope| {
                scope.spawn(|| self.ask_host_port(node, progress));
                scope.spawn(|| self.ask_lookout(node, progress));
                let done = work();
                self.stop.store(true, Ordering::Relaxed);
                done
            })
        })
    }

    /// The same by the API server's word alone: also of a node whose power is cut meanwhile.
    pub fn watched<T>(
        &self,
        progress: &Progress,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut watches = Vec::new();
        for what in [&["nodes"][..], &["leases", "-n", "kube-node-lease"], &["pods", "-A"]] {
            let args = ["get", "-w", "--output-watch-events", "-o", "json"];
            let mut command = kubectl_command(&[&args, what].concat());
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            watches.push(command.spawn().context("watch the cluster")?);
        }
        let streams: Vec<_> = watches.iter_mut().map(|w| w.stdout.take()).collect();
        thread::scope(|scope| {
            for stream in streams.into_iter().flatten() {
                scope.spawn(|| self.read(stream, progress));
            }
            let done = work();
            watches.iter_mut().for_each(end);
            done
        })
    }

    fn read(&self, stream: impl Read, progress: &Progress) {
        let events = serde_json::Deserializer::from_reader(BufReader::new(stream));
        for event in events.into_iter::<Value>().map_while(Result::ok) {
            self.take(&event["object"], event["type"] == "DELETED", progress);
        }
    }

    fn take(&self, object: &Value, gone: bool, progress: &Progress) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match object["kind"].as_str().unwrap_or_default() {
            "Node" if name == self.node => self.note(What::Ready(is_ready(object)), progress),
            "Lease" if name == self.node => self.note(What::Renewed, progress),
            "Pod" if object["spec"]["nodeName"] == self.node.as_str() => {
                let space = object["metadata"]["namespace"].as_str().unwrap_or_default();
                let pod = format!("{space}/{name}");
                let what = if gone { What::Gone(pod) } else { What::Pod(pod, is_ready(object)) };
                self.note(what, progress);
            }
            _ => {}
        }
    }

    /// Only what has changed is news, but for a lease: each renewal is.
    fn note(&self, what: What, progress: &Progress) {
        let now = Instant::now();
        let Ok(mut seen) = self.seen.lock() else { return };
        let node = &self.node;
        let last = |same: &dyn Fn(&What) -> bool| seen.iter().rev().find(|(_, w)| same(w)).cloned();
        let line = match &what {
            What::Renewed => {
                let last = last(&|w| *w == What::Renewed);
                last.map(|(at, _)| {
                    let gap = (now - at).as_secs_f64();
                    let late = if now - at > LEASE * 3 / 2 { ", late" } else { "" };
                    format!("lease of {node} renewed after {gap:.1} s{late}")
                })
            }
            What::Ready(is) => match last(&|w| matches!(w, What::Ready(_))) {
                Some((_, was)) if was == what => return,
                Some(_) if *is => Some(format!("{node} is Ready")),
                Some(_) => Some(format!("{node} is NotReady")),
                None => None,
            },
            What::Pod(pod, is) => {
                match last(&|w| matches!(w, What::Pod(other, _) if other == pod)) {
                    Some((_, was)) if was == what => return,
                    Some(_) => Some(format!("pod {pod} is {}ready", if *is { "" } else { "not " })),
                    None => None,
                }
            }
            What::Gone(pod) => Some(format!("pod {pod} is gone")),
            What::Way(way, is) => {
                match last(&|w| matches!(w, What::Way(other, _) if other == way)) {
                    Some((_, was)) if was == what => return,
                    Some(_) => Some(format!(
                        "{node}: {} {}",
                        way.told(),
                        if *is { "works again" } else { "is dead" }
                    )),
                    None => None,
                }
            }
        };
        seen.push((now, what));
        drop(seen);
        if let Some(line) = line {
            progress.say(format!("    cluster: {line}"));
        }
    }

    fn ask_host_port(&self, node: &Node, progress: &Progress) {
        let address = SocketAddr::from((node.machine.v4(), HOST_PORT));
        let Ok(file) = std::fs::File::open(names::namespace_path(GATEWAY)) else { return };
        // A network namespace is the thread's own.
        if setns(file, CloneFlags::CLONE_NEWNET).is_err() {
            return;
        }
        while !self.stop.load(Ordering::Relaxed) {
            self.note(What::Way(Way::HostPort, answers(address)), progress);
            thread::sleep(EVERY);
        }
    }

    fn ask_lookout(&self, node: &Node, progress: &Progress) {
        let (mut last, mut heard) = (String::new(), Instant::now());
        while !self.stop.load(Ordering::Relaxed) {
            let said = node.sh(LOOKOUT).map(|out| out.stdout).unwrap_or_default();
            if said != last && !said.is_empty() {
                (last, heard) = (said, Instant::now());
            }
            let fresh = heard.elapsed() < SILENCE;
            for (way, word) in [(Way::Dns, "dns=yes"), (Way::ServiceVip, "vip=yes")] {
                self.note(What::Way(way, fresh && last.contains(word)), progress);
            }
            thread::sleep(EVERY);
        }
    }

    fn latest<T>(&self, pick: impl Fn(&What) -> Option<T>) -> Option<(Instant, T)> {
        let seen = self.seen.lock().ok()?;
        seen.iter().rev().find_map(|(at, what)| Some((*at, pick(what)?)))
    }

    /// Waits until the control plane says Ready, or NotReady, and gives the moment it said so.
    pub fn await_ready(&self, wanted: bool, limit: Duration) -> anyhow::Result<Instant> {
        let until = Instant::now() + limit;
        loop {
            let state = self.latest(|w| if let What::Ready(is) = w { Some(*is) } else { None });
            if let Some((at, is)) = state
                && is == wanted
            {
                return Ok(at);
            }
            if Instant::now() > until {
                let word = if wanted { "Ready" } else { "NotReady" };
                bail!("{} was not {word} within {} s", self.node, limit.as_secs());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Whether a way works now.
    #[must_use]
    pub fn works(&self, wanted: Way) -> Option<bool> {
        let pick = |w: &What| match w {
            What::Way(way, is) if *way == wanted => Some(*is),
            _ => None,
        };
        self.latest(pick).map(|(_, is)| is)
    }

    /// How many renewals a lease on its ten seconds' beat would have had since, and has not.
    #[must_use]
    pub fn missed(&self, since: Instant) -> u64 {
        let Ok(seen) = self.seen.lock() else { return 0 };
        let mut beats: Vec<Instant> =
            seen.iter().filter(|(_, w)| *w == What::Renewed).map(|(at, _)| *at).collect();
        beats.push(Instant::now());
        let gaps = beats.windows(2).filter(|pair| pair[1] > since);
        gaps.map(|pair| (pair[1] - pair[0]).as_secs() / LEASE.as_secs())
            .map(|n| n.saturating_sub(1))
            .sum()
    }

    /// Whether the control plane has called it NotReady since then, for however short a time.
    #[must_use]
    pub fn left_ready(&self, since: Instant) -> bool {
        let Ok(seen) = self.seen.lock() else { return true };
        seen.iter().any(|(at, what)| *what == What::Ready(false) && *at >= since)
    }

    /// Pods of the node that are not ready now, but for those of a namespace.
    #[must_use]
    pub fn pods_not_ready(&self, but: Option<&str>) -> usize {
        let Ok(seen) = self.seen.lock() else { return 0 };
        let mut pods = std::collections::BTreeMap::new();
        for (_, what) in seen.iter() {
            match what {
                What::Pod(name, ready) => pods.insert(name.clone(), *ready),
                What::Gone(name) => pods.remove(name),
                _ => None,
            };
        }
        let meant = |name: &str| but.is_none_or(|b| name.split('/').next() != Some(b));
        pods.iter().filter(|(name, ready)| !**ready && meant(name)).count()
    }
}

fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let patience = Duration::from_millis(800);
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b"200"))
    };
    ask().unwrap_or(false)
}

fn end(child: &mut Child) {
    // Already gone is what was wanted.
    child.kill().ok();
    child.wait().ok();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(ready: &str) -> Value {
        json!({"kind": "Node", "metadata": {"name": "calypso"},
               "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    #[test]
    fn the_last_word_on_ready_counts_and_other_nodes_do_not() {
        let (view, progress, begun) = (View::of("calypso"), Progress::new(), Instant::now());
        view.take(&node("True"), false, &progress);
        view.take(&node("Unknown"), false, &progress);
        let mut other = node("True");
        other["metadata"]["name"] = json!("styx");
        view.take(&other, false, &progress);
        assert!(view.await_ready(false, Duration::ZERO).is_ok());
        assert!(view.await_ready(true, Duration::ZERO).is_err());
        view.take(&node("True"), false, &progress);
        assert!(view.left_ready(begun));
        assert!(!view.left_ready(Instant::now()));
    }

    #[test]
    fn a_lease_that_stops_is_counted_as_missed() {
        let view = View::of("calypso");
        let now = Instant::now();
        let Some(begun) = now.checked_sub(Duration::from_secs(45)) else { return };
        let beat = |s| (begun + Duration::from_secs(s), What::Renewed);
        view.seen.lock().unwrap().extend([beat(0), beat(10)]);
        assert_eq!(view.missed(begun), 2);
    }

    #[test]
    fn a_pod_is_counted_as_it_last_was() {
        let view = View::of("calypso");
        let progress = Progress::new();
        let pod = |s: &str| {
            json!({"kind": "Pod", "metadata": {"name": "p", "namespace": "a"}, "spec": {"nodeName": "calypso"},
            "status": {"conditions": [{"type": "Ready", "status": s}]}})
        };
        view.take(&pod("False"), false, &progress);
        assert_eq!((view.pods_not_ready(None), view.pods_not_ready(Some("a"))), (1, 0));
        view.take(&pod("True"), false, &progress);
        assert_eq!(view.pods_not_ready(None), 0);
        view.take(&pod("False"), true, &progress);
        assert_eq!(view.pods_not_ready(None), 0);
    }
}
