//! Who would start a process again: what its control group says, and what the node's files, systemd and the API server add.
//!
//! A process that somebody restarts is not made quiet by a signal: it comes back, and captures again. Whoever keeps it is also
//! who an operator has to be told of.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use serde::{Deserialize, Serialize};

/// Who keeps a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Supervisor {
    /// A kubelet, for a pod: it starts a container that ends again, whatever the reason, unless the pod says otherwise. A pod
    /// whose name is not known is none that this node's kubelet keeps: it makes `/var/log/pods/NAMESPACE_POD_UID` before the
    /// pod's first container, and removes it after the last.
    Pod {
        /// The pod's uid, as the control group has it.
        uid: String,
        /// `NAMESPACE/NAME`, when the node's files tell.
        #[serde(default)]
        name: Option<String>,
        /// `DaemonSet/tailscale-worker`, when the API server tells.
        #[serde(default)]
        owner: Option<String>,
    },
    /// systemd, for a unit.
    Unit {
        /// The unit.
        name: String,
        /// Its `Restart=`, when systemd tells.
        #[serde(default)]
        restart: Option<String>,
    },
    /// Another container engine.
    Container {
        /// The container's id.
        id: String,
    },
}

impl Supervisor {
    /// What a control group's path says by itself.
    ///
    /// Both of the kubelet's drivers: `/kubepods/burstable/pod2f1e9c34-…/ID` and
    /// `/kubepods.slice/kubepods-pod2f1e9c34_….slice/cri-containerd-ID.scope`; systemd's names have `_` where the uid has `-`.
    pub fn of_cgroup(path: &str) -> Option<Self> {
        let parts = || path.split('/').filter(|p| !p.is_empty());
        if parts().any(|p| p == "kubepods" || p.starts_with("kubepods.slice") || is_qos(p)) {
            let uid = parts().find_map(pod_uid)?;
            return Some(Self::Pod { uid, name: None, owner: None });
        }
        let last = parts().next_back()?;
        for engine in ["docker-", "libpod-", "crio-", "cri-containerd-"] {
            let id = last.strip_prefix(engine).and_then(|l| l.strip_suffix(".scope"));
            if let Some(id) = id {
                return Some(Self::Container { id: id.to_string() });
            }
        }
        let before = parts().rev().nth(1);
        if matches!(before, Some("docker" | "containerd" | "nerdctl" | "libpod_parent")) {
            return Some(Self::Container { id: last.to_string() });
        }
        // A service of somebody's own manager lies below `user@1000.service`: the innermost unit is the one that keeps it.
        let unit = parts().rev().find(|p| p.ends_with(".service"))?;
        Some(Self::Unit { name: unit.to_string(), restart: None })
    }

    /// Would it start the process again after we ended it?
    ///
    /// systemd counts an end by SIGTERM as a clean one, after which `on-failure` and its like do nothing; packages of tailscaled
    /// use `on-failure`. A unit whose `Restart=` is not known counts as one without, as systemd's own default has it.
    pub fn restarts(&self) -> bool {
        match self {
            Self::Pod { name, .. } => name.is_some(),
            Self::Container { .. } => true,
            Self::Unit { restart, .. } => {
                matches!(restart.as_deref(), Some("always" | "on-success"))
            }
        }
    }

    /// Names it so that whoever it keeps cannot vary the name: not the pod, which may be deleted and made anew, but its owner.
    pub fn identity(&self) -> String {
        match self {
            Self::Pod { name: Some(name), owner: Some(owner), .. } => {
                format!("{} {owner}", name.split('/').next().unwrap_or_default())
            }
            Self::Pod { name: Some(name), .. } => format!("pod {name}"),
            Self::Pod { uid, .. } => format!("pod {uid}"),
            Self::Unit { name, .. } => format!("unit {name}"),
            Self::Container { id } => format!("container {id}"),
        }
    }

    /// What ends it for good, as a command or a sentence.
    pub fn for_good(&self) -> String {
        match self {
            Self::Pod { name: Some(name), owner, .. } => {
                let (namespace, pod) = name.split_once('/').unwrap_or(("default", name));
                let what = match owner.as_deref().and_then(|o| o.split_once('/')) {
                    Some((kind, owner)) => format!("{} {owner}", kind.to_ascii_lowercase()),
                    None => format!("pod {pod}"),
                };
                format!("kubectl -n {namespace} delete {what}")
            }
            Self::Pod { uid, .. } => {
                format!(
                    "find the pod of uid {uid} (kubectl get pods -A -o wide) and delete its owner"
                )
            }
            Self::Unit { name, .. } => format!("systemctl disable --now {name}"),
            Self::Container { id } => {
                format!("remove container {} in its engine", id.get(..12).unwrap_or(id))
            }
        }
    }
}

