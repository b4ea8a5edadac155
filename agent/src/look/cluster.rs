//! Who this node is and where its API servers are, from the files k3s leaves: they are there when nothing answers.

use super::{Places, Seen};
use lifeline_core::net::{Family, Prefix};
use lifeline_core::observation::{Cluster, Gap, Observation, Sense, TABLE_MAIN};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

/// The port k3s's server listens on unless told otherwise.
pub(super) const API_PORT: u16 = 6443;
/// k3s's `--service-cidr` when nobody sets it (k3s `pkg/cli/cmds/server.go`). Only servers know another; an agent's own files
/// do not tell.
const SERVICE_CIDR: &str = "10.43.0.0/16";
/// What the kubelet's certificate is made out to.
const NODE_CN: &str = "system:node:";

/// `k3s-agent-load-balancer.json`: exported fields of k3s's `pkg/agent/loadbalancer`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Balancer {
    #[serde(default, rename = "ServerURL")]
    server_url: String,
    #[serde(default)]
    server_addresses: Option<Vec<String>>,
}

/// Reads the files.
pub(super) fn read(places: &Places) -> Seen<Cluster> {
    let mut gaps = Vec::new();
    let mut gap = |why: String| gaps.push(Gap { what: Sense::Cluster, why });
    let config = config(&places.etc.join("rancher/k3s"), &mut gap);
    let first = |key: &str| config.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    let service_cidr = first("service-cidr").unwrap_or_else(|| SERVICE_CIDR.to_owned());
    let mut cluster = Cluster {
        node: places.node.clone().unwrap_or_default(),
        node_ip: first("node-ip").and_then(|ip| said("k3s's node-ip", &ip, &mut gap)),
        api: places.api.clone(),
        service_cidr: said("k3s's service-cidr", &service_cidr, &mut gap),
        ..Cluster::default()
    };
    if cluster.node.is_empty() {
        cluster.node = match certified(&places.k3s.join("agent/client-kubelet.crt")) {
            Ok(name) => name,
            Err(why) => first("node-name").unwrap_or_else(|| {
                gap(why);
                String::new()
            }),
        };
    }
    if cluster.api.is_empty() {
        match endpoints(&places.k3s.join("agent/etc")) {
            Ok(api) => cluster.api = api,
            Err(why) => gap(why),
        }
    }
    // Flannel writes it when k3s has come up; before that, and with another CNI, there is none.
    match text(&places.run.join("flannel/subnet.env")) {
        Ok(Some(env)) => {
            cluster.pod_cidr = flannel(&env, "FLANNEL_SUBNET", &mut gap);
            cluster.cluster_cidr = flannel(&env, "FLANNEL_NETWORK", &mut gap);
        }
        Ok(None) => {}
        Err(why) => gap(why),
    }
    Seen { found: cluster, gaps }
}

/// Adds what the routing tells: k3s takes the address on the default route's device when none is set.
pub(super) fn complete(seen: &mut Observation) {
    if seen.cluster.node_ip.is_some() {
        return;
    }
    let family = seen.cluster.api.first().map_or(Family::V4, |a| Family::of(a.ip()));
    let uplink = seen
        .routes
        .iter()
        .filter(|r| r.table == TABLE_MAIN && r.family == family && r.dst.is_all())
        .min_by_key(|r| r.metric);
    let Some(uplink) = uplink else { return };
    seen.cluster.node_ip = uplink.src.or_else(|| {
        let on = |a: &&lifeline_core::observation::Addr| {
            Some(a.dev.as_str()) == uplink.dev()
                && Family::of(a.addr) == family
                && !is_link_local(a.addr)
        };
        seen.addrs.iter().find(on).map(|a| a.addr)
    });
}

pub(super) fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

/// A value that is there is understood, or a gap: "could not read" is not "nobody said".
fn said<T: FromStr>(what: &str, value: &str, gap: &mut impl FnMut(String)) -> Option<T> {
    let read = value.parse().ok();
    if read.is_none() {
        gap(format!("read {what}: {value:?} is not understood"));
    }
    read
}

/// One prefix of flannel's `subnet.env`; a cluster of IPv6 alone has none of IPv4.
fn flannel(env: &str, key: &str, gap: &mut impl FnMut(String)) -> Option<Prefix> {
    let line = env.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))?;
    // So says flannel where there is no network of a family.
    let value = line.trim().trim_matches('"');
    if value.is_empty() { None } else { said(&format!("flannel's {key}"), value, gap) }
}

/// A file's content; `None` when there is no such file.
fn text(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("read {}: {e}", path.display())),
    }
}

