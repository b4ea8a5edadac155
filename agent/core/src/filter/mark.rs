//! The mark that this node's packet filter writes on its own calls to the API server.
//!
//! The kernel asks for the way anew when a chain of `mangle OUTPUT`, or an nft chain of type `route`, has changed the mark of a packet
//! that leaves; a policy rule may then lead it elsewhere, and `ip route get` shows nothing of it. Only what is certain counts: a condition
//! this crate has no words for leaves the packet as it was.

use super::{Bearing, Call, Deed, Marking, Way, place, read, rule_line};
use crate::net::Family;
use crate::observation::{Dialect, Fate, NfRule, NfTable, Observation, Through};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

/// Deeper than anybody nests chains.
const DEPTH: u8 = 8;

/// What becomes of the mark of calls to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The address.
    pub dst: IpAddr,
    /// What becomes of the mark.
    pub marking: Marking,
    /// The rules that do it, for people.
    pub by: Vec<String>,
}

impl Marked {
    /// The mark that a packet to this address leaves with.
    pub fn mark(all: &[Self], dst: IpAddr, mark: u32) -> u32 {
        Self::of(all, dst).map_or(mark, |m| m.marking.of(mark))
    }

    /// What is known of an address.
    pub fn of(all: &[Self], dst: IpAddr) -> Option<&Self> {
        all.iter().find(|m| m.dst == dst)
    }
}

/// The calls to the API servers whose mark is changed on their way out.
pub fn marks(seen: &Observation) -> Vec<Marked> {
    let mut out: Vec<Marked> = Vec::new();
    for api in &seen.cluster.api {
        let asked = seen.lookups.iter().find(|l| l.dst == api.ip() && l.through == Through::Plain);
        let dev = asked.and_then(|l| match &l.fate {
            Fate::Leaves { dev, .. } => Some(dev.as_str()),
            Fate::Local | Fate::Refused(_) => None,
        });
        let call = Call { peer: api.ip(), port: api.port(), dev };
        let mut walk = Walk::default();
        let tables = seen.netfilter.iter().map(|t| (t, false));
        for (table, inet) in tables.chain(seen.inet.iter().map(|t| (t, true))) {
            if !inet && table.family != Family::of(call.peer) {
                continue;
            }
            for chain in routes(table) {
                walk.chain(table, inet, chain, &call, DEPTH);
            }
        }
        if walk.known && !walk.by.is_empty() && Marked::of(&out, call.peer).is_none() {
            out.push(Marked { dst: call.peer, marking: walk.marking, by: walk.by });
        }
    }
    out
}

/// The chains behind which the kernel asks for the way anew.
fn routes(table: &NfTable) -> impl Iterator<Item = &str> {
    let is = |name: &str, hook: Option<&str>| match table.dialect {
        Dialect::Iptables => table.name == "mangle" && name == "OUTPUT",
        Dialect::Nft => {
            hook.is_some_and(|h| h.starts_with("type route ") && h.contains(" hook output "))
        }
    };
    table.chains.iter().filter(move |c| is(&c.name, c.hook.as_deref())).map(|c| c.name.as_str())
}

struct Walk {
    marking: Marking,
    by: Vec<String>,
    /// Nothing that may have changed the mark has been passed over.
    known: bool,
}

impl Default for Walk {
    fn default() -> Self {
        Self { marking: Marking::default(), by: Vec::new(), known: true }
    }
}

impl Walk {
    /// Passes the packet through a chain. True when no later rule of the table sees it.
    fn chain(
        &mut self,
        table: &NfTable,
        inet: bool,
        name: &str,
        call: &Call<'_>,
        depth: u8,
    ) -> bool {
        for rule in table.rules.iter().filter(|r| r.chain == name) {
            let said = read(table.dialect, &rule.spec, Some((call, Some(Way::Out))));
            if said.bearing == Bearing::No {
                continue;
            }
            let certain = said.bearing == Bearing::Yes;
            self.write(table, inet, rule, said.mark, certain);
            match said.deed {
                Deed::Accept | Deed::Refuse if certain => return true,
                // What follows may or may not be asked.
                Deed::Accept | Deed::Refuse => self.known = false,
                Deed::Jump(to) if to == "RETURN" && certain => return false,
                Deed::Jump(to) if to == "RETURN" => self.known = false,
                // What a connection was marked with is not in the dump.
                Deed::Jump(to) if to == "CONNMARK" && rule.spec.contains("--restore-mark") => {
                    self.known = false;
                }
                Deed::Jump(to) if certain && depth > 0 => {
                    if self.chain(table, inet, &to, call, depth - 1) {
                        return true;
                    }
                }
                Deed::Jump(to) => self.known &= !table.rules.iter().any(|r| r.chain == to),
                Deed::Other => {}
            }
        }
        false
    }

    fn write(
        &mut self,
        table: &NfTable,
        inet: bool,
        rule: &NfRule,
        mark: Option<Marking>,
        certain: bool,
    ) {
        let Some(mark) = mark else { return };
        if !certain {
            self.known = false;
            return;
        }
        // Written whole, it is known whatever it was before.
        self.known |= mark.mask == u32::MAX;
        self.marking = self.marking.then(mark);
        self.by.push(format!("{}: {}", place(table, inet), rule_line(rule)));
    }
}