impl fmt::Display for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { uid, name, owner } => {
                match name {
                    Some(name) => write!(f, "pod {name}")?,
                    None => write!(f, "the pod of uid {uid}")?,
                }
                match owner {
                    Some(owner) => write!(f, " of {}", owner.replacen('/', " ", 1)),
                    None => Ok(()),
                }
            }
            Self::Unit { name, restart: Some(restart) } => {
                write!(f, "unit {name} (Restart={restart})")
            }
            Self::Unit { name, restart: None } => write!(f, "unit {name}"),
            Self::Container { id } => write!(f, "container {}", id.get(..12).unwrap_or(id)),
        }
    }
}

/// `kubepods-besteffort.slice`, `kubepods-podUID.slice`.
fn is_qos(part: &str) -> bool {
    part.starts_with("kubepods-") && part.ends_with(".slice")
}

fn pod_uid(part: &str) -> Option<String> {
    let bare = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match bare.strip_prefix("kubepods") {
        Some(rest) => rest.rsplit_once("-pod").map(|(_, uid)| uid)?,
        None => bare.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    let fits = uid.len() >= 8 && uid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    fits.then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> String {
        Supervisor::of_cgroup(path).map_or_else(|| "nobody".to_string(), |s| s.identity())
    }

    #[test]
    fn both_drivers_of_the_kubelet_name_the_pod() {
        let uid = "pod 2f1e9c34-6d0b-4f7a-9a55-1c0e8d3b7f21";
        for path in [
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod2f1e9c34_6d0b_4f7a_9a55_1c0e8d3b7f21.slice/cri-containerd-7c1d.scope",
            "/kubepods.slice/kubepods-pod2f1e9c34_6d0b_4f7a_9a55_1c0e8d3b7f21.slice/crio-7c1d.scope",
            "/kubepods/burstable/pod2f1e9c34-6d0b-4f7a-9a55-1c0e8d3b7f21/7c1d",
            "/lab-calypso/kubepods/pod2f1e9c34-6d0b-4f7a-9a55-1c0e8d3b7f21/7c1d",
            "/../../kubepods/pod2f1e9c34-6d0b-4f7a-9a55-1c0e8d3b7f21/7c1d",
        ] {
            assert_eq!(of(path), uid, "{path}");
        }
    }

    #[test]
    fn units_and_containers_are_told_apart_and_a_login_is_nobodys() {
        assert_eq!(of("/system.slice/tailscaled.service"), "unit tailscaled.service");
        assert_eq!(
            of("/user.slice/user-1000.slice/user@1000.service/app.slice/vpn.service"),
            "unit vpn.service"
        );
        assert_eq!(of("/system.slice/docker-7c1d5f0a3e9b.scope"), "container 7c1d5f0a3e9b");
        assert_eq!(of("/docker/7c1d5f0a3e9b"), "container 7c1d5f0a3e9b");
        for nobody in ["/user.slice/user-0.slice/session-3.scope", "/", "", "/.."] {
            assert_eq!(of(nobody), "nobody", "{nobody:?}");
        }
    }

    #[test]
    fn a_unit_restarts_a_terminated_process_only_when_it_says_so() {
        let unit = |restart: &str| Supervisor::Unit {
            name: "tailscaled.service".into(),
            restart: Some(restart.into()),
        };
        assert!(unit("always").restarts() && unit("on-success").restarts());
        assert!(!unit("no").restarts() && !unit("on-failure").restarts());
        assert!(!Supervisor::Unit { name: "x.service".into(), restart: None }.restarts());
    }

    #[test]
    fn a_pod_that_no_kubelet_knows_is_an_orphan_that_nobody_restarts() {
        let pod = |name: Option<&str>| Supervisor::Pod {
            uid: "2f1e9c34".into(),
            name: name.map(Into::into),
            owner: None,
        };
        assert!(pod(Some("a/b")).restarts() && !pod(None).restarts());
    }

    #[test]
    fn a_pod_is_known_by_its_owner_as_soon_as_that_is_known() {
        let pod = Supervisor::Pod {
            uid: "2f1e9c34".into(),
            name: Some("tailscale-system/tailscale-worker-x7k2p".into()),
            owner: Some("DaemonSet/tailscale-worker".into()),
        };
        assert_eq!(pod.identity(), "tailscale-system DaemonSet/tailscale-worker");
        assert_eq!(pod.for_good(), "kubectl -n tailscale-system delete daemonset tailscale-worker");
        assert_eq!(
            pod.to_string(),
            "pod tailscale-system/tailscale-worker-x7k2p of DaemonSet tailscale-worker"
        );
    }
}
