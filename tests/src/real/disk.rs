//! What the real gear writes on the nodes' disks besides: programs, images, and the files k3s keeps where the agent reads them.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::KeyPair;

use super::image::{self, Image};
use super::parts::Programs;
use crate::disk::Layer;
use crate::error::{Doing, LabError, Result};
use crate::pki::{Authority, Pair};
use crate::topology::{Kind, Machine};
use crate::{names, run};

/// One program, called by the name of the part it is to be.
const KUBE: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
];
const SERVER: [(&str, &str); 4] = [
    ("etcd", include_str!("units/etcd.service")),
    ("kube-apiserver", include_str!("units/kube-apiserver.service")),
    ("kube-controller-manager", include_str!("units/kube-controller-manager.service")),
    ("kube-scheduler", include_str!("units/kube-scheduler.service")),
];
/// The packages would start these by themselves; k3s brings its own containerd.
const MASKED: [&str; 2] = ["containerd.service", "ssh.socket"];
/// State on which overlayfs is mounted, or whose mounts must be seen: a file system of the machine's own.
const BOUND: [(&str, &str); 2] =
    [("containerd", "/var/lib/rancher/k3s/agent/containerd"), ("kubelet", "/var/lib/kubelet")];

const TLS: &str = "/var/lib/rancher/k3s/server/tls";
const CRED: &str = "/var/lib/rancher/k3s/server/cred";
const AGENT: &str = "/var/lib/rancher/k3s/agent";
const TOOLS: [&str; 25] = [
    "sh", "cat", "date", "echo", "env", "grep", "head", "hostname", "httpd", "ip", "kill", "ls",
    "mkdir", "mount", "nc", "nslookup", "ping", "ps", "rm", "sed", "sleep", "tail", "sysctl",
    "wget", "true",
];

/// Options by which nspawn gives a node what its overlay cannot be.
pub fn binds(machine: &Machine) -> Result<Vec<String>> {
    // A kubelet watches the kernel's log for processes that were killed for want of memory.
    let mut binds = vec!["--bind=/dev/kmsg".to_owned()];
    if machine.kind == Kind::Worker {
        for (name, at) in BOUND {
            let from = names::disks_dir().join(machine.name).join(name);
            fs::create_dir_all(&from).doing(|| format!("make {}", from.display()))?;
            binds.push(format!("--bind={}:{at}", from.display()));
        }
    }
    Ok(binds)
}

/// Writes the layer that all nodes share.
pub fn write_common(programs: &Programs, root: &Path) -> Result<()> {
    let layer = Layer::common();
    let kube = layer.folder_of("/usr/local/bin/kube")?;
    link_or_copy(&programs.path("kube"), &kube)?;
    for name in KUBE {
        layer.link(&format!("/usr/local/bin/{name}"), "kube")?;
    }
    for name in ["control", "tailscaled", "tailscale"] {
        let to = layer.folder_of(&format!("/opt/tailnet/{name}"))?;
        link_or_copy(&programs.path(name), &to)?;
    }
    for unit in MASKED {
        layer.link(&format!("/etc/systemd/system/{unit}"), "/dev/null")?;
    }
    layer.write(
        "/etc/systemd/system/lab-furniture.service",
        include_str!("units/furniture.service"),
    )?;
    write_images(&layer, programs, root)
}

/// Where k3s imports images from at its start.
fn write_images(layer: &Layer, programs: &Programs, root: &Path) -> Result<()> {
    let busybox = root.join("bin/busybox");
    let box_ = (busybox.as_path(), "bin/busybox");
    let (tailscaled, tailscale) = (programs.path("tailscaled"), programs.path("tailscale"));
    let coredns = programs.path("coredns");
    let legacy = legacy_iptables(root)?;
    let mut with_tailscale = vec![
        box_,
        (tailscaled.as_path(), "bin/tailscaled"),
        (tailscale.as_path(), "bin/tailscale"),
    ];
    with_tailscale.extend(legacy.iter().map(|(from, to)| (from.as_path(), to.as_str())));
    let with_coredns = [box_, (coredns.as_path(), "coredns")];
    let curl = curl(root)?;
    let mut with_curl = vec![box_];
    with_curl.extend(curl.iter().map(|(from, to)| (from.as_path(), to.as_str())));
    let image = |name, files: &[(&Path, &str)], command: &[&str]| -> Result<()> {
        let to = layer.folder_of(&format!("{AGENT}/images/{name}.tar"))?;
        let full = format!("docker.io/lab/{name}:1");
        image::write(&Image { name: &full, files, tools: &TOOLS, command }, &to)
    };
    image("pause", &[box_], &["/bin/sleep", "2147483647"])?;
    image("tools", &[box_], &["/bin/sh"])?;
    image("curl", &with_curl, &["/usr/bin/curl"])?;
    image("tailscale", &with_tailscale, &["/bin/tailscaled"])?;
    image("coredns", &with_coredns, &["/coredns"])
}

/// Tailscale's own image brings iptables-legacy; ours takes the root's, with the libraries it is linked to.
fn legacy_iptables(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    const PROGRAM: &str = "usr/sbin/xtables-legacy-multi";
    let at = root.to_string_lossy().into_owned();
    let mut files = libraries(root, PROGRAM)?;
    let found = ["-path", "*/xtables/*.so", "-printf", "usr/lib/%P\n"];
    let extensions = run::host("find", &[&[&*format!("{at}/usr/lib")], &found[..]].concat())?;
    files.extend(extensions.success()?.stdout.lines().map(str::to_owned));
    let mut all: Vec<(PathBuf, String)> = files.into_iter().map(|f| (root.join(&f), f)).collect();
    // It knows its part by its name.
    all.extend(["iptables", "ip6tables"].map(|n| (root.join(PROGRAM), format!("sbin/{n}"))));
    Ok(all)
}

