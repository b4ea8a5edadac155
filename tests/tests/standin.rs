//! The stand-ins for the API server and the k3s agent, over the loopback, seen by the client that the product uses.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    net::TcpListener,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use lifeline_lab::pki::Authority;

/// A child that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn start(part: &[&str], notify: Option<&Path>) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.arg("standin").args(part).stdin(Stdio::null()).stderr(Stdio::null());
    if let Some(socket) = notify {
        command.env("NOTIFY_SOCKET", socket);
    }
    Running(command.spawn().unwrap())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An API server and an agent of node `calypso`, with their files below `folder`.
struct Cluster {
    folder: tempfile::TempDir,
    authority: Authority,
    api: u16,
    server: Option<Running>,
}

impl Cluster {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let pair = authority.api_server().unwrap();
        fs::write(at("api.crt"), pair.certificate).unwrap();
        fs::write(at("api.key"), pair.key).unwrap();
        fs::write(at("client-ca.crt"), authority.client_ca()).unwrap();
        fs::write(at("server-ca.crt"), authority.server_ca()).unwrap();
        let api = free_port();
        let listen = format!("127.0.0.1:{api}");
        let server = start(
            &[
                "apiserver",
                "--listen",
                &listen,
                "--cert",
                &at("api.crt"),
                "--key",
                &at("api.key"),
                "--client-ca",
                &at("client-ca.crt"),
                "--server-ca",
                &at("server-ca.crt"),
                "--lease-log",
                &at("leases.jsonl"),
            ],
            None,
        );
        Self { folder, authority, api, server: Some(server) }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Starts the agent and returns the socket on which it tells systemd that it is ready.
    fn start_agent(&self) -> (Running, UnixDatagram) {
        let pair = self.authority.kubelet("calypso").unwrap();
        fs::create_dir_all(self.path("etc")).unwrap();
        fs::write(self.path("client-kubelet.crt"), pair.certificate).unwrap();
        fs::write(self.path("client-kubelet.key"), pair.key).unwrap();
        let url = format!("127.0.0.1:{}", self.api);
        let endpoints =
            format!("{{\"ServerURL\":\"https://{url}\",\"ServerAddresses\":[\"{url}\"]}}");
        fs::write(self.path("etc/k3s-agent-load-balancer.json"), endpoints).unwrap();
        fs::write(self.path("config.yaml"), "node-name: calypso\nnode-ip: 192.168.2.80\n").unwrap();
        let socket = UnixDatagram::bind(self.path("notify")).unwrap();
        let (balancer, healthz) =
            (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let running = start(
            &[
                "k3s",
                "agent",
                "--no-proxy",
                "--data",
                &self.path(""),
                "--config",
                &self.path("config.yaml"),
                "--balancer",
                &balancer,
                "--healthz",
                &healthz,
            ],
            Some(Path::new(&self.path("notify"))),
        );
        (running, socket)
    }

    /// Starts the agent and waits until it is ready.
    fn agent(&self) -> Running {
        let (running, socket) = self.start_agent();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut heard = [0; 16];
        let len = socket.recv(&mut heard).unwrap();
        assert_eq!(&heard[..len], b"READY=1");
        running
    }

    /// The operator's client.
    async fn client(&self) -> Client {
        let pair = self.authority.admin().unwrap();
        fs::write(self.path("admin.crt"), pair.certificate).unwrap();
        fs::write(self.path("admin.key"), pair.key).unwrap();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\nclusters: [{{name: lab, cluster: {{server: 'https://127.0.0.1:{}', \
             certificate-authority: {}}}}}]\nusers: [{{name: lab, user: {{client-certificate: {}, client-key: {}}}}}]\n\
             contexts: [{{name: lab, context: {{cluster: lab, user: lab}}}}]\n",
            self.api,
            self.path("server-ca.crt"),
            self.path("admin.crt"),
            self.path("admin.key")
        );
        let config = Kubeconfig::from_yaml(&text).unwrap();
        let options = KubeConfigOptions::default();
        Client::try_from(kube::Config::from_custom_kubeconfig(config, &options).await.unwrap())
            .unwrap()
    }
}

#[tokio::test]
async fn the_products_client_reads_and_writes_nodes_and_leases() {
    let cluster = Cluster::new();
    let _agent = cluster.agent();
    let client = cluster.client().await;
    assert_eq!(client.apiserver_version().await.unwrap().git_version, "v1.34.2+k3s1");

    let nodes: Api<Node> = Api::all(client.clone());
    let listed = nodes.list(&ListParams::default()).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    let node = nodes.get("calypso").await.unwrap();
    let status = node.status.clone().unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(status.node_info.unwrap().boot_id, boot.trim());
    let ready =
        status.conditions.unwrap().into_iter().find(|found| found.type_ == "Ready").unwrap();
    assert_eq!(ready.status, "True");
    assert_eq!(node.spec.unwrap().pod_cidr.as_deref(), Some("10.42.1.0/24"));

    let cordon = serde_json::json!({"spec": {"unschedulable": true}});
    let cordoned =
        nodes.patch("calypso", &PatchParams::default(), &Patch::Strategic(cordon)).await.unwrap();
    assert_eq!(cordoned.spec.unwrap().unschedulable, Some(true));

    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let lease = leases.get("calypso").await.unwrap();
    assert_eq!(lease.spec.as_ref().unwrap().lease_duration_seconds, Some(40));
    leases.replace("calypso", &PostParams::default(), &lease).await.unwrap();
    let stale = leases.replace("calypso", &PostParams::default(), &lease).await.unwrap_err();
    assert!(matches!(stale, kube::Error::Api(ref status) if status.is_conflict()), "{stale}");
    let missing = leases.get_opt("styx").await.unwrap();
    assert!(missing.is_none());

    let system: k8s_openapi::api::core::v1::Namespace =
        Api::all(client).get("kube-system").await.unwrap();
    assert_eq!(system.metadata.uid.unwrap().len(), 36);
}

#[tokio::test]
async fn the_agent_renews_its_lease_every_ten_seconds_over_one_connection() {
    let cluster = Cluster::new();
    let _agent = cluster.agent();
    let leases: Api<Lease> = Api::namespaced(cluster.client().await, "kube-node-lease");
    let renewed = async || leases.get("calypso").await.unwrap().spec.unwrap().renew_time.unwrap().0;
    let (first, begun) = (renewed().await, Instant::now());
    while renewed().await == first {
        assert!(begun.elapsed() < Duration::from_secs(13), "no renewal in 13 s");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let beat = renewed().await.duration_since(first).as_secs_f64();
    assert!((10.0..10.9).contains(&beat), "{beat}");
    let log = fs::read_to_string(cluster.path("leases.jsonl")).unwrap();
    assert_eq!(lifeline_lab::standin::apiserver::lease::parse(&log).len(), 3, "{log}");
}

#[test]
fn an_agent_without_an_api_server_keeps_trying_and_is_not_ready() {
    let mut cluster = Cluster::new();
    drop(cluster.server.take());
    let (mut agent, socket) = cluster.start_agent();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    assert!(socket.recv(&mut [0; 16]).is_err(), "ready without an API server");
    assert!(agent.0.try_wait().unwrap().is_none(), "the agent gave up");
}
