//! Changes one netfilter table in one transaction: all of it happens or none of it.
//!
//! Only rules and chains that the op names are touched, and only those that are there: `iptables-restore` gives the whole table
//! up over one line that does not match. Built-in chains are never flushed or deleted, policies never changed.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lifeline_core::engine::Failure;
use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Chain, Dialect, NfRule, NfTable};
use lifeline_core::op::{PlacedRule, Seen};
use rustix::fs::FlockOperation;

use super::{blocking, chain, lasting, passing};
use crate::children::{Call, ChildError, find};
use crate::netfilter::{nft_family, read, tool};

/// How long we wait for somebody else's xtables lock. kube-proxy holds it for some 0.1 s at a time.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
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
    /// Rules that are not wanted.
    pub absent: &'a [NfRule],
    /// Chains that are not wanted.
    pub absent_chains: &'a [String],
    /// Chains that are wanted.
    pub present_chains: &'a [Chain],
    /// Rules that are wanted, with their places.
    pub present: &'a [PlacedRule],
}

/// The lock files of iptables-legacy.
#[derive(Clone, Debug)]
pub struct Locks {
    /// The one everybody uses.
    pub shared: PathBuf,
    /// The one our children are given instead, while we hold the shared one.
    pub own: PathBuf,
}

impl Target<'_> {
    fn what(&self) -> String {
        let name = tool(self.backend, self.family, "");
        format!("change table {} of {name}", self.table)
    }

    /// Text that goes into a script must not end a line or begin another word.
    fn check(&self) -> Result<(), String> {
        let word = |w: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:+/@".contains(c);
            if w.is_empty() || w.starts_with('-') || !w.chars().all(plain) {
                return Err(format!("{w:?} is no name of a table or chain"));
            }
            Ok(())
        };
        let line = |l: &str| {
            let inert = !l.chars().any(char::is_control);
            // nft takes several statements on a line, or a block.
            let one =
                self.dialect == Dialect::Iptables || unquoted(l).all(|c| c != ';' && c != '#');
            if inert && one { Ok(()) } else { Err(format!("{l:?} is no single rule")) }
        };
        if self.backend == Backend::Legacy && self.dialect == Dialect::Nft {
            return Err("nft does not see what iptables-legacy holds".to_owned());
        }
        word(self.table)?;
        for r in self.absent.iter().chain(self.present.iter().map(|p| &p.rule)) {
            word(&r.chain)?;
            line(&r.spec)?;
        }
        for name in self.absent_chains {
            word(name)?;
            if BUILT_IN.contains(&name.as_str()) {
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

    async fn read(&self) -> Result<NfTable, String> {
        let table = read(self.backend, self.family, self.table, self.dialect).await;
        let table = table.map_err(|e| format!("{}: {}", self.what(), chain(&e)))?;
        Ok(table.unwrap_or_else(|| NfTable {
            backend: self.backend,
            family: self.family,
            name: self.table.to_owned(),
            dialect: self.dialect,
            chains: Vec::new(),
            rules: Vec::new(),
        }))
    }
}

/// The characters of a statement that are not inside double quotes.
fn unquoted(text: &str) -> impl Iterator<Item = char> {
    let (mut inside, mut escaped) = (false, false);
    text.chars().filter(move |c| {
        let quote = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        inside ^= quote;
        !inside && !quote
    })
}

/// Those chains and rules of the op that are there, with everything inside those chains.
///
/// # Errors
/// When the table cannot be read whole.
pub async fn look(target: &Target<'_>) -> Result<Seen, String> {
    target.check().map_err(|why| format!("{}: refused: {why}", target.what()))?;
    let table = target.read().await?;
    let ours = |name: &str| {
        target.absent_chains.iter().any(|c| c == name)
            || target.present_chains.iter().any(|c| c.name == name)
    };
    let unwanted = unwanted(target, &table)?;
    let wanted = |r: &NfRule| {
        target.present.iter().any(|p| p.rule.chain == r.chain && p.rule.spec == r.spec)
    };
    Ok(Seen::Netfilter {
        chains: table.chains.iter().filter(|c| ours(&c.name)).cloned().collect(),
        rules: placed(&table)
            .filter(|p| ours(&p.rule.chain) || unwanted.contains(p) || wanted(&p.rule))
            .collect(),
    })
}

fn placed(table: &NfTable) -> impl Iterator<Item = PlacedRule> {
    let mut places = std::collections::HashMap::<&str, u32>::new();
    table.rules.iter().map(move |rule| {
        let place = places.entry(rule.chain.as_str()).or_insert(0);
        *place += 1;
        PlacedRule { place: *place, rule: rule.clone() }
    })
}

/// The rules of the table that the op wants gone. iptables prints all there is of a rule, so every equal one is meant. nft does
/// not print what xtables' own matches say: of several that look alike only the handle tells which one is meant.
fn unwanted(target: &Target<'_>, table: &NfTable) -> Result<Vec<PlacedRule>, String> {
    let mut found = Vec::new();
    for absent in target.absent {
        let alike: Vec<PlacedRule> = placed(table)
            .filter(|p| p.rule.chain == absent.chain && p.rule.spec == absent.spec)
            .collect();
        let handle = absent.handle.filter(|_| target.dialect == Dialect::Nft);
        match (handle, alike.len()) {
            (None, _) | (Some(_), 0 | 1) => found.extend(alike),
            (Some(handle), n) => {
                let mut exact = alike.into_iter().filter(|p| p.rule.handle == Some(handle));
                let exact = exact.next().ok_or_else(|| {
                    let text = format!("{n} rules look like {:?} in {}", absent.spec, absent.chain);
                    format!("{}: {text}, and none has the handle {handle}", target.what())
                })?;
                found.push(exact);
            }
        }
    }
    // Inside a chain that goes as a whole there is nothing to delete one by one.
    found.retain(|p| !target.absent_chains.contains(&p.rule.chain));
    found.sort_by_key(|p| (p.rule.chain.clone(), p.place));
    found.dedup();
    Ok(found)
}

/// Brings the table to the wanted state.
///
/// # Errors
/// When it cannot be read, somebody holds the lock, or the tool refuses; then nothing has changed.
pub async fn act(target: &Target<'_>, locks: &Locks) -> Result<(), Failure> {
    let what = target.what();
    target.check().map_err(|why| lasting(format!("{what}: refused: {why}")))?;
    // Legacy replaces the whole table with what it has read: nobody else may write between our reading and our writing.
    let mut lock = match target.backend {
        Backend::Legacy => Some(take_lock(&what, locks).await?),
        Backend::Nft => None,
    };
    let table = target.read().await.map_err(passing)?;
    let script = match target.dialect {
        Dialect::Iptables => iptables_script(target, &table),
        Dialect::Nft => nft_script(target, &table),
    };
    let Some(script) = script.map_err(passing)? else { return Ok(()) };
    let restore = |test: bool| match target.dialect {
        Dialect::Iptables => {
            let call = Call::new(&tool(target.backend, target.family, "-restore"));
            call.args(["--noflush", "-w", "5"]).args(test.then_some("--test"))
        }
        Dialect::Nft => Call::new("nft").args(test.then_some("-c")).args(["-f", "-"]),
    };
    for test in [true, false] {
        let ours = restore(test).env("XTABLES_LOCKFILE", locks.own.clone());
        let mut done = run(ours, &script).await;
        if lock.is_some() && done.as_ref().is_err_and(|e| e.to_string().contains("xtables lock")) {
            // Before 1.8.5 iptables knows only the shared lock, and waits for us to let it go. It gives up by itself well within
            // its deadline, so what it does is done before we return all the same.
            lock = None;
            done = run(restore(test), &script).await;
        }
        if let Err(e) = done {
            // The script tells which of our lines it is that the tool names by number.
            tracing::warn!(table = target.table, script, error = %e, "netfilter refused a change");
            let why = format!("{what}: {}", chain(&e));
            return Err(if e.is_retryable() { passing(why) } else { lasting(why) });
        }
    }
    drop(lock);
    confirm(target, &what).await
}

async fn run(call: Call, script: &str) -> Result<(), ChildError> {
    call.stdin(script).limit(LIMIT).run().await?.checked().map(drop)
}

/// Asks for each chain that should be gone by a way that does not read the table: a chain that cannot be listed is not there.
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

/// Does a chain exist in nf_tables? By exit status: the crate's `list` functions take any output for an answer.
///
/// Never for legacy: the crate waits for the xtables lock without a limit, and nobody could reap its child.
async fn chain_exists(family: Family, table: &str, name: &str) -> Result<bool, String> {
    let tool = tool(Backend::Nft, family, "");
    let path = find(&tool).map_err(|e| chain(&e))?;
    // The crate wants a program's name for ever; there are two places where it may be.
    let cmd = ["/usr/sbin/iptables-nft", "/usr/sbin/ip6tables-nft"]
        .into_iter()
        .find(|known| Path::new(known) == path);
    let Some(cmd) = cmd else { return Ok(false) };
    let (table, args) = (table.to_owned(), format!("-S {name} 1"));
    blocking(LIMIT, move || {
        let iptables =
            iptables::IPTables { cmd, has_check: true, has_wait: true, is_numeric: true };
        let out = iptables.execute(&table, &args).map_err(|e| format!("run {cmd} {args}: {e}"))?;
        let said = String::from_utf8_lossy(&out.stderr);
        match out.status.code() {
            Some(0) => Ok(true),
            // Of a chain that is not there, 1.8.9 says that it is incompatible; one that is there is listed all the same.
            Some(1) if said.contains("No chain/target/match") || said.contains("incompatible") => {
                Ok(false)
            }
            _ => Err(format!("run {cmd} {args}: {}: {}", out.status, said.trim())),
        }
    })
    .await
    .unwrap_or_else(Err)
}

/// Takes the lock that every iptables-legacy takes, and gives our child another one. A child that waits for the shared lock and
/// is killed is not gone: its change lands when the lock is free, long after our undo (field guide K12).
async fn take_lock(what: &str, locks: &Locks) -> Result<File, Failure> {
    let failed =
        |path: &Path, e: io::Error| passing(format!("{what}: lock {}: {e}", path.display()));
    if let Some(dir) = locks.own.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
        made.map_err(|e| failed(&locks.own, e))?;
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&locks.shared)
        .map_err(|e| failed(&locks.shared, e))?;
    let until = Instant::now() + LOCK_LIMIT;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed(&locks.shared, e.into())),
        }
        if Instant::now() >= until {
            let shared = locks.shared.display();
            return Err(passing(format!(
                "{what}: another process holds {shared} for {LOCK_LIMIT:?}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How the rules that are to be put back fit into what is there: chain, place, rule, in the order of insertion. A place behind
/// the end becomes the end.
fn insertions<'a>(
    target: &Target<'a>,
    table: &NfTable,
    unwanted: &[PlacedRule],
) -> Vec<(u32, u32, &'a NfRule)> {
    let mut wanted: Vec<&PlacedRule> = target.present.iter().collect();
    wanted.sort_by_key(|p| p.place);
    let mut lengths = std::collections::HashMap::<&str, usize>::new();
    for c in target.present.iter().map(|p| p.rule.chain.as_str()) {
        let there = table.rules.iter().filter(|r| r.chain == c).count();
        let goes = unwanted.iter().filter(|p| p.rule.chain == c).count();
        lengths.insert(c, there - goes);
    }
    // Twins: as many as are there already are not put in again.
    let mut there: Vec<&NfRule> = table.rules.iter().collect();
    let mut plan = Vec::new();
    for p in wanted {
        let twin = there.iter().position(|r| r.chain == p.rule.chain && r.spec == p.rule.spec);
        if let Some(i) = twin {
            there.swap_remove(i);
            continue;
        }
        let length = lengths.entry(p.rule.chain.as_str()).or_insert(0);
        let have = u32::try_from(*length).unwrap_or(u32::MAX);
        plan.push((p.place.clamp(1, have.saturating_add(1)), have, &p.rule));
        *length += 1;
    }
    plan
}

/// A script for `iptables-restore --noflush`, with only what is there to be removed; none when there is nothing to do.
fn iptables_script(target: &Target<'_>, table: &NfTable) -> Result<Option<String>, String> {
    let there = |name: &str| table.chains.iter().any(|c| c.name == name);
    let unwanted = unwanted(target, table)?;
    let mut lines = String::new();
    // Jumps first: a chain that is still referred to cannot be deleted.
    for p in &unwanted {
        let _ = writeln!(lines, "-D {} {}", p.rule.chain, p.rule.spec);
    }
    let gone: Vec<&String> = target.absent_chains.iter().filter(|c| there(c)).collect();
    for (flag, name) in gone.iter().map(|c| ("-F", c)).chain(gone.iter().map(|c| ("-X", c))) {
        let _ = writeln!(lines, "{flag} {name}");
    }
    // `:CHAIN` would empty one that is there.
    for c in target.present_chains.iter().filter(|c| c.policy.is_none() && !there(&c.name)) {
        let _ = writeln!(lines, "-N {}", c.name);
    }
    for (place, _, rule) in insertions(target, table, &unwanted) {
        let _ = writeln!(lines, "-I {} {place} {}", rule.chain, rule.spec);
    }
    Ok((!lines.is_empty()).then(|| format!("*{}\n{lines}COMMIT\n", target.table)))
}

/// A script for `nft -f`: rules go by the handles they have now.
fn nft_script(target: &Target<'_>, table: &NfTable) -> Result<Option<String>, String> {
    let there = |name: &str| table.chains.iter().any(|c| c.name == name);
    let of = format!("{} {}", nft_family(target.family), target.table);
    let unwanted = unwanted(target, table)?;
    let mut lines = String::new();
    for p in &unwanted {
        let handle = p.rule.handle.ok_or_else(|| format!("{}: no handle", target.what()))?;
        let _ = writeln!(lines, "delete rule {of} {} handle {handle}", p.rule.chain);
    }
    let gone: Vec<&String> = target.absent_chains.iter().filter(|c| there(c)).collect();
    for (verb, name) in gone.iter().map(|c| ("flush", c)).chain(gone.iter().map(|c| ("delete", c)))
    {
        let _ = writeln!(lines, "{verb} chain {of} {name}");
    }
    for c in target.present_chains.iter().filter(|c| !there(&c.name)) {
        let base = c.hook.as_ref().map(|hook| {
            let policy = c.policy.as_deref().unwrap_or("accept").to_lowercase();
            format!(" {{ {hook}; policy {policy}; }}")
        });
        let _ = writeln!(lines, "add chain {of} {}{}", c.name, base.unwrap_or_default());
    }
    for (place, have, rule) in insertions(target, table, &unwanted) {
        // `index` counts from 0 and names the rule in front of which it goes.
        let _ = if place > have {
            writeln!(lines, "add rule {of} {} {}", rule.chain, rule.spec)
        } else {
            writeln!(lines, "insert rule {of} {} index {} {}", rule.chain, place - 1, rule.spec)
        };
    }
    Ok((!lines.is_empty()).then_some(lines))
}
