//! Changes one netfilter table in one transaction: all of it happens or none of it.
//!
//! Only rules and chains that the op names are touched, and only those that are there: `iptables-restore` gives the whole table
//! up over one line that does not match. Built-in chains are never flushed or deleted, policies never changed.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
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
use crate::netfilter::{ReadError, nft_family, read, tool};

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
    /// Rules that are not wanted: of several equal ones as many go as are listed.
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

impl Default for Locks {
    fn default() -> Self {
        Self { shared: "/run/xtables.lock".into(), own: "/run/lifeline/xtables.lock".into() }
    }
}

/// Those chains and rules of the op that are there, with everything inside those chains.
///
/// # Errors
/// When the table cannot be read whole.
pub async fn look(target: &Target<'_>) -> Result<Seen, String> {
    target.check().map_err(|why| format!("{}: refused: {why}", target.what()))?;
    let table = target.read().await.map_err(|e| format!("{}: {}", target.what(), chain(&e)))?;
    unwanted(target, &table, &gone(target, &table))
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
        Backend::Legacy => Some(take_lock(&what, locks).await?),
        Backend::Nft => None,
    };
    let table = target.read().await.map_err(|e| unread(&what, &e))?;
    let script = script(target, &table).map_err(|why| lasting(format!("{what}: held: {why}")))?;
    if script.is_empty() {
        return Ok(());
    }
    for test in [true, false] {
        let restore = || match target.dialect {
            Dialect::Iptables => Call::new(&tool(target.backend, target.family, "-restore"))
                .args(["--noflush", "-w", "5"])
                .args(test.then_some("--test")),
            Dialect::Nft => Call::new("nft").args(test.then_some("-c")).args(["-f", "-"]),
        };
        let mut ran = run(restore().env("XTABLES_LOCKFILE", locks.own.clone()), &script).await;
        if lock.is_some() && ran.as_ref().is_err_and(|e| e.to_string().contains("xtables lock")) {
            // Before 1.8.5 iptables knows only the shared lock, and waits for us to let it go. It gives up by itself well within
            // its deadline, so what it does is done before we return all the same.
            lock = None;
            ran = run(restore(), &script).await;
        }
        if let Err(e) = ran {
            // The tool names our lines by number only.
            tracing::warn!(script, error = %chain(&e), "{what}: refused by the tool");
            return Err(broken(&what, &e));
        }
    }
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
            chains: Vec::new(),
            rules: Vec::new(),
        }))
    }

    /// Text that goes into a script must not end a line or begin another command.
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

/// The same rule, as far as its text tells.
fn alike(a: &NfRule, b: &NfRule) -> bool {
    a.chain == b.chain && a.spec == b.spec
}

fn placed(table: &NfTable) -> impl Iterator<Item = PlacedRule> {
    let mut places = HashMap::<&str, u32>::new();
    table.rules.iter().map(move |rule| {
        let place = places.entry(rule.chain.as_str()).or_insert(0);
        *place += 1;
        PlacedRule { place: *place, rule: rule.clone() }
    })
}

/// Where a rule jumps or goes to.
fn leads_to(rule: &NfRule) -> Option<String> {
    // A comment may say anything.
    let text: String = unquoted(&rule.spec).collect();
    let mut words = text.split_ascii_whitespace();
    words.find(|w| matches!(*w, "-j" | "-g" | "jump" | "goto"))?;
    words.next().map(str::to_owned)
}

/// Those chains that are to go and are there.
fn gone<'a>(target: &Target<'a>, table: &NfTable) -> Vec<&'a str> {
    let there = |name: &&str| table.chains.iter().any(|c| c.name == *name);
    target.absent_chains.iter().map(String::as_str).filter(there).collect()
}

