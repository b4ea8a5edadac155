//! An API server by itself: the real etcd, kube-apiserver, kube-controller-manager and kube-scheduler on loopback, without
//! nodes.
//!
//! For what is about objects alone: namespaces that do not go, evictions, rights. A node is an object that somebody applies;
//! no kubelet is behind it, and the controllers take its Ready as it is written.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rcgen::KeyPair;
use tempfile::TempDir;

use super::parts;
use crate::error::{Doing, LabError, Result};
use crate::pki::Authority;
use crate::progress::Progress;
use crate::run::{self, Output};

/// From nothing to the first service account; a machine that is busy with other things needs a while.
const LIMIT: Duration = Duration::from_secs(240);
const ASK: Duration = Duration::from_secs(180);

/// A running control plane; it ends with this value, and with this process in any case.
pub struct Control {
    dir: TempDir,
    kube: PathBuf,
    port: u16,
    authority: Authority,
    holder: Option<(mpsc::Sender<()>, thread::JoinHandle<()>)>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control({})", self.port)
    }
}

/// Starts one. `None` when the parts have not been built on this machine; under `CI` they are built, or waited for.
pub fn begin() -> Result<Option<Control>> {
    let ci = std::env::var_os("CI").is_some_and(|v| !v.is_empty() && v != "false");
    let kube = match ci {
        true => Some(parts::ensure_one("kube", &Progress::new(), true)?),
        false => parts::built("kube")?,
    };
    kube.map(Control::start).transpose()
}

impl Control {
    fn start(kube: PathBuf) -> Result<Self> {
        let dir = tempfile::tempdir().doing(|| "make a folder for an API server".to_owned())?;
        let authority = Authority::new()?;
        let at = Ports { store: free()?, peers: free()?, api: free()? };
        let mut control = Self { dir, kube, port: at.api, authority, holder: None };
        control.write_keys()?;
        let commands = control.commands(&at)?;
        control.holder = Some(hold(commands)?);
        control.await_ready()?;
        Ok(control)
    }

    fn write_keys(&self) -> Result<()> {
        let service = KeyPair::generate()
            .map_err(|source| LabError::Certificate { what: "service accounts".into(), source })?;
        let server = self.authority.api_server()?;
        for (name, text) in [
            ("server-ca.crt", self.authority.server_ca()),
            ("client-ca.crt", self.authority.client_ca()),
            ("server.crt", server.certificate),
            ("server.key", server.key),
            ("service.key", service.serialize_pem()),
            ("service.pub", service.public_key_pem()),
        ] {
            self.write(name, &text)?;
        }
        self.kubeconfig("admin", "system:admin", Some("system:masters"))?;
        self.kubeconfig("controller", "system:kube-controller-manager", None)?;
        self.kubeconfig("scheduler", "system:kube-scheduler", None).map(drop)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).doing(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a kubeconfig for a user, and gives its path.
    pub fn kubeconfig(&self, file: &str, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let pair = self.authority.client(user, group)?;
        let certificate = self.write(&format!("{file}.crt"), &pair.certificate)?;
        let key = self.write(&format!("{file}.key"), &pair.key)?;
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\nclusters:\n- name: lab\n  cluster:\n    \
             server: https://127.0.0.1:{}\n    certificate-authority: {}\nusers:\n- name: {user}\n  user:\n    \
             client-certificate: {}\n    client-key: {}\ncontexts:\n- name: lab\n  context:\n    \
             cluster: lab\n    user: {user}\n",
            self.port,
            self.path("server-ca.crt").display(),
            certificate.display(),
            key.display()
        );
        self.write(&format!("{file}.kubeconfig"), &text)
    }

    /// The kubeconfig of one who may do everything.
    #[must_use]
    pub fn admin(&self) -> PathBuf {
        self.path("admin.kubeconfig")
    }

    fn commands(&self, at: &Ports) -> Result<Vec<Command>> {
        let file = |name: &str| self.path(name).display().to_string();
        let (store, peers) =
            (format!("http://127.0.0.1:{}", at.store), format!("http://127.0.0.1:{}", at.peers));
        let etcd = [
            format!("--data-dir={}", file("etcd")),
            format!("--listen-client-urls={store}"),
            format!("--advertise-client-urls={store}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
            "--log-level=warn".to_owned(),
            // Nothing in it outlives a test.
            "--unsafe-no-fsync".to_owned(),
        ];
        let api = [
            format!("--etcd-servers={store}"),
            format!("--secure-port={}", at.api),
            "--bind-address=127.0.0.1".to_owned(),
            // Loopback is refused, and nobody asks for it at this address.
            "--advertise-address=192.0.2.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.43.0.0/16".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--profiling=false".to_owned(),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--client-ca-file={}", file("client-ca.crt")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={}", file("service.pub")),
            format!("--service-account-signing-key-file={}", file("service.key")),
        ];
        let controllers = [
            format!("--kubeconfig={}", file("controller.kubeconfig")),
            format!("--service-account-private-key-file={}", file("service.key")),
            format!("--root-ca-file={}", file("server-ca.crt")),
            "--use-service-account-credentials=true".to_owned(),
            "--leader-elect=false".to_owned(),
            "--profiling=false".to_owned(),
            "--secure-port=0".to_owned(),
            // Nobody renews the leases of nodes without kubelets: what is written of a node stays.
            "--node-monitor-grace-period=10h".to_owned(),
            "--controllers=*,-node-route-controller,-cloud-node-lifecycle-controller".to_owned(),
        ];
        // Pods of a DaemonSet are bound by the scheduler, too.
        let scheduler = [
            format!("--kubeconfig={}", file("scheduler.kubeconfig")),
            "--leader-elect=false".to_owned(),
            "--profiling=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        Ok(vec![
            self.command("etcd", &etcd)?,
            self.command("kube-apiserver", &api)?,
            self.command("kube-controller-manager", &controllers)?,
            self.command("kube-scheduler", &scheduler)?,
        ])
    }

