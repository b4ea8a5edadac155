//! Flushes a whole netfilter table and puts one back, each in one transaction, with the policies opened before or together with
//! the flush. A table that could not be put back as it was is not flushed; the way back is tried before the way there.

use std::fmt::Write as _;
use std::time::Duration;

use lifeline_core::engine::Failure;
use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Chain, Dialect, NfTable, Shared};
use lifeline_core::op::Seen;
use lifeline_core::ruleset::{is_base, is_flushed, is_refilled, refill, rules_of};

use super::netfilter::{Locks, take};
use super::{chain, lasting, passing};
use crate::children::{Call, ChildError};
use crate::netfilter::{nft_family, read, tool};

/// A table with 20 000 rules takes about 0.5 s to replace.
const LIMIT: Duration = Duration::from_secs(15);

/// Which table.
#[derive(Clone, Copy, Debug)]
pub struct Which<'a> {
    /// Backend.
    pub backend: Backend,
    /// Family.
    pub family: Family,
    /// Name.
    pub table: &'a str,
    /// Language of its rules.
    pub dialect: Dialect,
}

impl Which<'_> {
    /// The table's coordinates.
    pub fn of(table: &NfTable) -> Which<'_> {
        Which {
            backend: table.backend,
            family: table.family,
            table: &table.name,
            dialect: table.dialect,
        }
    }

    fn what(&self, verb: &str) -> String {
        format!("{verb} table {} of {}", self.table, tool(self.backend, self.family, ""))
    }
}

/// The whole table.
///
/// # Errors
/// When it cannot be read whole.
pub async fn look(which: Which<'_>) -> Result<Seen, String> {
    let table = read(which.backend, which.family, which.table, which.dialect).await;
    let table = table.map_err(|e| format!("{}: {}", which.what("read"), chain(&e)))?;
    // A handle names a rule of one moment; the pre-image has to be the same after it has been put back.
    let bare = |mut t: NfTable| {
        t.rules.iter_mut().for_each(|r| r.handle = None);
        t
    };
    Ok(Seen::Table { table: table.map(bare) })
}

/// Opens and empties the table, if it still is as it was seen.
///
/// # Errors
/// When it has changed since, could not be put back afterwards, or the tool refuses; then nothing has changed.
pub async fn flush(which: Which<'_>, before: &Seen, locks: &Locks) -> Result<(), Failure> {
    let what = which.what("flush");
    let Seen::Table { table: Some(was) } = before else {
        return Err(lasting(format!("{what}: what was seen before is no table")));
    };
    reversible(which, was).await.map_err(|why| lasting(format!("{what}: refused: {why}")))?;
    let mut lock = Lock::take(which.backend, &what, locks).await?;
    let now = look(which).await.map_err(passing)?;
    let Seen::Table { table: Some(now) } = now else { return Ok(()) };
    if is_flushed(&now) {
        return Ok(());
    }
    if now != *was {
        // What came since is in nobody's pre-image: to flush it would be to lose it.
        return Err(passing(format!("{what}: it has changed since it was looked at")));
    }
    let (there, back) = (flush_script(&now), refill_script(was, &emptied(&now)));
    lock.apply(which, &what, &format!("{there}{back}"), true).await?;
    lock.apply(which, &what, &there, false).await
}

/// Puts the table back under what others have written since.
///
/// # Errors
/// When it cannot be read, or the tool refuses; then nothing has changed.
pub async fn put_back(was: &NfTable, locks: &Locks) -> Result<(), Failure> {
    let which = Which::of(was);
    let what = which.what("put back");
    let mut lock = Lock::take(which.backend, &what, locks).await?;
    let Seen::Table { table } = look(which).await.map_err(passing)? else { return Ok(()) };
    if is_refilled(was, table.as_ref()) {
        return Ok(());
    }
    let now = table.unwrap_or_else(|| NfTable {
        chains: Shared::default(),
        rules: Shared::default(),
        ..was.clone()
    });
    let script = refill_script(was, &now);
    lock.apply(which, &what, &script, true).await?;
    lock.apply(which, &what, &script, false).await
}

/// The lock of iptables-legacy, while we have it, and the files.
struct Lock<'a> {
    held: Option<std::fs::File>,
    locks: &'a Locks,
}

