//! The faults of the catalogue that the quick gear can make, and how each is taken back.
//!
//! A fault is made by the tools that make it in the field: `ip`, `iptables`, `bridge`, and the programs that stand in for daemons.
//! It acts through a [`Place`], so that a bare namespace serves as well as a node, and never knows what the product does.

mod daemon;
mod exit_node;
mod filter;
mod foreign;
mod main_table;
mod moved;
mod overlay;
mod selectors;
mod site;
mod six;
mod wg_quick;

pub use daemon::scrub;
pub use filter::remnants;
pub use site::{Facts, Place, Remote, Site, wait_for};

use crate::error::{LabError, Result};

/// What is done to a site.
pub type Act = fn(&Site) -> Result<()>;

/// A fault, or a near miss.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Its name in the catalogue, with a variant behind a dash.
    pub id: &'static str,
    /// What is wrong, in a few words.
    pub title: &'static str,
    /// How it is made.
    pub how: &'static str,
    /// The verdict that it deserves.
    pub verdict: &'static str,
    /// Whether touching anything would be the failure.
    pub near_miss: bool,
    /// What has to be so before the agent learns its baseline.
    pub ground: Option<Act>,
    /// Makes it.
    pub strike: Act,
    /// Takes strike and ground back; does no harm where a recovery was here before.
    pub restore: Act,
}

/// Every fault, in the order of the catalogue.
#[must_use]
pub fn all() -> Vec<Fault> {
    let mut all: Vec<Fault> = [
        exit_node::FAULTS,
        main_table::FAULTS,
        wg_quick::FAULTS,
        foreign::FAULTS,
        moved::FAULTS,
        overlay::FAULTS,
        six::FAULTS,
        selectors::FAULTS,
        filter::FAULTS,
    ]
    .concat();
    all.sort_by_key(|fault| order(fault.id));
    all
}

/// The fault of that name.
pub fn find(id: &str) -> Result<Fault> {
    all().into_iter().find(|fault| fault.id.eq_ignore_ascii_case(id)).ok_or_else(|| {
        let known: Vec<&str> = all().iter().map(|fault| fault.id).collect();
        LabError::Missing {
            what: format!("there is no fault {id}; there are: {}", known.join(", ")),
            hint: "cargo lab break --list".to_owned(),
        }
    })
}

/// `R11-dead` after `R11` after `R2`.
fn order(id: &str) -> (char, u32, String) {
    let (number, variant) = id.split_once('-').unwrap_or((id, ""));
    let letter = number.chars().next().unwrap_or('?');
    (
        letter,
        number.get(1..).and_then(|digits| digits.parse().ok()).unwrap_or(0),
        variant.to_owned(),
    )
}

/// The list for the terminal.
#[must_use]
pub fn told() -> String {
    let line = |fault: Fault| {
        let mark = if fault.near_miss { "near miss" } else { "" };
        format!(
            "{:<12} {:<9} {:<9} {}\n{:33}{}\n",
            fault.id, fault.verdict, mark, fault.title, "", fault.how
        )
    };
    all().into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_in_the_catalogues_order() {
        let ids: Vec<&str> = all().iter().map(|fault| fault.id).collect();
        let mut unique = ids.clone();
        unique.dedup();
        assert_eq!(ids, unique);
        let place = |id| ids.iter().position(|found| *found == id).unwrap();
        assert!(
            place("R1") < place("R2")
                && place("R2") < place("R11-dead")
                && place("R11-dead") < place("R13-main")
        );
    }

    #[test]
    fn the_catalogues_rows_of_routing_are_here() {
        for row in [
            "R1", "R2", "R3", "R4", "R6", "R7", "R8", "R9", "R10", "R11", "R12", "R13", "R14",
            "R15", "R16", "R17", "R18", "R19", "R20", "R21", "R22", "R23", "R24",
        ] {
            let has = |id: &str| id == row || id.starts_with(&format!("{row}-"));
            assert!(all().iter().any(|fault| has(fault.id)), "{row} is missing");
        }
    }

    #[test]
    fn an_unknown_fault_is_answered_with_the_known_ones() {
        let told = find("R99").unwrap_err().to_string();
        assert!(told.contains("R1, "), "{told}");
        assert_eq!(find("r1").unwrap().id, "R1");
    }
}
