//! Reads the text form. Every error says in which line, and which word was not understood.

use super::words::{Result, Words};
use crate::clock::Stamp;
use crate::net::Family;
use crate::observation::{Backend, Cluster, Fdb, Gap, Lease, Lookup, Observation, Sense};
use alloc::format;
use alloc::string::{String, ToString};
use core::str::FromStr;

mod answers;
mod machine;
mod network;

use answers::{fate, probe, socket, through};
use machine::{host_ports, process, resolv, sysctl, table, unit};
use network::{addr, link, route, rule, xfrm};

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
        "legacy" => table(&mut seen.netfilter, w, Backend::Legacy, Family::V4)?,
        "legacy6" => table(&mut seen.netfilter, w, Backend::Legacy, Family::V6)?,
        "nft" => table(&mut seen.netfilter, w, Backend::Nft, Family::V4)?,
        "nft6" => table(&mut seen.netfilter, w, Backend::Nft, Family::V6)?,
        "inet" => table(&mut seen.inet, w, Backend::Nft, Family::V4)?,
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
        "xfrm" => seen.xfrm.push(xfrm(w)?),
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
        "host-ports" => seen.host_ports.push(host_ports(w)?),
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

fn number(word: &str) -> Option<u32> {
    match word.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

fn sense(w: &mut Words<'_>) -> Result<Sense> {
    let word = w.word()?;
    Sense::ALL
        .into_iter()
        .find(|s| super::write::sense(*s) == word)
        .ok_or_else(|| format!("{word:?} is nothing that is looked at"))
}
