//! Reads netfilter tables, processes, units, sysctls and resolv.conf.

use super::super::words::{Result, Words, string};
use super::unknown;
use crate::net::Family;
use crate::observation::{
    Backend, Chain, Dialect, HostPorts, Netns, NfRule, NfTable, Process, Resolv, Unit,
};
use crate::supervisor::Supervisor;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub(super) fn table(
    tables: &mut Vec<NfTable>,
    w: &mut Words<'_>,
    backend: Backend,
    family: Family,
) -> Result<()> {
    let name = w.word()?;
    let native = w.take("native");
    if native || w.is_done() {
        let dialect = if native { Dialect::Nft } else { Dialect::Iptables };
        let (chains, rules) = (Vec::new(), Vec::new());
        tables.push(NfTable {
            backend,
            family,
            name,
            dialect,
            chains: chains.into(),
            rules: rules.into(),
        });
        return Ok(());
    }
    let is_it = |t: &&mut NfTable| t.backend == backend && t.family == family && t.name == name;
    let Some(table) = tables.iter_mut().rev().find(is_it) else {
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

pub(super) fn process(w: &mut Words<'_>) -> Result<Process> {
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
        supervisor: None,
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
            "kept-by" => p.supervisor = Some(supervisor(w)?),
            other => return Err(unknown(other)),
        }
    }
    Ok(p)
}

/// The end of a process's line: `kept-by pod UID name NAMESPACE/NAME owner KIND/NAME`.
fn supervisor(w: &mut Words<'_>) -> Result<Supervisor> {
    let kind = w.word()?;
    let mut known = match kind.as_str() {
        "pod" => Supervisor::Pod { uid: w.word()?, name: None, owner: None },
        "unit" => Supervisor::Unit { name: w.word()?, restart: None },
        "container" => Supervisor::Container { id: w.word()? },
        other => return Err(unknown(other)),
    };
    while let Some(key) = w.key() {
        match (&mut known, key) {
            (Supervisor::Pod { name, .. }, "name") => *name = Some(w.word()?),
            (Supervisor::Pod { owner, .. }, "owner") => *owner = Some(w.word()?),
            (Supervisor::Unit { restart, .. }, "restart") => *restart = Some(w.word()?),
            (_, other) => return Err(unknown(other)),
        }
    }
    Ok(known)
}

pub(super) fn unit(w: &mut Words<'_>) -> Result<Unit> {
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
            "restarts" => u.restarts = w.value("number")?,
            "result" => u.result = w.word()?,
            "said" => u.said.push(w.word()?),
            other => return Err(unknown(other)),
        }
    }
    Ok(u)
}

pub(super) fn sysctl(w: &mut Words<'_>) -> Result<(String, String)> {
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

pub(super) fn host_ports(w: &mut Words<'_>) -> Result<HostPorts> {
    let mut h = HostPorts { sandbox: w.word()?, pod: String::new(), ports: Vec::new() };
    while let Some(key) = w.key() {
        match key {
            "pod" => h.pod = w.word()?,
            "port" => h.ports.push(w.word()?),
            other => return Err(unknown(other)),
        }
    }
    Ok(h)
}

pub(super) fn resolv(w: &mut Words<'_>) -> Result<Resolv> {
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
