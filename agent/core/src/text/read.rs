//! Reads the text form. Every error says in which line, and which word was not understood.

use super::words::{Result, Words, string};
use super::{PROTOCOLS, ROUTE_PROTOCOL, SCOPES, TABLES};
use crate::clock::Stamp;
use crate::net::{Family, Prefix};
use crate::observation::{
    Action, Addr, Backend, Chain, Cluster, Dialect, Fate, Fdb, Gap, Hop, Lease, Link, Lookup, Mark,
    Netns, NfRule, NfTable, Observation, Probe, Process, Reach, Resolv, Route, RouteKind, Rule,
    Sense, Socket, Through, Unit,
};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::str::FromStr;

/// A line that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read an observation: line {line}: {why}")]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// Reads an observation.
///
/// # Errors
/// When a line is not understood; nothing is skipped but empty lines and comments.
pub fn read(text: &str) -> core::result::Result<Observation, BadLine> {
    let mut seen = Observation::default();
    for (at, line) in text.lines().enumerate() {
        let mut words = Words(line);
        if words.is_done() || line.trim_start().starts_with('#') {
            continue;
        }
        let done = object(&mut seen, &mut words).and_then(|()| words.finish());
        done.map_err(|why| BadLine { line: at + 1, why })?;
    }
    Ok(seen)
}

fn object(seen: &mut Observation, w: &mut Words<'_>) -> Result<()> {
    let Some(first) = w.key() else { return Ok(()) };
    match first {
        "taken" => seen.taken = taken(w)?,
        "node" => seen.cluster = cluster(w)?,
        "link" => seen.links.push(link(w)?),
        "addr" => seen.addrs.push(addr(w)?),
        "rule" => seen.rules.push(rule(w, Family::V4)?),
        "rule6" => seen.rules.push(rule(w, Family::V6)?),
        "route" => seen.routes.push(route(w, Family::V4)?),
        "route6" => seen.routes.push(route(w, Family::V6)?),
        "legacy" => table(seen, w, Backend::Legacy, Family::V4)?,
        "legacy6" => table(seen, w, Backend::Legacy, Family::V6)?,
        "nft" => table(seen, w, Backend::Nft, Family::V4)?,
        "nft6" => table(seen, w, Backend::Nft, Family::V6)?,
        "process" => seen.processes.push(process(w)?),
        "unit" => seen.units.push(unit(w)?),
        "sysctl" => {
            let (key, value) = sysctl(w)?;
            if seen.sysctls.insert(key.clone(), value).is_some() {
                return Err(format!("sysctl {key} is there twice"));
            }
        }
        "resolv" => {
            if seen.resolv.replace(resolv(w)?).is_some() {
                return Err("resolv is there twice".to_string());
            }
        }
        "fdb" => seen.fdb.push(Fdb { dev: w.word()?, dst: w.value("address")? }),
        "socket" => seen.sockets.push(socket(w)?),
        "lookup" => {
            let (dst, through) = (w.value("address")?, through(w)?);
            seen.lookups.push(Lookup { dst, through, fate: fate(w)? });
        }
        "probe" => seen.probes.push(probe(w)?),
        "lease" => {
            let renewed = w.word()?;
            seen.lease = Some(Lease { renewed, age_ms: keyed(w, "age", "number")? });
        }
        "path" => seen.paths.push(w.word()?),
        "gap" => seen.gaps.push(Gap { what: sense(w)?, why: w.rest()? }),
        other => return Err(format!("{other:?} is no kind of object")),
    }
    Ok(())
}

fn keyed<T: FromStr>(w: &mut Words<'_>, key: &str, what: &str) -> Result<T> {
    if w.take(key) { w.value(what) } else { Err(format!("the word {key:?} is missing")) }
}

fn unknown(word: &str) -> String {
    format!("the word {word:?} is unknown here")
}

fn taken(w: &mut Words<'_>) -> Result<Stamp> {
    Ok(Stamp {
        boot: w.word()?,
        ms: keyed(w, "ms", "number")?,
        wall_ms: keyed(w, "wall", "number")?,
    })
}

