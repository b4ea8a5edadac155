//! Which of the provider's machines a node is: certainly, or not at all.

use super::shape::Machine;
use crate::config::Vps;

/// Why no machine is certainly the node.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// None has the name, none the address.
    #[error("find {node}'s machine: none is called {hostname}, and none has {ipv4}")]
    None {
        /// Node.
        node: String,
        /// Wanted.
        hostname: String,
        /// Wanted.
        ipv4: String,
        /// Those there are.
        there: Vec<String>,
    },
    /// Name and address do not lead to the same one.
    #[error("find {node}'s machine: {hostname} and {ipv4} are not the same machine: {}", there.join("; "))]
    Wrong {
        /// Node.
        node: String,
        /// Wanted.
        hostname: String,
        /// Wanted.
        ipv4: String,
        /// Those with one of the two.
        there: Vec<String>,
    },
    /// Several have both.
    #[error("find {node}'s machine: {} have both its name and its address: {}", there.len(), there.join("; "))]
    Several {
        /// Node.
        node: String,
        /// All of them.
        there: Vec<String>,
    },
    /// It has no number, by which alone anything can be asked of it.
    #[error("find {node}'s machine: the provider tells no number for {there}")]
    Nameless {
        /// Node.
        node: String,
        /// It.
        there: String,
    },
}

/// The machine that has both the node's host name and its address.
pub fn pick<'m>(
    node: &str,
    wanted: &Vps,
    machines: &'m [Machine],
) -> Result<(u64, &'m Machine), PickError> {
    let named = |m: &&Machine| {
        m.hostname
            .as_deref()
            .is_some_and(|h| h.trim_end_matches('.').eq_ignore_ascii_case(&wanted.hostname))
    };
    let at = |m: &&Machine| m.addresses().iter().any(|a| wanted.ipv4.contains(a));
    let words = |all: Vec<&Machine>| all.into_iter().map(Machine::words).collect::<Vec<_>>();
    let (node, hostname) = (node.to_owned(), wanted.hostname.clone());
    let ipv4 = wanted.ipv4.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let both: Vec<&Machine> = machines.iter().filter(|m| named(m) && at(m)).collect();
    match both.as_slice() {
        [one] => match one.id {
            Some(id) => Ok((id, one)),
            None => Err(PickError::Nameless { node, there: one.words() }),
        },
        [] => {
            let there = words(machines.iter().filter(|m| named(m) || at(m)).collect());
            Err(match there.is_empty() {
                true => PickError::None {
                    node,
                    hostname,
                    ipv4,
                    there: words(machines.iter().collect()),
                },
                false => PickError::Wrong { node, hostname, ipv4, there },
            })
        }
        _ => Err(PickError::Several { node, there: words(both) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::shape::Address;

    fn machine(id: u64, hostname: &str, ip: &str) -> Machine {
        Machine {
            id: Some(id),
            hostname: Some(hostname.into()),
            ipv4: Some(vec![Address { address: Some(ip.into()) }]),
            state: Some("running".into()),
            ..Machine::default()
        }
    }

    fn wanted() -> Vps {
        Vps { hostname: "srv2.hstgr.cloud".into(), ipv4: vec!["203.0.113.20".parse().unwrap()] }
    }

    #[test]
    fn only_name_and_address_together_name_a_machine() {
        let all = [
            machine(1, "srv1.hstgr.cloud", "203.0.113.10"),
            machine(2, "SRV2.hstgr.cloud.", "203.0.113.20"),
        ];
        assert_eq!(pick("styx", &wanted(), &all).unwrap().0, 2);
        let swapped = [
            machine(1, "srv1.hstgr.cloud", "203.0.113.20"),
            machine(2, "srv2.hstgr.cloud", "203.0.113.10"),
        ];
        let error = pick("styx", &wanted(), &swapped).unwrap_err().to_string();
        assert!(
            error.contains("are not the same machine: 1 srv1") && error.contains("; 2 srv2"),
            "{error}"
        );
        let renamed = [machine(2, "srv9.hstgr.cloud", "203.0.113.20")];
        assert!(matches!(pick("styx", &wanted(), &renamed), Err(PickError::Wrong { .. })));
    }

    #[test]
    fn two_that_match_and_none_are_no_machine() {
        let two = [
            machine(2, "srv2.hstgr.cloud", "203.0.113.20"),
            machine(3, "srv2.hstgr.cloud", "203.0.113.20"),
        ];
        assert!(pick("styx", &wanted(), &two).unwrap_err().to_string().contains("2 have both"));
        let none = [machine(1, "srv1.hstgr.cloud", "203.0.113.10")];
        let PickError::None { there, .. } = pick("styx", &wanted(), &none).unwrap_err() else {
            panic!()
        };
        assert_eq!(there.len(), 1);
        let nameless = [Machine { id: None, ..machine(2, "srv2.hstgr.cloud", "203.0.113.20") }];
        assert!(matches!(pick("styx", &wanted(), &nameless), Err(PickError::Nameless { .. })));
    }
}
