//! Policy rules of one family: those unwanted go, every copy of them; those wanted are put back in their order. No other rule is
//! ever missing, not for an instant.
//!
//! `RTM_DELRULE` deletes the *first* rule that matches, and what a message leaves out matches anything (field guide K3): to delete
//! Tailscale's plain `lookup 52` may hit somebody's `fwmark 1 lookup 52` in front of it. And a new rule goes behind all others of
//! its preference. So each preference is first worked out on paper ([`moves`]), and each deletion is foretold on a fresh dump.

use lifeline_core::engine::Failure;
use lifeline_core::net::Family;
use lifeline_core::observation::Rule;
use lifeline_core::op::Seen;
use rtnetlink::packet_route::rule::{RuleAttribute, RuleFlags, RuleMessage};

use super::{chain, lasting, passing};
use crate::netlink::{Added, Kernel, NetlinkError, rule_message, victim};

/// How often we start anew because somebody else changes rules of the same preference meanwhile.
const ROUNDS: usize = 16;

type Dumped = (Rule, RuleMessage);

/// Those rules of both lists that are there, each once.
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
    let mut there: Vec<Rule> = Vec::new();
    for rule in absent.iter().chain(present) {
        if !there.contains(rule) && rules.iter().any(|(r, _)| r == rule) {
            there.push(rule.clone());
        }
    }
    Ok(Seen::Rules { there })
}

/// Brings the rules of a family to the wanted state; what is put back comes first.
///
/// # Errors
/// When the kernel refuses, when it cannot be done without changing another rule, or when somebody undoes it as we go.
pub async fn act(
    kernel: &Kernel,
    family: Family,
    absent: &[Rule],
    present: &[Rule],
) -> Result<(), Failure> {
    let mut done = Vec::new();
    for pref in present.iter().chain(absent).map(|r| r.pref) {
        if !done.contains(&pref) {
            settle(kernel, family, pref, absent, present).await?;
            done.push(pref);
        }
    }
    Ok(())
}

fn failed(e: &NetlinkError) -> Failure {
    if e.is_retryable() { passing(chain(e)) } else { lasting(chain(e)) }
}

/// One preference.
async fn settle(
    kernel: &Kernel,
    family: Family,
    pref: u32,
    absent: &[Rule],
    present: &[Rule],
) -> Result<(), Failure> {
    let what = format!("set policy rules{} of preference {pref}", family.suffix());
    for rule in absent.iter().chain(present).filter(|r| r.pref == pref) {
        if rule.exotic || rule.family != family {
            let text = format!("{what}: refused: {rule:?} has selectors we do not know");
            return Err(lasting(text));
        }
    }
    for _ in 0..ROUNDS {
        let now = group(kernel, family, pref).await?;
        let want = wanted(&now, pref, absent, present);
        let plan = moves(&now, &want).map_err(|why| lasting(format!("{what}: held: {why}")))?;
        if plan.is_empty() {
            return Ok(());
        }
        for step in plan {
            take(kernel, family, pref, &what, step).await?;
        }
    }
    Err(passing(format!("{what}: others change them as fast as we do")))
}

/// The rules of one preference, in the kernel's order.
async fn group(kernel: &Kernel, family: Family, pref: u32) -> Result<Vec<Dumped>, Failure> {
    let mut rules = kernel.rules(family).await.map_err(|e| failed(&e))?;
    rules.retain(|(r, _)| r.pref == pref);
    Ok(rules)
}

/// How the rules of a preference should stand. A wanted rule that is missing goes in front of those that follow it in the list.
fn wanted(now: &[Dumped], pref: u32, absent: &[Rule], present: &[Rule]) -> Vec<Dumped> {
    let mut want: Vec<Dumped> = now.iter().filter(|(r, _)| !absent.contains(r)).cloned().collect();
    let list: Vec<&Rule> = present.iter().filter(|r| r.pref == pref).collect();
    for (at, rule) in list.iter().enumerate() {
        let (before, after) = list.split_at(at + 1);
        let copies = before.iter().filter(|r| r == &rule).count();
        if want.iter().filter(|(r, _)| r == *rule).count() < copies {
            let follows = |(r, _): &Dumped| after.contains(&r) && !before.contains(&r);
            let place = want.iter().position(follows).unwrap_or(want.len());
            want.insert(place, ((*rule).clone(), rule_message(rule)));
        }
    }
    want
}

/// One message to the kernel.
#[derive(Clone, Debug, PartialEq)]
enum Move {
    /// Behind all others of its preference; there is none like it.
    Add(Rule),
    /// The same, though there is one like it.
    Copy(Dumped),
    /// The first that is equal.
    Delete(Dumped),
}

/// What our type does not model of a rule is only in its message.
fn equal(a: &Dumped, b: &Dumped) -> bool {
    a.0 == b.0 && (!a.0.exotic || a.1.attributes == b.1.attributes)
}

/// What to tell the kernel so that the rules of one preference stand as wanted: additions before deletions, and each deletion hits
/// the rule it means.
fn moves(now: &[Dumped], want: &[Dumped]) -> Result<Vec<Move>, String> {
    let same = now.iter().zip(want).take_while(|(a, b)| equal(a, b)).count();
    let add = |w: &Dumped| match now.iter().find(|n| equal(n, w)) {
        Some(known) => Move::Copy(known.clone()),
        None => Move::Add(w.0.clone()),
    };
    if same == now.len() {
        return Ok(want[same..].iter().map(add).collect());
    }
    if let Some(plan) = deletions(now, want) {
        return Ok(plan);
    }
    // Everything from some place on is written again behind itself, and then the old copies go, first come first served. The
    // place must be such that no deletion of an old copy hits what stands in front of it.
    let mut from = same;
    let mut at = from;
    while at < now.len() {
        match hit(now, at) {
            Some(v) if v < from => (from, at) = (v, v),
            Some(_) => at += 1,
            None => return Err(format!("the kernel would not find {:?}", now[at].0)),
        }
    }
    let adds = want[from.min(want.len())..].iter().map(add);
    Ok(adds.chain(now[from..].iter().cloned().map(Move::Delete)).collect())
}