impl<'a> Lock<'a> {
    async fn take(backend: Backend, what: &str, locks: &'a Locks) -> Result<Self, Failure> {
        let held = match backend {
            // Legacy writes the whole table as it has read it: nobody else may write between our reading and our writing.
            Backend::Legacy => Some(take(what, locks).await?),
            Backend::Nft => None,
        };
        Ok(Self { held, locks })
    }

    async fn apply(
        &mut self,
        which: Which<'_>,
        what: &str,
        script: &str,
        test: bool,
    ) -> Result<(), Failure> {
        let text = match which.dialect {
            Dialect::Iptables => format!("*{}\n{script}COMMIT\n", which.table),
            Dialect::Nft => script.to_owned(),
        };
        let call = || match which.dialect {
            Dialect::Iptables => Call::new(&tool(which.backend, which.family, "-restore"))
                .args(["--noflush", "-w", "5"])
                .args(test.then_some("--test")),
            Dialect::Nft => Call::new("nft").args(test.then_some("-c")).args(["-f", "-"]),
        };
        let own = self.locks.own.clone();
        let mut ran = run(call().env("XTABLES_LOCKFILE", own), &text).await;
        if self.held.is_some()
            && ran.as_ref().is_err_and(|e| e.to_string().contains("xtables lock"))
        {
            // Before 1.8.5 iptables knows only the shared lock, and waits for us to let it go.
            self.held = None;
            ran = run(call(), &text).await;
        }
        ran.map_err(|e| {
            tracing::warn!(script = text, error = %chain(&e), "{what}: refused by the tool");
            let why = format!("{what}: {}", chain(&e));
            if e.is_retryable() { passing(why) } else { lasting(why) }
        })
    }
}

async fn run(call: Call, script: &str) -> Result<(), ChildError> {
    call.stdin(script).limit(LIMIT).run().await?.checked().map(drop)
}

/// Can it be written down again from what was read?
async fn reversible(which: Which<'_>, table: &NfTable) -> Result<(), String> {
    let plain = |s: &String| !s.chars().any(char::is_control);
    if !table.rules.iter().all(|r| plain(&r.spec) && plain(&r.chain)) {
        return Err("a rule has a line break in it".to_owned());
    }
    if which.dialect == Dialect::Iptables {
        return Ok(());
    }
    // For xtables' matches and targets nft has no words: its list leaves a hole where they are, or names them without what they
    // say. Only its JSON tells that there is one.
    let family = nft_family(which.family);
    let list = Call::new("nft").args(["-j", "-s", "list", "table", family, which.table]);
    let ran = list.limit(LIMIT).cap(64 << 20).run().await.and_then(crate::children::Ran::checked);
    match ran {
        Ok(ran) if ran.text().contains("\"xt\":") => {
            Err("it mixes rules of nft with matches of iptables, and neither can write down both"
                .to_owned())
        }
        Ok(_) => Ok(()),
        Err(e) => Err(chain(&e)),
    }
}

/// The table after the flush: what stays is what the kernel leads packets into.
fn emptied(table: &NfTable) -> NfTable {
    let open =
        |c: &Chain| Chain { policy: c.policy.as_ref().map(|_| "ACCEPT".to_owned()), ..c.clone() };
    NfTable {
        chains: table.chains.iter().filter(|c| is_base(c)).map(open).collect(),
        rules: Shared::default(),
        ..table.clone()
    }
}

/// Policies first: a chain that drops by default and has lost its rules shuts everybody out.
fn flush_script(table: &NfTable) -> String {
    let mut out = String::new();
    let of = format!("{} {}", nft_family(table.family), table.name);
    for c in table.chains.iter().filter(|c| c.policy.is_some()) {
        let _ = match table.dialect {
            Dialect::Iptables => writeln!(out, ":{} ACCEPT [0:0]", c.name),
            Dialect::Nft => writeln!(out, "add chain {of} {} {{ policy accept; }}", c.name),
        };
    }
    for c in &table.chains {
        let _ = match table.dialect {
            Dialect::Iptables => writeln!(out, "-F {}", c.name),
            Dialect::Nft => writeln!(out, "flush chain {of} {}", c.name),
        };
    }
    // A map of nft's may lead into a chain, which then cannot be deleted; empty it does nothing.
    let gone = |c: &&Chain| table.dialect == Dialect::Iptables && !is_base(c);
    for c in table.chains.iter().filter(gone) {
        let _ = writeln!(out, "-X {}", c.name);
    }
    out
}

