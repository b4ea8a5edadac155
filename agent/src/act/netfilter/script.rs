//! Works out what one transaction says: which of the rules that are there go, in which places the others come back, and in whose
//! language. Runs nothing.

use std::collections::HashMap;
use std::fmt::Write as _;

use lifeline_core::observation::{Chain, Dialect, NfRule, NfTable};
use lifeline_core::op::PlacedRule;

use super::Target;
use crate::netfilter::nft_family;

/// The characters of a statement that are not inside double quotes.
pub(super) fn unquoted(text: &str) -> impl Iterator<Item = char> {
    let (mut inside, mut escaped) = (false, false);
    text.chars().filter(move |c| {
        let quote = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        inside ^= quote;
        !inside && !quote
    })
}
/// The same rule, as far as its text tells.
pub(super) fn alike(a: &NfRule, b: &NfRule) -> bool {
    a.chain == b.chain && a.spec == b.spec
}

pub(super) fn placed(table: &NfTable) -> impl Iterator<Item = PlacedRule> {
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
pub(super) fn gone<'a>(target: &Target<'a>, table: &NfTable) -> Vec<&'a str> {
    let there = |name: &&str| table.chains.iter().any(|c| c.name == *name);
    target.absent_chains.iter().map(String::as_str).filter(there).collect()
}

/// Those of them that go with all that is in them. A base chain has its rules named one by one: what somebody put there a moment
/// ago is never flushed.
pub(super) fn whole<'a>(target: &Target<'a>, table: &NfTable) -> Vec<&'a str> {
    let base = |name: &&str| table.chains.iter().any(|c| c.name == *name && c.hook.is_some());
    gone(target, table).into_iter().filter(|name| !base(name)).collect()
}

/// What is to be done, as a script of the table's language; empty when there is nothing to do.
pub(super) fn script(target: &Target<'_>, table: &NfTable) -> Result<String, String> {
    let there = |name: &str| table.chains.iter().any(|c| c.name == name);
    let gone = gone(target, table);
    let whole = whole(target, table);
    let unwanted = unwanted(target, table, &whole)?;
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
    let mut others = table.rules.iter().enumerate().filter(|(at, r)| {
        let chain = r.chain.as_str();
        gone.contains(&chain) && !whole.contains(&chain) && !unwanted.contains(at)
    });
    if let Some((_, rule)) = others.next() {
        return Err(format!("{} holds a rule that is not to go: {}", rule.chain, rule.spec));
    }
    let new: Vec<&Chain> = target.present_chains.iter().filter(|c| !there(&c.name)).collect();
    let unwanted_rules: Vec<&NfRule> = unwanted.iter().map(|at| &table.rules[*at]).collect();
    let insertions = insertions(target, table, &unwanted);
    Ok(match target.dialect {
        Dialect::Iptables => iptables_script(target, &unwanted_rules, &gone, &new, &insertions),
        Dialect::Nft => nft_script(target, &unwanted_rules, (&whole, &gone), &new, &insertions),
    })
}

/// Which rules of the table the op wants gone, by their index: of equal ones as many as are listed.
pub(super) fn unwanted(
    target: &Target<'_>,
    table: &NfTable,
    gone: &[&str],
) -> Result<Vec<usize>, String> {
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
pub(super) fn surplus<'a>(target: &Target<'a>, table: &NfTable) -> Option<&'a NfRule> {
    let (gone, whole) = (gone(target, table), whole(target, table));
    target.absent.iter().find(|a| {
        let count =
            |rules: &mut dyn Iterator<Item = &NfRule>| rules.filter(|r| alike(r, a)).count();
        let jump = leads_to(a).is_some_and(|to| gone.contains(&to.as_str()));
        // With its handle it was that one and no other.
        (target.dialect == Dialect::Iptables || a.handle.is_none())
            && !jump
            && !whole.contains(&a.chain.as_str())
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
    (whole, gone): (&[&str], &[&str]),
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
    for (verb, name) in whole.iter().map(|c| ("flush", c)).chain(gone.iter().map(|c| ("delete", c)))
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
