//! Where a packet would leave: the kernel's route lookup, done again from a dump.
//!
//! Judging from the dump lets our own rules be taken out and "what if" be asked; the kernel's own answer is asked for as
//! well, and the two must agree. What the dump cannot know (netfilter marks, xfrm, rp_filter) is not decided here.

use crate::baseline::Path;
use crate::net::{Family, Prefix};
use crate::observation::{Action, Mark, Route, RouteKind, Rule, TABLE_LOCAL};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr};

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
        // fib4_rule_match compares an undecided source as 0.0.0.0; fib6_rule_match matches no prefix at all.
        (Some(p), None) => p.is_all() || p.contains(Ipv4Addr::UNSPECIFIED.into()),
    };
    let range = |r: &Option<(u16, u16)>, v: u16| r.is_none_or(|(a, b)| (a..=b).contains(&v));
    // A source port of one's own choosing lies in ip_local_port_range: below 1024 the rule does not match, above nobody knows.
    let sport = rule.sport.is_none_or(|(_, high)| high >= 1024);
    let hit = prefix(&rule.from, flow.src)
        && prefix(&rule.to, Some(flow.dst))
        && iif_matches(rule.iif.as_deref(), flow.iif.as_deref())
        // `oif` matches sockets bound to a device only; a plain flow is not.
        && rule.oif.is_none()
        && rule.mark.is_none_or(|Mark { value, mask }| (flow.mark ^ value) & mask == 0)
        && rule.ipproto.is_none_or(|p| p == flow.ipproto)
        && sport
        && range(&rule.dport, flow.dport)
        && rule.uids.is_none_or(|(a, b)| (a..=b).contains(&flow.uid));
    if hit && (rule.exotic || rule.sport.is_some()) {
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
    lookup_in(rules, &[routes], flow)
}

/// Looks up a flow in several lists of routes, as if they were one: with 100 000 routes nothing is joined for a question.
pub fn lookup_in(rules: &[Rule], routes: &[&[Route]], flow: &Flow) -> Answer {
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
                if let Some(to) = order.iter().skip(at).position(|r| r.pref == target) {
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

fn in_table(routes: &[&[Route]], table: u32, rule: &Rule, dst: IpAddr) -> Option<Answer> {
    let best = best_in(routes, table, rule.family, dst)?;
    match best.kind {
        RouteKind::Throw => return None,
        // Refusals are errors to the kernel, and `suppress_prefixlength` is asked about answers only.
        RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => {
            return Some(Answer::Refused { table: Some(table), pref: rule.pref });
        }
        RouteKind::Unicast
        | RouteKind::Local
        | RouteKind::Broadcast
        | RouteKind::Anycast
        | RouteKind::Multicast => {}
    }
    if rule.suppress.is_some_and(|len| u32::from(best.dst.len()) <= len) {
        return None;
    }
    if best.kind != RouteKind::Unicast {
        return Some(Answer::Local);
    }
    let hop = best.hops.iter().find(|h| !h.dead)?;
    Some(Answer::Leaves {
        dev: hop.dev.as_deref().unwrap_or_default().into(),
        via: hop.via,
        table,
        pref: rule.pref,
    })
}

/// The route of a table that answers for an address: longest prefix, then lowest metric, then the one that was there first.
pub fn best(routes: &[Route], table: u32, family: Family, dst: IpAddr) -> Option<&Route> {
    best_in(&[routes], table, family, dst)
}

fn best_in<'a>(
    routes: &[&'a [Route]],
    table: u32,
    family: Family,
    dst: IpAddr,
) -> Option<&'a Route> {
    let usable = |r: &&Route| {
        r.table == table
            && r.family == family
            && r.dst.contains(dst)
            && (r.kind != RouteKind::Unicast || r.hops.iter().any(|h| !h.dead))
    };
    // `min_by` gives the first of equals, as the kernel's list does; `max_by` would give the last.
    let all = routes.iter().flat_map(|list| list.iter());
    all.filter(usable).min_by(|a, b| b.dst.len().cmp(&a.dst.len()).then(a.metric.cmp(&b.metric)))
}

/// Those of `wanted` of which `there` has none that is the same; what is the same has one family, table, destination and metric.
///
/// A node of a cluster of 5 000 has as many routes, and all are compared at each look: the longer list is sorted, not searched
/// once for each of the other.
pub fn lacking<'a>(
    wanted: impl IntoIterator<Item = &'a Route>,
    there: impl IntoIterator<Item = &'a Route>,
    same: impl Fn(&Route, &Route) -> bool,
) -> Vec<&'a Route> {
    let key = |r: &Route| (r.family, r.table, r.dst, r.metric);
    let mut there: Vec<&Route> = there.into_iter().collect();
    // A stable sort is quick over what comes in order, as the kernel's dumps mostly do.
    there.sort_by_key(|r| key(r));
    let is_there = |w: &Route| {
        let from = there.partition_point(|r| key(r) < key(w));
        let alike = there.iter().skip(from).take_while(|r| key(r) == key(w));
        { alike }.any(|r| same(r, w))
    };
    wanted.into_iter().filter(|w| !is_there(w)).collect()
}

