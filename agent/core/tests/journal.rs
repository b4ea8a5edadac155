//! The journal's form: what a torn tail, a damaged middle and a newer writer read as.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use lifeline_core::clock::Stamp;
use lifeline_core::engine::{Entry, Event, Outcome};
use lifeline_core::journal::{self, Damage};
use lifeline_core::op::{NodeOp, Seen};

fn entries() -> Vec<Entry<NodeOp>> {
    let events = [
        Event::Began { step: 0, before: Seen::Sysctl { value: Some("1".into()) } },
        Event::Ended { step: 0, outcome: Outcome::Done },
        Event::Cancelled { by: "operator alice".into() },
    ];
    (0..)
        .zip(events)
        .map(|(seq, event)| Entry {
            seq,
            stamp: Stamp { boot: "b".into(), ms: seq, wall_ms: 0 },
            event,
        })
        .collect()
}

fn bytes(entries: &[Entry<NodeOp>]) -> Vec<u8> {
    entries.iter().flat_map(|e| journal::encode(e).unwrap().into_bytes()).collect()
}

#[test]
fn what_was_written_is_read() {
    let decoded = journal::decode::<NodeOp>(&bytes(&entries())).unwrap();
    assert_eq!(decoded.entries, entries());
    assert!(!decoded.torn);
}

#[test]
fn preallocated_zeros_behind_the_last_line_are_nothing() {
    let mut raw = bytes(&entries());
    let good = raw.len();
    raw.extend([0; 4096]);
    let decoded = journal::decode::<NodeOp>(&raw).unwrap();
    assert_eq!((decoded.entries.len(), decoded.good, decoded.torn), (3, good, false));
}

#[test]
fn a_tail_torn_at_any_byte_loses_that_line_only() {
    let all = entries();
    let whole = bytes(&all[..2]).len();
    let raw = bytes(&all);
    for cut in whole..raw.len() {
        let decoded = journal::decode::<NodeOp>(&raw[..cut]).unwrap();
        assert_eq!(decoded.entries, all[..2], "cut at {cut}");
        assert_eq!(decoded.good, whole);
        assert_eq!(decoded.torn, cut > whole);
    }
}

#[test]
fn a_flipped_bit_in_the_middle_is_damage_and_names_its_line() {
    let all = entries();
    let raw = bytes(&all);
    let second = bytes(&all[..1]).len()..bytes(&all[..2]).len() - 1;
    for at in second {
        let mut raw = raw.clone();
        raw[at] ^= 1;
        if raw[at] == b'\n' {
            continue;
        }
        match journal::decode::<NodeOp>(&raw) {
            Err(Damage::Line { line: 2, .. }) => {}
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn a_missing_line_is_damage() {
    let all = entries();
    let raw = bytes(&[all[0].clone(), all[2].clone()]);
    assert_eq!(
        journal::decode::<NodeOp>(&raw).unwrap_err(),
        Damage::Order { line: 2, found: 2, wanted: 1 }
    );
}

#[test]
fn an_event_of_a_newer_version_reads_as_unknown() {
    let json = r#"{"seq":0,"stamp":{"boot":"b","ms":1,"wall_ms":2},"event":{"event":"teleported","to":"mars"}}"#;
    let raw = format!("{:08x} {json}\n", crc32(json.as_bytes()));
    let decoded = journal::decode::<NodeOp>(raw.as_bytes()).unwrap();
    assert_eq!(decoded.entries[0].event, Event::Unknown);
}

#[test]
fn an_op_of_a_newer_version_reads_as_unknown() {
    let json = r#"{"seq":0,"stamp":{"boot":"b","ms":1,"wall_ms":2},"event":{"event":"began","step":0,"before":{"seen":"aura"}}}"#;
    let raw = format!("{:08x} {json}\n", crc32(json.as_bytes()));
    let decoded = journal::decode::<NodeOp>(raw.as_bytes()).unwrap();
    assert_eq!(decoded.entries[0].event, Event::Unknown);
}

/// CRC-32 (IEEE) bit by bit: another program than the one under test.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, b| {
        (0..8).fold(
            crc ^ u32::from(*b),
            |c, _| if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 },
        )
    })
}
