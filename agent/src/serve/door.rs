//! The doors: who is let in, how many at once, and how long a handshake may take. What they want is not its business.
//!
//! Why a newcomer displaces the oldest unfinished handshake: thousands of idle connections can be opened for nothing, from
//! the very address an operator calls from. Refusing newcomers would let them lock the operator out; a real handshake takes
//! milliseconds and is through long before it is the oldest.

use crate::config::Limits;
use crate::roles::Refused;
use crate::serve::conn::{Conn, Peer, Seat};
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
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
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
    socket.listen(128)?;
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
        all: Arc::new(Semaphore::new(limits.connections)),
        viewers: Arc::new(Semaphore::new(limits.connections - limits.reserved)),
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
                        let task = handshakes.spawn(hall.clone().greet(io, from));
                        queue.enter(from, task);
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

/// Unfinished handshakes, oldest first.
struct Queue {
    waiting: VecDeque<(IpAddr, AbortHandle)>,
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
        if self.waiting.iter().filter(|(s, _)| *s == source).count() >= self.most_per_source {
            let oldest = self.waiting.iter().position(|(s, _)| *s == source);
            self.displace(oldest);
        } else if self.waiting.len() >= self.most {
            self.displace(Some(0));
        }
    }

    fn displace(&mut self, at: Option<usize>) {
        if let Some((source, task)) = at.and_then(|at| self.waiting.remove(at)) {
            task.abort();
            tracing::debug!("a handshake with {source} was displaced by a newer one");
        }
    }

    fn enter(&mut self, from: SocketAddr, task: AbortHandle) {
        self.waiting.push_back((source(from.ip()), task));
    }

    fn leave(&mut self, id: tokio::task::Id) {
        self.waiting.retain(|(_, task)| task.id() != id);
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
    all: Arc<Semaphore>,
    viewers: Arc<Semaphore>,
    deadline: Duration,
}

impl Hall {
    async fn greet(self: Arc<Self>, io: TcpStream, from: SocketAddr) -> Option<Conn> {
        let trust = self.trust.load_full()?;
        if let Err(why) = io.set_nodelay(true) {
            tracing::debug!("set no-delay for {from}: {why}");
        }
        let handshake = TlsAcceptor::from(trust.server()).accept(io).into_fallible();
        let tls = match tokio::time::timeout(self.deadline, handshake).await {
            Ok(Ok(tls)) => tls,
            Ok(Err((why, io))) => {
                tracing::info!("{from} was turned away: {}", in_our_words(&why));
                see_off(io).await;
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
        let Some(seat) = self.seat(acts) else {
            tracing::warn!("{from} was turned away: all connections are taken");
            return None;
        };
        Some(Conn::remote(tls, Peer::Remote { chain: Arc::new(chain), from }, seat))
    }

    /// Some seats only operators get: viewers cannot keep them out.
    fn seat(&self, acts: bool) -> Option<Seat> {
        let mut held = vec![self.all.clone().try_acquire_owned().ok()?];
        if !acts {
            held.push(self.viewers.clone().try_acquire_owned().ok()?);
        }
        Some(Seat(held))
    }
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

/// Lets the alert that says why arrive: closing a socket with unread data resets it, and the caller would see nothing else.
async fn see_off(mut io: TcpStream) {
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
    match tokio::time::timeout(Duration::from_secs(1), read).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(why)) => tracing::debug!("see a caller off: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
