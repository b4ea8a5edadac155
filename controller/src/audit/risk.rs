//! What makes a workload one that could cut its node off again, from its pod's description alone.

use k8s_openapi::api::core::v1::{PodSpec, SecurityContext};
use serde::Serialize;

/// Programs that make tunnels and move routes into them, as they are called in image names.
const VPNS: [&str; 15] = [
    "tailscale",
    "tailscaled",
    "wireguard",
    "wg-easy",
    "wg-quick",
    "openvpn",
    "zerotier",
    "netbird",
    "nebula",
    "netclient",
    "gluetun",
    "strongswan",
    "openconnect",
    "innernet",
    "warp",
];

/// How bad it would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// It cannot reach its node's network.
    Notice,
    /// It can change its node's network.
    Warning,
    /// It can, and it is made to move routes.
    Critical,
}

/// What was found in one workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Risk {
    /// How bad.
    pub grade: Grade,
    /// Each reason, for people.
    pub why: Vec<String>,
}

/// One container, of whatever sort.
struct Part<'a> {
    name: &'a str,
    image: &'a str,
    words: Vec<&'a str>,
    rights: Option<&'a SecurityContext>,
}

fn parts(pod: &PodSpec) -> Vec<Part<'_>> {
    fn words<'a>(
        lists: [&'a Option<Vec<String>>; 2],
        env: &'a Option<Vec<k8s_openapi::api::core::v1::EnvVar>>,
    ) -> Vec<&'a str> {
        let values = env.iter().flatten().filter_map(|e| e.value.as_deref());
        lists.into_iter().flatten().flatten().map(String::as_str).chain(values).collect()
    }
    let ordinary =
        pod.containers.iter().chain(pod.init_containers.iter().flatten()).map(|c| Part {
            name: &c.name,
            image: c.image.as_deref().unwrap_or_default(),
            words: words([&c.command, &c.args], &c.env),
            rights: c.security_context.as_ref(),
        });
    let late = pod.ephemeral_containers.iter().flatten().map(|c| Part {
        name: &c.name,
        image: c.image.as_deref().unwrap_or_default(),
        words: words([&c.command, &c.args], &c.env),
        rights: c.security_context.as_ref(),
    });
    ordinary.chain(late).collect()
}

/// Judges a pod's description; `None` when there is nothing to say.
pub fn judge(pod: &PodSpec) -> Option<Risk> {
    let host_network = pod.host_network == Some(true);
    let host_pid = pod.host_pid == Some(true);
    let mut why = Vec::new();
    let (mut moves, mut may) = (false, false);
    for part in parts(pod) {
        let name = part.name;
        if let Some(vpn) = vpn(part.image) {
            moves = true;
            why.push(format!("container {name} runs {vpn} ({})", part.image));
        }
        if let Some(word) = part.words.iter().find_map(|w| takes(w)) {
            moves = true;
            why.push(format!("container {name} is told to take routes: {word}"));
        }
        let Some(right) = part.rights.and_then(right) else { continue };
        if host_network {
            may = true;
            why.push(format!("container {name} is in its node's network, with {right}"));
        } else if host_pid && right != "NET_ADMIN" {
            may = true;
            why.push(format!("container {name} sees its node's processes, with {right}: it can enter the node's network"));
        }
    }
    let grade = match (moves, may) {
        (true, true) => Grade::Critical,
        (false, true) => Grade::Warning,
        (true, false) => Grade::Notice,
        (false, false) => return None,
    };
    if !may {
        why.push("it is in a network of its own: its node's routes are out of its reach".into());
    }
    Some(Risk { grade, why })
}

/// What lets it change routes and rules.
fn right(rights: &SecurityContext) -> Option<&'static str> {
    if rights.privileged == Some(true) {
        return Some("all rights (privileged)");
    }
    let added = rights.capabilities.as_ref()?.add.as_ref()?;
    let has = |wanted: &str| {
        added.iter().any(|a| a.to_ascii_uppercase().trim_start_matches("CAP_") == wanted)
    };
    if has("ALL") {
        return Some("all capabilities");
    }
    has("NET_ADMIN").then_some("NET_ADMIN")
}

/// The VPN that an image is named after: `ghcr.io/tailscale/k8s-operator:v1` is of Tailscale, `my/tailscaled-notes` is not.
fn vpn(image: &str) -> Option<&'static str> {
    let image = image.split('@').next().unwrap_or_default();
    let (registry_and_path, tag) = image.rsplit_once(':').unwrap_or((image, ""));
    // A colon before a slash belongs to the registry's port.
    let path = if tag.contains('/') { image } else { registry_and_path };
    path.split('/').find_map(|segment| VPNS.into_iter().find(|v| segment == *v))
}

