//! How core's nouns are said to people: verdicts with their tone, spans and clocks.

use crate::out::{Paint, Tone};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeline_core::diagnosis::{Severity, Verdict};
use std::time::Duration;

/// Nothing needs doing: `Moved` differs from the baseline, and works.
pub fn is_fine(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Healthy | Verdict::Moved)
}

/// The verdict's word in its tone.
pub fn verdict(verdict: Verdict, paint: Paint) -> String {
    let tone = match verdict {
        Verdict::Healthy => Tone::Good,
        Verdict::Moved | Verdict::Upstream | Verdict::Unknown => Tone::Warn,
        Verdict::Captured | Verdict::Lost | Verdict::Filtered | Verdict::KubeletStuck => Tone::Bad,
    };
    paint.tone(tone, verdict.word())
}

/// The severity's word in its tone.
pub fn severity(severity: Severity, paint: Paint) -> String {
    match severity {
        Severity::Notice => paint.tone(Tone::Dim, "notice"),
        Severity::Warning => paint.tone(Tone::Warn, "warning"),
        Severity::Critical => paint.tone(Tone::Bad, "critical"),
    }
}

/// A span for people: `340 ms`, `12 s`, `3 min 5 s`, `2 h 7 min`.
pub fn span_ms(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s / 60 % 60),
    }
}

/// Counts things: `no pods`, `1 pod`, `300 pods`.
pub fn count(n: usize, what: &str) -> String {
    match n {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{n} {what}s"),
    }
}

/// Reads a span: `90`, `90s`, `15m`, `1h`.
pub fn span(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => return Err("write a span as 30s, 15m or 1h".into()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    seconds
        .filter(|s| *s <= 86_400)
        .map(Duration::from_secs)
        .ok_or_else(|| "it must be at most a day".into())
}

/// Reads a span that may be shorter than a second, and is not nothing: `800ms`, `10s`.
pub fn wait(text: &str) -> Result<Duration, String> {
    let read = match text.strip_suffix("ms") {
        Some(ms) => ms.parse().ok().filter(|ms| *ms <= 86_400_000).map(Duration::from_millis),
        None => span(text).ok(),
    };
    read.filter(|s| !s.is_zero()).ok_or_else(|| "write a span as 800ms, 10s or 1m".into())
}

/// A wall clock's time of day, UTC: laptop and node may be in different zones, journals must not be.
pub fn clock(wall_ms: u64) -> String {
    at(wall_ms, "%H:%M:%S")
}

/// A wall clock's date and time, UTC.
pub fn date(wall_ms: u64) -> String {
    at(wall_ms, "%Y-%m-%d %H:%M:%S")
}

fn at(wall_ms: u64, format: &str) -> String {
    moment(wall_ms).map_or_else(|| "?".into(), |t| t.strftime(format).to_string())
}

fn moment(wall_ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(wall_ms).ok()?).ok()
}

/// The time of day where the operator is, with its offset from UTC; for people alone, never for a document or a journal.
pub fn local_clock(wall_ms: u64) -> String {
    local_at(moment(wall_ms), "%H:%M:%S", &TimeZone::system())
}

/// Date and time where the operator is, with their offset from UTC; for people alone, too.
pub fn local_date(wall_ms: u64) -> String {
    local_at(moment(wall_ms), "%Y-%m-%d %H:%M:%S", &TimeZone::system())
}

/// The same of seconds since 1970.
pub fn local_date_s(seconds: i64) -> String {
    local_at(Timestamp::from_second(seconds).ok(), "%Y-%m-%d %H:%M:%S", &TimeZone::system())
}

/// A laptop whose zone cannot be read is taken to be at UTC, and the time then says so.
fn local_at(at: Option<Timestamp>, format: &str, zone: &TimeZone) -> String {
    let Some(at) = at else { return "?".into() };
    let here = at.to_zoned(zone.clone());
    match here.offset().is_zero() {
        true => format!("{} UTC", here.strftime(format)),
        false => format!("{} {}", here.strftime(format), here.strftime("%:z")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_said_in_two_units_at_most() {
        let said = [999, 1_000, 61_000, 7_620_000].map(span_ms);
        assert_eq!(said, ["999 ms", "1 s", "1 min 1 s", "2 h 7 min"]);
    }

    #[test]
    fn spans_are_read_with_their_unit() {
        assert_eq!(span("90"), Ok(Duration::from_secs(90)));
        assert_eq!(span("15m"), Ok(Duration::from_secs(900)));
        for bad in ["", "m", "30x", "-1s", "2d", "25h", "99999999999999999999"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wait_may_be_shorter_than_a_second_and_never_none_at_all() {
        assert_eq!(wait("800ms"), Ok(Duration::from_millis(800)));
        assert_eq!(wait("10s"), Ok(Duration::from_secs(10)));
        for bad in ["0", "0ms", "ms", "-1ms", "10d"] {
            assert!(wait(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_local_time_carries_its_offset_and_is_the_same_moment() {
        let noon = moment(1_760_356_800_000);
        let format = "%Y-%m-%d %H:%M:%S";
        let zone = |text| TimeZone::posix(text).unwrap();
        assert_eq!(local_at(noon, format, &zone("XYZ-5:30")), "2025-10-13 17:30:00 +05:30");
        assert_eq!(local_at(noon, format, &zone("XYZ13")), "2025-10-12 23:00:00 -13:00");
        assert_eq!(local_at(noon, format, &TimeZone::UTC), "2025-10-13 12:00:00 UTC");
        assert_eq!(local_at(None, format, &TimeZone::UTC), "?");
    }

    #[test]
    fn clocks_are_utc() {
        assert_eq!(date(1_760_356_800_000), "2025-10-13 12:00:00");
        assert_eq!(clock(u64::MAX), "?");
    }
}
