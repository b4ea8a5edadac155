//! What of the packet filter belongs to a healthy node: its policies, the jumps the cluster lives by, and the refusals that were there
//! when all was well. Never whole tables: pods and services come and go.

use super::Expected;
use crate::filter::{self, Call};
use crate::observation::{NfRule, Observation, Sense};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Chains whose place in the built-in ones a cluster depends on.
const HOOKED: [&str; 3] = ["KUBE-", "FLANNEL-", "CNI-HOSTPORT-"];
/// More refusals than anybody writes by hand for one destination.
const MOST: usize = 64;

/// The policy of a chain that the kernel leads packets into.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KnownPolicy {
    /// Its table, as [`filter::place`] names it.
    pub place: String,
    /// Its name.
    pub chain: String,
    /// `ACCEPT` or `DROP`.
    pub policy: String,
}

/// A jump from such a chain into one of the cluster's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KnownHook {
    /// Its table, as [`filter::place`] names it.
    pub place: String,
    /// From.
    pub chain: String,
    /// To.
    pub to: String,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KnownRule {
    /// Its table, as [`filter::place`] names it.
    pub place: String,
    /// Its chain.
    pub chain: String,
    /// What it says.
    pub spec: String,
}

/// The packet filter of the healthy node, as far as anything is concluded from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Firewall {
    /// Policies.
    pub policies: Vec<KnownPolicy>,
    /// Jumps.
    pub hooks: Vec<KnownHook>,
    /// Rules that could refuse calls to the API server, and did not.
    pub refusals: Vec<KnownRule>,
    /// Rules that send all that comes from outside elsewhere, on purpose.
    pub diversions: Vec<KnownRule>,
}

impl Firewall {
    /// Of a look; none when part of the packet filter could not be read.
    pub(super) fn of(seen: &Observation, expected: &[Expected]) -> Option<Self> {
        let senses = [Sense::Legacy4, Sense::Legacy6, Sense::Nft4, Sense::Nft6];
        if senses.iter().any(|s| seen.has_gap(*s)) {
            return None;
        }
        let mut out = Self::default();
        let tables = seen.netfilter.iter().map(|t| (t, false));
        for (t, inet) in tables.chain(seen.inet.iter().map(|t| (t, true))) {
            let place = filter::place(t, inet);
            for c in &t.chains {
                if let Some(policy) = c.policy.as_ref().filter(|_| filter::way(t, c).is_some()) {
                    let (chain, policy) = (c.name.clone(), policy.to_ascii_uppercase());
                    out.policies.push(KnownPolicy { place: place.clone(), chain, policy });
                }
            }
            out.hooks.extend(hooks(t, inet));
            let known = |r: &NfRule| KnownRule {
                place: place.clone(),
                chain: r.chain.clone(),
                spec: r.spec.clone(),
            };
            out.diversions.extend(filter::diversions(t).map(known));
            for call in calls(seen, expected) {
                let all = filter::refusals(t, &call);
                out.refusals.extend(all.iter().map(|r| known(r.rule)));
            }
        }
        out.policies.sort();
        out.hooks.sort();
        out.hooks.dedup();
        out.diversions.sort();
        out.diversions.truncate(MOST);
        out.refusals.sort();
        out.refusals.dedup();
        out.refusals.truncate(MOST);
        Some(out)
    }

    /// The policy a chain had; a chain that was not there let everything through.
    pub fn policy(&self, place: &str, chain: &str) -> &str {
        self.policies
            .iter()
            .find(|p| p.place == place && p.chain == chain)
            .map_or("ACCEPT", |p| p.policy.as_str())
    }
}

/// The jumps of a table that the cluster lives by.
pub fn hooks(table: &crate::observation::NfTable, inet: bool) -> Vec<KnownHook> {
    let is_base =
        |name: &str| table.chains.iter().any(|c| c.name == name && filter::way(table, c).is_some());
    table
        .rules
        .iter()
        .filter(|r| is_base(&r.chain))
        .filter_map(|r| {
            let to = filter::leads_to(table.dialect, &r.spec)?;
            HOOKED.iter().any(|h| to.starts_with(h)).then(|| KnownHook {
                place: filter::place(table, inet),
                chain: r.chain.clone(),
                to,
            })
        })
        .collect()
}

/// The calls whose refusal would matter: to the API servers.
pub fn calls<'a>(
    seen: &'a Observation,
    expected: &'a [Expected],
) -> impl Iterator<Item = Call<'a>> {
    seen.cluster.api.iter().map(|api| Call {
        peer: api.ip(),
        port: api.port(),
        dev: expected
            .iter()
            .find(|e| e.ask == api.ip())
            .and_then(|e| e.path.as_ref())
            .map(|p| p.dev.as_str()),
    })
}