/// The API endpoints in k3s's load balancer files, which it keeps up to date while it is connected.
fn endpoints(dir: &Path) -> Result<Vec<SocketAddr>, String> {
    let mut api: Vec<SocketAddr> = Vec::new();
    let mut found = false;
    // The second is written when supervisor and API server have different ports.
    for name in ["k3s-api-server-agent-load-balancer.json", "k3s-agent-load-balancer.json"] {
        let path = dir.join(name);
        let Some(json) = text(&path)? else { continue };
        found = true;
        for address in listed(&json).map_err(|e| format!("read {}: {e}", path.display()))? {
            if !api.contains(&address) {
                api.push(address);
            }
        }
    }
    match (found, api.is_empty()) {
        (false, _) => Err(format!("read {}: k3s has written no load balancer file", dir.display())),
        (true, true) => Err(format!("read {}: no endpoint there is an address", dir.display())),
        (true, false) => Ok(api),
    }
}

/// The addresses in one such file, the server's own last.
fn listed(json: &str) -> Result<Vec<SocketAddr>, serde_json::Error> {
    let parsed: Balancer = serde_json::from_str(json)?;
    let url = parsed.server_url.trim_start_matches("https://").trim_end_matches('/').to_owned();
    let all = parsed.server_addresses.unwrap_or_default().into_iter().chain([url]);
    Ok(all.filter_map(|a| endpoint(&a)).collect())
}

/// `203.0.113.10:6443`, `[fd00::1]:6443`, or the address alone. Names are not resolved: the resolver may be what is broken.
fn endpoint(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    text.parse().ok().or_else(|| {
        let addr: IpAddr = text.trim_matches(['[', ']']).parse().ok()?;
        Some(SocketAddr::new(addr, API_PORT))
    })
}

/// The node's name out of the kubelet's certificate, which is what the API server knows it by.
fn certified(path: &Path) -> Result<String, String> {
    let why = |e: String| format!("read the node's name from {}: {e}", path.display());
    let der = CertificateDer::from_pem_file(path).map_err(|e| why(e.to_string()))?;
    let (_, cert) = x509_parser::parse_x509_certificate(&der).map_err(|e| why(e.to_string()))?;
    let mut names = cert.subject().iter_common_name().filter_map(|cn| cn.as_str().ok());
    names
        .find_map(|cn| cn.strip_prefix(NODE_CN))
        .map(str::to_owned)
        .ok_or_else(|| why(format!("it is not made out to {NODE_CN}NAME")))
}

