//! What the evidence proves: that a capture does harm, that a change works, that a kernel rule is gone.

use super::{Evidence, Stray, same_route};
use crate::baseline::Role;
use crate::critical;
use crate::fib::{self, Answer};
use crate::net::Family;
use crate::observation::{Action, Fate, Lookup, Route, Rule, TABLE_MAIN};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Evidence<'_> {
    /// Does the API server answer without our guard's help?
    pub fn api_works(&self) -> Option<bool> {
        // Where forwarding is right, the guard leads nowhere else, and its answer is as good.
        let same_way = !self.strays.iter().any(|s| s.expected.role == Role::Api);
        match self.api.bare {
            Some(false) | None if same_way && self.api.plain == Some(true) => Some(true),
            other => other,
        }
    }

    /// Proof that the API server is there and only the way to it is not: our own path or our guard reaches it.
    pub fn api_is_there(&self) -> bool {
        self.api.lifeline == Some(true)
            || self.api.plain == Some(true)
            || self.api.bare == Some(true)
    }

    /// Proof that these strays do harm: the API server cannot be reached without our guard although it is there, or pods'
    /// traffic leaves where no pod network is.
    pub fn harm(&self, strays: &[&Stray]) -> bool {
        let api = strays.iter().any(|s| s.expected.role == Role::Api);
        (api && self.api_works() == Some(false) && self.api_is_there())
            || strays.iter().any(|s| self.is_pods_leak(s) || self.is_pods_refused(s))
            || strays.iter().any(|s| self.is_overlay_leak(s, strays))
    }

    /// The kernel itself refuses what the pod network would carry: no answer from afar is needed to prove that.
    fn is_pods_refused(&self, s: &Stray) -> bool {
        let refused = matches!(s.answer, Answer::Refused { table: Some(TABLE_MAIN), .. });
        let cni = |d: &str| self.policy.cni_links.iter().any(|l| l == d);
        refused
            && matches!(s.expected.role, Role::OwnPods | Role::RemotePods)
            && s.expected.path.as_ref().is_some_and(|p| cni(&p.dev))
    }

    /// Pods' traffic leaves by a device that is neither the pod network's nor a plain uplink.
    pub fn is_pods_leak(&self, s: &Stray) -> bool {
        let (Some(dev), Some(path)) = (s.dev(), &s.expected.path) else { return false };
        let cni = |d: &str| self.policy.cni_links.iter().any(|l| l == d);
        matches!(s.expected.role, Role::OwnPods | Role::RemotePods)
            && dev != path.dev
            && !cni(dev)
            && (cni(&path.dev) || self.is_tunnel(dev))
    }

    /// VXLAN's outer packets to another node leave by somebody's tunnel: the pods' traffic inside goes along.
    ///
    /// Where the API server goes the same way, its answer decides: a tunnel that takes everything may be wanted, and an API
    /// server that is down for everybody must not cost it.
    fn is_overlay_leak(&self, s: &Stray, strays: &[&Stray]) -> bool {
        let wholesale = strays.iter().any(|o| o.expected.role == Role::Api && o.dev() == s.dev());
        s.expected.role == Role::Node
            && !wholesale
            && self.base.fdb.iter().any(|f| f.dst == s.expected.ask)
            && s.dev().is_some_and(|d| self.is_tunnel(d))
    }

    /// A device that leads into somebody's tunnel, rather than onto a wire.
    pub fn is_tunnel(&self, dev: &str) -> bool {
        const WIRES: [&str; 10] =
            ["", "veth", "bond", "team", "bridge", "vlan", "macvlan", "ipvlan", "ppp", "wwan"];
        self.seen.link(dev).is_some_and(|l| !WIRES.contains(&l.kind.as_str()))
            && !self.base.links.iter().any(|l| l.name == dev)
    }

    /// The uplinks of the healthy node that are down or have no carrier, in words.
    pub fn uplinks_down(&self) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for e in self.expected.iter().filter(|e| matches!(e.role, Role::Api | Role::Gateway)) {
            let Some(link) = e.path.as_ref().and_then(|p| self.seen.link(&p.dev)) else { continue };
            let why = match (link.up, link.carrier) {
                (false, _) => "is switched off",
                (true, false) => "has no carrier",
                (true, true) => continue,
            };
            let line = format!("{} {why}", link.name);
            if !out.contains(&line) {
                out.push(line);
            }
        }
        out
    }

    /// Does the node only go another way, which works? A new gateway, another uplink, a VPN somebody wants.
    pub fn has_moved(&self) -> bool {
        let proven = |s: &Stray| {
            // Services, other nodes and the LAN are not called themselves: a neighbour that goes the same way speaks for them.
            let neighbour = |role| {
                self.strays
                    .iter()
                    .any(|o| o.expected.role == role && o.dev() == s.dev() && o.works == Some(true))
            };
            match s.expected.role {
                Role::Services | Role::Node => neighbour(Role::Api),
                Role::Lan => neighbour(Role::Gateway),
                Role::Api | Role::Gateway | Role::OwnPods | Role::RemotePods => {
                    s.works == Some(true)
                }
            }
        };
        !self.strays.is_empty()
            && self.missing_kernel_rules().is_empty()
            && self.api_works() == Some(true)
            && self.strays.iter().all(|s| {
                s.dev().is_some_and(|dev| !self.is_tunnel(dev) || proven(s))
                    && (!s.lost || self.is_by_new_default(s))
                    && !self.is_pods_leak(s)
                    && s.works != Some(false)
            })
    }

    /// What went by the healthy default route goes by another one that the healthy node does not have.
    fn is_by_new_default(&self, s: &Stray) -> bool {
        let family = s.expected.prefix.family();
        let went = self.base.default_route(family).and_then(Route::via);
        let by_default = s.expected.path.as_ref().is_some_and(|p| p.via.is_some() && p.via == went);
        let now = fib::best(&self.seen.routes, TABLE_MAIN, family, s.expected.ask);
        by_default
            && s.table() == Some(TABLE_MAIN)
            && now.is_some_and(|n| {
                n.dst.is_all() && !self.base.routes.iter().any(|b| same_route(b, n))
            })
    }

    /// Rules every kernel has from the start that are not there.
    ///
    /// The same meaning anywhere counts (Cilium moves `local` to 100); IPv6 is looked at only where it has rules at all.
    pub fn missing_kernel_rules(&self) -> Vec<Rule> {
        let there = |k: &Rule| {
            self.rules.iter().any(|r| {
                r.family == k.family && r.action == k.action && r.suppress.is_none() && r.is_plain()
            })
        };
        critical::kernel_rules()
            .into_iter()
            .filter(|k| self.rules.iter().any(|r| r.family == k.family))
            .filter(|k| !there(k) && !self.is_there_after_all(k))
            .collect()
    }

    /// The kernel answers from the rule's table although no dumped rule leads there: the dump lost it (field guide K4).
    fn is_there_after_all(&self, missing: &Rule) -> bool {
        let asked = |l: &&Lookup| l.through == self.bare() && Family::of(l.dst) == missing.family;
        self.seen.lookups.iter().filter(asked).any(|l| {
            let Fate::Leaves { table, .. } = &l.fate else { return false };
            let said = fib::lookup(&self.rules, &self.seen.routes, &fib::Flow::tcp(l.dst, 443));
            missing.action == Action::Lookup(*table)
                && !matches!(said, Answer::Leaves { table: t, .. } if t == *table)
        })
    }
}
