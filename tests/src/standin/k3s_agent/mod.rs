//! The stand-in for `k3s agent`: the supervisor on a worker, with load balancer, kubelet heartbeat and proxy rules in one
//! process, as in k3s.
//!
//! What it copies (paths of k3s-io/k3s unless said otherwise):
//! - `Type=notify`, READY=1 only after the API server has answered; until then a try every 2 s, for ever (`pkg/agent/run.go`);
//! - the load balancer on 127.0.0.1:6444, endpoints from its JSON file, dial without a time limit
//!   (`pkg/agent/loadbalancer`; `balancer.rs`);
//! - the tunnel to the server beside it, whose end closes the balancer's connections (`pkg/agent/tunnel`; `tunnel.rs`);
//! - the kubelet's lease and status over one kept-open HTTP/2 connection through the balancer (`kubelet.rs`, `client.rs`);
//! - healthz on 127.0.0.1:10248, green whatever the API server does;
//! - at the start a full sync of the chains of kube-proxy, kubelet and flannel, and never those of the CNI plugins (`proxy.rs`);
//! - flannel's device and what hangs on it, at the start.
//!
//! It runs no containers.

mod balancer;
pub(crate) mod client;
mod kubelet;
pub(crate) mod notify;
mod proxy;
pub(crate) mod tunnel;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use hyper::{Method, StatusCode};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

pub(crate) use self::{balancer::Balancer, client::Client, proxy::words};
use super::http;
use crate::{furniture, say};

/// How long to wait between two tries to reach the API server at the start.
pub(crate) const RETRY: Duration = Duration::from_secs(2);

/// Where a k3s server takes the tunnel.
const CONNECT: &str = "/v1-k3s/connect";

/// Flannel's device, when it is not there, and what hangs on it: flannel sets it when it starts and on events, and never again
/// (`pkg/backend/vxlan/device.go`, `ensureLink`).
pub(crate) fn overlay() -> crate::error::Result<()> {
    let me = furniture::here()?;
    if !Path::new("/sys/class/net/flannel.1").exists() {
        furniture::tool(&furniture::tunnel(me))?;
    }
    furniture::overlay(me).iter().try_for_each(|line| furniture::tool(line))
}

/// The arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// `agent`, as k3s is called on a worker
    #[arg(default_value = "agent", value_parser = ["agent"])]
    role: String,
    /// The agent's directory
    #[arg(long, default_value = "/var/lib/rancher/k3s/agent")]
    pub(crate) data: PathBuf,
    /// The agent's configuration
    #[arg(long, default_value = "/etc/rancher/k3s/config.yaml")]
    pub(crate) config: PathBuf,
    /// Where the load balancer listens
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 6444)))]
    pub(crate) balancer: SocketAddr,
    /// Where the kubelet tells of its health
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 10248)))]
    healthz: SocketAddr,
    /// Leave the packet filter alone
    #[arg(long)]
    no_proxy: bool,
    /// Supervise the real containerd, kubelet and kube-proxy instead of playing them
    #[arg(long)]
    real: bool,
}

/// Runs until SIGTERM.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    tokio::select! {
        _ = term.recv() => {
            say!("k3s agent: terminated");
            Ok(())
        }
        ended = agent(args) => ended,
    }
}

async fn agent(args: Args) -> anyhow::Result<()> {
    if args.real {
        return crate::real::supervisor::run(&args).await;
    }
    let config = std::fs::read_to_string(&args.config).unwrap_or_default();
    let hostname = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let node = setting(&config, "node-name").unwrap_or(hostname);
    let address = setting(&config, "node-ip");
    say!("Starting k3s agent v1.34.2+k3s1 (lifeline lab)");

    let servers = args.data.join("etc/k3s-agent-load-balancer.json");
    let balancer = Arc::new(Balancer::read(&servers)?);
    let listener = TcpListener::bind(args.balancer)
        .await
        .with_context(|| format!("open load balancer: {}", args.balancer))?;
    say!(
        "Running load balancer k3s-agent-load-balancer {} -> {:?}",
        args.balancer,
        balancer.servers()
    );
    tokio::spawn(Arc::clone(&balancer).serve(listener));

    let tls = client::tls(&args.data)?;
    let client = Arc::new(Client::new(args.balancer, tls.clone()));
    validate(&client, args.balancer).await;
    let tunnels = balancer.servers().into_iter().map(|server| {
        tokio::spawn(tunnel::keep(server, tls.clone(), Arc::clone(&balancer), CONNECT));
    });
    tunnels.for_each(drop);
    if !args.no_proxy {
        let synced = tokio::task::spawn_blocking(proxy::sync).await.context("sync proxy rules")?;
        if let Err(cause) = synced {
            say!("Failed to sync proxy rules: {cause:#}");
        }
        if let Err(cause) = tokio::task::spawn_blocking(overlay).await.context("start flannel")? {
            say!("flannel: {cause:#}");
        }
    }
    let healthz = TcpListener::bind(args.healthz)
        .await
        .with_context(|| format!("open healthz: {}", args.healthz))?;
    tokio::spawn(serve_healthz(healthz));
    let kubelet = kubelet::start(Arc::clone(&client), node, address).await;
    notify::ready().context("notify systemd")?;
    say!("k3s agent is up and running");
    kubelet.await.context("kubelet ended")
}

/// Tries until the API server answers, however long that takes.
async fn validate(client: &Client, at: SocketAddr) {
    loop {
        match client.call(Method::GET, "/cacerts", None).await {
            Ok(answer) if answer.status == StatusCode::OK => return,
            Ok(answer) => say!(
                "Failed to validate connection to cluster at https://{at}: status {}",
                answer.status
            ),
            Err(cause) => say!(
                "Failed to validate connection to cluster at https://{at}: failed to get CA certs: {cause:#}"
            ),
        }
        sleep(RETRY).await;
    }
}

async fn serve_healthz(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(http::serve(stream, |_| async { http::text(StatusCode::OK, "ok") }));
    }
}

/// A value of k3s's flat configuration file.
pub(crate) fn setting(config: &str, key: &str) -> Option<String> {
    let value = config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(value.trim().trim_matches('"').to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_the_configuration_file() {
        let config = "server: https://203.0.113.10:6443\nnode-name: calypso\nnode-ip: \"192.168.2.80\"\nempty:\n";
        assert_eq!(setting(config, "node-name").as_deref(), Some("calypso"));
        assert_eq!(setting(config, "node-ip").as_deref(), Some("192.168.2.80"));
        assert_eq!(setting(config, "node"), None);
        assert_eq!(setting(config, "empty"), None);
    }
}
