//! What has changed between two looks, line by line; pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{Kind, Part, Snapshot};

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It was there and is not.
    Gone,
    /// It is there and was not.
    New,
    /// It is there as before, but before or behind others of its chain than it was.
    Moved,
}

/// One line that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Difference {
    /// What it is about.
    pub kind: Kind,
    /// Which look shows it.
    pub source: String,
    /// What became of it.
    pub change: Change,
    /// The line.
    pub line: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.change {
            Change::Gone => '-',
            Change::New => '+',
            Change::Moved => '~',
        };
        write!(f, "{} {sign} {}", self.source, self.line)
    }
}

/// What has changed.
#[must_use]
pub fn diff(before: &Snapshot, after: &Snapshot) -> Vec<Difference> {
    let sources: BTreeSet<&String> = before.parts.keys().chain(after.parts.keys()).collect();
    let mut found = Vec::new();
    for source in sources {
        let (was, is) = (before.parts.get(source), after.parts.get(source));
        let Some(kind) = is.or(was).map(|part| part.kind) else { continue };
        for (line, count) in changes(was, is) {
            let kind =
                if kind == Kind::Chains && is_host_port(&line) { Kind::HostPorts } else { kind };
            let change = if count > 0 { Change::New } else { Change::Gone };
            for _ in 0..count.unsigned_abs() {
                found.push(Difference { kind, source: source.clone(), change, line: line.clone() });
            }
        }
        for line in moved(was, is) {
            let kind =
                if kind == Kind::Chains && is_host_port(&line) { Kind::HostPorts } else { kind };
            found.push(Difference { kind, source: source.clone(), change: Change::Moved, line });
        }
    }
    found.sort();
    found
}

/// How many of the differences are of each kind. What iptables-nft shows is in nft's own view too, and counts once.
#[must_use]
pub fn count(differences: &[Difference]) -> BTreeMap<Kind, usize> {
    let mut counts: BTreeMap<Kind, usize> = Kind::ALL.into_iter().map(|kind| (kind, 0)).collect();
    for difference in differences.iter().filter(|found| !found.source.ends_with("tables-nft")) {
        *counts.entry(difference.kind).or_default() += 1;
    }
    counts
}

fn changes(was: Option<&Part>, is: Option<&Part>) -> BTreeMap<String, i64> {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for line in is.into_iter().flat_map(|part| &part.lines) {
        *counts.entry(line.clone()).or_default() += 1;
    }
    for line in was.into_iter().flat_map(|part| &part.lines) {
        *counts.entry(line.clone()).or_default() -= 1;
    }
    counts.retain(|_, count| *count != 0);
    counts
}

/// The chain in which a line's place has a meaning: rules of one chain, and the policy rules of a family.
fn chain(kind: Kind, line: &str) -> Option<String> {
    let head = |words: usize| line.split(' ').take(words).collect::<Vec<_>>().join(" ");
    match kind {
        Kind::Rules => Some(String::new()),
        Kind::Chains if line.starts_with("rule ") => Some(head(4)),
        Kind::Chains if line.split(' ').nth(1) == Some("-A") => Some(head(3)),
        _ => None,
    }
}

/// Lines that are in both looks, but in another order. A chain too long to compare is left to the count of its lines.
fn moved(was: Option<&Part>, is: Option<&Part>) -> Vec<String> {
    const LONGEST: usize = 2000;
    let (Some(was), Some(is)) = (was, is) else { return Vec::new() };
    let chains = |part: &Part| {
        let mut chains: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in &part.lines {
            if let Some(name) = chain(part.kind, line) {
                chains.entry(name).or_default().push(line.clone());
            }
        }
        chains
    };
    let (was, is) = (chains(was), chains(is));
    let mut found = Vec::new();
    for (name, now) in &is {
        let Some(then) = was.get(name) else { continue };
        let then: Vec<&String> = then.iter().filter(|line| now.contains(line)).collect();
        let now: Vec<&String> = now.iter().filter(|line| then.contains(line)).collect();
        if then.len() == now.len() && then != now && now.len() <= LONGEST {
            found.extend(out_of_order(&then, &now));
        }
    }
    found
}

