//! An op in one line, for an operator.

use super::{NodeOp, backend_word};
use crate::net::Family;
use core::fmt;

impl fmt::Display for NodeOp {
    /// One line for an operator, imperative.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExitNodeOff { process, .. } => {
                write!(
                    f,
                    "ask {} (pid {}) to drop its exit node and accepted routes",
                    process.exe, process.pid
                )
            }
            Self::ExitNodeOn { process, .. } => {
                write!(f, "give {} (pid {}) its exit node back", process.exe, process.pid)
            }
            Self::Stopped { process, grace_ms } => {
                write!(
                    f,
                    "stop {} (pid {}): SIGTERM, after {grace_ms} ms SIGKILL",
                    process.exe, process.pid
                )
            }
            Self::Rules { family, absent, present } => {
                write!(
                    f,
                    "policy rules (IP{}): remove {}, restore {}",
                    family_word(*family),
                    absent.len(),
                    present.len()
                )
            }
            Self::Routes { family, table, absent, present } => {
                write!(
                    f,
                    "routes of table {table} (IP{}): remove {}, restore {}",
                    family_word(*family),
                    absent.len(),
                    present.len()
                )
            }
            Self::Netfilter {
                backend,
                family,
                table,
                absent,
                absent_chains,
                present_chains,
                present,
                ..
            } => {
                write!(
                    f,
                    "netfilter {} (IP{}) table {table}: remove {} rules and {} chains",
                    backend_word(*backend),
                    family_word(*family),
                    absent.len(),
                    absent_chains.len()
                )?;
                if present.is_empty() && present_chains.is_empty() {
                    Ok(())
                } else {
                    write!(
                        f,
                        ", restore {} rules and {} chains",
                        present.len(),
                        present_chains.len()
                    )
                }
            }
            Self::Policies { backend, family, table, wanted, .. } => {
                let (backend, family) = (backend_word(*backend), family_word(*family));
                write!(f, "netfilter {backend} (IP{family}) table {table}: set the policy of")?;
                for (at, w) in wanted.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(f, "{comma} {} to {}", w.chain, w.policy)?;
                }
                Ok(())
            }
            Self::Addrs { dev, absent, present } => {
                write!(f, "addresses of {dev}: remove {}, restore {}", absent.len(), present.len())
            }
            Self::LinkGone { name, kind } => write!(f, "delete device {name} ({kind})"),
            Self::ResolvConf { .. } => write!(f, "restore /etc/resolv.conf"),
            Self::Sysctl { key, value } => write!(f, "set {key} to {value}"),
            Self::Quarantined { path } => write!(f, "move {path} into quarantine"),
            Self::Released { path, .. } => write!(f, "move {path} back from quarantine"),
            Self::FlowsGone { sources, dead_to } => {
                write!(
                    f,
                    "close connections from {} dead sources and to {} dead destinations",
                    sources.len(),
                    dead_to.len()
                )
            }
            Self::Restarted { unit } => write!(f, "restart {unit}"),
            Self::SandboxStopped { id, pod } => {
                let short = id.get(..13).unwrap_or(id);
                write!(f, "stop sandbox {short} of pod {pod}, for the kubelet to make it anew")
            }
            Self::Armed { after_ms } => write!(
                f,
                "arm a timer that undoes all of this after {} s unless it is confirmed",
                after_ms / 1_000
            ),
            Self::Disarmed => write!(f, "take the undo timer away"),
            Self::Flushed { backend, family, table, .. } => write!(
                f,
                "netfilter {} (IP{}) table {table}: policies to ACCEPT, flush and delete its chains",
                backend_word(*backend),
                family_word(*family),
            ),
            Self::Refilled { was } => write!(
                f,
                "netfilter {} (IP{}) table {}: put {} rules back",
                backend_word(was.backend),
                family_word(was.family),
                was.name,
                was.rules.len()
            ),
            Self::CacheFlushed => write!(f, "flush the route caches"),
            Self::Rebooted => write!(f, "reboot this node"),
        }
    }
}

fn family_word(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}
