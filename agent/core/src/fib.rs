//! Where a packet would leave: the kernel's route lookup, done again from a dump.
//!
//! Judging from the dump lets our own rules be taken out and "what if" be asked; the kernel's own answer is asked for as
//! well, and the two must agree. What the dump cannot know (netfilter marks, xfrm, rp_filter) is not decided here.

use crate::net::{Family, Prefix};
use crate::observation::{Action, Mark, Route, RouteKind, Rule};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

/// rtnetlink protocol number of everything Lifeline puts into the kernel's tables.
///
/// Free in `rt_protos` of iproute2 and, unlike protocols below 192, not claimed by any routing daemon in the kernel's headers.
pub const PROTOCOL: u8 = 213;

/// Our mirror of the baseline's main routes; free of the tables the known tools use (field guide §E5).
pub const TABLE_MIRROR: u32 = 21_300;

const IPPROTO_TCP: u8 = 6;

/// A packet this machine sends, or forwards when `iif` is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Destination.
    pub dst: IpAddr,
    /// Source, when it is already decided.
    pub src: Option<IpAddr>,
    /// Mark.
    pub mark: u32,
    /// IP protocol.
    pub ipproto: u8,
    /// Destination port.
    pub dport: u16,
    /// Sender's user id.
    pub uid: u32,
    /// Device it came in by; `None` for the machine's own.
    pub iif: Option<String>,
}

impl Flow {
    /// A TCP connection the machine itself, as root, opens to `dst:port`, without a mark.
    pub fn tcp(dst: IpAddr, dport: u16) -> Self {
        Self { dst, src: None, mark: 0, ipproto: IPPROTO_TCP, dport, uid: 0, iif: None }
    }

    /// The same with a mark.
    #[must_use]
    pub fn marked(mut self, mark: u32) -> Self {
        self.mark = mark;
        self
    }
}

/// What the lookup says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It leaves here.
    Leaves {
        /// Device; empty when the route does not name one.
        dev: String,
        /// Gateway.
        via: Option<IpAddr>,
        /// Table that answered.
        table: u32,
        /// Preference of the rule that led there.
        pref: u32,
    },
    /// It is for this machine.
    Local,
    /// A rule or a route refuses it.
    Refused {
        /// Table of the route; `None` when the rule itself refuses.
        table: Option<u32>,
        /// Preference of the rule.
        pref: u32,
    },
    /// No rule led to a route.
    NoRoute,
    /// A rule with selectors we do not model stands in the way: nothing can be said.
    Unknown {
        /// Its preference.
        pref: u32,
    },
}

/// Is this one of ours?
pub fn is_ours(rule: &Rule) -> bool {
    rule.protocol == PROTOCOL
}

/// The rules without ours.
pub fn without_ours(rules: &[Rule]) -> Vec<Rule> {
    rules.iter().filter(|r| !is_ours(r)).cloned().collect()
}

/// Does the rule's selector match? `None` when it has selectors we do not model and would otherwise match.
pub fn matches(rule: &Rule, flow: &Flow) -> Option<bool> {
    if rule.family != Family::of(flow.dst) {
        return Some(false);
    }
    let prefix = |p: &Option<Prefix>, a: Option<IpAddr>| match (p, a) {
        (None, _) => true,
        (Some(p), Some(a)) => p.contains(a),
        // An undecided source is 0.0.0.0 in the kernel's first lookup: only a /0 matches it.
        (Some(p), None) => p.is_all(),
    };
    let range = |r: &Option<(u16, u16)>, v: u16| r.is_none_or(|(a, b)| (a..=b).contains(&v));
    let hit = prefix(&rule.from, flow.src)
        && prefix(&rule.to, Some(flow.dst))
        && iif_matches(rule.iif.as_deref(), flow.iif.as_deref())
        // `oif` matches sockets bound to a device only; a plain flow is not.
        && rule.oif.is_none()
        && rule.mark.is_none_or(|Mark { value, mask }| flow.mark & mask == value)
        && rule.ipproto.is_none_or(|p| p == flow.ipproto)
        && rule.sport.is_none()
        && range(&rule.dport, flow.dport)
        && rule.uids.is_none_or(|(a, b)| (a..=b).contains(&flow.uid));
    if rule.exotic && hit {
        return None;
    }
    Some(hit != rule.not)
}

/// The machine's own packets come in by `lo`, as far as rules are concerned.
fn iif_matches(rule: Option<&str>, flow: Option<&str>) -> bool {
    rule.is_none_or(|want| want == flow.unwrap_or("lo"))
}

/// Looks up a flow.
pub fn lookup(rules: &[Rule], routes: &[Route], flow: &Flow) -> Answer {
    let mut order: Vec<&Rule> = rules.iter().filter(|r| r.family == Family::of(flow.dst)).collect();
    // A stable sort keeps the kernel's order among equals.
    order.sort_by_key(|r| r.pref);
    let mut at = 0;
    while let Some(rule) = order.get(at) {
        at += 1;
        match matches(rule, flow) {
            None => return Answer::Unknown { pref: rule.pref },
            Some(false) => continue,
            Some(true) => {}
        }
        match rule.action {
            Action::Nop => {}
            Action::Blackhole | Action::Unreachable | Action::Prohibit => {
                return Answer::Refused { table: None, pref: rule.pref };
            }
            Action::Goto(target) => {
                // The kernel jumps forward only; a target that is not there makes the rule void.
                if let Some(to) =
                    order.iter().skip(at).position(|r| r.pref >= target && r.pref == target)
                {
                    at += to;
                }
            }
            Action::Lookup(table) => {
                if let Some(answer) = in_table(routes, table, rule, flow.dst) {
                    return answer;
                }
            }
        }
    }
    Answer::NoRoute
}

fn in_table(routes: &[Route], table: u32, rule: &Rule, dst: IpAddr) -> Option<Answer> {
    let usable = |r: &&Route| {
        r.table == table
            && r.family == rule.family
            && r.dst.contains(dst)
            && (r.hops.is_empty() || r.hops.iter().any(|h| !h.dead) || r.kind != RouteKind::Unicast)
    };
    // Longest prefix, then lowest metric.
    let best = routes
        .iter()
        .filter(usable)
        .max_by(|a, b| a.dst.len().cmp(&b.dst.len()).then(b.metric.cmp(&a.metric)))?;
    match best.kind {
        RouteKind::Throw => None,
        RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => {
            Some(Answer::Refused { table: Some(table), pref: rule.pref })
        }
        RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast | RouteKind::Multicast => {
            Some(Answer::Local)
        }
        RouteKind::Unicast => {
            if rule.suppress.is_some_and(|len| u32::from(best.dst.len()) <= len) {
                return None;
            }
            let hop = best.hops.iter().find(|h| !h.dead)?;
            Some(Answer::Leaves {
                dev: hop.dev.clone().unwrap_or_default(),
                via: hop.via,
                table,
                pref: rule.pref,
            })
        }
    }
}
