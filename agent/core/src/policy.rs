//! What the operator allows: part of the agent's configuration, and of every plan's digest.

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{string::ToString, vec};
use serde::{Deserialize, Serialize};

/// How much the agent does by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Look and say; the guard stands only while an operator's heal runs.
    Observe,
    /// Raise and lower the guard alone.
    #[default]
    Guard,
    /// Guard, and repair alone what needs no operator, as far as [`Policy::max_rung`].
    Heal,
}

impl Mode {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Guard => "guard",
            Self::Heal => "heal",
        }
    }
}

/// Rules of conduct.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policy {
    /// How much the agent does by itself.
    pub mode: Mode,
    /// In mode `heal`: the highest rung the agent climbs to by itself, 2 to 4.
    pub max_rung: u32,
    /// In mode `heal`: remove harmless remnants (R3) without being asked.
    pub remnants_alone: bool,
    /// Remove harmless remnants (R3) when an operator heals.
    pub clean_remnants: bool,
    /// Move the state directory of a stopped culprit into quarantine.
    pub quarantine: bool,
    /// Between SIGTERM and SIGKILL, milliseconds, 100 to 30 000. tailscaled needs under a second to clean up after itself.
    pub term_grace_ms: u32,
    /// The kubelet's unit.
    pub unit: String,
    /// Interfaces of the cluster network, besides what k3s's files say.
    pub cni_links: Vec<String>,
    /// A lease older than this is stale, milliseconds: the kubelet renews every 10 s and has 40 s.
    pub lease_stale_ms: u64,
    /// How long a reset waits to be confirmed before it is undone, milliseconds, 10 000 to 600 000. Talos and nmstate have
    /// a minute, netplan two; an operator needs one look and one command.
    pub confirm_ms: u64,
    /// How many reboots of this node an operator or the agent may ask for within 24 hours, 0 to 10.
    pub reboots_a_day: u32,
    /// The see-through mark: one bit, which no packet of the node's carries.
    pub see_through: u32,
    /// The lifeline mark: one bit.
    pub lifeline: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            max_rung: 4,
            remnants_alone: false,
            clean_remnants: true,
            quarantine: true,
            term_grace_ms: 3_000,
            unit: "k3s-agent.service".to_string(),
            cni_links: vec!["cni0".to_string(), "flannel.1".to_string()],
            lease_stale_ms: 25_000,
            confirm_ms: 60_000,
            reboots_a_day: 2,
            see_through: 0x1000,
            // Clear of kube-proxy (0x4000, 0x8000), portmap (0x2000), Tailscale (0xff0000), Calico (0xffff0000),
            // AWS (0x80), Cilium (0x0f00) and Istio (1337 = 0x539).
            lifeline: 0x40,
        }
    }
}
