//! The hands: how Lifeline sees a node, guards its path, repairs it, and answers `ctl`. What is right or wrong is judged
//! in `lifeline-core`; nothing here decides.
#![cfg(target_os = "linux")]

pub mod act;
pub mod alone;
pub mod aside;
pub mod children;
pub mod clock;
pub mod config;
pub mod event;
pub mod expiry;
#[cfg(test)]
#[path = "../core/tests/fuzz/mod.rs"]
mod fuzz;
pub mod guard;
pub mod hints;
pub mod journal;
pub mod lines;
pub mod log;
pub mod look;
pub mod metrics;
pub mod netfilter;
pub mod netlink;
pub mod papers;
pub mod roles;
pub mod runs;
pub mod serve;
pub mod sight;
pub mod store;
pub mod systemd;
pub mod tls;
pub mod worker;

/// Version and build, as `--version` and every `Status` say it.
pub const VERSION: &str = env!("LIFELINE_VERSION");

/// The commit it was built from, or that it is a debug build.
pub const BUILD: &str = env!("LIFELINE_COMMIT");

/// The machine it was built for, as Rust calls it.
pub const TARGET: &str = env!("LIFELINE_TARGET");
