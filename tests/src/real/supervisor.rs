//! `k3s agent` of the real gear: the load balancer and the order of k3s, around the real containerd, kubelet and kube-proxy.
//!
//! In k3s kubelet and kube-proxy are parts of the one process and containerd is its child that dies with it
//! (`Pdeathsig`, `pkg/agent/containerd/command.go`). Here all three are children that die with it; containers live on, because
//! their shims are nobody's children. As in k3s the end of any of them is the end of the service.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hyper::{Method, StatusCode};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::flannel;
use crate::say;
use crate::standin::k3s_agent::{Args, Balancer, Client, RETRY, client, notify, setting, tunnel};

const SOCKET: &str = "/run/k3s/containerd/containerd.sock";
const CONTAINERD_LIMIT: Duration = Duration::from_secs(60);
const IMPORT_LIMIT: Duration = Duration::from_secs(120);
const REGISTER_LIMIT: Duration = Duration::from_secs(120);
/// k3s lets flannel look after its chains every 50 and 60 s.
const RESYNC: Duration = Duration::from_secs(60);
/// What any client may ask of an API server; k3s's own paths are not served by upstream's.
const PING: &str = "/version";

/// Runs until a child ends.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let config = std::fs::read_to_string(&args.config).unwrap_or_default();
    let node = setting(&config, "node-name").context("node-name is not configured")?;
    let address = setting(&config, "node-ip").context("node-ip is not configured")?;
    say!("Starting k3s agent v1.34.2+k3s1 (lifeline lab: real containerd, kubelet and kube-proxy)");
    let balancer = Arc::new(Balancer::read(&args.data.join("etc/k3s-agent-load-balancer.json"))?);
    let listener = TcpListener::bind(args.balancer)
        .await
        .with_context(|| format!("open load balancer: {}", args.balancer))?;
    say!("Running load balancer {} -> {:?}", args.balancer, balancer.servers());
    tokio::spawn(Arc::clone(&balancer).serve(listener));

    let tls = client::tls(&args.data)?;
    let client = Client::new(args.balancer, tls.clone());
    validate(&client, args.balancer).await;
    for server in balancer.servers() {
        tokio::spawn(tunnel::keep(server, tls.clone(), Arc::clone(&balancer), PING));
    }
    let mut containerd = containerd(&args.data).await?;
    import(&args.data.join("images")).await?;
    ensure_flannel(flannel::ensure).await;
    let mut kubelet = kubelet(&args.data, &node, &address)?;
    let mut proxy = proxy(&args.data, &node)?;
    tokio::select! {
        registered = registered(&client, &node) => registered?,
        ended = containerd.wait() => bail!("containerd ended: {}", ended?),
        ended = kubelet.wait() => bail!("kubelet ended: {}", ended?),
        ended = proxy.wait() => bail!("kube-proxy ended: {}", ended?),
    }
    notify::ready().context("notify systemd")?;
    say!("k3s agent is up and running");
    loop {
        tokio::select! {
            ended = containerd.wait() => bail!("containerd ended: {}", ended?),
            ended = kubelet.wait() => bail!("kubelet ended: {}", ended?),
            ended = proxy.wait() => bail!("kube-proxy ended: {}", ended?),
            () = sleep(RESYNC) => ensure_flannel(flannel::ensure_chains).await,
        }
    }
}

async fn validate(client: &Client, at: std::net::SocketAddr) {
    loop {
        match client.call(Method::GET, PING, None).await {
            Ok(answer) if answer.status == StatusCode::OK => return,
            Ok(answer) => say!(
                "Failed to validate connection to cluster at https://{at}: status {}",
                answer.status
            ),
            Err(cause) => {
                say!("Failed to validate connection to cluster at https://{at}: {cause:#}");
            }
        }
        sleep(RETRY).await;
    }
}

/// A child that is killed when we are gone, whatever ended us.
fn child(argv: &[String], log: Option<&Path>) -> anyhow::Result<Child> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(argv).stdin(Stdio::null());
    // The children's READY=1 is not ours.
    command.env_remove("NOTIFY_SOCKET");
    if let Some(path) = log {
        let file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("open {}", path.display()))?;
        command.stdout(file.try_clone().context("open a log twice")?).stderr(file);
    }
    command.spawn().with_context(|| format!("start {}", argv.join(" ")))
}