/// What whoever asks for a Service from a pod most often has.
fn curl(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    const PROGRAM: &str = "usr/bin/curl";
    let mut files = libraries(root, PROGRAM)?;
    // An older libc loads it by its name when it is to resolve one.
    let beside = files.iter().find_map(|f| f.strip_suffix("/libc.so.6")).map(str::to_owned);
    let resolver = beside.map(|dir| format!("{dir}/libnss_dns.so.2"));
    files.extend(resolver.filter(|f| root.join(f).is_file()));
    files.push(PROGRAM.to_owned());
    Ok(files.into_iter().map(|f| (root.join(&f), f)).collect())
}

/// The libraries that a program of the root is linked to, and its loader.
fn libraries(root: &Path, program: &str) -> Result<Vec<String>> {
    let argv = [&*root.to_string_lossy(), "ldd", &format!("/{program}")];
    let linked = run::host("chroot", &argv)?.success()?.stdout;
    let all = linked.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(all.map(|l| l.trim_start_matches('/').to_owned()).collect())
}

fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    // The cache may be on another file system.
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map(drop).doing(|| format!("copy {} to {}", from.display(), to.display()))
}

/// The control plane's units, keys and access.
pub fn write_server(layer: &Layer, machine: &Machine, authority: &Authority) -> Result<()> {
    layer.write(&format!("{TLS}/server-ca.crt"), authority.server_ca())?;
    layer.write(&format!("{TLS}/client-ca.crt"), authority.client_ca())?;
    write_pair(layer, &format!("{TLS}/serving-kube-apiserver"), &authority.api_server()?)?;
    let to_kubelets = authority.client("system:apiserver", Some("system:masters"))?;
    write_pair(layer, &format!("{TLS}/client-kube-apiserver"), &to_kubelets)?;
    let service = KeyPair::generate()
        .map_err(|source| LabError::Certificate { what: "service accounts".to_owned(), source })?;
    layer.write_secret(&format!("{TLS}/service.key"), service.serialize_pem())?;
    layer.write(&format!("{TLS}/service.pub"), service.public_key_pem())?;
    for (name, user) in
        [("controller", "system:kube-controller-manager"), ("scheduler", "system:kube-scheduler")]
    {
        let certificate = format!("{TLS}/client-{name}");
        write_pair(layer, &certificate, &authority.client(user, None)?)?;
        let text =
            kubeconfig("https://127.0.0.1:6443", &format!("{TLS}/server-ca.crt"), &certificate);
        layer.write_secret(&format!("{CRED}/{name}.kubeconfig"), text)?;
    }
    for (name, text) in SERVER {
        let unit = format!("{name}.service");
        let text = text.replace("{ADDRESS}", &machine.v4().to_string());
        layer.write(&format!("/etc/systemd/system/{unit}"), text)?;
        layer.enable(&unit)?;
    }
    Ok(())
}

/// What the supervisor's children read. The kubelet's own certificate is written as in the quick gear.
pub fn write_worker(layer: &Layer, machine: &Machine, authority: &Authority) -> Result<()> {
    let name = machine.name;
    let serving = authority.kubelet_serving(name, &machine.v4().to_string())?;
    write_pair(layer, &format!("{AGENT}/serving-kubelet"), &serving)?;
    let proxy = authority.client("system:kube-proxy", None)?;
    write_pair(layer, &format!("{AGENT}/client-kube-proxy"), &proxy)?;
    for (file, certificate) in [("kubelet", "client-kubelet"), ("kubeproxy", "client-kube-proxy")] {
        let (ca, pair) = (format!("{AGENT}/server-ca.crt"), format!("{AGENT}/{certificate}"));
        let text = kubeconfig("https://127.0.0.1:6444", &ca, &pair);
        layer.write_secret(&format!("{AGENT}/{file}.kubeconfig"), text)?;
    }
    layer.write(&format!("{AGENT}/etc/kubelet.yaml"), include_str!("units/kubelet.yaml"))?;
    layer.write(
        &format!("{AGENT}/etc/containerd/config.toml"),
        include_str!("units/containerd.toml"),
    )?;
    layer.write(
        &format!("{AGENT}/etc/cni/net.d/10-flannel.conflist"),
        include_str!("units/flannel.conflist").replace("{N}", &machine.pods.to_string()),
    )?;
    layer
        .write_secret("/etc/rancher/node/password", format!("{}\n", super::node_password(name)))?;
    layer.write("/etc/systemd/system/k3s-agent.service", include_str!("units/k3s-agent.service"))
}

fn write_pair(layer: &Layer, path: &str, pair: &Pair) -> Result<()> {
    layer.write(&format!("{path}.crt"), &pair.certificate)?;
    layer.write_secret(&format!("{path}.key"), &pair.key)
}

fn kubeconfig(server: &str, ca: &str, pair: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: local\nclusters:\n- name: local\n  cluster:\n    \
         server: {server}\n    certificate-authority: {ca}\nusers:\n- name: user\n  user:\n    \
         client-certificate: {pair}.crt\n    client-key: {pair}.key\ncontexts:\n- name: local\n  context:\n    \
         cluster: local\n    user: user\n"
    )
}
