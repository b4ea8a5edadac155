//! When the agent speaks of a certificate's end, in virtual time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use lifeline_core::expiry::{Certificate, Herald, Notice, Stage, Whose};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Ends on day 100, at midnight.
const END_MS: u64 = 100 * DAY_MS;

fn own() -> Certificate {
    Certificate::of(Whose::Agent, 100 * 86_400).unwrap()
}

/// What is said when it is asked every ten minutes from one moment to another, with when.
fn heard(herald: &mut Herald, of: &[Certificate], from_ms: u64, to_ms: u64) -> Vec<(u64, Notice)> {
    let moments = (from_ms..to_ms).step_by(600_000);
    moments.flat_map(|at| herald.due(of, at).into_iter().map(move |n| (at, n))).collect()
}

#[test]
fn nothing_is_said_until_fourteen_days_are_left_and_then_once_a_day() {
    let mut herald = Herald::default();
    assert_eq!(heard(&mut herald, &[own()], 0, END_MS - 14 * DAY_MS), []);
    let said = heard(&mut herald, &[own()], END_MS - 14 * DAY_MS, END_MS - 3 * DAY_MS);
    let days: Vec<u64> = said.iter().map(|(at, _)| (END_MS - at) / DAY_MS).collect();
    assert_eq!(days, [14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4]);
    assert!(said.iter().all(|(_, n)| n.stage == Stage::Soon));
    let first = said[0].1.to_string();
    assert!(first.contains("ends in 14 days") && first.contains("ctl pki renew"), "{first}");
}

#[test]
fn when_three_days_are_left_it_is_said_at_once_although_it_was_said_an_hour_ago() {
    let mut herald = Herald::default();
    let before = END_MS - 3 * DAY_MS - HOUR_MS;
    assert_eq!(herald.due(&[own()], before).len(), 1);
    let said = heard(&mut herald, &[own()], before + 1, END_MS);
    let stages: Vec<Stage> = said.iter().map(|(_, n)| n.stage).collect();
    assert_eq!(stages, [Stage::Pressing; 3]);
    assert!(said[0].0 <= END_MS - 3 * DAY_MS + 600_000, "{said:?}");
}

#[test]
fn an_agent_that_starts_an_hour_before_the_end_says_so_at_once_and_then_that_it_has_ended() {
    let mut herald = Herald::default();
    let said = heard(&mut herald, &[own()], END_MS - HOUR_MS, END_MS + 2 * DAY_MS);
    let words: Vec<String> = said.iter().map(|(_, n)| n.to_string()).collect();
    assert_eq!(words.len(), 3, "{words:?}");
    assert!(words[0].contains("ends in 1 hour:"), "{words:?}");
    assert!(
        words[1].contains("ended less than an hour ago") && words[1].contains("ctl pki agent"),
        "{words:?}"
    );
    assert!(words[2].contains("ended 1 day ago"), "{words:?}");
}

#[test]
fn a_renewed_certificate_is_silent_and_its_authority_is_spoken_of_by_itself() {
    let mut herald = Herald::default();
    let authority = Certificate::of(Whose::Authority, 100 * 86_400).unwrap();
    let now = END_MS - DAY_MS;
    assert_eq!(herald.due(&[own(), authority], now).len(), 2);
    let renewed = Certificate::of(Whose::Agent, 465 * 86_400).unwrap();
    let said = herald.due(&[renewed, authority], now + DAY_MS / 2);
    assert_eq!(said, [], "the authority was spoken of half a day ago");
    let said = herald.due(&[renewed, authority], now + DAY_MS - 1);
    assert_eq!(said, []);
    let said = herald.due(&[renewed, authority], now + DAY_MS);
    assert_eq!(said.len(), 1);
    assert!(said[0].to_string().starts_with("the authority's certificate ended"), "{}", said[0]);
}

#[test]
fn a_certificate_without_an_end_and_no_certificate_at_all_are_never_spoken_of() {
    assert_eq!(Certificate::of(Whose::Agent, 253_402_300_799), None);
    assert_eq!(heard(&mut Herald::default(), &[], 0, 30 * DAY_MS), []);
}

#[test]
fn a_clock_that_is_set_back_by_weeks_does_not_make_it_fall_silent() {
    let mut herald = Herald::default();
    assert_eq!(herald.due(&[own()], END_MS - 4 * DAY_MS).len(), 1);
    assert_eq!(herald.due(&[own()], END_MS - 12 * DAY_MS).len(), 1);
}