async fn containerd(data: &Path) -> anyhow::Result<Child> {
    let dir = data.join("containerd");
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    // Left by the last one, it would be taken for a living one's.
    std::fs::remove_file(SOCKET).ok();
    let config = data.join("etc/containerd/config.toml").display().to_string();
    let argv = ["containerd", "--config", &config].map(str::to_owned);
    let mut child = child(&argv, Some(&dir.join("containerd.log")))?;
    let until = Instant::now() + CONTAINERD_LIMIT;
    while !ctr(&["version"], Duration::from_secs(5)).await.is_ok_and(|said| said.contains("Server"))
    {
        if let Some(ended) = child.try_wait().context("look after containerd")? {
            bail!("containerd ended: {ended}; see {}", dir.join("containerd.log").display());
        }
        if Instant::now() > until {
            bail!("containerd does not answer after {} s", CONTAINERD_LIMIT.as_secs());
        }
        sleep(Duration::from_millis(100)).await;
    }
    say!("containerd is now running");
    Ok(child)
}

/// Imports what k3s would import: the archives in its images folder, unless they are there from before.
async fn import(dir: &Path) -> anyhow::Result<()> {
    let there = ctr(&["images", "ls", "-q"], IMPORT_LIMIT).await?;
    let entries = std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut archives: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    archives.sort();
    for archive in archives {
        let name = archive.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !there.lines().any(|l| l == format!("docker.io/lab/{name}:1")) {
            say!("Importing images from {}", archive.display());
            ctr(&["images", "import", &archive.display().to_string()], IMPORT_LIMIT).await?;
        }
    }
    Ok(())
}

async fn ctr(args: &[&str], limit: Duration) -> anyhow::Result<String> {
    let mut command = Command::new("ctr");
    command.args(["-a", SOCKET, "-n", "k8s.io"]).args(args).stdin(Stdio::null()).kill_on_drop(true);
    let doing = || format!("ctr {}", args.join(" "));
    let out = timeout(limit, command.output()).await.with_context(doing)?.with_context(doing)?;
    if !out.status.success() {
        bail!("{}: {}", doing(), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn kubelet(data: &Path, node: &str, address: &str) -> anyhow::Result<Child> {
    let data = data.display();
    say!("Running kubelet");
    child(
        &[
            "kubelet".to_owned(),
            format!("--config={data}/etc/kubelet.yaml"),
            format!("--kubeconfig={data}/kubelet.kubeconfig"),
            format!("--hostname-override={node}"),
            format!("--node-ip={address}"),
            "--v=2".to_owned(),
        ],
        None,
    )
}

fn proxy(data: &Path, node: &str) -> anyhow::Result<Child> {
    let data = data.display();
    say!("Running kube-proxy");
    child(
        &[
            "kube-proxy".to_owned(),
            format!("--kubeconfig={data}/kubeproxy.kubeconfig"),
            format!("--hostname-override={node}"),
            "--cluster-cidr=10.42.0.0/16".to_owned(),
            "--proxy-mode=iptables".to_owned(),
            "--healthz-bind-address=127.0.0.1:10256".to_owned(),
            // The machine's own limits, which are not the container's to change.
            "--conntrack-max-per-core=0".to_owned(),
            "--conntrack-tcp-timeout-established=0".to_owned(),
            "--conntrack-tcp-timeout-close-wait=0".to_owned(),
        ],
        None,
    )
}

/// k3s is ready when its node is there to be annotated.
async fn registered(client: &Client, node: &str) -> anyhow::Result<()> {
    let until = Instant::now() + REGISTER_LIMIT;
    let path = format!("/api/v1/nodes/{node}");
    loop {
        match client.call(Method::GET, &path, None).await {
            Ok(answer) if answer.status == StatusCode::OK => return Ok(()),
            Ok(answer) => say!("Waiting for node {node}: status {}", answer.status),
            Err(cause) => say!("Waiting for node {node}: {cause:#}"),
        }
        if Instant::now() > until {
            bail!("node {node} was not registered in {} s", REGISTER_LIMIT.as_secs());
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// A failure here is flannel's own log line, and it tries again: the service goes on.
async fn ensure_flannel(ensure: fn() -> crate::Result<()>) {
    match tokio::task::spawn_blocking(ensure).await {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => say!("flannel: {cause}"),
        Err(cause) => say!("flannel: {cause}"),
    }
}
