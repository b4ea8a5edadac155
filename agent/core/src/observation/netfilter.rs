//! Netfilter tables, in the words of the tool that could read them.

use super::Shared;
use crate::net::Family;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// Which of the kernel's two packet filters holds a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// ip_tables (`iptables-legacy`).
    Legacy,
    /// nf_tables (`iptables-nft`, `nft`).
    Nft,
}

/// In which language a table's rules are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// As `iptables-save` prints them.
    Iptables,
    /// As `nft -n -a list` prints them: `iptables-nft-save` could not, or would have cut the table short.
    Nft,
}

/// One netfilter table of one backend and family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NfTable {
    /// Backend.
    pub backend: Backend,
    /// Family.
    pub family: Family,
    /// Name: `filter`, `nat`, `mangle`, `raw`…
    pub name: String,
    /// Language of the rules.
    pub dialect: Dialect,
    /// Chains in order.
    pub chains: Shared<Chain>,
    /// Rules in order within each chain.
    pub rules: Shared<NfRule>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Chain {
    /// Name.
    pub name: String,
    /// Policy (`ACCEPT`, `DROP`) of a built-in or base chain.
    #[serde(default)]
    pub policy: Option<String>,
    /// In nft's dialect: `type filter hook input priority 0`.
    #[serde(default)]
    pub hook: Option<String>,
}

/// A netfilter rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NfRule {
    /// Chain.
    pub chain: String,
    /// Everything behind `-A CHAIN ` (iptables) or the statement (nft), without counters.
    pub spec: String,
    /// nft's handle.
    #[serde(default)]
    pub handle: Option<u64>,
}
