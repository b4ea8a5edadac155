//! Changes one netfilter table in one transaction: all of it happens or none of it.
//!
//! Only rules and chains that the op names are touched, and only those that are there: `iptables-restore` gives the whole table
//! up over one line that does not match. Built-in chains are never flushed or deleted; policies change only where an op is about nothing else.

mod lock;
pub mod policies;
mod script;

pub use lock::Locks;
pub(super) use lock::take;

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use lifeline_core::engine::Failure;
use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Chain, Dialect, NfRule, NfTable, Shared};
use lifeline_core::op::{PlacedRule, Seen};

use super::{blocking, chain, lasting, passing};
use crate::children::{Call, ChildError, find};
use crate::netfilter::{ReadError, read, tool};
use script::{alike, placed, script, surplus, unquoted, unwanted, whole};

/// A table with 20 000 rules takes about 0.5 s to replace.
const LIMIT: Duration = Duration::from_secs(15);
const BUILT_IN: [&str; 5] = ["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"];

/// One table and what is wanted of it: the fields of `NodeOp::Netfilter`.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Backend.
    pub backend: Backend,
    /// Family.
    pub family: Family,
    /// Table.
    pub table: &'a str,
    /// Language of the rules.
    pub dialect: Dialect,
    /// Rules that are not wanted: of several equal ones as many go as are listed.
    pub absent: &'a [NfRule],
    /// Chains that are not wanted.
    pub absent_chains: &'a [String],
    /// Chains that are wanted.
    pub present_chains: &'a [Chain],
    /// Rules that are wanted, with their places.
    pub present: &'a [PlacedRule],
}

/// Those chains and rules of the op that are there, with everything inside those chains.
///
/// # Errors
/// When the table cannot be read whole.
pub async fn look(target: &Target<'_>) -> Result<Seen, String> {
    target.check().map_err(|why| format!("{}: refused: {why}", target.what()))?;
    let table = target.read().await.map_err(|e| format!("{}: {}", target.what(), chain(&e)))?;
    unwanted(target, &table, &whole(target, &table))
        .map_err(|why| format!("{}: held: {why}", target.what()))?;
    let ours = |name: &str| {
        target.absent_chains.iter().any(|c| c == name)
            || target.present_chains.iter().any(|c| c.name == name)
    };
    let named = |r: &NfRule| {
        target.absent.iter().any(|a| alike(a, r))
            || target.present.iter().any(|p| alike(&p.rule, r))
    };
    Ok(Seen::Netfilter {
        chains: table.chains.iter().filter(|c| ours(&c.name)).cloned().collect(),
        rules: placed(&table).filter(|p| ours(&p.rule.chain) || named(&p.rule)).collect(),
    })
}

/// Brings the table to the wanted state.
///
/// # Errors
/// When it cannot be read, somebody holds the lock, something else still needs a chain, or the tool refuses; then nothing has
/// changed.
pub async fn act(target: &Target<'_>, locks: &Locks) -> Result<(), Failure> {
    let what = target.what();
    target.check().map_err(|why| lasting(format!("{what}: refused: {why}")))?;
    // Legacy writes the whole table as it has read it: nobody else may write between our reading and our writing.
    let mut lock = match target.backend {
        Backend::Legacy => Some(take(&what, locks).await?),
        Backend::Nft => None,
    };
    let table = target.read().await.map_err(|e| unread(&what, &e))?;
    let script = script(target, &table).map_err(|why| lasting(format!("{what}: held: {why}")))?;
    if script.is_empty() {
        return Ok(());
    }
    feed(&what, (target.backend, target.family, target.dialect), &script, &mut lock, locks).await?;
    drop(lock);
    confirm(target, &what).await?;
    // The op wants none; but nobody has looked at more than it lists.
    match surplus(target, &table) {
        None => Ok(()),
        Some(rule) => {
            let text = format!("{} has more rules {:?} than were listed", rule.chain, rule.spec);
            Err(passing(format!("{what}: {text}: those listed are gone")))
        }
    }
}

/// Gives a script to the table's tool, first to be tried and then to be done.
async fn feed(
    what: &str,
    (backend, family, dialect): (Backend, Family, Dialect),
    script: &str,
    lock: &mut Option<File>,
    locks: &Locks,
) -> Result<(), Failure> {
    for test in [true, false] {
        let restore = || match dialect {
            Dialect::Iptables => Call::new(&tool(backend, family, "-restore"))
                .args(["--noflush", "-w", "5"])
                .args(test.then_some("--test")),
            Dialect::Nft => Call::new("nft").args(test.then_some("-c")).args(["-f", "-"]),
        };
        let mut ran = run(restore().env("XTABLES_LOCKFILE", locks.own.clone()), script).await;
        if lock.is_some() && ran.as_ref().is_err_and(|e| e.to_string().contains("xtables lock")) {
            // Before 1.8.5 iptables knows only the shared lock, and waits for us to let it go. It gives up by itself well within
            // its deadline, so what it does is done before we return all the same.
            *lock = None;
            ran = run(restore(), script).await;
        }
        if let Err(e) = ran {
            // The tool names our lines by number only.
            tracing::warn!(script, error = %chain(&e), "{what}: refused by the tool");
            return Err(broken(what, &e));
        }
    }
    Ok(())
}

