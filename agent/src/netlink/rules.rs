//! Policy rules: their messages read and written, and which one a deletion would really hit.

use super::{Added, Deleted, EEXIST, Kernel, NetlinkError};
use lifeline_core::net::{Family, Prefix};
use lifeline_core::observation::{Action, Mark, Rule};
use rtnetlink::packet_core::{DefaultNla, Nla};
use rtnetlink::packet_route::rule::{
    RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange, RuleUidRange,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

const ENOENT: i32 = 2;
/// `FRA_SPORT_MASK` and `FRA_DPORT_MASK`, dumped since Linux 6.15 for every single port, all ones when nobody set it.
const PORT_MASKS: [u16; 2] = [28, 29];

impl Kernel {
    /// The policy rules of a family in the kernel's order, each with the message it came in.
    ///
    /// # Errors
    /// When they could not be read to the end.
    pub async fn rules(&self, family: Family) -> Result<Vec<(Rule, RuleMessage)>, NetlinkError> {
        let mut ask = RuleMessage::default();
        ask.header.family = address_family(family);
        let what = format!("read policy rules{}", family.suffix());
        let pick = |m| match m {
            RouteNetlinkMessage::NewRule(rule) => Some((rule_from(&rule), rule)),
            _ => None,
        };
        self.settled(&what, RouteNetlinkMessage::GetRule(ask), pick).await
    }

    /// Adds a rule; that the very same is there already is no failure. The kernel compares every selector here, so this
    /// is also how presence is asked for beyond doubt.
    ///
    /// # Errors
    /// When the rule is exotic, or the kernel refuses it.
    pub async fn add_rule(&self, rule: &Rule) -> Result<Added, NetlinkError> {
        let what = || format!("add rule {} ({:?})", rule.pref, rule.action);
        if rule.exotic {
            return Err(NetlinkError::Exotic { what: what() });
        }
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule_message(rule);
        match self.write(what, request.execute()).await {
            Ok(()) => Ok(Added::Added),
            Err(e) if e.errno() == Some(EEXIST) => Ok(Added::Exists),
            Err(e) => Err(e),
        }
    }

    /// Adds a rule as a dump brought it, behind all of its preference and even when the very same is there already.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub async fn copy_rule(&self, message: RuleMessage) -> Result<(), NetlinkError> {
        let rule = rule_from(&message);
        let what = || format!("add rule {} ({:?}) again", rule.pref, rule.action);
        // "Replace" replaces nothing here; it only leaves out the flag by which the kernel refuses a second copy.
        let mut request = self.handle.rule().add().replace();
        *request.message_mut() = message;
        self.write(what, request.execute()).await
    }

    /// Deletes the *first* rule the message matches, with absent attributes as wildcards: see [`victim`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_rule(&self, message: RuleMessage) -> Result<Deleted, NetlinkError> {
        let rule = rule_from(&message);
        let what = || format!("delete rule {} ({:?})", rule.pref, rule.action);
        match self.write(what, self.handle.rule().del(message).execute()).await {
            Ok(()) => Ok(Deleted::Deleted),
            Err(e) if e.errno() == Some(ENOENT) => Ok(Deleted::Absent),
            Err(e) => Err(e),
        }
    }
}

/// What a rule's message says.
pub fn rule_from(message: &RuleMessage) -> Rule {
    let header = &message.header;
    let family = if header.family == AddressFamily::Inet6 { Family::V6 } else { Family::V4 };
    let mut rule = Rule {
        family,
        pref: 0,
        not: header.flags.contains(RuleFlags::Invert),
        from: None,
        to: None,
        iif: None,
        oif: None,
        mark: None,
        ipproto: None,
        sport: None,
        dport: None,
        uids: None,
        action: Action::Nop,
        suppress: None,
        protocol: 0,
        exotic: header.tos != 0,
    };
    let mut table = u32::from(header.table);
    let mut target = 0;
    let (mut value, mut mask) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Destination(a) => rule.to = prefix(*a, header.dst_len),
            RuleAttribute::Source(a) => rule.from = prefix(*a, header.src_len),
            RuleAttribute::Iifname(n) => rule.iif = Some(n.clone()),
            RuleAttribute::Oifname(n) => rule.oif = Some(n.clone()),
            RuleAttribute::Goto(p) => target = *p,
            RuleAttribute::Priority(p) => rule.pref = *p,
            RuleAttribute::FwMark(v) => value = Some(*v),
            RuleAttribute::FwMask(m) => mask = Some(*m),
            RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::SuppressIfGroup(u32::MAX)
            | RuleAttribute::L3MDev(false) => {}
            RuleAttribute::SuppressPrefixLen(len) => rule.suppress = Some(*len),
            RuleAttribute::Table(t) => table = *t,
            RuleAttribute::UidRange(r) => rule.uids = Some((r.start, r.end)),
            RuleAttribute::Protocol(p) => rule.protocol = u8::from(*p),
            RuleAttribute::IpProtocol(p) => rule.ipproto = Some(u8::from(*p)),
            RuleAttribute::SourcePortRange(r) => rule.sport = Some((r.start, r.end)),
            RuleAttribute::DestinationPortRange(r) => rule.dport = Some((r.start, r.end)),
            RuleAttribute::Other(nla) if is_whole_port_mask(nla) => {}
            // Realms, tunnel ids, VRFs, interface groups, flow labels, DSCP, and what a newer kernel knows.
            _ => rule.exotic = true,
        }
    }
    if value.is_some() || mask.is_some() {
        // A zero value is not dumped, its mask is: `fwmark 0/0x1000` comes as a mask alone.
        rule.mark = Some(Mark { value: value.unwrap_or(0), mask: mask.unwrap_or(u32::MAX) });
    }
    rule.action = match header.action {
        RuleAction::ToTable => Action::Lookup(table),
        RuleAction::Goto => Action::Goto(target),
        RuleAction::Nop => Action::Nop,
        RuleAction::Blackhole => Action::Blackhole,
        RuleAction::Unreachable => Action::Unreachable,
        RuleAction::Prohibit => Action::Prohibit,
        _ => {
            rule.exotic = true;
            Action::Nop
        }
    };
    rule
}

