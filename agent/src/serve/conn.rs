//! One connection, and who is at its other end.

use crate::roles::{Caller, Refused};
use crate::tls::Trust;
use rustls::pki_types::CertificateDer;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// Who is at the other end; what that may do is asked anew for each call.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Somebody with a certificate.
    Remote {
        /// The chain that was shown.
        chain: Arc<Vec<CertificateDer<'static>>>,
        /// From where.
        from: SocketAddr,
    },
    /// Somebody on this node.
    Local {
        /// Who.
        uid: u32,
    },
}

impl Peer {
    /// Who calls?
    ///
    /// # Errors
    /// When they are not to be believed, or have no role here.
    pub fn caller(&self, trust: Option<&Trust>) -> Result<Caller, Refused> {
        match self {
            Self::Remote { chain, .. } => trust.ok_or(Refused::WrongAuthority)?.ask(chain),
            Self::Local { uid } => Caller::local(*uid, rustix::process::geteuid().as_raw()),
        }
    }
}

/// A seat among the connections that are served at once; given back when the connection ends.
#[derive(Debug)]
pub struct Seat(pub Vec<OwnedSemaphorePermit>);

/// A connection that has been let in.
#[derive(Debug)]
pub struct Conn {
    io: Io,
    peer: Peer,
    _seat: Seat,
}

#[derive(Debug)]
enum Io {
    Remote(Box<TlsStream<TcpStream>>),
    Local(UnixStream),
}

impl Conn {
    /// Over TLS.
    pub fn remote(io: TlsStream<TcpStream>, peer: Peer, seat: Seat) -> Self {
        Self { io: Io::Remote(Box::new(io)), peer, _seat: seat }
    }

    /// Over the local socket.
    pub fn local(io: UnixStream, peer: Peer, seat: Seat) -> Self {
        Self { io: Io::Local(io), peer, _seat: seat }
    }
}

impl Connected for Conn {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Remote(io) => Pin::new(io).poll_read(cx, buf),
            Io::Local(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Remote(io) => Pin::new(io).poll_write(cx, buf),
            Io::Local(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Remote(io) => Pin::new(io).poll_flush(cx),
            Io::Local(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Remote(io) => Pin::new(io).poll_shutdown(cx),
            Io::Local(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
