//! Policy rules: those unwanted go, each alone; those wanted are added where they were.
//!
//! The kernel deletes the first rule that matches, and what a message leaves out matches anything: to delete Tailscale's plain
//! `lookup 52` may hit somebody's `fwmark 1 lookup 52` in front of it (field guide K3). So each deletion is simulated first.

use lifeline_core::engine::Failure;
use lifeline_core::net::Family;
use lifeline_core::observation::Rule;
use lifeline_core::op::Seen;
use rtnetlink::packet_route::rule::RuleMessage;

use super::{chain, lasting, passing};
use crate::netlink::{Added, Kernel, NetlinkError as Error, rule_message, victim};

/// Copies of a rule are legal, and some tool may be adding them as fast as we delete.
const MOST: usize = 64;

/// Those of the op's rules that are there.
///
/// # Errors
/// When the rules cannot be read.
pub async fn look(
    kernel: &Kernel,
    family: Family,
    absent: &[Rule],
    present: &[Rule],
) -> Result<Seen, String> {
    let rules = kernel.rules(family).await.map_err(|e| chain(&e))?;
    let has = |r: &&Rule| rules.iter().any(|(there, _)| there == *r);
    let mut there: Vec<Rule> = absent.iter().chain(present).filter(has).cloned().collect();
    there.dedup();
    Ok(Seen::Rules { there })
}

/// Brings the rules of a family to the wanted state: what is restored comes first, so that nothing is missing in between.
///
/// # Errors
/// When the kernel refuses, or a rule cannot be deleted without another.
pub async fn act(
    kernel: &Kernel,
    family: Family,
    absent: &[Rule],
    present: &[Rule],
) -> Result<(), Failure> {
    for rule in present {
        restore(kernel, family, rule).await?;
    }
    for rule in absent {
        delete(kernel, family, rule).await?;
    }
    Ok(())
}

fn failed(e: &Error) -> Failure {
    if e.is_retryable() { passing(chain(e)) } else { lasting(chain(e)) }
}

/// Adds a rule exclusively: the kernel says when it is there, where a dump under churn may have missed it (field guide K4). It
/// says so too when only one with more selectors is there, `from 10.9.0.0/16 lookup 52` for `lookup 52`: the same wildcards.
async fn restore(kernel: &Kernel, family: Family, rule: &Rule) -> Result<(), Failure> {
    if kernel.add_rule(rule).await.map_err(|e| failed(&e))? == Added::Added {
        return Ok(());
    }
    let dump = kernel.rules(family).await.map_err(|e| failed(&e))?;
    let is_narrower = |r: &Rule| {
        let open = |mine: bool, theirs: bool| mine == theirs || !mine;
        r.pref == rule.pref
            && r.action == rule.action
            && open(rule.from.is_some(), r.from.is_some())
            && open(rule.to.is_some(), r.to.is_some())
            && (r.from != rule.from || r.to != rule.to || r.exotic)
    };
    let there = dump.iter().any(|(r, _)| r == rule);
    if !there && dump.iter().any(|(r, _)| is_narrower(r)) {
        kernel.copy_rule(rule_message(rule)).await.map_err(|e| failed(&e))?;
    }
    Ok(())
}

/// Deletes every copy of a rule, and no other rule.
///
/// # Errors
/// When that cannot be.
pub async fn delete(kernel: &Kernel, family: Family, rule: &Rule) -> Result<(), Failure> {
    let what = format!("delete rule {} ({:?})", rule.pref, rule.action);
    if rule.exotic {
        return Err(lasting(format!("{what}: it has selectors we do not know")));
    }
    for _ in 0..MOST {
        let dump = kernel.rules(family).await.map_err(|e| failed(&e))?;
        let Some(at) = dump.iter().position(|(r, _)| r == rule) else { return Ok(()) };
        let messages: Vec<RuleMessage> = dump.iter().map(|(_, m)| m.clone()).collect();
        match victim(&messages, &messages[at]) {
            Some(v) if dump[v].0 == *rule => {
                kernel.delete_rule(messages[at].clone()).await.map_err(|e| failed(&e))?;
            }
            Some(v) => step_aside(kernel, family, &dump, v, rule, &what).await?,
            None => return Err(lasting(format!("{what}: the kernel would not find it"))),
        }
    }
    Err(passing(format!("{what}: it comes back as fast as it is deleted")))
}

/// Takes the rules of the same preference, from the one that stands in the way on, to behind the rule that is to go: each is
/// added again first and then its first copy is deleted, so that none is ever missing, and their order stays.
async fn step_aside(
    kernel: &Kernel,
    family: Family,
    dump: &[(Rule, RuleMessage)],
    from: usize,
    rule: &Rule,
    what: &str,
) -> Result<(), Failure> {
    let behind = dump[from..].iter().take_while(|(r, _)| r.pref == rule.pref);
    for (other, message) in behind.filter(|(r, _)| r != rule) {
        let now: Vec<(Rule, RuleMessage)> = kernel.rules(family).await.map_err(|e| failed(&e))?;
        let messages: Vec<RuleMessage> = now.iter().map(|(_, m)| m.clone()).collect();
        // Its own deletion must hit itself, or nothing is gained.
        if victim(&messages, message).is_none_or(|v| messages[v] != *message) {
            let text = format!("rule {} ({:?}) cannot be told from it", other.pref, other.action);
            return Err(lasting(format!("{what}: held: {text}")));
        }
        kernel.copy_rule(message.clone()).await.map_err(|e| failed(&e))?;
        kernel.delete_rule(message.clone()).await.map_err(|e| failed(&e))?;
    }
    Ok(())
}
