//! Talks to systemd and to its journal, and never waits for either.
//!
//! A systemd that stands still (one that crashed freezes for good) or a journald on a disk that hangs takes as many messages as its
//! socket queues; the next one waits for as long as that lasts, and the guard, every look and every caller with it.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// Where journald takes messages.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Messages that wait behind one that is being sent: the first says that the agent is ready, and of a watchdog's one is as good as ten.
const WAITING: usize = 4;

/// What systemd hears of the agent.
#[derive(Debug)]
pub struct Pulse {
    messages: SyncSender<NotifyState<'static>>,
}

impl Pulse {
    /// One whom `NOTIFY_SOCKET` tells where to go; without it nothing is told.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn to_systemd() -> io::Result<Self> {
        Self::by(|state| sd_notify::notify(&[state]))
    }

    fn by(
        send: impl Fn(NotifyState<'static>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let (messages, waiting) = sync_channel(WAITING);
        thread::Builder::new().name("pulse".to_owned()).spawn(move || {
            for state in waiting {
                if let Err(why) = send(state) {
                    tracing::warn!("tell systemd: {why}");
                }
            }
        })?;
        Ok(Self { messages })
    }

    /// Tells it as soon as it listens; not at all when too much waits for that already.
    pub fn tell(&self, state: NotifyState<'static>) {
        if self.messages.try_send(state).is_err() {
            tracing::debug!("tell systemd: it takes nothing");
        }
    }
}

/// Whether the journal takes a message at once.
#[derive(Debug)]
pub struct Journald {
    socket: UnixDatagram,
}

impl Journald {
    /// The node's.
    ///
    /// # Errors
    /// When there is none.
    pub fn here() -> io::Result<Self> {
        Self::at(Path::new(JOURNAL))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // Of a socket that is connected the kernel says whether its other end's queue has room.
        socket.connect(path)?;
        Ok(Self { socket })
    }

    /// Does it? What is told while it does not is lost to the journal, and to nobody else: runs have journals of their own.
    pub fn listens(&self) -> bool {
        let mut asked = [PollFd::new(&self.socket, PollFlags::OUT)];
        // Where that cannot be said it is tried.
        !matches!(poll(&mut asked, Some(&Timespec::default())), Ok(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    #[test]
    fn what_is_told_arrives_in_its_order() {
        let (heard, hears) = channel();
        let pulse = Pulse::by(move |state| heard.send(state.to_string()).map_err(io::Error::other))
            .unwrap();
        pulse.tell(NotifyState::Ready);
        pulse.tell(NotifyState::Watchdog);
        assert_eq!([hears.recv().unwrap(), hears.recv().unwrap()], ["READY=1", "WATCHDOG=1"]);
    }

    #[test]
    fn a_systemd_that_takes_nothing_is_not_waited_for() {
        let (wakes, waits) = channel::<()>();
        let (heard, hears) = channel();
        let pulse = Pulse::by(move |state| {
            waits.recv().ok();
            heard.send(state.to_string()).map_err(io::Error::other)
        })
        .unwrap();
        let begun = Instant::now();
        pulse.tell(NotifyState::Ready);
        for _ in 0..1_000 {
            pulse.tell(NotifyState::Watchdog);
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        // Once it listens again it hears the first of all, and not a thousand others.
        drop((wakes, pulse));
        let told: Vec<String> = hears.iter().collect();
        assert_eq!(told.first().map(String::as_str), Some("READY=1"));
        assert!(told.len() <= WAITING + 1, "{told:?}");
    }

    #[test]
    fn a_journal_whose_queue_is_full_is_told_nothing_until_it_reads_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let ours = Journald::at(&path).unwrap();
        assert!(ours.listens());
        // Others fill it: each has room for a part of the queue only.
        let mut others = Vec::new();
        for _ in 0..100 {
            let other = UnixDatagram::unbound().unwrap();
            other.connect(&path).unwrap();
            other.set_nonblocking(true).unwrap();
            let mut sent = 0;
            while other.send(b"MESSAGE=x\n").is_ok() {
                sent += 1;
            }
            others.push(other);
            if sent == 0 {
                break;
            }
        }
        assert!(!ours.listens());
        let mut text = [0; 16];
        for _ in 0..3 {
            journal.recv(&mut text).unwrap();
        }
        assert!(ours.listens());
    }
}