/// From `now` to what [`refill`] wants: chains that are as wanted are not touched.
fn refill_script(was: &NfTable, now: &NfTable) -> String {
    let wanted = refill(was, Some(now));
    let of = format!("{} {}", nft_family(was.family), was.name);
    let nft = was.dialect == Dialect::Nft;
    let mut out = String::new();
    if nft {
        let _ = writeln!(out, "add table {of}");
    }
    let specs =
        |t: &NfTable, name: &str| rules_of(t, name).into_iter().map(|r| r.spec).collect::<Vec<_>>();
    let mut changed = Vec::new();
    // Chains before rules: a rule may lead into any of them.
    for c in &wanted.chains {
        let there = now.chains.iter().find(|n| n.name == c.name);
        if there.is_none() && (nft || !is_base(c)) {
            let base = c.hook.as_ref().map(|hook| format!(" {{ {hook}; }}")).unwrap_or_default();
            let _ = if nft {
                writeln!(out, "create chain {of} {}{base}", c.name)
            } else {
                // `:CHAIN` would empty one that somebody has made since; this fails then.
                writeln!(out, "-N {}", c.name)
            };
        }
        if there.is_none() || specs(now, &c.name) != specs(&wanted, &c.name) {
            changed.push(c.name.as_str());
        }
    }
    for name in changed {
        if now.chains.iter().any(|n| n.name == name) {
            let _ = if nft {
                writeln!(out, "flush chain {of} {name}")
            } else {
                writeln!(out, "-F {name}")
            };
        }
        for spec in specs(&wanted, name) {
            let _ = if nft {
                writeln!(out, "add rule {of} {name} {spec}")
            } else {
                writeln!(out, "-A {name} {spec}")
            };
        }
    }
    // Policies last, in the same transaction.
    for c in wanted.chains.iter().filter(|c| c.policy.is_some()) {
        let policy = c.policy.as_deref().unwrap_or("ACCEPT");
        let _ = if nft {
            writeln!(out, "add chain {of} {} {{ policy {}; }}", c.name, policy.to_lowercase())
        } else {
            writeln!(out, ":{} {policy} [0:0]", c.name)
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeline_core::observation::NfRule;

    fn table(dialect: Dialect) -> NfTable {
        let chain = |name: &str, policy: Option<&str>, hook: Option<&str>| Chain {
            name: name.into(),
            policy: policy.map(Into::into),
            hook: hook.filter(|_| dialect == Dialect::Nft).map(Into::into),
        };
        let rule = |chain: &str, spec: &str| NfRule {
            chain: chain.into(),
            spec: spec.into(),
            handle: None,
        };
        NfTable {
            backend: Backend::Nft,
            family: Family::V4,
            name: "filter".into(),
            dialect,
            chains: vec![
                chain("INPUT", Some("DROP"), Some("type filter hook input priority 0")),
                chain("mine", None, None),
            ]
            .into(),
            rules: vec![rule("INPUT", "goto mine"), rule("mine", "accept")].into(),
        }
    }

    #[test]
    fn policies_are_opened_before_anything_is_flushed() {
        assert_eq!(
            flush_script(&table(Dialect::Iptables)),
            ":INPUT ACCEPT [0:0]\n-F INPUT\n-F mine\n-X mine\n"
        );
        assert_eq!(
            flush_script(&table(Dialect::Nft)),
            "add chain ip filter INPUT { policy accept; }\nflush chain ip filter INPUT\nflush chain ip filter mine\n"
        );
    }

    #[test]
    fn a_table_is_put_back_with_its_policy_last() {
        let was = table(Dialect::Iptables);
        assert_eq!(
            refill_script(&was, &emptied(&was)),
            "-N mine\n-F INPUT\n-A INPUT goto mine\n-A mine accept\n:INPUT DROP [0:0]\n"
        );
        let was = table(Dialect::Nft);
        let none = NfTable { chains: Shared::default(), rules: Shared::default(), ..was.clone() };
        assert_eq!(
            refill_script(&was, &none),
            "add table ip filter\ncreate chain ip filter INPUT { type filter hook input priority 0; }\n\
             create chain ip filter mine\nadd rule ip filter INPUT goto mine\nadd rule ip filter mine accept\n\
             add chain ip filter INPUT { policy drop; }\n"
        );
    }
}