/// `config.yaml` and `config.yaml.d/*.yaml`: the flat `key: value` lines alone, later ones win. Of a list, the first value.
fn config(dir: &Path, gap: &mut impl FnMut(String)) -> Vec<(String, String)> {
    let mut files = vec![dir.join("config.yaml")];
    let folder = dir.join("config.yaml.d");
    match std::fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(more) => {
            let mut more: Vec<_> = more.into_iter().map(|e| e.path()).collect();
            more.retain(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml"));
            more.sort();
            files.append(&mut more);
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => gap(format!("read {}: {e}", folder.display())),
    }
    let mut pairs = Vec::new();
    for file in files {
        match text(&file) {
            Ok(yaml) => pairs.extend(flat(&yaml.unwrap_or_default())),
            Err(why) => gap(why),
        }
    }
    pairs
}

/// The flat pairs of a YAML text.
fn flat(yaml: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut open: Option<String> = None;
    for line in yaml.lines() {
        let bare = line.split(" #").next().unwrap_or_default().trim_end();
        if bare.is_empty() || bare.starts_with('#') {
            continue;
        }
        if let Some(item) = bare.trim_start().strip_prefix("- ") {
            if let Some(key) = open.take() {
                pairs.push((key, scalar(item)));
            }
        } else if !bare.starts_with(char::is_whitespace) {
            let Some((key, value)) = bare.split_once(':') else { continue };
            let key = scalar(key);
            if value.trim().is_empty() {
                open = Some(key);
            } else {
                open = None;
                let value = value.trim().trim_start_matches('[').trim_end_matches(']');
                pairs.push((key, scalar(value.split(',').next().unwrap_or_default())));
            }
        }
    }
    pairs
}

fn scalar(text: &str) -> String {
    text.trim().trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Fuzz;
    use std::fs;

    fn places(dir: &Path) -> Places {
        Places {
            k3s: dir.join("k3s"),
            etc: dir.join("etc"),
            run: dir.join("run"),
            ..Places::default()
        }
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_k3s_node_tells_who_it_is_without_being_asked() {
        let dir = tempfile::tempdir().unwrap();
        let p = places(dir.path());
        write(
            &p.k3s.join("agent/etc/k3s-agent-load-balancer.json"),
            r#"{"ServerURL":"https://203.0.113.10:6443","ServerAddresses":["203.0.113.10:6443","[fd00::10]:6443","api.example:6443"],"Listener":null}"#,
        );
        write(
            &p.run.join("flannel/subnet.env"),
            "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
        );
        write(
            &p.etc.join("rancher/k3s/config.yaml"),
            "token: secret # not ours\nnode-ip:\n  - 192.168.2.80\n",
        );
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:calypso");
        let cert = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        write(&p.k3s.join("agent/client-kubelet.crt"), &cert.pem());
        let seen = read(&p);
        assert_eq!(seen.gaps, []);
        let c = seen.found;
        assert_eq!(c.node, "calypso");
        assert_eq!(c.node_ip, Some("192.168.2.80".parse().unwrap()));
        assert_eq!(
            c.api,
            ["203.0.113.10:6443".parse().unwrap(), "[fd00::10]:6443".parse().unwrap()]
        );
        assert_eq!(c.pod_cidr.unwrap().to_string(), "10.42.1.0/24");
        assert_eq!(c.cluster_cidr.unwrap().to_string(), "10.42.0.0/16");
        assert_eq!(c.service_cidr.unwrap().to_string(), "10.43.0.0/16");
    }

    #[test]
    fn a_node_without_k3s_is_a_gap_for_each_thing_missing() {
        let dir = tempfile::tempdir().unwrap();
        let seen = read(&places(dir.path()));
        assert_eq!(seen.gaps.len(), 2, "{:?}", seen.gaps);
        assert!(seen.gaps[0].why.contains("client-kubelet.crt"));
        assert!(seen.gaps[1].why.contains("load balancer"));
        let told = Places {
            node: Some("calypso".into()),
            api: vec!["203.0.113.10:6443".parse().unwrap()],
            ..places(dir.path())
        };
        assert_eq!(read(&told).gaps, []);
    }

    #[test]
    fn what_is_there_and_not_understood_is_a_gap_and_never_the_usual_value() {
        let dir = tempfile::tempdir().unwrap();
        let p = Places {
            node: Some("calypso".into()),
            api: vec!["203.0.113.10:6443".parse().unwrap()],
            ..places(dir.path())
        };
        write(
            &p.run.join("flannel/subnet.env"),
            "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.",
        );
        write(&p.etc.join("rancher/k3s/config.yaml"), "service-cidr: 10.43.0\nnode-ip: calypso\n");
        write(&p.etc.join("rancher/k3s/config.yaml.d"), "a file in the folder's place");
        let seen = read(&p);
        assert_eq!(seen.found.service_cidr, None, "not k3s's default: another one is set");
        assert_eq!((seen.found.node_ip, seen.found.pod_cidr), (None, None));
        let whys: Vec<_> = seen.gaps.iter().map(|g| g.why.as_str()).collect();
        for part in ["config.yaml.d", "service-cidr", "node-ip", "FLANNEL_SUBNET"] {
            assert!(whys.iter().any(|w| w.contains(part)), "{part}: {whys:?}");
        }
        assert_eq!(whys.len(), 4, "{whys:?}");
    }

    #[test]
    fn k3s_files_are_understood_or_said_not_to_be_whatever_is_in_them() {
        let corpus =
            |kind: &'static str| Fuzz::new(kind).folder(format!("tests/corpus/{kind}"), |_| true);
        corpus("balancer").run(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            // Names are passed over here, and no address at all is an error one level up.
            for address in listed(&text).unwrap_or_default() {
                assert!(text.contains(&address.port().to_string()) || address.port() == API_PORT);
            }
        });
        corpus("k3s-config").run(|bytes| {
            let yaml = String::from_utf8_lossy(bytes);
            for (key, value) in flat(&yaml) {
                assert!(yaml.contains(&key) && yaml.contains(&value), "{key:?}: {value:?}");
            }
        });
        corpus("flannel").run(|bytes| {
            let env = String::from_utf8_lossy(bytes);
            for key in ["FLANNEL_SUBNET", "FLANNEL_NETWORK"] {
                let mut gaps = 0;
                let found = flannel(&env, key, &mut |_| gaps += 1);
                let set = env.lines().filter_map(|l| l.strip_prefix(key)?.strip_prefix('='));
                let set =
                    set.map(|v| v.trim().trim_matches('"')).next().is_some_and(|v| !v.is_empty());
                assert_eq!(set, found.is_some() || gaps == 1, "{key} in {env:?}");
            }
        });
    }

    #[test]
    fn only_flat_pairs_are_taken_from_yaml() {
        let yaml = "# x\nnode-name: \"calypso\"\nnode-ip: [192.168.2.80, fd00::80] # both\nkubelet-arg:\n  - a=b\n  - c=d\n\
            nested:\n  node-name: other\nservice-cidr: '10.50.0.0/16'\n";
        let pairs = flat(yaml);
        let get = |k: &str| pairs.iter().find(|(n, _)| n == k).map(|(_, v)| v.as_str());
        assert_eq!(get("node-name"), Some("calypso"));
        assert_eq!(get("node-ip"), Some("192.168.2.80"));
        assert_eq!(get("kubelet-arg"), Some("a=b"));
        assert_eq!(get("service-cidr"), Some("10.50.0.0/16"));
        assert_eq!(pairs.iter().filter(|(k, _)| k == "node-name").count(), 1);
    }
}