/// What is to be done, as a script of the table's language; empty when there is nothing to do.
fn script(target: &Target<'_>, table: &NfTable) -> Result<String, String> {
    let there = |name: &str| table.chains.iter().any(|c| c.name == name);
    let gone = gone(target, table);
    let unwanted = unwanted(target, table, &gone)?;
    let mut kept = table
        .rules
        .iter()
        .enumerate()
        .filter(|(at, r)| !unwanted.contains(at) && !gone.contains(&r.chain.as_str()));
    if let Some((_, rule)) =
        kept.find(|(_, r)| leads_to(r).is_some_and(|to| gone.contains(&to.as_str())))
    {
        return Err(format!("{} still leads to a chain that is to go: {}", rule.chain, rule.spec));
    }
    let new: Vec<&Chain> = target.present_chains.iter().filter(|c| !there(&c.name)).collect();
    let unwanted_rules: Vec<&NfRule> = unwanted.iter().map(|at| &table.rules[*at]).collect();
    let insertions = insertions(target, table, &unwanted);
    Ok(match target.dialect {
        Dialect::Iptables => iptables_script(target, &unwanted_rules, &gone, &new, &insertions),
        Dialect::Nft => nft_script(target, &unwanted_rules, &gone, &new, &insertions),
    })
}

/// Which rules of the table the op wants gone, by their index: of equal ones as many as are listed.
fn unwanted(target: &Target<'_>, table: &NfTable, gone: &[&str]) -> Result<Vec<usize>, String> {
    let mut found: Vec<usize> = Vec::new();
    // Inside a chain that goes as a whole there is nothing to delete one by one.
    let listed = || target.absent.iter().filter(|a| !gone.contains(&a.chain.as_str()));
    for absent in listed() {
        let open: Vec<usize> = (0..table.rules.len())
            .filter(|at| alike(&table.rules[*at], absent) && !found.contains(at))
            .collect();
        let Some(first) = open.first() else { continue };
        if target.dialect == Dialect::Iptables {
            // Every jump to a chain that goes, or it could not go; else the first, as iptables does.
            let all = leads_to(absent).is_some_and(|to| gone.contains(&to.as_str()));
            found.extend(open.iter().take(if all { open.len() } else { 1 }));
            continue;
        }
        // nft does not print what xtables' own matches say: of several that look alike only the handle tells which one is meant.
        let exact = open.iter().find(|at| table.rules[**at].handle == absent.handle);
        let meant = listed().filter(|a| alike(a, absent)).count();
        if exact.is_none() && absent.handle.is_some() && open.len() > meant {
            let text =
                format!("{} rules look like {:?} in {}", open.len(), absent.spec, absent.chain);
            return Err(format!("{text}, and none has the handle {:?}", absent.handle));
        }
        found.push(*exact.unwrap_or(first));
    }
    found.sort_unstable();
    Ok(found)
}

/// A rule of which more copies were there than the op lists (and they are not jumps to a chain that has gone).
fn surplus<'a>(target: &Target<'a>, table: &NfTable) -> Option<&'a NfRule> {
    let gone = gone(target, table);
    target.absent.iter().find(|a| {
        let count =
            |rules: &mut dyn Iterator<Item = &NfRule>| rules.filter(|r| alike(r, a)).count();
        let jump = leads_to(a).is_some_and(|to| gone.contains(&to.as_str()));
        // With its handle it was that one and no other.
        (target.dialect == Dialect::Iptables || a.handle.is_none())
            && !jump
            && !gone.contains(&a.chain.as_str())
            && count(&mut table.rules.iter()) > count(&mut target.absent.iter())
    })
}

/// A rule that is put back.
struct Insertion<'a> {
    rule: &'a NfRule,
    /// Its place, from 1, when those before it have been put back; `None` at the end.
    place: Option<u32>,
    /// The rule that is there now and comes next.
    next: Option<u64>,
}

/// How the wanted rules fit into what is there, in the order in which they are put back.
fn insertions<'a>(target: &Target<'a>, table: &NfTable, unwanted: &[usize]) -> Vec<Insertion<'a>> {
    let mut wanted: Vec<&PlacedRule> = target.present.iter().collect();
    wanted.sort_by_key(|p| p.place);
    let mut chains = HashMap::<&str, Vec<Option<u64>>>::new();
    let mut left: Vec<&NfRule> = Vec::new();
    for (at, rule) in table.rules.iter().enumerate() {
        let goes = unwanted.contains(&at) || target.absent_chains.contains(&rule.chain);
        if !goes {
            chains.entry(rule.chain.as_str()).or_default().push(rule.handle);
            left.push(rule);
        }
    }
    // Of equal ones those in front went first, so those that are there are the last of the list.
    let mut missing: Vec<&PlacedRule> = Vec::new();
    for p in wanted.into_iter().rev() {
        match left.iter().position(|r| alike(r, &p.rule)) {
            Some(at) => {
                left.remove(at);
            }
            None => missing.push(p),
        }
    }
    missing.reverse();
    let mut all = Vec::new();
    for p in missing {
        let chain = chains.entry(p.rule.chain.as_str()).or_default();
        let at = usize::try_from(p.place.max(1) - 1).unwrap_or(usize::MAX).min(chain.len());
        let next = chain[at..].iter().find_map(|h| *h);
        let place = (at < chain.len()).then(|| u32::try_from(at + 1).unwrap_or(u32::MAX));
        chain.insert(at, None);
        all.push(Insertion { rule: &p.rule, place, next });
    }
    all
}