/// The message that adds a rule. An exotic rule loses what makes it exotic: never write one.
pub fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    let header = &mut message.header;
    header.family = address_family(rule.family);
    if rule.not {
        header.flags = RuleFlags::Invert;
    }
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.pref));
    if let Some(p) = rule.from {
        header.src_len = p.len();
        attributes.push(RuleAttribute::Source(p.addr()));
    }
    if let Some(p) = rule.to {
        header.dst_len = p.len();
        attributes.push(RuleAttribute::Destination(p.addr()));
    }
    attributes.extend(rule.iif.clone().map(RuleAttribute::Iifname));
    attributes.extend(rule.oif.clone().map(RuleAttribute::Oifname));
    if let Some(mark) = rule.mark {
        attributes.push(RuleAttribute::FwMark(mark.value));
        attributes.push(RuleAttribute::FwMask(mark.mask));
    }
    attributes.extend(rule.ipproto.map(|p| RuleAttribute::IpProtocol(p.into())));
    let range = |(start, end)| RulePortRange { start, end };
    attributes.extend(rule.sport.map(|r| RuleAttribute::SourcePortRange(range(r))));
    attributes.extend(rule.dport.map(|r| RuleAttribute::DestinationPortRange(range(r))));
    attributes
        .extend(rule.uids.map(|(start, end)| RuleAttribute::UidRange(RuleUidRange { start, end })));
    attributes.extend(rule.suppress.map(RuleAttribute::SuppressPrefixLen));
    attributes.push(RuleAttribute::Protocol(rule.protocol.into()));
    header.action = match rule.action {
        Action::Lookup(table) => {
            // The header has eight bits for the table; the attribute wins where both are given.
            header.table = u8::try_from(table).unwrap_or(0);
            attributes.push(RuleAttribute::Table(table));
            RuleAction::ToTable
        }
        Action::Goto(pref) => {
            attributes.push(RuleAttribute::Goto(pref));
            RuleAction::Goto
        }
        Action::Nop => RuleAction::Nop,
        Action::Blackhole => RuleAction::Blackhole,
        Action::Unreachable => RuleAction::Unreachable,
        Action::Prohibit => RuleAction::Prohibit,
    };
    message
}

/// Which rule of a dump the kernel would delete when told to delete `message`: the first that matches, where whatever the
/// message leaves out or zero is a wildcard (`rule_find` of `net/core/fib_rules.c`; field guide K3). When that is not the
/// rule that was meant, do not delete.
pub fn victim(dump: &[RuleMessage], message: &RuleMessage) -> Option<usize> {
    let ask = rule_from(message);
    let has_pref = message.attributes.iter().any(|a| matches!(a, RuleAttribute::Priority(_)));
    dump.iter().position(|candidate| {
        let rule = rule_from(candidate);
        let action = match (ask.action, rule.action) {
            // Table 0 is a wildcard; other actions carry no table.
            (Action::Lookup(0), Action::Lookup(_)) => true,
            (Action::Goto(_), Action::Goto(_)) => true,
            (a, b) => a == b,
        };
        let wild =
            |want: Option<u32>, have: Option<u32>| want.is_none_or(|w| w == 0 || Some(w) == have);
        let same = |want: &Option<String>, have: &Option<String>| {
            want.as_deref().is_none_or(|w| w.is_empty() || Some(w) == have.as_deref())
        };
        rule.family == ask.family
            && action
            && (!has_pref || rule.pref == ask.pref)
            && same(&ask.iif, &rule.iif)
            && same(&ask.oif, &rule.oif)
            && wild(ask.mark.map(|m| m.value), rule.mark.map(|m| m.value))
            && wild(ask.mark.map(|m| m.mask), rule.mark.map(|m| m.mask))
            && (ask.suppress.is_none() || ask.suppress == rule.suppress)
            && (ask.uids.is_none() || ask.uids == rule.uids)
            && (ask.ipproto.is_none() || ask.ipproto == rule.ipproto)
            && (ask.protocol == 0 || ask.protocol == rule.protocol)
            && (ask.sport.is_none() || ask.sport == rule.sport)
            && (ask.dport.is_none() || ask.dport == rule.dport)
            && (ask.from.is_none() || ask.from == rule.from)
            && (ask.to.is_none() || ask.to == rule.to)
            && (message.header.tos == 0 || message.header.tos == candidate.header.tos)
    })
}

pub(super) fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn prefix(addr: IpAddr, len: u8) -> Option<Prefix> {
    (len > 0).then(|| Prefix::new(addr, len))
}

fn is_whole_port_mask(nla: &DefaultNla) -> bool {
    let mut value = [0; 2];
    PORT_MASKS.contains(&nla.kind()) && nla.value_len() == 2 && {
        nla.emit_value(&mut value);
        value == [0xff; 2]
    }
}
