//! What a packet filter does to a call, as far as its rules' text tells: who refuses it for certain, who may, who does not.
//!
//! Two languages, one question. A match this file has no words for makes a rule uncertain, never certain; nothing here knows whose
//! a rule is.

use crate::net::Prefix;
use crate::observation::{Backend, Chain, Dialect, NfRule, NfTable};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

mod mark;
mod spec;

pub use mark::{Marked, marks};
pub use spec::{Bearing, Deed, Marking, Reading, leads_to, read};

/// Which way packets pass a chain that the kernel leads them into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They leave this machine.
    Out,
    /// They come to it.
    In,
    /// They pass through: pods' traffic.
    Through,
}

/// A TCP call from this machine; its packets go out, and its answers come in.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Whom it calls.
    pub peer: IpAddr,
    /// The port there.
    pub port: u16,
    /// The device it leaves by.
    pub dev: Option<&'a str>,
}

/// Which way packets pass this chain; none when the kernel leads none into it.
pub fn way(table: &NfTable, chain: &Chain) -> Option<Way> {
    let hook = match table.dialect {
        Dialect::Iptables => chain.name.as_str(),
        Dialect::Nft => chain.hook.as_deref()?.split(' ').skip_while(|w| *w != "hook").nth(1)?,
    };
    match hook {
        "output" | "postrouting" | "OUTPUT" | "POSTROUTING" => Some(Way::Out),
        "input" | "prerouting" | "INPUT" | "PREROUTING" => Some(Way::In),
        "forward" | "FORWARD" => Some(Way::Through),
        _ => None,
    }
}

/// The chains of a table that the kernel leads packets into: a handful, however many there are.
pub fn bases(table: &NfTable) -> Vec<(&str, Way)> {
    table.chains.iter().filter_map(|c| Some((c.name.as_str(), way(table, c)?))).collect()
}

/// Does what no rule decides get dropped here?
pub fn drops_by_default(chain: &Chain) -> bool {
    chain.policy.as_ref().is_some_and(|p| p.eq_ignore_ascii_case("drop"))
}

/// May any rule of this chain, or of one it leads to, let something through?
pub fn may_accept(table: &NfTable, chain: &str) -> bool {
    accepts(table, chain, 8)
}

fn accepts(table: &NfTable, chain: &str, depth: u8) -> bool {
    // Deeper than anybody nests: then nobody can say that it does not.
    depth == 0
        || table.rules.iter().filter(|r| r.chain == chain).any(|r| {
            match spec::read(table.dialect, &r.spec, None).deed {
                Deed::Accept => true,
                Deed::Jump(to) => accepts(table, &to, depth - 1),
                Deed::Refuse | Deed::Other => false,
            }
        })
}

/// A rule that refuses a call, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal<'t> {
    /// The rule.
    pub rule: &'t NfRule,
    /// The kernel leads every packet of the call past it, and nothing in front of it may let one through.
    pub certain: bool,
    /// It names the call's destination: its address or its port.
    pub names: bool,
}

/// The rules of a table that refuse a call, for certain or perhaps; those that only perhaps do it have to name it.
pub fn refusals<'t>(table: &'t NfTable, call: &Call<'_>) -> Vec<Refusal<'t>> {
    let mut out: Vec<Refusal<'t>> = Vec::new();
    let bases = bases(table);
    // Of many thousand rules few refuse anything, and only those are read.
    let refuses =
        |r: &NfRule| ["DROP", "REJECT", "drop", "reject"].iter().any(|w| r.spec.contains(w));
    for (at, rule) in table.rules.iter().enumerate().filter(|(_, r)| refuses(r)) {
        let way = bases.iter().find(|(name, _)| *name == rule.chain).map(|(_, way)| *way);
        if way == Some(Way::Through) {
            continue;
        }
        let said = spec::read(table.dialect, &rule.spec, Some((call, way)));
        if said.deed != Deed::Refuse || said.bearing == Bearing::No {
            continue;
        }
        let admitted = || {
            table.rules[..at].iter().filter(|r| r.chain == rule.chain).any(|r| {
                let said = spec::read(table.dialect, &r.spec, Some((call, way)));
                said.bearing != Bearing::No
                    && match said.deed {
                        Deed::Accept => true,
                        Deed::Jump(to) => may_accept(table, &to),
                        Deed::Refuse | Deed::Other => false,
                    }
            })
        };
        let certain = way.is_some() && said.bearing == Bearing::Yes && !admitted();
        if certain || said.names {
            out.push(Refusal { rule, certain, names: said.names });
        }
    }
    out
}

/// Rules that give every new connection from outside another destination, whatever its port: all but, at most, what comes by one
/// device.
pub fn diversions(table: &NfTable) -> impl Iterator<Item = &NfRule> {
    let hook = |c: &Chain| c.hook.as_deref().unwrap_or(&c.name).to_ascii_lowercase();
    let inbound: Vec<&str> = table
        .chains
        .iter()
        .filter(|c| way(table, c) == Some(Way::In) && hook(c).contains("prerouting"))
        .map(|c| c.name.as_str())
        .collect();
    table.rules.iter().filter(move |r| {
        inbound.contains(&r.chain.as_str()) && spec::diverts(table.dialect, &r.spec)
    })
}

/// The word for a table in evidence and in a baseline: `nft6 filter`, `inet firewalld`.
pub fn place(table: &NfTable, inet: bool) -> String {
    if inet {
        return format!("inet {}", table.name);
    }
    let backend = match table.backend {
        Backend::Legacy => "legacy",
        Backend::Nft => "nft",
    };
    format!("{backend}{} {}", table.family.suffix(), table.name)
}

/// A rule as its own tool would show it, for people.
pub fn rule_line(rule: &NfRule) -> String {
    match rule.handle {
        Some(handle) => format!("-A {} {} (handle {handle})", rule.chain, rule.spec),
        None => format!("-A {} {}", rule.chain, rule.spec),
    }
}

fn prefix(word: &str) -> Option<Prefix> {
    word.parse().ok()
}

#[cfg(test)]
mod tests;