/// For `iptables-restore --noflush`.
fn iptables_script(
    target: &Target<'_>,
    unwanted: &[&NfRule],
    gone: &[&str],
    new: &[&Chain],
    insertions: &[Insertion<'_>],
) -> String {
    let mut lines = String::new();
    // Jumps first: a chain that is still referred to cannot be deleted.
    for r in unwanted {
        let _ = writeln!(lines, "-D {} {}", r.chain, r.spec);
    }
    for (flag, name) in gone.iter().map(|c| ("-F", c)).chain(gone.iter().map(|c| ("-X", c))) {
        let _ = writeln!(lines, "{flag} {name}");
    }
    // `:CHAIN` would empty one that somebody has made since; this fails then. Built-in ones are there without a word.
    for c in new.iter().filter(|c| c.policy.is_none()) {
        let _ = writeln!(lines, "-N {}", c.name);
    }
    for Insertion { rule, place, .. } in insertions {
        let _ = match place {
            Some(place) => writeln!(lines, "-I {} {place} {}", rule.chain, rule.spec),
            None => writeln!(lines, "-A {} {}", rule.chain, rule.spec),
        };
    }
    if lines.is_empty() { lines } else { format!("*{}\n{lines}COMMIT\n", target.table) }
}

/// For `nft -f`: rules go by the handles they have now.
fn nft_script(
    target: &Target<'_>,
    unwanted: &[&NfRule],
    gone: &[&str],
    new: &[&Chain],
    insertions: &[Insertion<'_>],
) -> String {
    let of = format!("{} {}", nft_family(target.family), target.table);
    let mut lines = String::new();
    for r in unwanted {
        // The reader gives every rule of nft's its handle.
        let handle = r.handle.unwrap_or(0);
        let _ = writeln!(lines, "delete rule {of} {} handle {handle}", r.chain);
    }
    for (verb, name) in gone.iter().map(|c| ("flush", c)).chain(gone.iter().map(|c| ("delete", c)))
    {
        let _ = writeln!(lines, "{verb} chain {of} {name}");
    }
    for c in new {
        let base = c.hook.as_ref().map(|hook| {
            let policy = c.policy.as_deref().unwrap_or("accept").to_lowercase();
            format!(" {{ {hook}; policy {policy}; }}")
        });
        let _ = writeln!(lines, "create chain {of} {}{}", c.name, base.unwrap_or_default());
    }
    for Insertion { rule, next, .. } in insertions {
        let _ = match next {
            // In front of a rule that is there; several in front of the same one stay in their order.
            Some(handle) => {
                writeln!(lines, "insert rule {of} {} handle {handle} {}", rule.chain, rule.spec)
            }
            None => writeln!(lines, "add rule {of} {} {}", rule.chain, rule.spec),
        };
    }
    lines
}

/// Takes the lock that every iptables-legacy takes; our child is given another one. A child that waits for the shared lock when it is
/// killed is not gone: its change lands when the lock is free, long after our undo (field guide K12).
async fn take_lock(what: &str, locks: &Locks) -> Result<File, Failure> {
    let failed =
        |path: &Path, e: std::io::Error| passing(format!("{what}: lock {}: {e}", path.display()));
    if let Some(dir) = locks.own.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
        made.map_err(|e| failed(&locks.own, e))?;
    }
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&locks.shared);
    let file = open.map_err(|e| failed(&locks.shared, e))?;
    let until = Instant::now() + LOCK_LIMIT;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed(&locks.shared, e.into())),
        }
        if Instant::now() >= until {
            let lock = locks.shared.display();
            let text = format!("another process holds {lock}, longer than {LOCK_LIMIT:?}");
            return Err(passing(format!("{what}: {text}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
