//! The live cases: each a sentence, tried on real nodes, asserted with other tools than the code under test uses.

mod alone;
mod bare;
mod cluster;
mod crash;
mod down;
mod drill;
mod filter;
mod first;
mod fleet;
mod ground;
mod hanging;
mod heal;
mod kubelet;
mod last;
mod lent;
mod near_miss;
mod off;
mod package;
mod papers;
mod pressure;
mod real;
mod refusal;
mod rented;
mod rest;
mod routing;
mod storm;
mod trouble;
mod upstream;
mod verified;

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::progress::Progress;
use crate::state::Gear;
pub use ground::{Ground, NODE, find, is_ours, lines, plain_config, strange};
pub use heal::is_tailscales;

/// How a case fails: what was expected, and what was seen instead.
pub type Verdict = std::result::Result<(), String>;

/// One live case.
#[derive(Clone, Copy)]
pub struct Case {
    /// A sentence.
    pub name: &'static str,
    pub run: fn(&Ground<'_>) -> Verdict,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Every case of a gear, in the order in which they are tried: first that it works at all, last what leaves most behind.
#[must_use]
pub fn all(gear: Gear) -> Vec<Case> {
    match gear {
        Gear::Quick => [
            heal::CASES,
            routing::CASES,
            near_miss::CASES,
            drill::CASES,
            filter::CASES,
            kubelet::CASES,
            upstream::CASES,
            rest::CASES,
            refusal::CASES,
            papers::CASES,
            crash::CASES,
            last::CASES,
            alone::CASES,
            rented::CASES,
            trouble::CASES,
            hanging::CASES,
            storm::CASES,
            pressure::CASES,
            first::CASES,
            lent::CASES,
            package::CASES,
            fleet::CASES,
            bare::CASES,
        ]
        .concat(),
        Gear::Real => [
            real::CASES,
            rented::CASES,
            verified::REAL,
            down::REAL,
            off::REAL,
            fleet::REAL,
            bare::REAL,
        ]
        .concat(),
    }
}

/// Cases that take a dozen minutes each: tried when they are named, and counted as left out otherwise.
#[must_use]
pub fn long(gear: Gear) -> &'static [Case] {
    match gear {
        Gear::Quick => &[],
        Gear::Real => cluster::LONG,
    }
}

/// What a round of trials came to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    pub passed: usize,
    pub failed: Vec<(String, String)>,
    pub left_out: usize,
    /// Cases that needed a second try.
    pub again: usize,
}

impl Summary {
    /// Adds another round's.
    pub fn take(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.left_out += other.left_out;
        self.again += other.again;
    }

    /// Adds what came of one case that is tried by itself.
    pub fn note(&mut self, name: &str, seen: Verdict, progress: &Progress) {
        match seen {
            Ok(()) => {
                progress.say(format!("test {name} ... ok"));
                self.passed += 1;
            }
            Err(why) => {
                progress
                    .say(format!("test {name} ... FAILED\n    {}", why.replace('\n', "\n    ")));
                self.failed.push((name.to_owned(), why));
            }
        }
    }
}

/// Tries every case whose name contains one of the filters (all, without filters) and whose place among those is `mine`, asked when it
/// is its turn.
pub fn run(
    lab: &Lab,
    filters: &[String],
    mine: impl Fn(usize) -> anyhow::Result<bool>,
    progress: &Progress,
) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    let ground = Ground::new(lab, progress)?;
    let mut place = 0;
    let long = long(lab.state.gear);
    if filters.is_empty() {
        summary.left_out += long.len();
    }
    let named = long.iter().copied().filter(|_| !filters.is_empty());
    for case in all(lab.state.gear).into_iter().chain(named) {
        if !filters.is_empty() && !filters.iter().any(|f| case.name.contains(f.as_str())) {
            summary.left_out += 1;
            continue;
        }
        place += 1;
        if !mine(place - 1)? {
            continue;
        }
        progress.pass(format!("{} …", case.name));
        let begun = Instant::now();
        let once = || ground.prepare().and_then(|()| (case.run)(&ground));
        let tried = once().or_else(|why| {
            // Said aloud and counted: timing on a busy machine, or what an earlier case left, is no reason to call a repair
            // broken; a failure on a node that has just booted is.
            progress.say(format!(
                "test {} ... failed, tried once more on a node that boots for it\n    {}",
                case.name,
                why.replace('\n', "\n    ")
            ));
            progress.say(ground.evidence());
            summary.again += 1;
            ground.afresh().and_then(|()| (case.run)(&ground))
        });
        let took = begun.elapsed().as_secs_f64();
        match tried {
            Ok(()) => {
                progress.say(format!("test {} ... ok ({took:.1} s)", case.name));
                summary.passed += 1;
            }
            Err(why) => {
                progress.say(format!(
                    "test {} ... FAILED ({took:.1} s)\n    {}",
                    case.name,
                    why.replace('\n', "\n    ")
                ));
                progress.say(ground.evidence());
                summary.failed.push((case.name.to_owned(), why));
            }
        }
    }
    ground.leave();
    Ok(summary)
}
