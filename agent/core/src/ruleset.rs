//! A whole netfilter table flushed, and put back so that nothing others wrote meanwhile is lost.
//!
//! Between a flush and its undoing the node goes on: kube-proxy, the kubelet and flannel write their chains anew when
//! k3s-agent starts, a pod's port mappings come and go, an operator adds a rule by hand. What they wrote is newer than the
//! pre-image, and theirs. Nobody writes the rest again (the CNI's port mappings, a firewall, its policies); that is what has
//! to come back, all of it, in its order. So, chain by chain:
//!
//! | after the flush | the undoing |
//! |---|---|
//! | the chain is still gone | it comes back with all its rules |
//! | somebody made the chain again | it stays as they made it |
//! | a chain nobody had before | it stays |
//! | a built-in chain | rules that were not in the pre-image stay in front, in force as they are; behind them the pre-image |
//! | a policy is ACCEPT, as we set it | it becomes what it was |
//! | a policy is another | somebody set it: it stays |
//!
//! Doing this twice is doing it once, and when nobody has written anything the table is exactly as it was. A chain whose
//! owner has dropped it meanwhile comes back without anybody leading into it; kube-proxy clears those at its next full sync.

use crate::observation::{Chain, Dialect, NfRule, NfTable, Shared};
use alloc::string::String;
use alloc::vec::Vec;

/// Chains that iptables has by itself.
const BUILT_IN: [&str; 5] = ["INPUT", "OUTPUT", "FORWARD", "PREROUTING", "POSTROUTING"];

/// A chain the kernel leads packets into by itself: it cannot be deleted, and it has a policy.
pub fn is_base(chain: &Chain) -> bool {
    chain.hook.is_some() || chain.policy.is_some() || BUILT_IN.contains(&chain.name.as_str())
}

fn accepts(chain: &Chain) -> bool {
    chain.policy.as_ref().is_none_or(|p| p.eq_ignore_ascii_case("accept"))
}

/// Nothing in it stops or changes a packet.
pub fn is_flushed(table: &NfTable) -> bool {
    // An nft chain that a map leads into cannot be deleted; without rules it does nothing.
    let gone = |c: &Chain| is_base(c) || table.dialect == Dialect::Nft;
    table.rules.is_empty() && table.chains.iter().all(|c| accepts(c) && gone(c))
}

/// The table as it is to be: what was, under what others have written since.
pub fn refill(was: &NfTable, now: Option<&NfTable>) -> NfTable {
    let Some(now) = now else { return was.clone() };
    let mut out = NfTable { chains: Shared::default(), rules: Shared::default(), ..was.clone() };
    let find = |t: &'_ NfTable, name: &str| t.chains.iter().find(|c| c.name == name).cloned();
    let names = was.chains.iter().chain(&now.chains).map(|c| &c.name);
    for name in names {
        if out.chains.iter().any(|c| c.name == *name) {
            continue;
        }
        let (old, new) = (find(was, name), find(now, name));
        let (chain, rules) = match (old, new) {
            (Some(old), Some(new)) if is_base(&new) => {
                let mut rules = beyond(rules_of(now, name), &rules_of(was, name));
                rules.extend(rules_of(was, name));
                (if accepts(&new) { old } else { new }, rules)
            }
            // Chains of nft's that could not be deleted are empty, and nobody has filled them.
            (Some(old), Some(_))
                if was.dialect == Dialect::Nft && rules_of(now, name).is_empty() =>
            {
                (old, rules_of(was, name))
            }
            (_, Some(new)) => (new, rules_of(now, name)),
            (Some(old), None) => (old, rules_of(was, name)),
            (None, None) => continue,
        };
        out.chains.push(chain);
        out.rules.extend(rules);
    }
    out
}

/// Is the table as [`refill`] makes it? Counters and handles do not matter, nor does the order of the chains.
pub fn is_refilled(was: &NfTable, now: Option<&NfTable>) -> bool {
    let wanted = refill(was, now);
    let Some(now) = now else {
        return wanted.rules.is_empty() && wanted.chains.iter().all(accepts);
    };
    let same = |c: &Chain| {
        now.chains.iter().any(|n| n.name == c.name && accepts_alike(n, c))
            && specs(&wanted, &c.name) == specs(now, &c.name)
    };
    wanted.chains.iter().all(same)
}