/// What has to be taken out of `now` for the rest to be in the order of `then`: all but a longest common subsequence.
fn out_of_order(then: &[&String], now: &[&String]) -> Vec<String> {
    let mut length = vec![vec![0_usize; now.len() + 1]; then.len() + 1];
    for (i, a) in then.iter().enumerate().rev() {
        for (j, b) in now.iter().enumerate().rev() {
            length[i][j] = if a == b {
                length[i + 1][j + 1] + 1
            } else {
                length[i + 1][j].max(length[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut found) = (0, 0, Vec::new());
    while j < now.len() {
        if i < then.len() && then[i] == now[j] {
            (i, j) = (i + 1, j + 1);
        } else if i < then.len() && length[i + 1][j] >= length[i][j + 1] {
            i += 1;
        } else {
            found.push(now[j].clone());
            j += 1;
        }
    }
    found
}

/// portmap's chains and the jumps into them.
fn is_host_port(line: &str) -> bool {
    line.contains("CNI-HOSTPORT-") || line.contains("CNI-DN-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(source: &str, kind: Kind, lines: &[&str]) -> Snapshot {
        let mut made = Snapshot::default();
        made.put(kind, source, lines.iter().map(|line| (*line).to_owned()).collect(), true);
        made
    }

    #[test]
    fn a_difference_reads_like_a_line_of_a_patch() {
        let before = snapshot("rule4", Kind::Rules, &["0: from all lookup local"]);
        let after = snapshot(
            "rule4",
            Kind::Rules,
            &["0: from all lookup local", "5270: from all lookup 52"],
        );
        let found = diff(&before, &after);
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["rule4 + 5270: from all lookup 52"]
        );
        assert_eq!(diff(&after, &before)[0].to_string(), "rule4 - 5270: from all lookup 52");
        assert_eq!(diff(&after, &after), []);
        assert_eq!(count(&found)[&Kind::Rules], 1);
        assert_eq!(count(&found)[&Kind::Files], 0);
    }

    #[test]
    fn a_rule_that_moved_within_its_chain_is_a_difference_and_a_route_is_not() {
        let lines =
            ["nat -A OUTPUT -j A", "nat -A OUTPUT -j B", "nat -A OUTPUT -j C", "nat -A INPUT -j D"];
        let moved =
            ["nat -A INPUT -j D", "nat -A OUTPUT -j B", "nat -A OUTPUT -j C", "nat -A OUTPUT -j A"];
        let found =
            diff(&snapshot("x", Kind::Chains, &lines), &snapshot("x", Kind::Chains, &moved));
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["x ~ nat -A OUTPUT -j A"]
        );
        let same = diff(&snapshot("x", Kind::Routes, &lines), &snapshot("x", Kind::Routes, &moved));
        assert_eq!(same, []);
    }

    #[test]
    fn a_line_that_is_doubled_is_a_difference() {
        let once = snapshot("rule4", Kind::Rules, &["5270: from all lookup 52"]);
        let twice = snapshot(
            "rule4",
            Kind::Rules,
            &["5270: from all lookup 52", "5270: from all lookup 52"],
        );
        assert_eq!(diff(&once, &twice).len(), 1);
    }

    #[test]
    fn rules_for_host_ports_are_counted_apart() {
        let before = snapshot(
            "iptables-legacy",
            Kind::Chains,
            &["nat -A OUTPUT -j CNI-HOSTPORT-DNAT", "nat -A OUTPUT -j KUBE-SERVICES"],
        );
        let counts = count(&diff(&before, &Snapshot::default()));
        assert_eq!((counts[&Kind::HostPorts], counts[&Kind::Chains]), (1, 1));
    }

    #[test]
    fn what_could_not_be_read_is_not_the_same_as_nothing() {
        let mut failed = Snapshot::default();
        failed.json(Kind::Rules, "rule4", "", false, |_| None);
        let empty = snapshot("rule4", Kind::Rules, &[]);
        assert_eq!(diff(&empty, &failed)[0].to_string(), "rule4 + (could not be read whole)");
    }
}
