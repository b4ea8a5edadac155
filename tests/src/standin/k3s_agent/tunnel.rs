//! The agent's tunnel to a server, by which the load balancer knows whether the server is well.
//!
//! Copies `pkg/agent/tunnel` and rancher/remotedialer: dialled past the balancer, 10 s for the handshake, a ping every 5 s,
//! given up after 60 s of silence, a second's pause before the next try. Pings are requests here instead of websocket frames.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::{
    balancer::Balancer,
    client::{dial, send},
};
use crate::say;

const HANDSHAKE: Duration = Duration::from_secs(10);
const PING: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the tunnel up for ever; when an established one breaks, the balancer's connections go too.
pub async fn keep(
    server: SocketAddr,
    tls: TlsConnector,
    balancer: Arc<Balancer>,
    path: &'static str,
) {
    loop {
        let mut was_up = false;
        say!("Connecting to proxy: wss://{server}{path}");
        if let Err(cause) = hold(server, &tls, path, &mut was_up).await {
            say!("Remotedialer proxy error; reconnecting...: {cause:#}");
        }
        if was_up {
            balancer.close_all(server);
        }
        sleep(PAUSE).await;
    }
}

async fn hold(
    server: SocketAddr,
    tls: &TlsConnector,
    path: &str,
    was_up: &mut bool,
) -> anyhow::Result<()> {
    let (mut to, connection) =
        timeout(HANDSHAKE, dial(server, tls, false)).await.context("handshake timed out")??;
    let connection = tokio::spawn(connection);
    let mut heard = Instant::now();
    let ended = loop {
        let ping =
            Request::builder().uri(format!("https://{server}{path}")).body(Full::new(Bytes::new()));
        match timeout(
            SILENCE.saturating_sub(heard.elapsed()),
            send(&mut to, ping.context("make ping")?),
        )
        .await
        {
            Ok(Ok(answer)) => {
                ensure!(answer.status.is_success(), "proxy answered {}", answer.status);
                if !*was_up {
                    say!("Remotedialer connected to proxy wss://{server}{path}");
                }
                *was_up = true;
                heard = Instant::now();
            }
            Ok(Err(cause)) => break Err(cause),
            Err(silence) => break Err(silence).context("read: i/o timeout"),
        }
        sleep(PING).await;
    };
    connection.abort();
    ended
}
