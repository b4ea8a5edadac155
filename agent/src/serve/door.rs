//! The doors: who is let in, how many at once, and how long a handshake may take. What they want is not its business.
//!
//! Why a newcomer displaces an unfinished handshake: thousands of idle connections can be opened for nothing, from the very
//! address an operator calls from. Refusing newcomers would let them lock the operator out. Who is being sent away goes first, then
//! who has not greeted for longest: on a long line a real handshake takes longer than it takes hundreds to come, but a greeting
//! comes with the connection.

use crate::config::Limits;
use crate::roles::Refused;
use crate::serve::conn::{Conn, Peer, Seat};
use crate::serve::seats::{Seats, goaway};
use crate::sight::chain;
use crate::tls::{Trust, refusal};
use arc_swap::ArcSwapOption;
use nix::sys::stat::{Mode, umask};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

/// What is let in.
pub type Guests = ReceiverStream<io::Result<Conn>>;

/// Listens on the node's address, which need not be there yet. Sockets accepted from it inherit its mark, so that answers
/// leave along the lifeline path whatever captures the rest.
///
/// # Errors
/// When the address is taken or not allowed.
pub fn listen(at: SocketAddr, mark: u32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    match at.ip() {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    if let Err(why) = socket.set_mark(mark) {
        // Without CAP_NET_ADMIN, as on a laptop: it serves, and is cut off when the node is.
        tracing::warn!(
            "mark the listener {at}: {why}: callers will not be answered while the node is captured"
        );
    }
    socket.set_nonblocking(true)?;
    socket.set_keepalive(true)?;
    socket.bind(&SockAddr::from(at))?;
    // Thousands who come at once must not fill it before the loop comes round: a lost SYN costs its sender a second.
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Listens on the local socket, for root only, in place of whatever lay there.
///
/// # Errors
/// When the directory takes no socket.
pub fn listen_locally(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // Nobody else can connect in the instant before the mode is set.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(&fresh);
    umask(before);
    let listener = bound?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Lets local callers in.
pub fn open_locally(listener: UnixListener) -> Guests {
    let (inside, guests) = mpsc::channel(16);
    let seats = Arc::new(Semaphore::new(32));
    tokio::spawn(async move {
        loop {
            let Ok(seat) = seats.clone().acquire_owned().await else { return };
            let io = match listener.accept().await {
                Ok((io, _)) => io,
                Err(why) => {
                    pause("local socket", &why).await;
                    continue;
                }
            };
            // Whoever cannot be named is nobody: not root.
            let uid = io.peer_cred().map_or(u32::MAX, |c| c.uid());
            let conn = Conn::local(io, Peer::Local { uid }, Seat(vec![seat]));
            if inside.send(Ok(conn)).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(guests)
}

/// Lets callers with certificates in.
pub fn open(listener: TcpListener, trust: Arc<ArcSwapOption<Trust>>, limits: &Limits) -> Guests {
    let (inside, guests) = mpsc::channel(16);
    let hall = Arc::new(Hall {
        trust,
        seats: Seats::new(limits),
        deadline: Duration::from_millis(limits.handshake_ms),
    });
    let mut queue = Queue::new(limits);
    tokio::spawn(async move {
        let mut handshakes: JoinSet<Option<Conn>> = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((io, from)) => {
                        queue.make_room(from);
                        let stage = Stage::begin();
                        let task = handshakes.spawn(hall.clone().greet(io, from, stage.clone()));
                        queue.enter(from, stage, task);
                    }
                    Err(why) => pause("listener", &why).await,
                },
                Some(ended) = handshakes.join_next_with_id() => {
                    let (id, conn) = match ended {
                        Ok((id, conn)) => (id, conn),
                        Err(aborted) => (aborted.id(), None),
                    };
                    queue.leave(id);
                    if let Some(conn) = conn
                        && inside.send(Ok(conn)).await.is_err()
                    {
                        return;
                    }
                }
                () = inside.closed() => return,
            }
        }
    });
    ReceiverStream::new(guests)
}

/// Out of descriptors, as a rule: waiting is all that helps, and a busy loop would harm.
async fn pause(what: &str, why: &io::Error) {
    tracing::warn!("accept on the {what}: {why}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// How far a handshake is: the lower, the sooner it is displaced.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Stage {
    /// Is told why it may not come in, and has nothing more to say.
    Leaving = 0,
    /// Has not said a whole greeting.
    Silent = 1,
    /// Has greeted, was answered, and its certificate is on its way.
    Greeted = 2,
}

impl Stage {
    fn begin() -> Arc<AtomicU8> {
        Arc::new(AtomicU8::new(Self::Silent as u8))
    }

    fn set(self, of: &AtomicU8) {
        of.store(self as u8, Ordering::Relaxed);
    }
}

/// An unfinished handshake.
struct Waiting {
    source: IpAddr,
    stage: Arc<AtomicU8>,
    task: AbortHandle,
}

/// Unfinished handshakes, oldest first.
struct Queue {
    waiting: VecDeque<Waiting>,
    most: usize,
    most_per_source: usize,
}

impl Queue {
    fn new(limits: &Limits) -> Self {
        Self {
            waiting: VecDeque::new(),
            most: limits.handshakes,
            most_per_source: limits.handshakes_per_source,
        }
    }

    fn make_room(&mut self, from: SocketAddr) {
        let source = source(from.ip());
        if self.waiting.iter().filter(|w| w.source == source).count() >= self.most_per_source {
            self.displace(|w| w.source == source);
        } else if self.waiting.len() >= self.most {
            self.displace(|_| true);
        }
    }

    /// The oldest of the least far.
    fn displace(&mut self, mine: impl Fn(&Waiting) -> bool) {
        let all = self.waiting.iter().enumerate().filter(|(_, w)| mine(w));
        let at = all.min_by_key(|(at, w)| (w.stage.load(Ordering::Relaxed), *at)).map(|(at, _)| at);
        if let Some(gone) = at.and_then(|at| self.waiting.remove(at)) {
            gone.task.abort();
            tracing::debug!("a handshake with {} was displaced by a newer one", gone.source);
        }
    }

    fn enter(&mut self, from: SocketAddr, stage: Arc<AtomicU8>, task: AbortHandle) {
        self.waiting.push_back(Waiting { source: source(from.ip()), stage, task });
    }

    fn leave(&mut self, id: tokio::task::Id) {
        self.waiting.retain(|w| w.task.id() != id);
    }
}

/// One caller has one IPv4 address, or a whole /64.
fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

struct Hall {
    trust: Arc<ArcSwapOption<Trust>>,
    seats: Seats,
    deadline: Duration,
}

impl Hall {
    async fn greet(
        self: Arc<Self>,
        io: TcpStream,
        from: SocketAddr,
        stage: Arc<AtomicU8>,
    ) -> Option<Conn> {
        let trust = self.trust.load_full()?;
        if let Err(why) = io.set_nodelay(true) {
            tracing::debug!("set no-delay for {from}: {why}");
        }
        let handshake = shake_hands(io, &trust, &stage);
        let tls = match tokio::time::timeout(self.deadline, handshake).await {
            Ok(Ok(tls)) => tls,
            Ok(Err((why, io))) => {
                tracing::info!("{from} was turned away: {}", in_our_words(&why));
                Stage::Leaving.set(&stage);
                if let Some(io) = io {
                    see_off(io).await;
                }
                return None;
            }
            Err(_) => {
                tracing::debug!("{from} did not finish its handshake in time");
                return None;
            }
        };
        let shown = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<_> = shown.iter().map(|c| c.clone().into_owned()).collect();
        let acts = trust.ask(&chain).is_ok_and(|c| c.operator().is_ok());
        match self.seats.take(&chain, acts) {
            Ok(seat) => {
                Some(Conn::remote(tls, Peer::Remote { chain: Arc::new(chain), from }, seat))
            }
            Err(full) => {
                tracing::warn!("{from} was turned away: {full}");
                Stage::Leaving.set(&stage);
                let mut tls = tls;
                let said = tokio::time::timeout(SEEN_OFF, tls.write_all(&goaway(&full))).await;
                if matches!(said, Ok(Ok(()))) {
                    see_off(tls).await;
                }
                None
            }
        }
    }
}

/// In two parts, to know who has greeted; what it failed on with the connection, to say so.
async fn shake_hands(
    io: TcpStream,
    trust: &Trust,
    stage: &AtomicU8,
) -> Result<TlsStream<TcpStream>, (io::Error, Option<TcpStream>)> {
    let mut greeting = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io);
    let start = match (&mut greeting).await {
        Ok(start) => start,
        Err(why) => return Err((why, greeting.take_io())),
    };
    Stage::Greeted.set(stage);
    let rest = start.into_stream(trust.server()).into_fallible();
    rest.await.map_err(|(why, io)| (why, Some(io)))
}

fn in_our_words(why: &io::Error) -> String {
    match why.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(
            tls @ (rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented),
        ) => {
            let refused: Refused = refusal(tls, &[]);
            format!("{refused} ({tls})")
        }
        Some(tls) => tls.to_string(),
        None => chain(why),
    }
}

/// How long somebody who may not come in is listened to.
const SEEN_OFF: Duration = Duration::from_secs(1);

/// Lets the alert that says why arrive: closing a socket with unread data resets it, and the caller would see nothing else.
async fn see_off(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let read = async {
        io.shutdown().await?;
        let mut rest = [0_u8; 4096];
        for _ in 0..16 {
            if io.read(&mut rest).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    match tokio::time::timeout(SEEN_OFF, read).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(why)) => tracing::debug!("see a caller off: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_sent_away_goes_first_then_who_is_silent_longest_and_who_has_greeted_last() {
        let limits = Limits { handshakes: 5, handshakes_per_source: 4, ..Limits::default() };
        let mut queue = Queue::new(&limits);
        let (mine, other) =
            ("192.0.2.1:9".parse().unwrap(), "192.0.2.2:9".parse::<SocketAddr>().unwrap());
        let mut tasks = JoinSet::new();
        let stages = [Stage::Greeted, Stage::Silent, Stage::Leaving, Stage::Silent];
        for stage in stages {
            let seat = Stage::begin();
            stage.set(&seat);
            queue.enter(mine, seat, tasks.spawn(std::future::pending::<()>()));
        }
        let seats = |queue: &Queue| -> Vec<(IpAddr, u8)> {
            let of = |w: &Waiting| (w.source, w.stage.load(Ordering::Relaxed));
            queue.waiting.iter().map(of).collect()
        };
        let come = |queue: &mut Queue, tasks: &mut JoinSet<()>, from| {
            queue.make_room(from);
            queue.enter(from, Stage::begin(), tasks.spawn(std::future::pending()));
        };
        let a = mine.ip();
        come(&mut queue, &mut tasks, mine);
        assert_eq!(seats(&queue), [(a, 2), (a, 1), (a, 1), (a, 1)], "the one sent away went");
        let second = queue.waiting[1].task.id();
        come(&mut queue, &mut tasks, mine);
        assert!(queue.waiting.iter().all(|w| w.task.id() != second), "then the longest silent");
        // Another source has its own seats, until all are taken: then whoever is silent goes, whosever.
        come(&mut queue, &mut tasks, other);
        come(&mut queue, &mut tasks, other);
        let b = other.ip();
        assert_eq!(seats(&queue), [(a, 2), (a, 1), (a, 1), (b, 1), (b, 1)]);
        queue.waiting.iter().for_each(|w| Stage::Greeted.set(&w.stage));
        come(&mut queue, &mut tasks, other);
        assert_eq!(seats(&queue), [(a, 2), (a, 2), (b, 2), (b, 2), (b, 1)], "the oldest, at last");
    }

    #[test]
    fn a_v6_caller_counts_by_its_64_and_a_mapped_one_as_v4() {
        let a = source("2001:db8:1:2::1".parse().unwrap());
        assert_eq!(a, source("2001:db8:1:2:ffff::9".parse().unwrap()));
        assert_ne!(a, source("2001:db8:1:3::1".parse().unwrap()));
        assert_eq!(
            source("::ffff:192.0.2.1".parse().unwrap()),
            "192.0.2.1".parse::<IpAddr>().unwrap()
        );
    }
}
