//! Reads devices, addresses, policy rules and routes.

use super::super::words::{Result, Words};
use super::super::{PROTOCOLS, ROUTE_PROTOCOL, SCOPES, TABLES};
use super::{keyed, number, unknown};
use crate::net::{Family, Prefix};
use crate::observation::{
    Action, Addr, Direction, Hop, Link, Mark, Route, RouteKind, Rule, XfrmPolicy,
};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::str::FromStr;

pub(super) fn link(w: &mut Words<'_>) -> Result<Link> {
    let mut l = Link {
        name: w.word()?,
        index: keyed(w, "index", "number")?,
        kind: String::new(),
        up: false,
        carrier: false,
        mac: String::new(),
        master: None,
        persist: false,
    };
    while let Some(key) = w.key() {
        match key {
            "kind" => l.kind = w.word()?,
            "up" => l.up = true,
            "carrier" => l.carrier = true,
            "mac" => l.mac = w.word()?,
            "master" => l.master = Some(w.word()?),
            "persist" => l.persist = true,
            other => return Err(unknown(other)),
        }
    }
    Ok(l)
}

pub(super) fn addr(w: &mut Words<'_>) -> Result<Addr> {
    let dev = w.word()?;
    let word = w.word()?;
    let parsed = word.split_once('/').and_then(|(a, l)| Some((a.parse().ok()?, l.parse().ok()?)));
    let (addr, len) = parsed.ok_or_else(|| format!("{word:?} is no ADDRESS/LENGTH"))?;
    Ok(Addr { dev, addr, len })
}

fn mark(w: &mut Words<'_>) -> Result<Mark> {
    let word = w.word()?;
    let (value, mask) = word.split_once('/').unwrap_or((&word, "0xffffffff"));
    match (number(value), number(mask)) {
        (Some(value), Some(mask)) => Ok(Mark { value, mask }),
        _ => Err(format!("{word:?} is no MARK/MASK")),
    }
}

fn range<T: FromStr>(w: &mut Words<'_>) -> Result<(T, T)> {
    let word = w.word()?;
    let (a, b) = word.split_once('-').unwrap_or((&word, &word));
    match (a.parse(), b.parse()) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        _ => Err(format!("{word:?} is no number or range")),
    }
}

pub(super) fn rule(w: &mut Words<'_>, family: Family) -> Result<Rule> {
    let pref = w.value("preference")?;
    let mut r = Rule { pref, ..Rule::bare(family, 0, Action::Nop) };
    let mut action = None;
    while let Some(key) = w.key() {
        match key {
            "not" => r.not = true,
            "from" => r.from = Some(w.value("prefix")?),
            "to" => r.to = Some(w.value("prefix")?),
            "iif" => r.iif = Some(w.word()?),
            "oif" => r.oif = Some(w.word()?),
            "fwmark" => r.mark = Some(mark(w)?),
            "ipproto" => r.ipproto = Some(w.value("number")?),
            "sport" => r.sport = Some(range(w)?),
            "dport" => r.dport = Some(range(w)?),
            "uid" => r.uids = Some(range(w)?),
            "lookup" => action = Some(Action::Lookup(w.named(&TABLES, "table")?)),
            "goto" => action = Some(Action::Goto(w.value("preference")?)),
            "nop" => action = Some(Action::Nop),
            "blackhole" => action = Some(Action::Blackhole),
            "unreachable" => action = Some(Action::Unreachable),
            "prohibit" => action = Some(Action::Prohibit),
            "suppress" => r.suppress = Some(w.value("number")?),
            "proto" => r.protocol = w.named(&PROTOCOLS, "protocol")?,
            "exotic" => r.exotic = true,
            other => return Err(unknown(other)),
        }
    }
    r.action = action.ok_or("the rule does nothing: no lookup, goto, nop, blackhole…")?;
    Ok(r)
}

pub(super) fn route(w: &mut Words<'_>, family: Family) -> Result<Route> {
    let table = w.named(&TABLES, "table")?;
    let kind = [
        ("local", RouteKind::Local),
        ("broadcast", RouteKind::Broadcast),
        ("anycast", RouteKind::Anycast),
        ("multicast", RouteKind::Multicast),
        ("blackhole", RouteKind::Blackhole),
        ("unreachable", RouteKind::Unreachable),
        ("prohibit", RouteKind::Prohibit),
        ("throw", RouteKind::Throw),
    ]
    .into_iter()
    .find(|(word, _)| w.take(word))
    .map_or(RouteKind::Unicast, |(_, kind)| kind);
    let dst = if w.take("default") { Prefix::all(family) } else { w.value("prefix")? };
    let mut r = Route {
        family,
        table,
        kind,
        dst,
        hops: Vec::new(),
        metric: 0,
        src: None,
        protocol: ROUTE_PROTOCOL,
        scope: 0,
        exotic: false,
    };
    while let Some(key) = w.key() {
        match key {
            "nexthop" => r.hops.push(Hop::default()),
            "via" | "dev" | "onlink" | "dead" | "weight" => hop(&mut r.hops, key, w)?,
            "metric" => r.metric = w.value("number")?,
            "src" => r.src = Some(w.value("address")?),
            "scope" => r.scope = w.named(&SCOPES, "scope")?,
            "proto" => r.protocol = w.named(&PROTOCOLS, "protocol")?,
            "exotic" => r.exotic = true,
            other => return Err(unknown(other)),
        }
    }
    Ok(r)
}

fn hop(hops: &mut Vec<Hop>, key: &str, w: &mut Words<'_>) -> Result<()> {
    if hops.is_empty() {
        hops.push(Hop::default());
    }
    let Some(hop) = hops.last_mut() else { return Ok(()) };
    match key {
        "via" => hop.via = Some(w.value("address")?),
        "dev" => hop.dev = Some(w.word()?.into()),
        "onlink" => hop.onlink = true,
        "dead" => hop.dead = true,
        _ => hop.weight = w.value("number")?,
    }
    Ok(())
}

pub(super) fn xfrm(w: &mut Words<'_>) -> Result<XfrmPolicy> {
    let dir = match w.word()?.as_str() {
        "in" => Direction::In,
        "out" => Direction::Out,
        "forward" => Direction::Forward,
        other => return Err(unknown(other)),
    };
    let src: Prefix = keyed(w, "src", "prefix")?;
    let dst: Prefix = keyed(w, "dst", "prefix")?;
    let mut p = XfrmPolicy {
        family: dst.family(),
        dir,
        src,
        dst,
        ipproto: 0,
        sport: 0,
        dport: 0,
        priority: 0,
        block: false,
        transform: false,
        exotic: false,
    };
    while let Some(key) = w.key() {
        match key {
            "ipproto" => p.ipproto = w.value("number")?,
            "sport" => p.sport = w.value("port")?,
            "dport" => p.dport = w.value("port")?,
            "priority" => p.priority = w.value("number")?,
            "block" => p.block = true,
            "transform" => p.transform = true,
            "exotic" => p.exotic = true,
            other => return Err(unknown(other)),
        }
    }
    Ok(p)
}
