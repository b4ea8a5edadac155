//! Policy rules, as `ip rule` shows them.

use crate::net::{Family, Prefix};
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// `fwmark VALUE/MASK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// Value.
    pub value: u32,
    /// Mask.
    pub mask: u32,
}

/// What a policy rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Look in this table.
    Lookup(u32),
    /// Go on at the rule of this preference.
    Goto(u32),
    /// Nothing.
    Nop,
    /// Drop silently.
    Blackhole,
    /// Answer "network unreachable".
    Unreachable,
    /// Answer "administratively prohibited".
    Prohibit,
}

/// A policy rule (`ip rule`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// Family.
    pub family: Family,
    /// Preference: lower is asked first.
    pub pref: u32,
    /// `not`: the selector is inverted.
    #[serde(default)]
    pub not: bool,
    /// Source selector.
    #[serde(default)]
    pub from: Option<Prefix>,
    /// Destination selector.
    #[serde(default)]
    pub to: Option<Prefix>,
    /// Incoming device.
    #[serde(default)]
    pub iif: Option<String>,
    /// Outgoing device (only for sockets bound to one).
    #[serde(default)]
    pub oif: Option<String>,
    /// Mark selector.
    #[serde(default)]
    pub mark: Option<Mark>,
    /// IP protocol number.
    #[serde(default)]
    pub ipproto: Option<u8>,
    /// Source port range, inclusive.
    #[serde(default)]
    pub sport: Option<(u16, u16)>,
    /// Destination port range, inclusive.
    #[serde(default)]
    pub dport: Option<(u16, u16)>,
    /// User id range, inclusive.
    #[serde(default)]
    pub uids: Option<(u32, u32)>,
    /// Action.
    pub action: Action,
    /// `suppress_prefixlength`: answers with a prefix this long or shorter do not count.
    #[serde(default)]
    pub suppress: Option<u32>,
    /// Protocol number: who put it there (2 = kernel, 213 = Lifeline).
    pub protocol: u8,
    /// It carries a selector this type does not model; it is never deleted and its match is unknown.
    #[serde(default)]
    pub exotic: bool,
}

impl Rule {
    /// A rule without selectors.
    pub fn bare(family: Family, pref: u32, action: Action) -> Self {
        Self {
            family,
            pref,
            not: false,
            from: None,
            to: None,
            iif: None,
            oif: None,
            mark: None,
            ipproto: None,
            sport: None,
            dport: None,
            uids: None,
            action,
            suppress: None,
            protocol: 0,
            exotic: false,
        }
    }

    /// Does it match every packet?
    pub fn is_plain(&self) -> bool {
        !self.exotic
            && *self
                == Self {
                    protocol: self.protocol,
                    suppress: self.suppress,
                    ..Self::bare(self.family, self.pref, self.action)
                }
    }
}
