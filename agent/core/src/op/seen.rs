//! What a look at an op's target brings.

use super::{ChainPolicy, PlacedRule, Prefs};
use crate::observation::{Addr, Chain, Link, NfTable, Resolv, Route, Rule};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What a look at an op's target brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "seen", rename_all = "kebab-case")]
pub enum Seen {
    /// A daemon's preferences; `None` when the daemon (that very process) is gone.
    Prefs {
        /// The preferences.
        prefs: Option<Prefs>,
    },
    /// Whether that very process lives.
    Process {
        /// Alive, and not a zombie.
        alive: bool,
    },
    /// Those rules of the op's lists that are there.
    Rules {
        /// Present of `absent` and of `present`.
        there: Vec<Rule>,
    },
    /// Those routes of the op's lists that are there.
    Routes {
        /// Present of `absent` and of `present`.
        there: Vec<Route>,
    },
    /// Those chains and rules of the op's lists that are there, with everything inside those chains.
    Netfilter {
        /// Chains.
        chains: Vec<Chain>,
        /// Rules with their places.
        rules: Vec<PlacedRule>,
    },
    /// The policies of those of the op's chains that are there.
    Policies {
        /// Chains with their policies.
        there: Vec<ChainPolicy>,
    },
    /// Those addresses of the op's lists that are there.
    Addrs {
        /// Present of `absent` and of `present`.
        there: Vec<Addr>,
    },
    /// The device, if it is there.
    Link {
        /// The device.
        link: Option<Link>,
    },
    /// resolv.conf, if it is there.
    Resolv {
        /// Its state.
        resolv: Option<Resolv>,
    },
    /// The sysctl's value; `None` when there is no such sysctl.
    Sysctl {
        /// Value.
        value: Option<String>,
    },
    /// Where the directory is.
    Path {
        /// At its own place.
        at_home: bool,
        /// In quarantine, and where.
        quarantine: Option<String>,
    },
    /// How many flows match.
    Flows {
        /// Sockets and conntrack entries.
        count: u32,
    },
    /// The unit's token.
    Unit {
        /// InvocationID.
        invocation: String,
        /// ActiveState.
        active: String,
    },
    /// Whether the sandbox runs; one that is gone does not.
    Sandbox {
        /// It runs.
        ready: bool,
    },
    /// Whether the timer outside the process runs.
    Timer {
        /// It runs.
        armed: bool,
    },
    /// The whole table; `None` when there is none.
    Table {
        /// The table.
        table: Option<NfTable>,
    },
    /// How much the kernel has learnt beside its routes.
    Cache {
        /// Entries.
        entries: u32,
    },
    /// Which boot this is.
    Boot {
        /// Boot id.
        id: String,
    },
}