fn accepts_alike(a: &Chain, b: &Chain) -> bool {
    match (&a.policy, &b.policy) {
        (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
        _ => accepts(a) == accepts(b),
    }
}

/// The rules of a chain, in order.
pub fn rules_of(table: &NfTable, chain: &str) -> Vec<NfRule> {
    let rules = table.rules.iter().filter(|r| r.chain == chain);
    // A handle names one rule of one moment.
    rules.map(|r| NfRule { handle: None, ..r.clone() }).collect()
}

fn specs(table: &NfTable, chain: &str) -> Vec<String> {
    rules_of(table, chain).into_iter().map(|r| r.spec).collect()
}

/// Those of `now` that are not among `was`: of several equal ones as many as there are more.
fn beyond(now: Vec<NfRule>, was: &[NfRule]) -> Vec<NfRule> {
    let mut known: Vec<&NfRule> = was.iter().collect();
    let mut out = Vec::new();
    for rule in now {
        match known.iter().position(|k| k.spec == rule.spec) {
            Some(at) => {
                known.remove(at);
            }
            None => out.push(rule),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Family;
    use crate::observation::Backend;
    use alloc::string::ToString;
    use alloc::vec;

    fn table(chains: &[(&str, Option<&str>)], rules: &[(&str, &str)]) -> NfTable {
        NfTable {
            backend: Backend::Nft,
            family: Family::V4,
            name: "filter".into(),
            dialect: Dialect::Iptables,
            chains: chains
                .iter()
                .map(|(n, p)| Chain {
                    name: (*n).into(),
                    policy: p.map(ToString::to_string),
                    hook: None,
                })
                .collect(),
            rules: rules
                .iter()
                .map(|(c, s)| NfRule { chain: (*c).into(), spec: (*s).into(), handle: None })
                .collect(),
        }
    }

    fn was() -> NfTable {
        table(
            &[("INPUT", Some("DROP")), ("KUBE-FIREWALL", None), ("CNI-DN-1", None)],
            &[
                ("INPUT", "-j KUBE-FIREWALL"),
                ("INPUT", "-p tcp --dport 22 -j ACCEPT"),
                ("KUBE-FIREWALL", "-m mark --mark 0x8000/0x8000 -j DROP"),
                ("CNI-DN-1", "-j DNAT --to 10.42.0.5"),
            ],
        )
    }

    #[test]
    fn when_nobody_wrote_anything_the_table_is_as_it_was() {
        let empty = table(&[("INPUT", Some("ACCEPT"))], &[]);
        assert!(is_flushed(&empty) && !is_flushed(&was()));
        assert_eq!(refill(&was(), Some(&empty)), was());
        assert_eq!(refill(&was(), None), was());
        assert!(is_refilled(&was(), Some(&was())) && !is_refilled(&was(), Some(&empty)));
    }

    #[test]
    fn what_others_wrote_since_stays_and_the_rest_comes_back() {
        let now = table(
            &[("INPUT", Some("ACCEPT")), ("KUBE-FIREWALL", None), ("KUBE-NEW", None)],
            &[
                ("INPUT", "-j KUBE-FIREWALL"),
                ("INPUT", "-s 10.9.9.9 -j DROP"),
                ("KUBE-FIREWALL", "-j RETURN"),
            ],
        );
        let mut all = refill(&was(), Some(&now));
        assert_eq!(specs(&all, "KUBE-FIREWALL"), ["-j RETURN"], "theirs, as they made it");
        assert_eq!(
            specs(&all, "CNI-DN-1"),
            ["-j DNAT --to 10.42.0.5"],
            "nobody else brings it back"
        );
        assert!(all.chains.iter().any(|c| c.name == "KUBE-NEW"));
        assert_eq!(
            specs(&all, "INPUT"),
            ["-s 10.9.9.9 -j DROP", "-j KUBE-FIREWALL", "-p tcp --dport 22 -j ACCEPT"]
        );
        assert_eq!(all.chains[0].policy.as_deref(), Some("DROP"));
        assert!(is_refilled(&was(), Some(&all)), "twice is once");
        all.chains[0].policy = Some("REJECT".into());
        assert!(is_refilled(&was(), Some(&all)), "a policy that somebody set is theirs");
    }

    #[test]
    fn of_equal_rules_as_many_come_back_as_there_were() {
        let twice = table(&[("INPUT", Some("ACCEPT"))], &[("INPUT", "-j X"), ("INPUT", "-j X")]);
        let once = table(&[("INPUT", Some("ACCEPT"))], &[("INPUT", "-j X")]);
        assert_eq!(refill(&twice, Some(&once)), twice);
        assert_eq!(refill(&once, Some(&twice)), twice, "the second one is somebody's");
    }

    #[test]
    fn an_nft_chain_that_had_to_stay_is_filled_again() {
        let nft = |t: NfTable| NfTable { dialect: Dialect::Nft, ..t };
        let was = nft(table(&[("in", None)], &[("in", "drop")]));
        let now = nft(table(&[("in", None)], &[]));
        assert!(is_flushed(&now));
        assert_eq!(refill(&was, Some(&now)).rules, was.rules);
        let theirs = nft(table(&[("in", None)], &[("in", "accept")]));
        assert_eq!(refill(&was, Some(&theirs)).rules, vec![theirs.rules[0].clone()].into());
    }
}
