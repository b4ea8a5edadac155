//! The load balancer of a k3s agent: a TCP proxy to the API servers.
//!
//! Copies `pkg/agent/loadbalancer`: accepts before it dials, so a client's TCP connection succeeds while the way to the
//! server is dead; dials without a time limit, so a lost SYN is repeated for two minutes with the source it began with; closes all
//! connections to a server whose tunnel has failed (`servers.go closeAll`).

use std::{net::SocketAddr, path::Path, sync::Arc, time::Instant};

use anyhow::Context as _;
use serde::Deserialize;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::say;

/// The file that k3s keeps the endpoints in.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoints {
    server_addresses: Vec<SocketAddr>,
}

/// One API server and the signal that closes every connection to it.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    close: watch::Sender<()>,
}

/// The load balancer.
#[derive(Debug)]
pub struct Balancer {
    servers: Vec<Server>,
}

impl Balancer {
    /// Reads the endpoints.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read endpoints: {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("understand endpoints: {}", path.display()))
    }

    fn parse(text: &str) -> serde_json::Result<Self> {
        let endpoints: Endpoints = serde_json::from_str(text)?;
        let server = |address| Server { address, close: watch::Sender::new(()) };
        Ok(Self { servers: endpoints.server_addresses.into_iter().map(server).collect() })
    }

    /// The API servers.
    #[must_use]
    pub fn servers(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    /// Closes every connection to a server.
    pub fn close_all(&self, address: SocketAddr) {
        for server in self.servers.iter().filter(|server| server.address == address) {
            say!(
                "Closing {} connections to load balancer server {address}",
                server.close.receiver_count()
            );
            server.close.send_replace(());
        }
    }

    /// Carries connections for ever.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((client, _)) => {
                    let balancer = Arc::clone(&self);
                    tokio::spawn(async move { balancer.carry(client).await });
                }
                Err(cause) => say!("load balancer: accept: {cause}"),
            }
        }
    }

    async fn carry(&self, mut client: TcpStream) {
        for server in &self.servers {
            let begun = Instant::now();
            match TcpStream::connect(server.address).await {
                Ok(mut upstream) => {
                    let mut close = server.close.subscribe();
                    tokio::select! {
                        // How a carried connection ends is between its two ends.
                        _ended = copy_bidirectional(&mut client, &mut upstream) => {}
                        _closed = close.changed() => {}
                    }
                    return;
                }
                Err(cause) => {
                    say!(
                        "Dial error from load balancer k3s-agent-load-balancer after {:.1?}: {}: {cause}",
                        begun.elapsed(),
                        server.address
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn carries_to_the_first_server_that_answers_until_told_to_close() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let dead = { TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap() };
        let text =
            format!(r#"{{"ServerURL":"https://x","ServerAddresses":["{dead}","{address}"]}}"#);
        let balancer = Arc::new(Balancer::parse(&text).unwrap());
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = front.local_addr().unwrap();
        tokio::spawn(Arc::clone(&balancer).serve(front));
        let mut client = TcpStream::connect(at).await.unwrap();
        let (mut upstream, _) = server.accept().await.unwrap();
        upstream.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        balancer.close_all(address);
        assert_eq!(client.read(&mut heard).await.unwrap(), 0);
    }

    #[test]
    fn a_file_without_endpoints_is_refused() {
        assert!(Balancer::parse(r#"{"ServerURL":"https://x"}"#).is_err());
    }
}