fn cluster(w: &mut Words<'_>) -> Result<Cluster> {
    let mut c = Cluster { node: w.word()?, ..Cluster::default() };
    while let Some(key) = w.key() {
        match key {
            "ip" => c.node_ip = Some(w.value("address")?),
            "api" => c.api.push(w.value("ADDRESS:PORT")?),
            "pods" => c.pod_cidr = Some(w.value("prefix")?),
            "cluster" => c.cluster_cidr = Some(w.value("prefix")?),
            "services" => c.service_cidr = Some(w.value("prefix")?),
            other => return Err(unknown(other)),
        }
    }
    Ok(c)
}

fn link(w: &mut Words<'_>) -> Result<Link> {
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

fn addr(w: &mut Words<'_>) -> Result<Addr> {
    let dev = w.word()?;
    let word = w.word()?;
    let parsed = word.split_once('/').and_then(|(a, l)| Some((a.parse().ok()?, l.parse().ok()?)));
    let (addr, len) = parsed.ok_or_else(|| format!("{word:?} is no ADDRESS/LENGTH"))?;
    Ok(Addr { dev, addr, len })
}

fn number(word: &str) -> Option<u32> {
    match word.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
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

fn rule(w: &mut Words<'_>, family: Family) -> Result<Rule> {
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

fn route(w: &mut Words<'_>, family: Family) -> Result<Route> {
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
        "dev" => hop.dev = Some(w.word()?),
        "onlink" => hop.onlink = true,
        "dead" => hop.dead = true,
        _ => hop.weight = w.value("number")?,
    }
    Ok(())
}

fn table(
    seen: &mut Observation,
    w: &mut Words<'_>,
    backend: Backend,
    family: Family,
) -> Result<()> {
    let name = w.word()?;
    let native = w.take("native");
    if native || w.is_done() {
        let dialect = if native { Dialect::Nft } else { Dialect::Iptables };
        let (chains, rules) = (Vec::new(), Vec::new());
        seen.netfilter.push(NfTable { backend, family, name, dialect, chains, rules });
        return Ok(());
    }
    let is_it = |t: &&mut NfTable| t.backend == backend && t.family == family && t.name == name;
    let Some(table) = seen.netfilter.iter_mut().rev().find(is_it) else {
        return Err(format!(
            "table {name} has not been begun: a line with its name alone is missing"
        ));
    };
    if w.take("-A") {
        let chain = w.word()?;
        let handle = if w.take("handle") { Some(w.value("number")?) } else { None };
        table.rules.push(NfRule { chain, handle, spec: w.rest()? });
        return Ok(());
    }
    w.0 = w.0.trim_start_matches(' ').strip_prefix(':').ok_or_else(|| {
        format!("{:?} is neither a chain (:NAME) nor a rule (-A CHAIN …)", w.0.trim())
    })?;
    let mut chain = Chain { name: w.word()?, policy: None, hook: None };
    while let Some(key) = w.key() {
        match key {
            "policy" => chain.policy = Some(w.word()?),
            "hook" => chain.hook = Some(w.word()?),
            other => return Err(unknown(other)),
        }
    }
    table.chains.push(chain);
    Ok(())
}

fn process(w: &mut Words<'_>) -> Result<Process> {
    let mut p = Process {
        pid: w.value("process id")?,
        ppid: 0,
        start: 0,
        exe: String::new(),
        inode: String::new(),
        comm: w.word()?,
        netns: Netns::Unknown,
        cgroup: String::new(),
        tuns: Vec::new(),
        socket: None,
        statedir: None,
    };
    while let Some(key) = w.key() {
        match key {
            "ppid" => p.ppid = w.value("process id")?,
            "start" => p.start = w.value("number")?,
            "exe" => p.exe = w.word()?,
            "inode" => p.inode = w.word()?,
            "netns" => {
                p.netns = match w.word()?.as_str() {
                    "host" => Netns::Host,
                    "other" => Netns::Other,
                    "unknown" => Netns::Unknown,
                    other => return Err(unknown(other)),
                }
            }
            "cgroup" => p.cgroup = w.word()?,
            "tun" => p.tuns.push(w.word()?),
            "socket" => p.socket = Some(w.word()?),
            "statedir" => p.statedir = Some(w.word()?),
            other => return Err(unknown(other)),
        }
    }
    Ok(p)
}

fn unit(w: &mut Words<'_>) -> Result<Unit> {
    let mut u = Unit {
        name: w.word()?,
        load: w.word()?,
        active: w.word()?,
        sub: w.word()?,
        ..Unit::default()
    };
    while let Some(key) = w.key() {
        match key {
            "pid" => u.pid = w.value("process id")?,
            "invocation" => u.invocation = w.word()?,
            other => return Err(unknown(other)),
        }
    }
    Ok(u)
}

fn sysctl(w: &mut Words<'_>) -> Result<(String, String)> {
    let text = w.0.trim_start_matches(' ');
    let (key, rest) = if text.starts_with('"') {
        let (key, rest) = string(text)?;
        (key, rest.strip_prefix('='))
    } else {
        let cut = text.split_once('=');
        (cut.map_or(text, |(k, _)| k).to_string(), cut.map(|(_, r)| r))
    };
    w.0 = rest.ok_or_else(|| format!("{key:?} has no value: KEY=VALUE"))?;
    Ok((key, w.rest()?))
}

fn resolv(w: &mut Words<'_>) -> Result<Resolv> {
    let mut r = Resolv { text: w.word()?, link: None, backup: None };
    while let Some(key) = w.key() {
        match key {
            "link" => r.link = Some(w.word()?),
            "backup" => r.backup = Some(w.word()?),
            other => return Err(unknown(other)),
        }
    }
    Ok(r)
}

fn socket(w: &mut Words<'_>) -> Result<Socket> {
    let (state, src, dst) = (w.word()?, w.value("ADDRESS:PORT")?, w.value("ADDRESS:PORT")?);
    let mut mark = 0;
    if w.take("mark") {
        let word = w.word()?;
        mark = number(&word).ok_or_else(|| format!("{word:?} is no mark"))?;
    }
    Ok(Socket { state, src, dst, mark })
}

fn through(w: &mut Words<'_>) -> Result<Through> {
    match w.word()?.as_str() {
        "plain" => Ok(Through::Plain),
        "see-through" => Ok(Through::SeeThrough),
        "lifeline" => Ok(Through::Lifeline),
        other => Err(format!("{other:?} is none of plain, see-through, lifeline")),
    }
}

fn fate(w: &mut Words<'_>) -> Result<Fate> {
    if w.take("local") {
        return Ok(Fate::Local);
    }
    if w.take("refused") {
        return Ok(Fate::Refused(w.value("errno")?));
    }
    if !w.take("dev") {
        return Err("what became of it is missing: dev DEVICE, local or refused ERRNO".to_string());
    }
    let (dev, mut via, mut table, mut src) = (w.word()?, None, 0, None);
    while let Some(key) = w.key() {
        match key {
            "via" => via = Some(w.value("address")?),
            "table" => table = w.named(&TABLES, "table")?,
            "src" => src = Some(w.value("address")?),
            other => return Err(unknown(other)),
        }
    }
    Ok(Fate::Leaves { dev, via, table, src })
}

fn probe(w: &mut Words<'_>) -> Result<Probe> {
    let (name, dst, through) = (w.word()?, w.value("address")?, through(w)?);
    let reach = match w.word()?.as_str() {
        "tls" => Reach::Tls,
        "stranger" => Reach::Stranger,
        "tcp-only" => Reach::TcpOnly,
        "echo" => Reach::Echo,
        "refused" => Reach::Refused,
        "silent" => Reach::Silent,
        "unsent" => Reach::Unsent(w.value("errno")?),
        other => return Err(unknown(other)),
    };
    let src = if w.take("src") { Some(w.value("address")?) } else { None };
    Ok(Probe { name, dst, through, reach, src })
}

fn sense(w: &mut Words<'_>) -> Result<Sense> {
    let word = w.word()?;
    let all = [
        Sense::Cluster,
        Sense::Links,
        Sense::Rules,
        Sense::Routes,
        Sense::Legacy4,
        Sense::Legacy6,
        Sense::Nft4,
        Sense::Nft6,
        Sense::Processes,
        Sense::Units,
        Sense::Sysctls,
        Sense::Resolv,
        Sense::Fdb,
        Sense::Sockets,
        Sense::Lookups,
        Sense::Probes,
        Sense::Lease,
    ];
    all.into_iter()
        .find(|s| super::write::sense(*s) == word)
        .ok_or_else(|| format!("{word:?} is nothing that is looked at"))
}