async fn run(call: Call, script: &str) -> Result<(), ChildError> {
    call.stdin(script).limit(LIMIT).run().await?.checked().map(drop)
}

fn broken(what: &str, e: &ChildError) -> Failure {
    let why = format!("{what}: {}", chain(e));
    if e.is_retryable() { passing(why) } else { lasting(why) }
}

fn unread(what: &str, e: &ReadError) -> Failure {
    match e {
        ReadError::Child(e) => broken(what, e),
        // The table has come to speak the other language since the plan was made: a new look makes a new plan.
        _ => passing(format!("{what}: {}", chain(e))),
    }
}

impl Target<'_> {
    fn what(&self) -> String {
        format!("change table {} of {}", self.table, tool(self.backend, self.family, ""))
    }

    /// A table that is not there is an empty one; legacy's are never asked for then, because that would make them.
    async fn read(&self) -> Result<NfTable, ReadError> {
        let table = read(self.backend, self.family, self.table, self.dialect).await?;
        Ok(table.unwrap_or_else(|| NfTable {
            backend: self.backend,
            family: self.family,
            name: self.table.to_owned(),
            dialect: self.dialect,
            chains: Shared::default(),
            rules: Shared::default(),
        }))
    }

    /// Text that goes into a script must not end a line or begin another command.
    fn check(&self) -> Result<(), String> {
        let line = |l: &str| {
            let inert = !l.chars().any(char::is_control);
            // nft takes several commands on one line.
            let one =
                self.dialect == Dialect::Iptables || unquoted(l).all(|c| c != ';' && c != '#');
            if inert && one { Ok(()) } else { Err(format!("{l:?} is no single rule")) }
        };
        word(self.table)?;
        for r in self.absent.iter().chain(self.present.iter().map(|p| &p.rule)) {
            word(&r.chain)?;
            line(&r.spec)?;
        }
        for name in self.absent_chains {
            word(name)?;
            // In nft's own language such a name is a name, and an empty base chain can go.
            if self.dialect == Dialect::Iptables && BUILT_IN.contains(&name.as_str()) {
                return Err(format!("{name} is a built-in chain and stays"));
            }
        }
        for c in self.present_chains {
            word(&c.name)?;
            c.hook.as_deref().map_or(Ok(()), line)?;
            c.policy.as_deref().map_or(Ok(()), word)?;
        }
        Ok(())
    }
}

/// A name that cannot end a line or begin another command.
fn word(w: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:+/@".contains(c);
    if w.is_empty() || w.starts_with('-') || !w.chars().all(plain) {
        return Err(format!("{w:?} is no name of a table or chain"));
    }
    Ok(())
}

/// Asks for each chain that should be gone by a way that does not parse the table.
async fn confirm(target: &Target<'_>, what: &str) -> Result<(), Failure> {
    if target.backend != Backend::Nft || target.dialect != Dialect::Iptables {
        return Ok(());
    }
    for name in target.absent_chains {
        match chain_exists(target.family, target.table, name).await {
            Ok(false) => {}
            Ok(true) => return Err(passing(format!("{what}: chain {name} is still there"))),
            Err(why) => return Err(passing(format!("{what}: {why}"))),
        }
    }
    Ok(())
}

/// Does a chain exist in nf_tables? By exit status: the crate's own functions take any output for an answer, and its own
/// constructor runs whichever iptables comes first in PATH.
///
/// Never for legacy: the crate waits for the xtables lock without a limit, and nobody could reap its child.
async fn chain_exists(family: Family, table: &str, name: &str) -> Result<bool, String> {
    // The crate wants a program's name for ever, so only the usual places are served.
    let known: [&'static str; 2] = match family {
        Family::V4 => ["/usr/sbin/iptables-nft", "/sbin/iptables-nft"],
        Family::V6 => ["/usr/sbin/ip6tables-nft", "/sbin/ip6tables-nft"],
    };
    let path = find(&tool(Backend::Nft, family, "")).map_err(|e| chain(&e))?;
    let Some(cmd) = known.into_iter().find(|cmd| Path::new(cmd) == path) else {
        return Ok(false);
    };
    let (table, args) = (table.to_owned(), format!("-S {name} 1"));
    let asked = blocking(LIMIT, move || {
        let tool = iptables::IPTables { cmd, has_check: true, has_wait: true, is_numeric: true };
        let ran = tool.execute(&table, &args).map_err(|e| format!("run {cmd} {args}: {e}"))?;
        let said = String::from_utf8_lossy(&ran.stderr);
        match ran.status.code() {
            Some(0) => Ok(true),
            // Of a chain that is not there 1.8.9 says that it is incompatible; one that is there is listed all the same.
            Some(1) if said.contains("No chain/target/match") || said.contains("incompatible") => {
                Ok(false)
            }
            _ => Err(format!("run {cmd} {args}: {}: {}", ran.status, said.trim())),
        }
    });
    asked.await.unwrap_or_else(Err)
}