/// Is this answer the healthy path?
pub fn same(answer: &Answer, path: &Path) -> bool {
    match answer {
        Answer::Leaves { dev, via, .. } => *dev == path.dev && *via == path.via,
        Answer::Local => path.table == TABLE_LOCAL,
        Answer::Refused { .. } | Answer::NoRoute | Answer::Unknown { .. } => false,
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaves { dev, via, table, pref } => {
                write!(f, "leaves by {dev}")?;
                if let Some(via) = via {
                    write!(f, " via {via}")?;
                }
                write!(f, " (rule {pref}, table {table})")
            }
            Self::Local => f.write_str("is answered by this machine itself"),
            Self::Refused { table: Some(t), pref } => {
                write!(f, "is refused (rule {pref}, table {t})")
            }
            Self::Refused { table: None, pref } => write!(f, "is refused (rule {pref})"),
            Self::NoRoute => f.write_str("has no route"),
            Self::Unknown { pref } => {
                write!(f, "cannot be judged (rule {pref} has a selector we do not model)")
            }
        }
    }
}

/// Which rule would `RTM_DELRULE` with this rule's attributes delete?
///
/// The kernel takes the **first that matches, and what a request leaves out, or gives as 0, is a wildcard** (field guide K3):
/// `rule_find` in net/core/fib_rules.c. It compares neither `not` nor a `goto`'s target. When the answer is not the rule
/// itself, deleting it would take somebody else's.
pub fn victim<'a>(rules: &'a [Rule], wanted: &Rule) -> Option<&'a Rule> {
    let mut order: Vec<&Rule> = rules.iter().filter(|r| r.family == wanted.family).collect();
    order.sort_by_key(|r| r.pref);
    order.into_iter().find(|r| deletes(wanted, r))
}

fn deletes(wanted: &Rule, r: &Rule) -> bool {
    let given = |w: u32, r: u32| w == 0 || w == r;
    let table = |a: Action| if let Action::Lookup(t) = a { t } else { 0 };
    let mark = |r: &Rule| r.mark.map_or((0, 0), |m| (m.value, m.mask));
    // fib4_rule_compare and fib6_rule_compare look at an address only when a length is given: a /0 is a wildcard.
    let prefix =
        |w: &Option<Prefix>, r: &Option<Prefix>| w.is_none_or(|w| w.is_all() || *r == Some(w));
    core::mem::discriminant(&wanted.action) == core::mem::discriminant(&r.action)
        && given(table(wanted.action), table(r.action))
        && wanted.pref == r.pref
        && (wanted.iif.is_none() || wanted.iif == r.iif)
        && (wanted.oif.is_none() || wanted.oif == r.oif)
        && given(mark(wanted).0, mark(r).0)
        && given(mark(wanted).1, mark(r).1)
        && (wanted.suppress.is_none() || wanted.suppress == r.suppress)
        && (wanted.uids.is_none() || wanted.uids == r.uids)
        && wanted.ipproto.is_none_or(|p| p == 0 || r.ipproto == Some(p))
        && given(wanted.protocol.into(), r.protocol.into())
        && (wanted.sport.is_none() || wanted.sport == r.sport)
        && (wanted.dport.is_none() || wanted.dport == r.dport)
        && prefix(&wanted.from, &r.from)
        && prefix(&wanted.to, &r.to)
}

#[cfg(test)]
mod tests {
    use super::lacking;
    use crate::evidence::same_route;
    use crate::observation::Route;
    use alloc::vec::Vec;

    fn seen(text: &str) -> Vec<Route> {
        crate::text::read(text).unwrap().routes.to_vec()
    }

    #[test]
    fn what_is_lacking_is_found_whatever_the_order_and_however_much_is_alike() {
        let wanted = seen(
            "route main 10.0.0.0/8 dev a\nroute main 10.0.0.0/8 dev a metric 5\nroute main 10.1.0.0/16 via 10.0.0.1 dev a\n\
             route 52 default dev t\nroute6 main 2001:db8::/32 dev a\n",
        );
        let mut there = wanted.clone();
        there.reverse();
        assert!(lacking(&wanted, &there, same_route).is_empty());
        for gone in 0..wanted.len() {
            let mut less = there.clone();
            less.retain(|r| *r != wanted[gone]);
            assert_eq!(lacking(&wanted, &less, same_route), [&wanted[gone]]);
        }
        let other = seen("route main 10.1.0.0/16 via 10.0.0.2 dev a\n");
        assert_eq!(lacking(&other, &there, same_route), [&other[0]], "by another gateway");
    }
}