/// Deletions alone, if they lead there.
fn deletions(now: &[Dumped], want: &[Dumped]) -> Option<Vec<Move>> {
    let mut left = now.to_vec();
    let mut plan = Vec::new();
    let mut at = 0;
    while at < left.len() {
        if want.get(at).is_some_and(|w| equal(w, &left[at])) {
            at += 1;
            continue;
        }
        let victim = hit(&left, at).filter(|v| equal(&left[*v], &left[at]))?;
        plan.push(Move::Delete(left.remove(victim)));
        // A copy further in front went: what stood there is not what is wanted any more.
        at = at.min(victim);
    }
    (left.len() == want.len()).then_some(plan)
}

/// Which one goes when the kernel is told to delete the one at this place.
fn hit(rules: &[Dumped], at: usize) -> Option<usize> {
    let messages: Vec<RuleMessage> = rules.iter().map(|(_, m)| m.clone()).collect();
    victim(&messages, &exact(&rules[at]))
}

/// The dumped message as a question. A preference of 0 is not dumped, and left out it would match any; whether a device is there
/// at the moment is dumped among the flags, and is not for us to write down.
fn exact((rule, message): &Dumped) -> RuleMessage {
    let mut message = message.clone();
    message.header.flags &= RuleFlags::Invert;
    if !message.attributes.iter().any(|a| matches!(a, RuleAttribute::Priority(_))) {
        message.attributes.push(RuleAttribute::Priority(rule.pref));
    }
    message
}

async fn take(
    kernel: &Kernel,
    family: Family,
    pref: u32,
    what: &str,
    step: Move,
) -> Result<(), Failure> {
    match step {
        Move::Copy(rule) => {
            kernel.copy_rule(exact(&rule)).await.map_err(|e| failed(&e))?;
            let now = group(kernel, family, pref).await?;
            if now.iter().filter(|r| equal(r, &rule)).count() < 2 {
                // Nothing has been deleted yet, so nothing is lost.
                let text = format!("{:?} cannot be written again exactly", rule.0);
                return Err(lasting(format!("{what}: held: {text}")));
            }
            Ok(())
        }
        Move::Add(rule) => {
            if kernel.add_rule(&rule).await.map_err(|e| failed(&e))? == Added::Added {
                return Ok(());
            }
            // Either the dump missed it (K4), or the kernel takes another for the same: it does not compare `not`, nor an address
            // selector that this rule has not.
            let now = group(kernel, family, pref).await?;
            if now.iter().any(|(r, _)| *r == rule) {
                return Ok(());
            }
            kernel.copy_rule(rule_message(&rule)).await.map_err(|e| failed(&e))
        }
        Move::Delete(rule) => {
            let now = group(kernel, family, pref).await?;
            let Some(at) = now.iter().position(|r| equal(r, &rule)) else { return Ok(()) };
            if hit(&now, at).is_none_or(|v| !equal(&now[v], &rule)) {
                return Err(passing(format!("{what}: others change them meanwhile")));
            }
            // That it has gone meanwhile is as good.
            kernel.delete_rule(exact(&now[at])).await.map(|_| ()).map_err(|e| failed(&e))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeline_core::observation::{Action, Mark};

    fn rule(mark: u32, table: u32) -> Dumped {
        let rule = Rule {
            family: Family::V4,
            pref: 5270,
            not: false,
            from: None,
            to: None,
            iif: None,
            oif: None,
            mark: (mark != 0).then_some(Mark { value: mark, mask: u32::MAX }),
            ipproto: None,
            sport: None,
            dport: None,
            uids: None,
            action: Action::Lookup(table),
            suppress: None,
            protocol: 0,
            exotic: false,
        };
        let message = rule_message(&rule);
        (rule, message)
    }

    /// Does what the kernel would do.
    fn obey(now: &[Dumped], plan: &[Move]) -> Vec<Dumped> {
        let mut all = now.to_vec();
        for step in plan {
            match step {
                Move::Add(r) => all.push((r.clone(), rule_message(r))),
                Move::Copy(r) => all.push(r.clone()),
                Move::Delete(r) => {
                    let at = all.iter().position(|x| equal(x, r)).unwrap();
                    let v = hit(&all, at).unwrap();
                    assert!(equal(&all[v], r), "a stranger would go");
                    all.remove(v);
                }
            }
            for r in now.iter().filter(|r| plan.contains(&Move::Copy((*r).clone()))) {
                assert!(all.iter().any(|x| equal(x, r)), "missing for an instant");
            }
        }
        all
    }

    #[test]
    fn every_order_of_four_rules_reaches_every_wanted_one_without_a_wrong_deletion() {
        let pool = [rule(0, 52), rule(1, 52), rule(2, 52), rule(0, 53)];
        let mut lists: Vec<Vec<Dumped>> = vec![Vec::new()];
        for len in 1..=3 {
            for n in 0..pool.len().pow(len) {
                lists.push((0..len).map(|i| pool[n / 4usize.pow(i) % 4].clone()).collect());
            }
        }
        for now in &lists {
            for want in &lists {
                let plan = moves(now, want).unwrap();
                let got = obey(now, &plan);
                let rules = |l: &[Dumped]| l.iter().map(|(r, _)| r.clone()).collect::<Vec<_>>();
                assert_eq!(rules(&got), rules(want), "from {:?} by {plan:?}", rules(now));
            }
        }
    }
}