    fn command(&self, part: &str, args: &[String]) -> Result<Command> {
        let path = self.path(&format!("{part}.log"));
        let doing = || format!("write {}", path.display());
        let log = fs::File::create(&path).doing(doing)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.kube).arg(part).args(args);
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().doing(doing)?).stderr(log);
        Ok(command)
    }

    fn await_ready(&self) -> Result<()> {
        let begun = Instant::now();
        let ready = |args: &[&str]| self.kubectl(args).is_ok_and(|out| out.ok());
        while !(ready(&["get", "--raw", "/readyz"])
            && ready(&["get", "serviceaccount", "default", "-n", "default"]))
        {
            if begun.elapsed() > LIMIT {
                let log = fs::read_to_string(self.path("kube-apiserver.log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                let doing = format!("start an API server ({})", last.join(" | "));
                return Err(LabError::TimedOut { doing, after: LIMIT });
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Runs `kubectl` as one who may do everything.
    pub fn kubectl(&self, args: &[&str]) -> Result<Output> {
        self.kubectl_with(args, None)
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let args = ["apply", "--server-side", "-f", "-"];
        self.kubectl_with(&args, Some(manifests.as_bytes()))?.success().map(drop)
    }

    fn kubectl_with(&self, args: &[&str], input: Option<&[u8]>) -> Result<Output> {
        let mut command = Command::new(&self.kube);
        command.arg("kubectl").arg("--kubeconfig").arg(self.admin()).args(args);
        command.env("HOME", self.dir.path());
        run::run(&mut command, ASK, input)
    }

    /// Writes a node, and what its kubelet would say of it: `True`, `False`, `Unknown`.
    pub fn node(&self, name: &str, ready: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{kubernetes.io/hostname: {name}}}}}\n"
        ))?;
        self.say_ready(name, ready)
    }

    /// Changes what a node's kubelet says of it.
    pub fn say_ready(&self, name: &str, ready: &str) -> Result<()> {
        let status = serde_json::json!({"status": {
            "conditions": [{"type": "Ready", "status": ready, "reason": "Lab",
                "lastHeartbeatTime": jiff::Timestamp::now().to_string(),
                "lastTransitionTime": jiff::Timestamp::now().to_string()}],
            "capacity": {"cpu": "64", "memory": "64Gi", "pods": "1000"},
            "allocatable": {"cpu": "64", "memory": "64Gi", "pods": "1000"},
            "nodeInfo": {"machineID": "", "systemUUID": "", "bootID": format!("boot-of-{name}"), "kernelVersion": "",
                "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
                "operatingSystem": "linux", "architecture": "amd64"}}});
        let patch = status.to_string();
        let args = ["patch", "node", name, "--subresource=status", "--type=merge", "-p", &patch];
        self.kubectl(&args)?.success().map(drop)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some((stop, held)) = self.holder.take() {
            drop(stop);
            // It panics only when a child could not be waited for.
            held.join().ok();
        }
    }
}

struct Ports {
    store: u16,
    peers: u16,
    api: u16,
}

/// A port nobody listens on now.
fn free() -> Result<u16> {
    let doing = || "find a free port".to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").doing(doing)?;
    Ok(listener.local_addr().doing(doing)?.port())
}

/// Starts the children from a thread that lives as long as they: the death signal is tied to the thread that started them,
/// and a test's thread ends with the test.
fn hold(commands: Vec<Command>) -> Result<(mpsc::Sender<()>, thread::JoinHandle<()>)> {
    let (stop, stopped) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let held = thread::spawn(move || {
        let mut children: Vec<Child> = Vec::new();
        for mut command in commands {
            match command.spawn() {
                Ok(child) => children.push(child),
                Err(e) => drop(tell.send(e)),
            }
        }
        drop(tell);
        // Ends when the other side is dropped.
        stopped.recv().ok();
        for child in children.iter_mut().rev() {
            child.kill().ok();
            child.wait().ok();
        }
    });
    match told.recv() {
        Ok(error) => Err(error).doing(|| "start an API server".to_owned()),
        Err(mpsc::RecvError) => Ok((stop, held)),
    }
}
