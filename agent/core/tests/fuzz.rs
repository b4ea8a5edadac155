//! What core reads is read whole or refused, whatever it is: never a panic, never without end, and what was read can be written.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "fuzz/mod.rs"]
mod harness;

use harness::{Fuzz, checksums};
use lifeline_core::baseline::{self, Baseline};
use lifeline_core::engine::Event;
use lifeline_core::filter::{self, Call, Deed, Way};
use lifeline_core::journal;
use lifeline_core::judge::judge;
use lifeline_core::observation::Dialect;
use lifeline_core::op::NodeOp;
use lifeline_core::plan::Rung;
use lifeline_core::planner::plan;
use lifeline_core::policy::Policy;
use lifeline_core::text;

#[test]
fn any_text_of_an_observation_is_refused_with_its_line_or_written_as_it_was_read() {
    let fuzz = Fuzz::new("text").folder("tests/golden", |p| p.ends_with("observation.txt"));
    fuzz.folder("tests/corpus/text", |_| true).run(|bytes| {
        let written = String::from_utf8_lossy(bytes);
        match text::read(&written) {
            Err(why) => assert!((1..=written.lines().count()).contains(&why.line), "{why}"),
            Ok(seen) => {
                let again = text::write(&seen);
                assert_eq!(text::read(&again).as_ref(), Ok(&seen), "{again}");
            }
        }
    });
}

#[test]
fn whatever_a_node_looks_like_it_is_judged_and_planned_for() {
    Fuzz::new("judge").folder("tests/golden", |p| p.ends_with("observation.txt")).run(|bytes| {
        let Ok(seen) = text::read(&String::from_utf8_lossy(bytes)) else { return };
        let (base, policy) = (baseline::derive(&seen), Policy::default());
        let found = judge(&seen, &base, &policy);
        for rung in Rung::ENGINE.into_iter().chain(Rung::LAST) {
            if let Some(made) = plan(&seen, &base, &policy, &found, rung, "calypso-1", 1) {
                assert_eq!(made.rung, rung);
            }
        }
    });
}

#[test]
fn a_journal_is_damaged_or_every_entry_of_it_is_read_again() {
    let fuzz = Fuzz::new("journal").folder("tests/corpus/journal", |_| true).mended(checksums);
    fuzz.run(|bytes| {
        let Ok(read) = journal::decode::<NodeOp>(bytes) else { return };
        assert!(read.good <= bytes.len());
        // What is not good is torn, or nothing at all.
        assert!(read.torn || bytes[read.good..].iter().all(|b| *b == 0));
        let good = journal::decode::<NodeOp>(&bytes[..read.good]).unwrap();
        assert_eq!((&good.entries, good.torn), (&read.entries, false));
        // Of an entry that a newer version wrote only its number and time are known.
        if read.entries.iter().any(|e| e.event == Event::Unknown) {
            return;
        }
        let lines: String = read.entries.iter().map(|e| journal::encode(e).unwrap()).collect();
        let again = journal::decode::<NodeOp>(lines.as_bytes()).unwrap();
        assert_eq!((again.entries, again.torn), (read.entries, false));
    });
}

#[test]
fn a_rule_of_a_packet_filter_leads_only_to_what_its_text_names() {
    let rules = |p: &str| p.ends_with("-save.txt") || p.ends_with("nft.txt");
    let fuzz = Fuzz::new("rule").folder("../tests/captures", rules);
    fuzz.folder("tests/corpus/rule", |_| true).run(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let peer = "203.0.113.10".parse().unwrap();
        let call = Call { peer, port: 6443, dev: Some("eth0") };
        for line in text.lines() {
            let spec =
                line.strip_prefix("-A ").map_or(line, |l| l.split_once(' ').map_or("", |s| s.1));
            for dialect in [Dialect::Iptables, Dialect::Nft] {
                let read = filter::read(dialect, spec, Some((&call, Some(Way::Out))));
                if let Deed::Jump(to) = read.deed {
                    let bare = |s: &str| s.replace(['"', '\\'], "");
                    assert!(bare(spec).contains(&bare(&to)), "{spec:?} leads to {to:?}");
                }
            }
        }
    });
}

#[test]
fn a_baseline_that_is_read_is_written_as_it_was() {
    Fuzz::new("baseline").folder("tests/corpus/baseline", |_| true).run(|bytes| {
        let Ok(base) = serde_json::from_slice::<Baseline>(bytes) else { return };
        let again = serde_json::to_vec(&base).unwrap();
        assert_eq!(serde_json::from_slice::<Baseline>(&again).unwrap(), base);
    });
}
