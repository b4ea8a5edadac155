//! The log of a stand-in: one line on stderr with the time in front, as the originals write it.
#![allow(
    clippy::print_stderr,
    reason = "a daemon's log is its stderr; journald takes it from there"
)]

use std::fmt::Arguments;

/// Writes one line.
pub fn line(text: Arguments<'_>) {
    eprintln!("{} {text}", jiff::Timestamp::now().strftime("%Y/%m/%d %H:%M:%S%.3f"));
}

/// Writes one line to the stand-in's log.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => { $crate::standin::log::line(format_args!($($part)*)) };
}