/// The words by which a program is told to take a node's routes; `policy.yaml` reads the same.
fn takes(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    for (i, word) in words.iter().enumerate() {
        let next = words.get(i + 1).copied().unwrap_or_default();
        if word.strip_prefix("--exit-node=").is_some_and(|v| !v.is_empty() && !v.starts_with('-')) {
            return Some((*word).to_owned());
        }
        if *word == "--exit-node" && !next.is_empty() && !next.starts_with('-') {
            return Some(format!("{word} {next}"));
        }
        if matches!(*word, "--accept-routes" | "--accept-routes=true") {
            return Some((*word).to_owned());
        }
        if word.trim_start_matches('-').starts_with("redirect-gateway") && word.starts_with('-') {
            return Some((*word).to_owned());
        }
    }
    let full = text.lines().find(|l| {
        let line = l.trim_start();
        line.starts_with("AllowedIPs") && (line.contains("0.0.0.0/0") || line.contains("::/0"))
    });
    full.map(|l| l.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn grade(value: serde_json::Value) -> Option<Grade> {
        judge(&pod(value)).map(|r| r.grade)
    }

    #[test]
    fn the_daemonset_of_october_is_critical_and_says_why() {
        let risk = judge(&pod(json!({"hostNetwork": true, "containers": [{
            "name": "tailscale", "image": "docker.io/lab/tailscale:1", "securityContext": {"privileged": true},
            "args": ["tailscaled &\nsleep 3\n/bin/tailscale up --exit-node=100.64.0.1 --accept-routes\nwait"]}]})))
        .unwrap();
        assert_eq!(risk.grade, Grade::Critical);
        assert_eq!(
            risk.why,
            [
                "container tailscale runs tailscale (docker.io/lab/tailscale:1)",
                "container tailscale is told to take routes: --exit-node=100.64.0.1",
                "container tailscale is in its node's network, with all rights (privileged)"
            ]
        );
    }

    #[test]
    fn a_renamed_image_does_not_hide_what_it_is_told() {
        let hidden = json!({"hostNetwork": true, "initContainers": [{"name": "x", "image": "mirror:5000/tools",
            "securityContext": {"capabilities": {"add": ["net_admin"]}}, "env": [{"name": "TS_EXTRA_ARGS", "value": "--exit-node 100.64.0.1"}]}],
            "containers": []});
        assert_eq!(grade(hidden), Some(Grade::Critical));
    }

    #[test]
    fn a_network_plugin_is_a_warning_and_an_exporter_is_nothing() {
        let plugin = json!({"hostNetwork": true, "containers": [{"name": "kube-proxy", "image": "registry.k8s.io/kube-proxy:v1", "securityContext": {"privileged": true}}]});
        assert_eq!(grade(plugin), Some(Grade::Warning));
        let exporter = json!({"hostNetwork": true, "hostPID": true, "containers": [{"name": "node-exporter", "image": "quay.io/prometheus/node-exporter:v1"}]});
        assert_eq!(grade(exporter), None);
        let debugger = json!({"hostPID": true, "containers": [{"name": "shell", "image": "busybox", "securityContext": {"privileged": true}}]});
        assert_eq!(grade(debugger), Some(Grade::Warning));
    }

    #[test]
    fn a_vpn_in_a_network_of_its_own_is_a_notice() {
        let own = json!({"containers": [{"name": "ts", "image": "ghcr.io/tailscale/tailscale:v1.80@sha256:0", "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}]});
        assert_eq!(grade(own), Some(Grade::Notice));
    }

    #[test]
    fn words_that_take_routes_are_told_from_those_that_do_not() {
        let benign = [
            "--exit-node=",
            "--exit-node-allow-lan-access",
            "--accept-routes=false",
            "--advertise-exit-node",
            "--exit-node --reset",
        ];
        assert!(benign.iter().all(|w| takes(w).is_none()));
        let taking = [
            "--exit-node=de",
            "up --accept-routes",
            "--redirect-gateway def1",
            "[Peer]\nAllowedIPs = 10.0.0.0/8, 0.0.0.0/0",
        ];
        assert!(taking.iter().all(|w| takes(w).is_some()));
    }

    #[test]
    fn images_are_told_by_whole_segments() {
        assert_eq!(vpn("localhost:5000/tailscale/tailscale"), Some("tailscale"));
        assert_eq!(vpn("docker.io/linuxserver/wireguard:latest"), Some("wireguard"));
        assert_eq!(vpn("ghcr.io/me/my-tailscale-dashboard"), None);
    }
}
